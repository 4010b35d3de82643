"""Upsampling inside a network: three upsamplers with weights, and bicubic interpolation.

Each upsampler takes [batch, h, w, c] to [batch, 2h, 2w, width]; only the sub-pixel convolution uses `init`.
"""

import numpy as np

import utils
from layers.blocks import conv
from layers.borders import extended
from utils import LazyModule

keras = LazyModule("keras")


def icnr(scale, initializer="glorot_uniform"):
    """ICNR (Aitken et al., 2017): a sub-pixel convolution starts as nearest-neighbour resizing, without a checkerboard.

    Returns an initializer for kernels [h, w, c_in, c_out·scale²]: one kernel [h, w, c_in, c_out] is drawn by
    `initializer` and copied to all scale² sub-kernels. Channel (i·scale + j)·c_out + c becomes pixel (i, j) of map c in
    depth_to_space, so the copies stand one after the other.
    """

    def init(shape, dtype=None):
        small = (*shape[:-1], shape[-1] // scale**2)
        kernel = keras.initializers.get(initializer)(small, dtype=dtype)
        return keras.ops.tile(kernel, (1, 1, 1, scale**2))

    return init


def subpixel(x, width, name, init="icnr"):
    """Sub-pixel convolution (Shi et al., 2016): k3 to 4·width maps, then a pixel shuffle.

    init: "icnr", "random" (Glorot's), or a Keras initializer.
    """
    kernel = icnr(2) if init == "icnr" else "glorot_uniform" if init == "random" else init
    return keras.ops.depth_to_space(conv(x, 4 * width, 3, name, kernel_initializer=kernel), 2)


def resize(x, width, name, init=None):
    """Nearest-neighbour resizing, then k3: as much work as a sub-pixel convolution, a quarter of its weights."""
    return conv(keras.layers.UpSampling2D(2, name=f"{name}_resize")(x), width, 3, name)


def deconv(x, width, name, init=None):
    """Transposed convolution, k3 with stride 2: its kernels overlap unevenly, which can leave a checkerboard."""
    return keras.layers.Conv2DTranspose(width, 3, strides=2, padding="same", name=name)(x)


UPSAMPLERS = {"subpixel": subpixel, "resize": resize, "deconv": deconv}


def transposed_kernel(kernel, scale):
    """The kernel of the transposed convolution that equals a sub-pixel convolution ("Is the deconvolution layer the
    same as a convolutional layer?", Shi et al., 2016).

    kernel: NumPy [k, k, c_in, scale²·c_out], k odd, of a "same" convolution before depth_to_space(scale). Returns
    [k·scale, k·scale, c_out, c_in] for a "same" conv2d_transpose with stride `scale`: the scale² sub-kernels, turned by
    180° and interleaved.
    """
    k, _, c_in, channels = kernel.shape
    flipped = kernel[::-1, ::-1].reshape(k, k, c_in, scale, scale, channels // scale**2)
    return flipped.transpose(0, 3, 1, 4, 5, 2).reshape(k * scale, k * scale, channels // scale**2, c_in)


def bicubic(x, scale, name="bicubic"):
    """MATLAB's imresize(x, scale) of floats [batch, h, w, c], unrounded, as a sub-pixel convolution with fixed weights.

    All scale² SR pixels of an LR pixel depend on the same 5×5 LR pixels. Borders are mirrored as in utils.mirror.
    """
    margin = 2
    taps = utils.resize_matrix(5, 5 * scale, scale)[2 * scale : 3 * scale]  # [scale, 5]: for the middle pixel
    channels = x.shape[-1]
    kernel = np.einsum("iy,jx,cd->yxcijd", taps, taps, np.eye(channels)).reshape(5, 5, channels, -1)

    class Bicubic(keras.layers.Layer):
        factor = scale

        def call(self, x):
            x = extended(x, margin, margin)
            # Converted here, the kernel is a constant of the graph; otherwise it would be an input of an export.
            x = keras.ops.conv(x, keras.ops.convert_to_tensor(kernel, x.dtype), padding="valid")
            return keras.ops.depth_to_space(x, scale)

    return Bicubic(name=name, dtype=x.dtype)(x)
