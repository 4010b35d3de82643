"""The paper's three networks: the generator (SRResNet), the discriminator, and VGG, whose features the loss compares.

Read it beside Figure 4 of Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network", CVPR 2017. "k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1.

generator and discriminator add their layers to a Keras graph, from which networks/registry.py makes a keras.Model.
config is the MODEL section of config.py; docs/departures.md lists what differs from the paper. The last layer has the
dtype floatx, so that the result is float32 also under mixed precision. `python model.py` lists all networks.
"""

from cli import terminal
from layers.blocks import batch_norm, conv, conv_to_rgb, prelu, residual_block, widths_of
from layers.upsampling import UPSAMPLERS, bicubic
from utils import LazyModule

keras = LazyModule("keras")


# ---------------------------------------------------------------------------------------------------------------------
# Generator: Figure 4, top


def generator(lr_01, config, folded=False):
    """SRResNet: LR [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in about [-1, 1].

    folded: without the batch norms, for inference (inference/compiled.py).
    """
    widths = widths_of(config)  # 64 everywhere; fewer after pruning
    x = conv(lr_01, widths.trunk, 9, "head_conv")  # k9n64s1
    x = skip = prelu(x, "head_prelu")

    # 16 residual blocks. The scale (gamma) of each second batch norm is 0 at first: a block starts as the identity.
    for i, width in enumerate(widths.inner, start=1):
        x = residual_block(x, width, config, f"block{i}", prelu, folded, gammas=("ones", "zeros"))

    x = conv(x, widths.trunk, 3, "body_conv")  # k3n64s1
    x = batch_norm(x, config, "body_bn", folded, gamma="zeros")
    x = keras.layers.Add(name="body_add")([x, skip])

    # Twice ×2: k3n256s1, a pixel shuffle and PReLU. config.upsampler may replace the first two.
    for i, width in enumerate(widths.upsampled, start=1):
        x = UPSAMPLERS[config.upsampler](x, width, f"upsample{i}_conv", config.upsampler_init)
        x = prelu(x, f"upsample{i}_prelu")

    add_to_bicubic = config.skip == "bicubic"  # our addition; the paper has "none"
    settings = {
        "activation": None if config.output == "linear" else config.output,
        "kernel_initializer": "zeros" if add_to_bicubic else "glorot_uniform",
        "dtype": keras.config.floatx(),
    }
    x = conv_to_rgb(x, 9, "tail_conv", **settings)  # k9n3s1
    return add_bicubic(x, lr_01, config.scale) if add_to_bicubic else x


def add_bicubic(x, lr_01, scale):
    """The bicubic image of LR plus x, the network's output, both [batch, scale·h, scale·w, 3] in [-1, 1].

    With this skip, an addition to the paper, training starts from the bicubic image and learns faster
    (docs/weights.md).
    """
    floats = {"dtype": keras.config.floatx()}
    coarse_01 = bicubic(lr_01, scale, "skip")
    coarse_m11 = keras.layers.Rescaling(2.0, offset=-1.0, name="skip_m11", **floats)(coarse_01)
    return keras.layers.Add(name="skip_add", **floats)([x, coarse_m11])


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator: Figure 4, bottom

CONVOLUTIONS = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2))  # (maps, stride), all k3


def discriminator(image, config):
    """SR or HR [batch, crop, crop, 3] in [-1, 1] to logits [batch, 1]; the last sigmoid of Figure 4 is in the loss."""
    x = keras.layers.Flatten(name="flatten")(discriminator_convolutions(image, config, CONVOLUTIONS))
    x = keras.layers.Dense(1024, name="dense1")(x)
    x = keras.layers.LeakyReLU(negative_slope=0.2, name="lrelu9")(x)
    return keras.layers.Dense(1, dtype=keras.config.floatx(), name="dense2")(x)


def discriminator_convolutions(x, config, convolutions):
    """Images [batch, h, w, 3] to the maps of the last of `convolutions`, each a (maps, stride) with a kernel of 3×3."""
    for i, (width, stride) in enumerate(convolutions, start=1):
        x = conv(x, width, 3, f"conv{i}", strides=stride)
        if i > 1:
            x = batch_norm(x, config, f"bn{i}")
        x = keras.layers.LeakyReLU(negative_slope=0.2, name=f"lrelu{i}")(x)
    return x


# ---------------------------------------------------------------------------------------------------------------------
# VGG: section 2.2.1; Simonyan and Zisserman, 2015


def vgg(network, layer, resize=0, factor=1.0, weights=None, before_relu=False):
    """VGG up to one layer: a fixed model from images [batch, h, w, 3] in [-1, 1] to features [batch, h', w', c].

    network: "VGG19", the paper's, or "VGG16"; layer: "convI_J" after its ReLU, which is the paper's φ I,J, or "poolI";
    resize: side in pixels that images are resized to first, or 0; factor: the features are multiplied by it; weights: a
    file for Keras's load_weights, or None for random ones; before_relu: the convolution's output before its ReLU.
    """
    floats = {"dtype": keras.config.floatx()}
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Resizing(resize, resize, name="resize", **floats)(image) if resize else image
    x = keras.applications.vgg19.preprocess_input((x + 1) * 127.5)  # to BGR less ImageNet's means, as for VGG16
    application = getattr(keras.applications, network)
    whole = application(weights=weights, include_top=False, input_tensor=x)
    last = whole.get_layer(vgg_layer(layer))
    if before_relu:
        last.activation = keras.activations.linear
    features = keras.ops.cast(last.output, keras.config.floatx()) * factor
    return keras.Model(image, features, name="vgg", trainable=False)


def vgg_layer(name):
    """Keras's name of a layer of VGG: "block5_conv4" for "conv5_4", "block4_pool" for "pool4"."""
    kind, block, number = name[:4], name[4], name[6:]
    return f"block{block}_{kind}{number}"


# ---------------------------------------------------------------------------------------------------------------------


def main():
    from config import make_config
    from networks.counting import multiply_adds
    from networks.registry import NETWORKS, build_generator

    print(f"{'--model':12} {'colours':8} {'loss':8} {'parameters':>10} {'multiply-adds':>14}")
    print(f"{'':12} {'':8} {'':8} {'':>10} {'a megapixel':>14}  of SR, ×4; bicubic interpolation is not counted")
    for name, entry in NETWORKS.items():
        config = make_config(overrides=[f"MODEL.network={name}"])
        network = build_generator(config.MODEL)
        side = 100
        work = multiply_adds(network, (1, side, side, 3)) / (side * config.MODEL.scale) ** 2 * 1e6
        work = f"{work / 1e9:,.0f}" if work >= 1e11 else f"{work / 1e9:.3g}"
        parameters = network.count_params()
        row = f"{name:12} {entry.colour:8} {config.TRAIN.loss:8} {parameters:10,} {work:>11} e9"
        print(f"{row}  {entry.source}")


if __name__ == "__main__":
    terminal.run_command(main)
