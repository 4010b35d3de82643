"""RGB to luma and chroma and back inside a network, as MATLAB does it."""

import numpy as np

from utils import LazyModule

keras = LazyModule("keras")

# BT.601 as in MATLAB's rgb2ycbcr, for values in [0, 1]: columns are Y (16/255…235/255), Cb, Cr.
YCBCR = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786], [24.966, 112.0, -18.214]]) / 255
YCBCR_ZERO = np.array([16, 128, 128]) / 255


def rgb_to_ycbcr(rgb_01):
    """[batch, h, w, 3] in [0, 1] to Y, Cb and Cr, unrounded."""
    return keras.ops.matmul(rgb_01, keras.ops.cast(YCBCR, rgb_01.dtype)) + keras.ops.cast(YCBCR_ZERO, rgb_01.dtype)


def ycbcr_to_rgb(ycbcr):
    """The inverse of rgb_to_ycbcr; may step outside [0, 1]."""
    centred = ycbcr - keras.ops.cast(YCBCR_ZERO, ycbcr.dtype)
    return keras.ops.matmul(centred, keras.ops.cast(np.linalg.inv(YCBCR), ycbcr.dtype))
