"""Upsampling inside a network: three upsamplers that learn, and bicubic interpolation, which does not.

Each upsampler takes [batch, h, w, c] to [batch, 2h, 2w, width]; `init` is read by the sub-pixel convolution alone.
"""

import numpy as np

import utils
from layers.blocks import conv
from utils import LazyModule

keras = LazyModule("keras")


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
        factor = scale

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
