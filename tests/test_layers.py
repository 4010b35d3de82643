"""Upsamplers, and interpolation and colour inside a graph, against NumPy."""

import numpy as np
import pytest

import utils
from config import make_config
from inference import compiled
from layers import colour, upsampling
from networks import registry


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_bicubic_is_matlabs(scale, rng):
    """Against the matrices that imresize uses, up to the borders, at sizes down to a single pixel."""
    import tensorflow as tf

    for height, width in ((9, 6), (3, 2), (1, 1)):
        image = rng.random((2, height, width, 2))
        rows, columns = (utils.resize_matrix(n, n * scale, scale) for n in (height, width))
        expected = np.einsum("ih,bhwc,jw->bijc", rows, image, columns)
        np.testing.assert_allclose(upsampling.bicubic(tf.constant(image, tf.float32), scale), expected, atol=2e-6)


def test_colour_is_matlabs_and_comes_back(rng):
    rgb = rng.random((1, 5, 4, 3)).astype(np.float32)
    ycbcr = np.asarray(colour.rgb_to_ycbcr(rgb))
    np.testing.assert_allclose(255 * ycbcr[..., 0], utils.unrounded_y(255 * rgb), rtol=1e-5)
    from skimage.color import rgb2ycbcr

    np.testing.assert_allclose(255 * ycbcr, rgb2ycbcr(rgb), rtol=1e-4)
    np.testing.assert_allclose(colour.ycbcr_to_rgb(ycbcr), rgb, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_subpixel_convolution_is_a_transposed_convolution(scale, k, rng):
    """ "Is the deconvolution layer the same as a convolutional layer?": yes, by an exact map of the weights."""
    import tensorflow as tf

    c_in, c_out = 3, 2
    image = rng.normal(size=(2, 6, 5, c_in))
    kernel = rng.normal(size=(k, k, c_in, scale**2 * c_out))
    subpixel = tf.nn.depth_to_space(tf.nn.conv2d(image, kernel, 1, "SAME"), scale)
    transposed = upsampling.transposed_kernel(kernel, scale)
    result = tf.nn.conv2d_transpose(image, transposed, (2, 6 * scale, 5 * scale, c_out), scale, "SAME")
    np.testing.assert_allclose(result, subpixel, atol=1e-12)
    # The index map, written out.
    my, mx, c, ci = scale * k - 1, 0, 1, 2
    channel = ((my % scale) * scale + mx % scale) * c_out + c
    assert transposed[my, mx, c, ci] == kernel[k - 1 - my // scale, k - 1 - mx // scale, ci, channel]


@pytest.mark.parametrize(
    ("upsampler", "init", "clean"),
    [("subpixel", "icnr", True), ("subpixel", "random", False), ("deconv", "icnr", False)],
)
def test_the_first_output_and_its_checkerboard(upsampler, init, clean):
    """On a flat image, where any difference is a grid; inside, away from the zeros beyond the border."""
    import keras

    keras.utils.set_random_seed(3)
    x = keras.Input((None, None, 8))
    network = keras.Model(x, upsampling.UPSAMPLERS[upsampler](x, 8, "up", init))
    inside = np.asarray(network(np.ones((1, 12, 12, 8), np.float32)))[0, 4:-4, 4:-4]
    cells = inside.reshape(8, 2, 8, 2, 8)
    spread = cells.std(axis=(1, 3)).mean() / np.abs(cells).mean()
    assert (spread < 1e-6) if clean else (spread > 0.1), spread


def test_resizing_is_nearest_then_a_convolution(rng):
    import keras
    import tensorflow as tf

    x = keras.Input((None, None, 4))
    network = keras.Model(x, upsampling.resize(x, 3, "up"))
    image = rng.normal(size=(1, 5, 6, 4)).astype(np.float32)
    kernel, bias = network.get_layer("up").get_weights()
    expected = tf.nn.conv2d(image.repeat(2, axis=1).repeat(2, axis=2), kernel, 1, "SAME") + bias
    np.testing.assert_allclose(network(image), expected, atol=1e-5)


@pytest.mark.parametrize("upsampler", upsampling.UPSAMPLERS)
def test_every_upsampler_fits_the_generator(upsampler, rng):
    config = make_config(
        overrides=["MODEL.blocks=1", "MODEL.width=8", "MODEL.skip=none", f"MODEL.upsampler={upsampler}"]
    ).MODEL
    network = registry.build_generator(config)
    lr = rng.random((2, 5, 6, 3), np.float32)
    assert network(lr).shape == (2, 20, 24, 3)
    np.testing.assert_allclose(compiled.fold_batch_norm(network, config)(lr), network(lr, training=False), atol=1e-5)
