"""The building blocks that networks share: convolution, batch norm, activations and the residual block.

"k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1. Weights files, folding and exports find
layers by their names, so a name must not change.
"""

import math
from typing import NamedTuple

from utils import LazyModule

keras = LazyModule("keras")


def conv(x, width, kernel, name, **settings):
    """A convolution with "same" padding and stride 1; settings: keras.layers.Conv2D's."""
    return keras.layers.Conv2D(width, kernel, padding="same", name=name, **settings)(x)


def prelu(x, name):
    """Parametric ReLU with one slope per feature map, at first 0.25 (He et al., 2015); Keras's 0 learns later."""
    slope = keras.initializers.Constant(0.25)
    return keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer=slope, name=name)(x)


def relu(x, name):
    """max(x, 0)."""
    return keras.layers.ReLU(name=name)(x)


def batch_norm(x, config, name, folded=False, gamma="ones"):
    """Batch normalisation with the momentum and epsilon of `config`, the MODEL section; x itself if folded.

    gamma: Keras initializer of the scale.
    """
    if folded:
        return x
    numbers = {"momentum": config.bn_momentum, "epsilon": config.bn_epsilon}
    return keras.layers.BatchNormalization(gamma_initializer=gamma, name=name, **numbers)(x)


def instance_norm(x, name):
    """Instance normalisation (Ulyanov et al., 2016): each map of each image by its own mean and variance."""
    return keras.layers.GroupNormalization(groups=-1, epsilon=1e-5, name=name)(x)


def residual_block(x, width, config, name, activation, folded=False, gammas=("ones", "ones"), **settings):
    """k3, batch norm, activation, k3, batch norm, plus the input. Paper: Figure 4.

    width: the maps between the two convolutions; activation: prelu or relu; folded: without batch norms; gammas: the
    two batch norms' initial scales; settings: keras.layers.Conv2D's.
    """
    skip = x
    x = batch_norm(conv(x, width, 3, f"{name}_conv1", **settings), config, f"{name}_bn1", folded, gammas[0])
    x = activation(x, f"{name}_{activation.__name__}")
    x = conv(x, skip.shape[-1], 3, f"{name}_conv2", **settings)
    x = batch_norm(x, config, f"{name}_bn2", folded, gammas[1])
    return keras.layers.Add(name=f"{name}_add")([x, skip])


class Widths(NamedTuple):
    """The feature maps of a generator's layers; pruning (papers/pruning.py) leaves fewer than the paper's 64."""

    trunk: int  # of what the residual blocks add to
    inner: list  # between the two convolutions of each block
    upsampled: list  # behind each upsampling


def widths_of(config):
    """The Widths of the MODEL section: MODEL.widths if it is given, else config.width everywhere, as in the paper."""
    steps = int(math.log2(config.scale))
    numbers = [int(text) for text in config.widths.split()] or [config.width] * (1 + config.blocks + steps)
    return Widths(numbers[0], numbers[1 : 1 + config.blocks], numbers[1 + config.blocks :])


def row_convolution():
    """Keras's Conv2D class, for "same" padding, stride 1 and few output channels, computed row by row of the kernel.

    A CPU computes eight or sixteen channels at a time, of which an RGB output would use three. Here each row of the
    kernel has its own output channels (9·3 = 27 in the generator's last layer), which are then shifted by the row's
    offset and added. The weights stay Keras's, and the layer is about three times as fast.
    """

    class Conv2D(keras.layers.Conv2D):  # Keras's name, since weights files name a layer by its class
        def convolution_op(self, inputs, kernel):
            rows, columns, channels, filters = kernel.shape
            height = keras.ops.shape(inputs)[1]
            kernel = keras.ops.transpose(kernel, (1, 2, 0, 3))
            kernel = keras.ops.reshape(kernel, (1, columns, channels, rows * filters))
            x = keras.ops.conv(inputs, kernel, padding="same")
            x = keras.ops.pad(x, ((0, 0), (rows // 2, rows // 2), (0, 0), (0, 0)))
            return sum(x[:, i : i + height, :, filters * i : filters * (i + 1)] for i in range(rows))

    return Conv2D


def conv_to_rgb(x, kernel, name, **settings):
    """A convolution to three maps, "same" padding and stride 1; settings: keras.layers.Conv2D's."""
    return row_convolution()(3, kernel, padding="same", name=name, **settings)(x)
