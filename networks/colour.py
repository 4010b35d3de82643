"""Colour for a network that sees only luma."""

from layers.colour import rgb_to_ycbcr, ycbcr_to_rgb
from layers.upsampling import bicubic
from utils import LazyModule

keras = LazyModule("keras")


def with_colour(luma_network):
    """A builder like model.generator from the builder of a luma network: Cb and Cr are upscaled bicubically.

    luma_network: (Y [batch, h, w, 1] in [0, 1], MODEL section) to Y [batch, scale·h, scale·w, 1].
    """

    def generator(lr_01, config, folded=False):
        ycbcr = rgb_to_ycbcr(lr_01)
        return in_colour(luma_network(ycbcr[..., :1], config), ycbcr[..., 1:], config.scale)

    return generator


def in_colour(y, chroma, scale):
    """SR RGB [batch, scale·h, scale·w, 3] in [-1, 1] of SR's Y [batch, scale·h, scale·w, 1] and LR's Cb and Cr."""
    y = keras.ops.cast(y, keras.config.floatx())
    chroma = bicubic(chroma, scale, "chroma")
    return 2 * ycbcr_to_rgb(keras.ops.concatenate([y, chroma], axis=-1)) - 1
