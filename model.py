"""The networks: generator (SRResNet), discriminator, and the registry of all generators that can be trained.

Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", CVPR 2017.
"k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1. `python model.py` lists the networks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cli import terminal
from layers.blocks import (
    UPSAMPLERS,
    batch_norm,
    bicubic,
    conv,
    prelu,
    relu,
    residual_block,
    rgb_to_ycbcr,
    row_convolution,
    subpixel,
    ycbcr_to_rgb,
)
from networks import baselines
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


# ---------------------------------------------------------------------------------------------------------------------
# Generators: LR [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1] (linear: may step outside).
# config: the MODEL section of config.py; folded: without the batch norms (see `fold_batch_norm`).


def srresnet(lr_01, config, folded=False):
    """SRResNet, the generator of the SRGAN. Paper: Figure 4, top.

    The last batch norm's scale of each residual block starts at zero, and so the block as identity.
    """
    x = conv(lr_01, config.width, 9, "head_conv")
    x = skip = prelu(x, "head_prelu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config, f"block{i}", prelu, folded, gammas=("ones", "zeros"))
    x = batch_norm(conv(x, config.width, 3, "body_conv"), config, "body_bn", folded, gamma="zeros")
    x = keras.layers.Add(name="body_add")([x, skip])
    for i in range(1, int(np.log2(config.scale)) + 1):
        x = UPSAMPLERS[config.upsampler](x, config.width, f"upsample{i}_conv", config.upsampler_init)
        x = prelu(x, f"upsample{i}_prelu")
    activation = None if config.output == "linear" else config.output
    # The output stays float32 under mixed precision; so do the discriminator's logits and VGG's features.
    settings = {"activation": activation, "name": "tail_conv", "dtype": keras.config.floatx()}
    if config.skip == "none":
        return row_convolution()(3, 9, padding="same", **settings)(x)
    # Not in the paper: what bicubic interpolation knows need not be learned, nor held against every update. The start
    # is its image, and the network learns faster (docs/weights.md).
    x = row_convolution()(3, 9, padding="same", kernel_initializer="zeros", **settings)(x)
    floats = {"dtype": keras.config.floatx()}
    coarse = keras.layers.Rescaling(2.0, offset=-1.0, name="skip_m11", **floats)(bicubic(lr_01, config.scale, "skip"))
    return keras.layers.Add(name="skip_add", **floats)([x, coarse])


def normal_around(mean):
    """The TensorLayer code's initial weights: normal, of deviation 0.02.

    As a description, of which each layer makes an initializer of its own: one object draws the same for all.
    """
    return {"class_name": "RandomNormal", "config": {"mean": mean, "stddev": 0.02}}


def tensorlayer(lr_01, config, folded=False):
    """The generator of the TensorLayer code of 2018: k3 and ReLU, LR in [-1, 1], its initial weights, k1 and tanh."""
    normal = {"kernel_initializer": normal_around(0.0)}
    gamma = normal_around(1.0)
    inner = normal | {"use_bias": folded}  # the batch norm that follows has one
    x = skip = relu(conv(2 * lr_01 - 1, config.width, 3, "head_conv", **normal), "head_relu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config, f"block{i}", relu, folded, gammas=(gamma, gamma), **inner)
    x = batch_norm(conv(x, config.width, 3, "body_conv", **inner), config, "body_bn", folded, gamma)
    x = keras.layers.Add(name="body_add")([x, skip])
    for i in range(1, int(np.log2(config.scale)) + 1):
        x = relu(subpixel(x, config.width, f"upsample{i}_conv", normal_around(0.0)), f"upsample{i}_relu")
    activation = None if config.output == "linear" else config.output
    return conv(x, 3, 1, "tail_conv", activation=activation, dtype=keras.config.floatx(), **normal)


def with_colour(luma_network):
    """A generator of a network that knows luma alone: Y goes through it, Cb and Cr through bicubic interpolation."""

    def build(lr_01, config, folded=False):
        ycbcr = rgb_to_ycbcr(lr_01)
        y = keras.ops.cast(luma_network(ycbcr[..., :1], config), keras.config.floatx())
        chroma = bicubic(ycbcr[..., 1:], config.scale, "chroma")
        return 2 * ycbcr_to_rgb(keras.ops.concatenate([y, chroma], axis=-1)) - 1

    return build


def shuffled(config, radius):
    """The receptive radius in LR pixels below all upsamplers, for one of `radius` HR pixels above them.

    Each pixel shuffle halves the distance (a half counts whole), and the 3×3 convolution below it adds one.
    """
    for _ in range(int(np.log2(config.scale))):
        radius = math.ceil(radius / 2) + 1
    return radius


def interpolated(config, radius):
    """The receptive radius in LR pixels of a network that sees `radius` pixels of the bicubic image around each."""
    return math.ceil(radius / config.scale) + 2


class Network(NamedTuple):
    """A generator that can be trained."""

    build: Callable  # (LR tensor, MODEL section, folded) → SR tensor
    radius: Callable  # MODEL section → see receptive_radius
    colour: str  # what it sees of it, "RGB" or "Y"
    source: str  # where it comes from
    matched: bool = False  # evaluate.py gives SR the histograms of LR


# By the name that --model and MODEL.network take. Sizes, losses and training rules are in config.NETWORK_SETTINGS, on a
# floor below: a configuration is read and checked without the networks.
NETWORKS = {
    "srresnet": Network(
        srresnet,
        lambda config: shuffled(config, 4) + 1 + 2 * config.blocks + 4,
        "RGB",
        "Ledig et al., 2017: SRResNet, and the SRGAN's generator",
    ),
    "tensorlayer": Network(
        tensorlayer,
        lambda config: shuffled(config, 0) + 1 + 2 * config.blocks + 1,
        "RGB",
        "the TensorLayer code of 2018",
    ),
    "srcnn": Network(
        with_colour(baselines.srcnn), lambda config: interpolated(config, 4 + 2 + 2), "Y", "Dong et al., 2014: 9-5-5"
    ),
    "espcn": Network(with_colour(baselines.espcn), lambda config: 2 + 1 + 1, "Y", "Shi et al., 2016"),
    "espcn-hr": Network(
        with_colour(baselines.espcn_hr),
        lambda config: interpolated(config, 2 + 1 + 1),
        "Y",
        "ESPCN in HR space at about equal work, for comparison",
    ),
    "vdsr": Network(
        with_colour(baselines.vdsr), lambda config: interpolated(config, config.blocks + 2), "Y", "Kim et al., 2016"
    ),
    "drcn": Network(
        with_colour(baselines.drcn), lambda config: interpolated(config, config.blocks + 4), "Y", "Kim et al., 2016"
    ),
    "johnson": Network(
        baselines.johnson,
        lambda config: shuffled(config, 4) + 2 * config.blocks + 4,
        "RGB",
        "Johnson et al., 2016",
        matched=True,
    ),
}


def build_generator(config, folded=False):
    """The generator that `config`, the MODEL section, describes. Fully convolutional: any h and w."""
    lr_01 = keras.Input((None, None, 3), name="lr")
    return keras.Model(lr_01, NETWORKS[config.network].build(lr_01, config, folded), name="generator")


def receptive_radius(config):
    """How many LR pixels around an LR pixel can change its SR pixels: 40 for the paper's network.

    A pixel of LR is all that its SR pixels need to know of the picture at this distance and nearer. config: the MODEL
    section.
    """
    return NETWORKS[config.network].radius(config)


def fold_batch_norm(generator, config):
    """A generator without batch norms, equal to generator(lr, training=False) but for float32 rounding.

    At inference a batch norm is a factor and a shift, which go into the convolution before it. config: the MODEL
    section. The weights are copies as they are now; this one is not to be trained.
    """
    folded = build_generator(config, folded=True)
    norms = {norm.name: norm for norm in generator.layers if isinstance(norm, keras.layers.BatchNormalization)}
    for layer in folded.layers:
        weights = generator.get_layer(layer.name).get_weights()
        if norm := norms.get(layer.name.replace("conv", "bn")):
            kernel, bias = weights if len(weights) == 2 else (*weights, 0.0)
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + config.bn_epsilon)
            transposed = isinstance(layer, keras.layers.Conv2DTranspose)  # its kernel is [h, w, out, in]
            weights = [kernel * (factor[:, None] if transposed else factor), (bias - mean) * factor + beta]
        layer.set_weights(weights)
    return folded


def inference(generator, config, xla=False):
    """The compiled function from LR float32 [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1].

    It works with the generator's weights as they are now. config: the MODEL section; xla: a little faster, but compiles
    some seconds for every new size, so for many images of one size. The plain graph takes all sizes alike.
    """
    folded = fold_batch_norm(generator, config)
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]
    return tf.function(lambda lr_01: folded(lr_01, training=False), input_signature=signature, jit_compile=xla)


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator


def build_discriminator(config, crop):
    """Images [batch, crop, crop, 3] in [-1, 1] to logits [batch, 1]; the paper's sigmoid is inside the loss.

    config: the MODEL section, whose `discriminator` is "paper" or "tensorlayer"; crop: side of the HR crop in pixels.
    """
    image = keras.Input((crop, crop, 3), name="image")
    x = {"paper": paper_discriminator, "tensorlayer": tensorlayer_discriminator}[config.discriminator](image, config)
    start = normal_around(0.0) if config.discriminator == "tensorlayer" else "glorot_uniform"
    logits = keras.layers.Dense(1, kernel_initializer=start, dtype=keras.config.floatx(), name="dense2")(x)
    return keras.Model(image, logits, name="discriminator")


def paper_discriminator(x, config):
    """Up to the features that are judged. Paper: Figure 4, bottom."""
    layers = [(64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    for i, (width, stride) in enumerate(layers, start=1):
        x = conv(x, width, 3, f"conv{i}", strides=stride)
        if i > 1:
            x = batch_norm(x, config, f"bn{i}")
        x = keras.layers.LeakyReLU(negative_slope=0.2, name=f"lrelu{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(1024, name="dense1")(x)
    return keras.layers.LeakyReLU(negative_slope=0.2, name="lrelu9")(x)


def tensorlayer_discriminator(x, config):
    """That of the TensorLayer code of 2018: k4s2 to 2048 maps, then 1×1, then a residual block; no dense layer."""
    normal = {"kernel_initializer": normal_around(0.0)}

    def layer(x, width, kernel, name, activate=True, **settings):
        x = conv(x, width, kernel, name, use_bias=False, **normal, **settings)
        x = batch_norm(x, config, f"{name}_bn", gamma=normal_around(1.0))
        return keras.layers.LeakyReLU(negative_slope=0.2, name=f"{name}_lrelu")(x) if activate else x

    x = conv(x, 64, 4, "conv0", strides=2, **normal)
    x = keras.layers.LeakyReLU(negative_slope=0.2, name="conv0_lrelu")(x)
    for i, width in enumerate((128, 256, 512, 1024, 2048), start=1):
        x = layer(x, width, 4, f"conv{i}", strides=2)
    x = layer(x, 1024, 1, "conv6")
    x = skip = layer(x, 512, 1, "conv7", activate=False)
    x = layer(layer(x, 128, 1, "residual1"), 128, 3, "residual2")
    x = keras.layers.Add(name="residual_add")([layer(x, 512, 3, "residual3", activate=False), skip])
    return keras.layers.Flatten(name="flatten")(keras.layers.LeakyReLU(negative_slope=0.2, name="lrelu")(x))


# ---------------------------------------------------------------------------------------------------------------------
# Counting and listing


def multiply_adds(network, shape):
    """Multiply-adds of one forward pass over an input of `shape` (batch, h, w, 3), fixed interpolation left out.

    One for each weight at every place of a convolution's output (of its input, where it is a transposed one).
    """
    traced = tf.function(lambda x: network(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    total = 0
    for operation in traced.graph.get_operations():
        if operation.type not in ("Conv2D", "Conv2DBackpropInput", "MatMul"):
            continue
        weights = operation.inputs[1]
        if weights.op.type not in ("Const", "Placeholder"):  # those are no variables
            places = operation.inputs[2] if operation.type == "Conv2DBackpropInput" else operation.outputs[0]
            total += int(np.prod(weights.shape)) * int(np.prod(places.shape[:-1]))
    return total


def main():
    from config import make_config

    print(f"{'--model':12} {'colours':8} {'loss':8} {'parameters':>10} {'multiply-adds':>14}")
    print(f"{'':12} {'':8} {'':8} {'':>10} {'a megapixel':>14}  of SR, ×4; bicubic interpolation is not counted")
    for name, network in NETWORKS.items():
        config = make_config(overrides=[f"MODEL.network={name}"])
        generator = build_generator(config.MODEL)
        side = 100
        work = multiply_adds(generator, (1, side, side, 3)) / (side * config.MODEL.scale) ** 2 * 1e6
        work = f"{work / 1e9:,.0f}" if work >= 1e11 else f"{work / 1e9:.3g}"
        row = f"{name:12} {network.colour:8} {config.TRAIN.loss:8} {generator.count_params():10,} {work:>11} e9"
        print(f"{row}  {network.source}")


if __name__ == "__main__":
    terminal.run_command(main)
