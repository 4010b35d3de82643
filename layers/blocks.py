"""The building blocks that networks share: convolution, batch norm, activations and the residual block.

"k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1. A layer's name is fixed: weights, folding
and exports find it by that.
"""

from utils import LazyModule

keras = LazyModule("keras")


def conv(x, width, kernel, name, **settings):
    """A convolution of stride 1 that keeps height and width; settings: keras.layers.Conv2D's."""
    return keras.layers.Conv2D(width, kernel, padding="same", name=name, **settings)(x)


def prelu(x, name):
    """Parametric ReLU with one slope a feature map, starting at 0.25 (He et al., 2015); Keras's zero learns later."""
    slope = keras.initializers.Constant(0.25)
    return keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer=slope, name=name)(x)


def relu(x, name):
    """max(x, 0)."""
    return keras.layers.ReLU(name=name)(x)


def batch_norm(x, config, name, folded=False, gamma="ones"):
    """Batch normalisation with the momentum and epsilon of `config`, the MODEL section; nothing if it is folded.

    gamma: the initial scale, an initializer of Keras's.
    """
    if folded:
        return x
    numbers = {"momentum": config.bn_momentum, "epsilon": config.bn_epsilon}
    return keras.layers.BatchNormalization(gamma_initializer=gamma, name=name, **numbers)(x)


def residual_block(x, config, name, activation, folded=False, gammas=("ones", "ones"), **settings):
    """k3, batch norm, activation, k3, batch norm, + input, all of config.width maps. Paper: Figure 4.

    activation: prelu or relu; folded: without batch norms; gammas: the two batch norms' initial scales;
    settings: keras.layers.Conv2D's.
    """
    skip = x
    x = batch_norm(conv(x, config.width, 3, f"{name}_conv1", **settings), config, f"{name}_bn1", folded, gammas[0])
    x = activation(x, f"{name}_{activation.__name__}")
    x = batch_norm(conv(x, config.width, 3, f"{name}_conv2", **settings), config, f"{name}_bn2", folded, gammas[1])
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def row_convolution():
    """Keras's Conv2D, stride 1 and "same", for few output channels: the same weights and sums, taken row by row.

    A CPU works on eight or sixteen channels at a time, of which an RGB output would use three. So each of the kernel's
    rows gets output channels of its own (9·3 = 27 for the generator's last layer), which are then added, each shifted
    by its row. That makes this layer about three times as fast.
    """

    class Conv2D(keras.layers.Conv2D):  # weights files name a layer by its class: this one's fit Keras's and back
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
    """A convolution to three maps, stride 1, that keeps height and width; settings: keras.layers.Conv2D's."""
    return row_convolution()(3, kernel, padding="same", name=name, **settings)(x)
