"""Warping images along a flow, with gradients for both: spatial transformers' resampler (Jaderberg et al., 2015)."""

from utils import LazyModule

tf = LazyModule("tensorflow")
keras = LazyModule("keras")


def warp(image, flow):
    """The image [batch, h, w, c] where the flow leads: pixel (y, x) is the image at (y + flow_y, x + flow_x).

    flow: [batch, h, w, 2], (x, y) in pixels. Between pixels it is bilinear; outside is the nearest pixel of the border,
    and there the flow has no gradient.
    """
    _, h, w, _ = tf.unstack(tf.shape(image))
    flat = tf.reshape(image, [-1, h * w, image.shape[-1]])
    x = tf.cast(tf.range(w), flow.dtype) + flow[..., 0]
    y = tf.cast(tf.range(h), flow.dtype)[:, None] + flow[..., 1]
    (left, right, along_x), (top, bottom, along_y) = corners(x, w), corners(y, h)

    def at(row, column):
        index = tf.reshape(row * w + column, [-1, h * w])
        return tf.reshape(tf.gather(flat, index, batch_dims=1), tf.shape(image))

    upper = at(top, left) * (1 - along_x) + at(top, right) * along_x
    lower = at(bottom, left) * (1 - along_x) + at(bottom, right) * along_x
    return upper * (1 - along_y) + lower * along_y


def corners(place, n):
    """(pixel before, pixel behind, share of the one behind [..., 1]) of places on an axis of n pixels."""
    place = tf.clip_by_value(place, 0, tf.cast(n - 1, place.dtype))
    before = tf.floor(place)
    first = tf.cast(before, tf.int32)
    return first, tf.minimum(first + 1, n - 1), (place - before)[..., None]


def warping(image, flow, name):
    """warp() as a layer of a Keras graph."""

    class Warp(keras.layers.Layer):
        def call(self, image, flow):
            return warp(image, flow)

        def compute_output_shape(self, image_shape, flow_shape):
            return image_shape

    return Warp(name=name, dtype=image.dtype)(image, flow)
