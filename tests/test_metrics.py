import math

import numpy as np
import pytest
from conftest import photo
from scipy.ndimage import correlate
from skimage.metrics import peak_signal_noise_ratio

import utils
from images import pictures
from scoring import metrics, niqe


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


def naive_daala(a, b):
    """daala's SSIM as its C code goes: a loop over pixels, and for each over the taps that lie inside the picture."""
    height, width = a.shape
    sigma = height * 1.5 / 256
    least = math.sqrt(math.pi / 2) * sigma / 256
    n = 0 if least >= 1 else math.floor(sigma * math.sqrt(-2 * math.log(least)))
    side = [
        math.floor(256 / (math.sqrt(2 * math.pi) * sigma) * math.exp(-(i**2) / (2 * sigma**2)) + 0.5)
        for i in range(1, n + 1)
    ]
    taps = {0: 256 - 2 * sum(side)} | {sign * i: tap for i, tap in enumerate(side, 1) for sign in (-1, 1)}
    total = weight_sum = 0
    for y in range(height):
        for x in range(width):
            w = sx = sy = sxx = sxy = syy = 0
            for i, tap_i in taps.items():
                for j, tap_j in taps.items():
                    if 0 <= y + i < height and 0 <= x + j < width:
                        t, p, q = tap_i * tap_j, int(a[y + i, x + j]), int(b[y + i, x + j])
                        w, sx, sy = w + t, sx + t * p, sy + t * q
                        sxx, sxy, syy = sxx + t * p * p, sxy + t * p * q, syy + t * q * q
            c1, c2 = (0.01 * 255 * w) ** 2, (0.03 * 255 * w) ** 2
            top = w * (2 * sx * sy + c1) * (2 * (w * sxy - sx * sy) + c2)
            total += top / ((sx**2 + sy**2 + c1) * (w * sxx - sx**2 + w * syy - sy**2 + c2))
            weight_sum += w
    return total / weight_sum


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


def test_the_papers_ssim_against_a_plain_loop(pair):
    assert metrics.ssim_daala(*pair) == pytest.approx(naive_daala(*pair), abs=1e-12)
    tall = [np.tile(image, (8, 1))[:, :12] for image in pair]  # a wider window: σ = 1.9, 11 taps
    assert len(metrics.daala_taps(320)) == 11
    assert metrics.ssim_daala(*tall) == pytest.approx(naive_daala(*tall), abs=1e-12)


@pytest.mark.parametrize("height", [11, 60, 248, 312, 1000])
def test_the_taps_of_the_papers_ssim_sum_to_256(height):
    taps = metrics.daala_taps(height)
    assert taps.sum() == 256 and np.all(taps == np.round(taps)) and np.all(taps == taps[::-1])


def test_psnr_rgb_against_scikit_image(rng):
    hr = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    sr = np.clip(hr + rng.normal(0, 20, hr.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(hr[4:-4, 4:-4], sr[4:-4, 4:-4], data_range=255)
    assert metrics.psnr_rgb(sr, hr, 4) == pytest.approx(expected, abs=1e-9)
    gray = hr[..., :1]
    expected = peak_signal_noise_ratio(gray.repeat(3, axis=-1)[4:-4, 4:-4], sr[4:-4, 4:-4], data_range=255)
    assert metrics.psnr_rgb(sr, gray, 4) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_consistency_sees_what_sr_says_against_lr(rng, scale):
    lr = photo(rng, 24, 30)
    assert metrics.consistency(lr.repeat(scale, axis=0).repeat(scale, axis=1), lr) > 30
    bicubic = utils.imresize(lr, scale)
    swapped = metrics.consistency(bicubic[..., ::-1], lr)
    assert metrics.consistency(bicubic, lr) > 30 > swapped
    again = utils.imresize(bicubic[..., ::-1], 1 / scale)
    assert swapped == pytest.approx(peak_signal_noise_ratio(lr, again, data_range=255), abs=1e-9)


def test_measure_gives_what_each_function_gives(rng):
    hr = photo(rng, 104, 112)
    lr = utils.imresize(hr, 1 / 4)
    sr = utils.imresize(lr, 4)
    expected = {
        "psnr_y": metrics.psnr_y(sr, hr, 4),
        "ssim_y": metrics.ssim_y(sr, hr, 4),
        "ssim_paper": metrics.ssim_paper(sr, hr, 4),
        "psnr_rgb": metrics.psnr_rgb(sr, hr, 4),
        "consistency": metrics.consistency(sr, lr),
        "niqe_own": niqe.niqe(sr),
    }
    assert metrics.measure(metrics.USUAL, sr, hr, lr, 4) == expected
    assert list(metrics.measure(["psnr_rgb"], sr, hr, lr, 4)) == ["psnr_rgb"]


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
        hr = utils.mod_crop(pictures.read_image(path), 4)
        sr = utils.imresize(utils.imresize(hr, 1 / 4), 4)
        assert metrics.psnr_y(sr, hr, 4) == pytest.approx(expected[path.stem], abs=0.006)


def test_bridge_is_scored_on_its_own_pixels(shared):
    """Set14's gray image: 23.15 dB on its pixels; 24.46 would be those pixels pressed into 16…235."""
    hr = pictures.read_image(shared / "Set14" / "bridge.bmp")
    assert hr.shape[-1] == 1
    sr = utils.to_rgb(utils.imresize(utils.imresize(hr, 1 / 4), 4))
    assert metrics.psnr_y(sr, hr, 4) == pytest.approx(23.15, abs=0.005)
    assert metrics.psnr_y(sr, utils.to_rgb(hr), 4) == pytest.approx(24.46, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wang", "computed", "printed"),
    [("Set5", 0.8101, 0.8201, 0.8211), ("Set14", 0.7023, 0.7480, 0.7486), ("BSD100", 0.6672, 0.6933, 0.6935)],
)
def test_both_ssims_of_bicubic(shared, name, wang, computed, printed):
    """Over each set, ×4: Wang's as it is known, and the paper's Table 2 to 0.0015."""
    scores = []
    for path in utils.list_images(shared / name):
        hr = utils.mod_crop(pictures.read_image(path), 4)
        lr = utils.imresize(hr, 1 / 4)
        scores.append(list(metrics.measure(("ssim_y", "ssim_paper"), utils.imresize(lr, 4), hr, lr, 4).values()))
    ssim_y, ssim_paper = np.mean(scores, axis=0)
    assert ssim_y == pytest.approx(wang, abs=0.0001)
    assert ssim_paper == pytest.approx(computed, abs=0.0001)
    assert ssim_paper == pytest.approx(printed, abs=0.0015)
