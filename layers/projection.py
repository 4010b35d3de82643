"""The projection onto the images that shrink to the given LR (Sønderby et al., "Amortised MAP inference for image
super-resolution", ICLR 2017, section 3.2).

With A, the linear map from HR to LR, and A⁺, its pseudo-inverse, g(x) = (I - A⁺A) f(x) + A⁺x = f(x) + A⁺(x - A f(x)):
whatever f paints, A g(x) = x, as A A⁺ = I. Both maps are convolutions with fixed kernels, which work at any size.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from layers.borders import extended, mirror, wrap
from utils import LazyModule, UserError

keras = LazyModule("keras")

PROJECTION = "projection"  # the name of the last layer of `projected`
REACH = 8  # LR pixels on each side that A⁺ of the bicubic sees; its kernel falls to a third from one pixel to the next


class Degradation(NamedTuple):
    """A map A from HR to LR of 1/scale of its size, and its pseudo-inverse A⁺.

    kernel: [k, k]; LR pixel (i, j) is its sum over the HR pixels from (scale·i - start, scale·j - start) on. inverse:
    [2m+1, 2m+1, scale²], of a sub-pixel convolution. border: one of layers/borders.py, for both.
    """

    scale: int
    kernel: np.ndarray
    start: int
    inverse: np.ndarray
    border: Callable = mirror

    @property
    def reach(self):
        """How many LR pixels A⁺ sees on each side."""
        return len(self.inverse) // 2


@functools.cache
def bicubic(scale):
    """MATLAB's imresize(…, 1/scale) without its rounding, as a Degradation.

    Along an axis A is a matrix R, and R⁺ = Rᵀ(RRᵀ)⁻¹. The kernel is symmetric about the middle of a cell of scale
    pixels, so R takes mirrored borders to mirrored borders, and so do all three factors: R⁺ is the same sub-pixel
    convolution at every pixel, whose taps are read from the middle of a long axis. Cut off after REACH pixels, AA⁺
    differs from the identity by 2e-5 at most, at the borders too (from 9 LR pixels on; else 4e-5).
    """
    n = 6 * REACH + 1
    middle = n // 2
    pseudo_inverse = np.linalg.pinv(utils.resize_matrix(n * scale, n, 1 / scale))
    taps = pseudo_inverse[middle * scale : (middle + 1) * scale, middle - REACH : middle + REACH + 1]
    taps /= taps.sum(axis=1, keepdims=True)  # a flat image stays flat
    inverse = np.einsum("iy,jx->yxij", taps, taps).reshape(2 * REACH + 1, 2 * REACH + 1, -1)
    down = utils.downscale_taps(scale)
    return Degradation(scale, np.outer(down, down), 3 * scale // 2, inverse)


GAUSSIAN = Path(__file__).with_name("gaussian_inverse.json")  # A⁺ of `gaussian`, by papers/projection.py


def gaussian_kernel(deviation=1.0):
    """The paper's 9×9 Gaussian; it does not give the standard deviation, in HR pixels."""
    weights = np.exp(-0.5 * (np.arange(-4, 5) / deviation) ** 2)
    return np.outer(weights, weights) / weights.sum() ** 2


def digest_of(kernel):
    """A name for a kernel: the SHA-256 of its values to nine digits."""
    return hashlib.sha256(" ".join(f"{value:.9f}" for value in kernel.ravel()).encode()).hexdigest()


@functools.cache
def gaussian():
    """The paper's A, a Gaussian with stride 4, and its A⁺, fitted as in the paper (papers/projection.fit).

    Nine weights for cells of four have no middle, so that mirrored borders would not stay mirrored: images continue
    from the other border instead. Raises UserError if A⁺ in the file is another kernel's.
    """
    content, kernel = json.loads(GAUSSIAN.read_text(encoding="utf-8")), gaussian_kernel()
    if content["digest"] != digest_of(kernel):
        raise UserError(f"{GAUSSIAN} is not of this Gaussian: python -m papers.projection --fit makes it anew")
    return Degradation(4, kernel, 2, np.array(content["inverse"]).reshape(5, 5, 16), wrap)


DEGRADATIONS = {"bicubic": bicubic}  # {value of MODEL.projection: Degradation of a scale}


def shrink(x, degradation):
    """A: HR [batch, scale·h, scale·w, c] to LR [batch, h, w, c], unrounded."""
    size, scale, start = len(degradation.kernel), degradation.scale, degradation.start
    kernel = np.einsum("yx,cd->yxcd", degradation.kernel, np.eye(x.shape[-1]))
    x = extended(x, start, size - scale - start, degradation.border)
    # Converted here, the kernel is a constant of the graph; otherwise it would be an input of an export.
    return keras.ops.conv(x, keras.ops.convert_to_tensor(kernel, x.dtype), strides=scale, padding="valid")


def enlarge(x, degradation):
    """A⁺: LR [batch, h, w, c] to the smallest HR [batch, scale·h, scale·w, c] that A takes to it."""
    channels = x.shape[-1]
    kernel = np.einsum("yxi,cd->yxcid", degradation.inverse, np.eye(channels))
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    x = extended(x, degradation.reach, degradation.reach, degradation.border)
    x = keras.ops.conv(x, keras.ops.convert_to_tensor(kernel, x.dtype), padding="valid")
    return keras.ops.depth_to_space(x, degradation.scale)


@functools.cache
def classes():
    """Keras's layers Shrink and Enlarge of a Degradation."""

    class Fixed(keras.layers.Layer):
        def __init__(self, degradation, **settings):
            super().__init__(**settings)
            self.degradation = degradation

    class Shrink(Fixed):
        def call(self, x):
            return shrink(x, self.degradation)

    class Enlarge(Fixed):
        def call(self, x):
            return enlarge(x, self.degradation)

    return Shrink, Enlarge


def projected(sr_m11, lr_01, degradation):
    """SR, moved as little as can be so that A takes it to LR: as layers of a Keras graph.

    sr_m11: [batch, scale·h, scale·w, c] in about [-1, 1]; lr_01: [batch, h, w, c] in [0, 1]. Like SR the result may
    step outside its range; what is then cut off contradicts LR again.
    """
    Shrink, Enlarge = classes()
    floats = {"dtype": keras.config.floatx()}
    lr_m11 = keras.layers.Rescaling(2.0, offset=-1.0, name="projection_lr", **floats)(lr_01)
    shrunk = Shrink(degradation, name="projection_shrink", **floats)(sr_m11)
    missing = keras.layers.Subtract(name="projection_missing", **floats)([lr_m11, shrunk])
    correction = Enlarge(degradation, name="projection_enlarge", **floats)(missing)
    return keras.layers.Add(name=PROJECTION, **floats)([sr_m11, correction])


def before(network):
    """(SR before the projection, [batch, scale·h, scale·w, c] in the graph; the scale) of what `projected` made."""
    shrink = network.get_layer("projection_shrink")
    return shrink.input, shrink.degradation.scale


def projected_again(sr_m11, network):
    """Another SR, projected by the layers of a network that `projected` made, onto the images of its LR."""
    shrunk, missing, correction, result = (
        network.get_layer(f"projection{part}") for part in ("_shrink", "_missing", "_enlarge", "")
    )
    lr_m11 = network.get_layer("projection_lr").output
    return result([sr_m11, correction(missing([lr_m11, shrunk(sr_m11)]))])
