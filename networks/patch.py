"""A discriminator of patches in place of Figure 4's (PatchGAN: Isola et al., CVPR 2017); arguments as in model.py."""

from layers.blocks import conv
from model import discriminator_convolutions
from utils import LazyModule

keras = LazyModule("keras")

CONVOLUTIONS = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 1))  # (maps, stride), all k3: Figure 4's first


def discriminator(image, config):
    """Figure 4's first convolutions, the last without its stride, then one logit at each place: [batch, places].

    A place is four pixels wide and sees 37×37. So the discriminator judges texture everywhere, and never the whole.
    """
    x = discriminator_convolutions(image, config, CONVOLUTIONS)
    x = conv(x, 1, 3, "logits", dtype=keras.config.floatx())
    return keras.layers.Flatten(name="flatten", dtype=keras.config.floatx())(x)
