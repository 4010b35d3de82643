"""What convolutions see beyond an image's borders, where it is not zero."""

from utils import LazyModule

keras = LazyModule("keras")


FAR = 100  # periods by which an index may lie below zero


def remainder(index, n):
    """index modulo n, without dividing a negative number: converted to ONNX, that would round towards zero."""
    return keras.ops.mod(index + FAR * n, n)


def mirror(index, n):
    """Indices beyond [0, n) reflected at the borders as MATLAB does, the border pixel repeated; see utils.mirror."""
    index = remainder(index, 2 * n)
    return keras.ops.minimum(index, 2 * n - 1 - index)


def wrap(index, n):
    """Indices beyond [0, n) continued from the other border."""
    return remainder(index, n)


def extended(x, before, after, border=mirror):
    """[batch, h, w, c] to [batch, before + h + after, before + w + after, c], its border by `mirror` or `wrap`."""
    for axis in (1, 2):
        n = keras.ops.shape(x)[axis]
        x = keras.ops.take(x, border(keras.ops.arange(-before, n + after), n), axis)
    return x
