"""Style transfer (Johnson et al., 2016, sections 3 and 4.1): the network that paints in a style, and its loss.

The loss is that of Gatys et al., 2016, who minimise it for each picture by itself. Weights and layers are those of the
authors' code; docs/departures.md says what differs. Nothing here imports TensorFlow.
"""

from layers.blocks import conv, conv_to_rgb, instance_norm, relu
from layers.borders import extended
from layers.upsampling import UPSAMPLERS
from networks.features import gram_matrix
from utils import LazyModule, u8_to_01

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

BLOCKS = 5  # residual blocks
MULTIPLE = 4  # of which height and width must be multiples: two convolutions have stride 2
MARGIN = 16  # pixels by which a picture's border is mirrored: the layers pad with gray, which would show
LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3")  # of VGG: their Gram matrices are the style
CONTENT = LAYERS.index("conv3_3")  # its features are the content
WEIGHTS = {"content_loss": 1.0, "style_loss": 5.0, "tv_loss": 1e-6}


def transformer(upsampler="subpixel", width=32):
    """c9s1-32, d64, d128, R128×5, u64, u32, c9s1-3: content [batch, h, w, 3] in [0, 1] to a picture of its size.

    The picture is in [-1.18, 1.18], as the authors' 150·tanh is in levels. h, w: multiples of MULTIPLE. upsampler: one
    of layers/upsampling.UPSAMPLERS; width: the maps of the first layer.
    """
    content_01 = keras.Input((None, None, 3), name="content")
    x = keras.layers.Rescaling(2.0, offset=-1.0, name="content_m11")(content_01)
    x = activated(conv(x, width, 9, "head_conv"), "head")
    for i in (1, 2):
        x = activated(conv(x, width * 2**i, 3, f"down{i}_conv", strides=2), f"down{i}")
    for i in range(1, BLOCKS + 1):
        x = residual_block(x, f"block{i}")
    for i in (1, 2):
        x = activated(UPSAMPLERS[upsampler](x, width * 2 ** (2 - i), f"up{i}_conv"), f"up{i}")
    floats = {"dtype": keras.config.floatx()}
    small = keras.initializers.VarianceScaling(0.01, "fan_avg", "uniform")  # tanh would soon be 1 or -1 everywhere
    x = conv_to_rgb(x, 9, "tail_conv", activation="tanh", kernel_initializer=small, **floats)
    return keras.Model(content_01, keras.layers.Rescaling(150 / 127.5, name="tail_scale", **floats)(x), name="style")


def any_size(network):
    """A transformer for pictures of any size: [batch, h, w, 3] in [0, 1] to [batch, h, w, 3].

    The border is mirrored by MARGIN pixels and up to a multiple of MULTIPLE, and what was added is cut off again.
    """

    class Extended(keras.layers.Layer):
        def call(self, x):
            x = extended(x, MARGIN, MARGIN + MULTIPLE - 1)
            height, width = (keras.ops.shape(x)[axis] // MULTIPLE * MULTIPLE for axis in (1, 2))
            return x[:, :height, :width]

    class Cut(keras.layers.Layer):
        def call(self, styled, content):
            height, width = (keras.ops.shape(content)[axis] for axis in (1, 2))
            return styled[:, MARGIN : MARGIN + height, MARGIN : MARGIN + width]

    content_01 = keras.Input((None, None, 3), name="content")
    styled = network(Extended(name="extended")(content_01))
    return keras.Model(content_01, Cut(name="cut", dtype=styled.dtype)(styled, content_01), name="style_any_size")


def activated(x, name):
    """Instance norm and ReLU."""
    return relu(instance_norm(x, f"{name}_norm"), f"{name}_relu")


def residual_block(x, name):
    """k3, instance norm, ReLU, k3, instance norm, plus the input."""
    skip, width = x, x.shape[-1]
    x = activated(conv(x, width, 3, f"{name}_conv1"), f"{name}_1")
    x = instance_norm(conv(x, width, 3, f"{name}_conv2"), f"{name}_2_norm")
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def weights_of(train):
    """The loss's {term: weight} in the TRAIN section of a run."""
    return {term: train[term] for term in WEIGHTS}


def losses(styled_m11, features, content, grams, weights=WEIGHTS):
    """{"content_loss", "style_loss", "tv_loss"} with their weights, of which the sum is minimised.

    styled_m11: [batch, h, w, 3]; features: its VGG features at LAYERS, [batch, h', w', c] each; content: the features
    of the content at CONTENT; grams: the Gram matrices of the painting at LAYERS, [1, c, c] each. Squares are means
    over all numbers, as in the authors' code.
    """
    style = [tf.reduce_mean((gram_matrix(x) - gram) ** 2) for x, gram in zip(features, grams, strict=True)]
    return {
        "content_loss": weights["content_loss"] * tf.reduce_mean((features[CONTENT] - content) ** 2),
        "style_loss": weights["style_loss"] * tf.add_n(style),
        "tv_loss": weights["tv_loss"] * squared_variation(styled_m11),
    }


def squared_variation(image_m11):
    """Half the sum of the squared differences of neighbours in levels of 255, the mean over a batch [batch, h, w, 3].

    The authors' code has this total variation; losses.total_variation_losses is SRGAN's, of absolute differences.
    """
    levels = 127.5 * image_m11
    pairs = (levels[:, 1:] - levels[:, :-1], levels[:, :, 1:] - levels[:, :, :-1])
    return sum(tf.reduce_mean(tf.reduce_sum(difference**2, axis=(1, 2, 3))) for difference in pairs) / 2


class StyleLoss:
    """The loss of a painting: called with (a picture in [-1, 1], the `content` features of what it shows) → `losses`.

    vgg: images [batch, h, w, 3] in [-1, 1] to their features at LAYERS (features.load_layers); painting: uint8 [h, w,
    3]; weights: {term: weight}.
    """

    def __init__(self, vgg, painting, weights=WEIGHTS):
        self.vgg, self.weights = vgg, dict(weights)
        self.grams = [gram_matrix(x) for x in vgg(2 * tf.constant(u8_to_01(painting)[None]) - 1)]

    def content(self, content_01):
        """The features of [batch, h, w, 3] in [0, 1] at CONTENT."""
        return self.vgg(2 * content_01 - 1)[CONTENT]

    def __call__(self, styled_m11, content):
        return losses(styled_m11, self.vgg(styled_m11), content, self.grams, self.weights)
