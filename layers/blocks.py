"""What the networks are made of: batch norm, PReLU, upsamplers, and bicubic interpolation and colour inside a graph.

"k9n64s1" is the paper's short form: a 9×9 kernel, 64 feature maps, stride 1.
"""

import os

# Read when they are imported: Keras must run on TensorFlow, whose start-up remarks (errors, where there is just no GPU)
# help nobody.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

import utils  # noqa: E402
from utils import LazyModule  # noqa: E402

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

    activation: prelu or relu; folded: without batch norms (see model.fold_batch_norm); gammas: the two batch norms'
    initial scales; settings: keras.layers.Conv2D's.
    """
    skip = x
    x = batch_norm(conv(x, config.width, 3, f"{name}_conv1", **settings), config, f"{name}_bn1", folded, gammas[0])
    x = activation(x, f"{name}_{activation.__name__}")
    x = batch_norm(conv(x, config.width, 3, f"{name}_conv2", **settings), config, f"{name}_bn2", folded, gammas[1])
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def row_convolution():
    """Keras's Conv2D, stride 1 and "same", for few output channels: the same weights and sums, taken row by row.

    A CPU works on eight or sixteen channels at a time, of which an RGB output would use three. So each of the kernel's
    rows gets output channels of its own (9·3 = 27 for the tail), which are then added, each shifted by its row. That
    makes the tail about three times as fast.
    """

    class Conv2D(keras.layers.Conv2D):  # weights files call a layer by its class: this one's fit Keras's and back
        def convolution_op(self, inputs, kernel):
            rows, columns, channels, filters = kernel.shape
            height = keras.ops.shape(inputs)[1]
            kernel = keras.ops.transpose(kernel, (1, 2, 0, 3))
            kernel = keras.ops.reshape(kernel, (1, columns, channels, rows * filters))
            x = keras.ops.conv(inputs, kernel, padding="same")
            x = keras.ops.pad(x, ((0, 0), (rows // 2, rows // 2), (0, 0), (0, 0)))
            return sum(x[:, i : i + height, :, filters * i : filters * (i + 1)] for i in range(rows))

    return Conv2D


# ---------------------------------------------------------------------------------------------------------------------
# Upsamplers: [batch, h, w, width] to [batch, 2h, 2w, width]


def icnr(scale, initializer="glorot_uniform"):
    """ICNR (Aitken et al., 2017): a sub-pixel convolution that starts as nearest-neighbour resizing, free of the grid.

    Returns an initializer for kernels [h, w, c_in, c_out·scale²]: one kernel [h, w, c_in, c_out] is drawn and given to
    all scale² sub-kernels. depth_to_space reads channel (i·scale + j)·c_out + c, so copies follow each other whole.
    """

    def init(shape, dtype=None):
        small = (*shape[:-1], shape[-1] // scale**2)
        kernel = keras.initializers.get(initializer)(small, dtype=dtype)
        return keras.ops.tile(kernel, (1, 1, 1, scale**2))

    return init


def subpixel(x, width, name, init="icnr"):
    """Sub-pixel convolution (Shi et al., 2016): k3 to 4·width maps, then a pixel shuffle.

    init: "icnr", "random" (Glorot's), or what else Keras takes for an initializer.
    """
    kernel = icnr(2) if init == "icnr" else "glorot_uniform" if init == "random" else init
    return keras.ops.depth_to_space(conv(x, 4 * width, 3, name, kernel_initializer=kernel), 2)


def resize(x, width, name, init=None):
    """Nearest-neighbour resizing, then k3: the work of a sub-pixel convolution with a quarter of its weights."""
    return conv(keras.layers.UpSampling2D(2, name=f"{name}_resize")(x), width, 3, name)


def deconv(x, width, name, init=None):
    """Transposed convolution, k3 with stride 2: its kernels overlap unevenly, which favours a checkerboard."""
    return keras.layers.Conv2DTranspose(width, 3, strides=2, padding="same", name=name)(x)


UPSAMPLERS = {"subpixel": subpixel, "resize": resize, "deconv": deconv}


def transposed_kernel(kernel, scale):
    """The kernel of the transposed convolution that equals a sub-pixel convolution ("Is the deconvolution layer the
    same as a convolutional layer?", Shi et al., 2016).

    kernel: NumPy [k, k, c_in, scale²·c_out], k odd, of a "same" convolution before depth_to_space(scale). Returns
    [k·scale, k·scale, c_out, c_in] for a "same" conv2d_transpose of stride `scale`: the scale² sub-kernels, interleaved
    and turned by half a circle.
    """
    k, _, c_in, channels = kernel.shape
    flipped = kernel[::-1, ::-1].reshape(k, k, c_in, scale, scale, channels // scale**2)
    return flipped.transpose(0, 3, 1, 4, 5, 2).reshape(k * scale, k * scale, channels // scale**2, c_in)


# ---------------------------------------------------------------------------------------------------------------------
# Bicubic interpolation and colour, without weights to train


def bicubic(x, scale, name="bicubic"):
    """MATLAB's imresize(x, scale) of floats [batch, h, w, c], unrounded, as a convolution.

    Every scale² output pixels see the same 5×5 LR pixels with weights of their own, so it is a fixed sub-pixel
    convolution. Borders are reflected as utils.mirror does.
    """
    margin = 2
    taps = utils.resize_matrix(5, 5 * scale, scale)[2 * scale : 3 * scale]  # of the middle pixel: [scale, 5]
    channels = x.shape[-1]
    kernel = np.einsum("iy,jx,cd->yxcijd", taps, taps, np.eye(channels)).reshape(5, 5, channels, -1)

    class Bicubic(keras.layers.Layer):
        def call(self, x):
            for axis in (1, 2):
                n = keras.ops.shape(x)[axis]
                index = keras.ops.arange(-margin, n + margin)
                index = keras.ops.maximum(index, -1 - index)  # reflected at the one border, then at the other
                index = keras.ops.maximum(keras.ops.minimum(index, 2 * n - 1 - index), 0)  # 0: of a single pixel
                x = keras.ops.take(x, index, axis)
            # Made in here the kernel is a constant of the graph; from outside it would be an input of an exported one.
            x = keras.ops.conv(x, keras.ops.convert_to_tensor(kernel, x.dtype), padding="valid")
            return keras.ops.depth_to_space(x, scale)

    return Bicubic(name=name, dtype=x.dtype)(x)


# BT.601 as MATLAB's rgb2ycbcr has it, for values in [0, 1]: columns are Y (16/255…235/255), Cb, Cr.
YCBCR = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786], [24.966, 112.0, -18.214]]) / 255
YCBCR_ZERO = np.array([16, 128, 128]) / 255


def rgb_to_ycbcr(rgb_01):
    """[batch, h, w, 3] in [0, 1] to Y, Cb and Cr, unrounded."""
    return keras.ops.matmul(rgb_01, keras.ops.cast(YCBCR, rgb_01.dtype)) + keras.ops.cast(YCBCR_ZERO, rgb_01.dtype)


def ycbcr_to_rgb(ycbcr):
    """The inverse of rgb_to_ycbcr; may step outside [0, 1]."""
    centred = ycbcr - keras.ops.cast(YCBCR_ZERO, ycbcr.dtype)
    return keras.ops.matmul(centred, keras.ops.cast(np.linalg.inv(YCBCR), ycbcr.dtype))
