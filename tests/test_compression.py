"""What pixels tell of the JPEG that they were, on photographs that come with the libraries."""

import numpy as np
import pytest

import data
import utils
from images import compression, degradation, pictures


@pytest.fixture(scope="module")
def photographs():
    """Of half the size, so that nothing is left of the JPEGs that they may have been."""
    return [utils.imresize(pictures.read_image(path), 1 / 2) for path in data.package_files(data.SAMPLE_TEST)]


@pytest.mark.parametrize("quality", [10, 30, 50, 70, 80, 85])
def test_a_jpeg_is_known_by_its_pixels(photographs, quality):
    """Cut anywhere, with alpha, and in gray."""
    for image in photographs:
        cut = degradation.jpeg(image, quality)[3:, 5:]
        assert compression.is_compressed(cut)
        assert compression.is_compressed(np.dstack([cut, cut[..., :1]]))
        assert compression.is_compressed(degradation.jpeg(image[..., :1], quality))


def test_what_lost_little_is_not_compressed(photographs):
    for image in photographs:
        assert compression.loss(image) < 0.06
        for quality in (95, 100):
            assert not compression.is_compressed(degradation.jpeg(image, quality))
        assert not compression.is_compressed(utils.imresize(degradation.jpeg(image, 50), 1 / 2))


def test_the_loss_grows_with_the_compression(photographs):
    for image in photographs:
        losses = [compression.loss(degradation.jpeg(image, quality)) for quality in (95, 90, 80, 60, 40)]
        assert losses == sorted(losses)


def test_flat_tiny_deep_and_noisy_pictures_are_not_compressed(rng):
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for image in (np.full((64, 64, 3), 77, np.uint8), noise, noise[:9], noise[:16, :16], noise.astype(np.uint16) * 257):
        assert not compression.is_compressed(image)
