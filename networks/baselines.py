"""The networks that the paper's Table 2 compares with, and Johnson et al.'s, each as its own paper describes it.

Each builder takes LR and returns SR. SRCNN, ESPCN, VDSR and DRCN see only luma: Y [batch, h, w, 1] in [0, 1] to Y
[batch, scale·h, scale·w, 1]; networks/colour.py adds the colour. Last layers compute in floatx, also under mixed
precision. Training settings are in networks/registry.py; docs/departures.md says where they differ from the papers.
config: the MODEL section.
"""

import math

from layers.blocks import batch_norm, conv, relu, residual_block
from layers.upsampling import bicubic, deconv
from utils import LazyModule

keras = LazyModule("keras")

RECONSTRUCTIONS = "reconstructions"  # the name of DRCN's layer whose channels are each compared with HR


def srcnn(y, config):
    """Dong et al., 2014 and 2016: "9-5-5" on the bicubic image; 57,184 weights without the biases at width 64."""
    x = conv(bicubic(y, config.scale), config.width, 9, "conv1", activation="relu")
    x = conv(x, max(config.width // 2, 1), 5, "conv2", activation="relu")
    return conv(x, 1, 5, "conv3", dtype=keras.config.floatx())


def espcn(y, config):
    """Shi et al., 2016: 5-3-3 with tanh in LR space, the last layer linear, then one pixel shuffle."""
    x = conv(y, config.width, 5, "conv1", activation="tanh")
    x = conv(x, max(config.width // 2, 1), 3, "conv2", activation="tanh")
    return keras.ops.depth_to_space(conv(x, config.scale**2, 3, "conv3", dtype=keras.config.floatx()), config.scale)


def espcn_hr(y, config):
    """ESPCN's layers on the bicubic image, with widths divided by the scale: as much work, fewer weights.

    For the comparison in "Is the deconvolution layer the same as a convolutional layer?" (Shi et al., 2016): a
    convolution in HR space sees scale² times the pixels, so at equal work it has 1/scale of the maps on either side.
    """
    width = max(config.width // config.scale, 1)
    x = conv(bicubic(y, config.scale), width, 5, "conv1", activation="tanh")
    x = conv(x, max(width // 2, 1), 3, "conv2", activation="tanh")
    return conv(x, 1, 3, "conv3", dtype=keras.config.floatx())


def vdsr(y, config):
    """Kim et al., 2016: 20 convolutions k3n64 that learn the difference to the bicubic image; 664,704 weights."""
    x = coarse = bicubic(y, config.scale)
    for i in range(1, config.blocks + 2):
        x = conv(x, config.width, 3, f"conv{i}", activation="relu", use_bias=False, kernel_initializer="he_normal")
    floats = {"dtype": keras.config.floatx()}
    residual = conv(x, 1, 3, f"conv{config.blocks + 2}", use_bias=False, **floats)
    return keras.layers.Add(name="residual_add", **floats)([residual, coarse])


def drcn(y, config):
    """Kim et al., 2016b: one k3n256 convolution applied 16 times, an image from each result, and their weighted mean.

    The layer RECONSTRUCTIONS returns these images, [batch, scale·h, scale·w, 16]: they are compared with HR too.
    """
    coarse = bicubic(y, config.scale)
    width = config.width
    x = conv(coarse, width, 3, "embed1", activation="relu")
    x = conv(x, width, 3, "embed2", activation="relu")
    recurse = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="recurse")
    reconstruct1 = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="reconstruct1")
    floats = {"dtype": keras.config.floatx()}
    reconstruct2 = keras.layers.Conv2D(1, 3, padding="same", name="reconstruct2", **floats)
    outputs = []
    for _ in range(config.blocks):
        x = recurse(x)
        outputs.append(reconstruct2(reconstruct1(x)) + coarse)
    outputs = keras.layers.Concatenate(name=RECONSTRUCTIONS, **floats)(outputs)
    mean = keras.initializers.Constant(1 / config.blocks)
    return conv(outputs, 1, 1, "ensemble", use_bias=False, kernel_initializer=mean, **floats)


def johnson(lr_01, config, folded=False):
    """Johnson et al., 2016, section 4.2: c9s1-64, 4 residual blocks, two convolutions of stride ½, c9s1-3 and tanh.

    RGB: LR [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1].
    """
    x = relu(batch_norm(conv(lr_01, config.width, 9, "head_conv"), config, "head_bn", folded), "head_relu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config.width, config, f"block{i}", relu, folded)
    for i in range(1, int(math.log2(config.scale)) + 1):
        x = batch_norm(deconv(x, config.width, f"upsample{i}_conv"), config, f"upsample{i}_bn", folded)
        x = relu(x, f"upsample{i}_relu")
    activation = None if config.output == "linear" else config.output
    return conv(x, 3, 9, "tail_conv", activation=activation, dtype=keras.config.floatx())
