import numpy as np
import pytest
from scipy.ndimage import correlate
from skimage.metrics import peak_signal_noise_ratio

import metrics
import utils


def naive_ssim(a, b):
    """Wang's SSIM from its definition: an explicit 11×11 Gaussian window, moved over all places where it fits."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image):
        return correlate(image, window)[5:-5, 5:-5]

    a, b = a.astype(float), b.astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


@pytest.fixture
def pair(rng):
    a = rng.integers(0, 256, (40, 52), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_psnr_against_scikit_image(pair):
    assert metrics.psnr(*pair) == pytest.approx(peak_signal_noise_ratio(*pair, data_range=255), abs=1e-9)


def test_psnr_of_equal_images_is_infinite(pair):
    assert metrics.psnr(pair[0], pair[0]) == float("inf")


def test_ssim_against_its_definition(pair):
    assert metrics.ssim(*pair) == pytest.approx(naive_ssim(*pair), abs=1e-6)


def test_border_is_left_out(rng):
    hr = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sr = hr.copy()
    sr[:4] = sr[-4:] = 0
    sr[:, :4] = sr[:, -4:] = 0
    assert metrics.psnr_y(sr, hr, 4) == float("inf")
    assert metrics.psnr_y(sr, hr, 3) < 40


def test_gray_originals_are_scored_on_their_own_pixels(rng):
    hr = rng.integers(0, 256, (32, 32, 1), dtype=np.uint8)
    assert metrics.psnr_y(utils.to_rgb(hr), hr, 4) == float("inf")
    sr = utils.to_rgb(hr).copy()
    sr[..., 1] = 255 - sr[..., 1]
    mean = utils.round_u8(sr.mean(axis=-1))
    expected = metrics.psnr(mean[4:-4, 4:-4], hr[4:-4, 4:-4, 0])
    assert metrics.psnr_y(sr, hr, 4) == pytest.approx(expected)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="SR is"):
        metrics.psnr_y(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 24, 3), np.uint8), 4)


def test_bicubic_of_set5_image_by_image(shared):
    """PSNR of MATLAB's bicubic on Set5, ×4, as it is known."""
    expected = {"baby": 31.77, "bird": 30.17, "butterfly": 22.10, "head": 31.58, "woman": 26.46}
    for path in utils.list_images(shared / "Set5"):
        hr = utils.mod_crop(utils.read_image(path), 4)
        sr = utils.imresize(utils.imresize(hr, 1 / 4), 4)
        assert metrics.psnr_y(sr, hr, 4) == pytest.approx(expected[path.stem], abs=0.006)
