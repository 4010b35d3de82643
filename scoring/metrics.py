"""Measures of image quality, each with its source. Images are uint8, [height, width] or [height, width, channels].

The paper's protocol (section 3.1): the Y channel, with as many pixels cut off each border as the scale factor.
docs/metrics.md describes every measure and gives the figures of bicubic upscaling that they are checked with.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import utils
from images import hashes
from scoring import niqe, perceptual
from utils import LazyModule

cv2 = LazyModule("cv2")
ndimage = LazyModule("scipy.ndimage")
similarity = LazyModule("skimage.metrics")
tf = LazyModule("tensorflow")

PROTOCOL = "LR by MATLAB's bicubic imresize; Y of BT.601 (16-235) rounded to 8 bits; {border} pixels off each border"


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of two images of one shape, peak 255; infinite if they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a, b):
    """Structural similarity (Wang et al., 2004) of two planes [height, width], at least 11 pixels wide and high.

    Gaussian window 11×11 with σ = 1.5, K1 = 0.01, K2 = 0.03, population covariance, mean over the windows that fit in.
    """
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(similarity.structural_similarity(a, b, data_range=255, **wang))


def daala_taps(height):
    """The window of daala's SSIM for a plane of this height: whole numbers [2n+1] that sum to 256, a Gaussian."""
    sigma = 1.5 * height / 256
    least = math.sqrt(math.pi / 2) * sigma / 256  # where the Gaussian falls below half a tap
    n = int(sigma * math.sqrt(-2 * math.log(least))) if least < 1 else 0
    side = np.floor(256 / (math.sqrt(2 * math.pi) * sigma) * np.exp(-(np.arange(1, n + 1) ** 2) / (2 * sigma**2)) + 0.5)
    return np.concatenate([side[::-1], [256 - 2 * side.sum()], side])


def ssim_daala(a, b):
    """The paper's SSIM (daala's tools/dump_ssim.c, section 3.1 of the paper) of two planes [height, width].

    It differs from Wang's: the window grows with the height, and at the border it is cut off. W is the sum of the taps
    inside the image; a pixel weighs W in the mean.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    taps = daala_taps(a.shape[0])

    def weighted(plane):
        return cv2.sepFilter2D(plane, cv2.CV_64F, taps, taps, borderType=cv2.BORDER_CONSTANT)  # zeros beyond the border

    rows, columns = (ndimage.correlate1d(np.ones(n), taps, mode="constant") for n in a.shape)
    w = np.outer(rows, columns)
    sa, sb, saa, sbb, sab = map(weighted, (a, b, a * a, b * b, a * b))
    c1, c2 = ((k * 255 * w) ** 2 for k in (0.01, 0.03))
    luminance = (2 * sa * sb + c1) / (sa**2 + sb**2 + c1)
    structure = (2 * (w * sab - sa * sb) + c2) / (w * saa - sa**2 + w * sbb - sb**2 + c2)
    return float(np.sum(w * luminance * structure) / np.sum(w))


def luma(image):
    """What is scored: Y of an RGB image; the pixels themselves of a gray one [height, width, 1]."""
    return image[..., 0] if image.shape[-1] == 1 else utils.rgb_to_y(image)


def scored(sr, hr, border):
    """The two uint8 planes [height-2·border, width-2·border] that are compared for an SR and an HR image.

    Where the original is gray, its pixels are Y already (RGB → Y would compress them to 16…235), and SR is taken as the
    rounded mean of its channels. Raises ValueError if the sizes differ.
    """
    if sr.shape[:2] != hr.shape[:2]:
        raise ValueError(f"SR is {sr.shape[:2]} but HR is {hr.shape[:2]}")
    if hr.shape[-1] == 1:
        sr = utils.round_u8(sr.mean(axis=-1, keepdims=True))
    inside = slice(border, -border or None)
    return luma(sr)[inside, inside], luma(hr)[inside, inside]


def psnr_y(sr, hr, border):
    """PSNR in dB on Y without the border; sr uint8 [h, w, 1 or 3], hr uint8 [h, w, 1 or 3]."""
    return psnr(*scored(sr, hr, border))


def ssim_y(sr, hr, border):
    """The SSIM of Wang et al. on Y without the border; arguments as in psnr_y."""
    return ssim(*scored(sr, hr, border))


def ssim_paper(sr, hr, border):
    """The paper's SSIM, daala's, on Y without the border; arguments as in psnr_y."""
    return ssim_daala(*scored(sr, hr, border))


def psnr_rgb(sr, hr, border):
    """PSNR in dB over all three channels, without the border; a gray image counts as three equal channels."""
    inside = slice(border, -border or None)
    return psnr(utils.to_rgb(sr)[inside, inside], utils.to_rgb(hr)[inside, inside])


SHIFT = 4  # pixels, at most, that psnr_shift moves


def psnr_shift(sr, hr, border):
    """psnr_y of the best of all shifts of HR by up to SHIFT whole pixels, and no more than the border has."""
    most = min(SHIFT, border)
    whole = [plane.astype(np.int32) for plane in scored(sr, hr, 0)]
    height, width = (length - 2 * border for length in whole[0].shape)
    ours = whole[0][border : border + height, border : border + width]
    moves = range(border - most, border + most + 1)
    errors = [
        np.square(ours - whole[1][top : top + height, left : left + width]).mean() for top in moves for left in moves
    ]
    return float(10 * np.log10(255**2 / min(errors))) if min(errors) else float("inf")


def ms_ssim(sr, hr, border):
    """Multi-scale SSIM (Wang et al., 2003) on Y without the border, by TensorFlow; arguments as in psnr_y.

    NaN for less than 176 pixels: the window of 11 must fit in at the fifth scale too.
    """
    planes = scored(sr, hr, border)
    if min(planes[0].shape) < 11 * 2**4:
        return float("nan")
    return float(tf.image.ssim_multiscale(*(tf.constant(plane[None, ..., None]) for plane in planes), 255)[0])


def shrunk(sr, lr):
    """SR shrunk to LR's size by MATLAB's bicubic imresize, as LR was made: uint8 [h, w, 3].

    sr: uint8 [scale·h, scale·w, 1 or 3]; lr: uint8 [h, w, 1 or 3].
    """
    return utils.to_rgb(utils.imresize(sr, lr.shape[0] / sr.shape[0]))


def consistency(sr, lr):
    """PSNR in dB between LR and SR shrunk again, over RGB and with the border; arguments as in shrunk.

    It is low where SR contradicts LR.
    """
    return psnr(shrunk(sr, lr), utils.to_rgb(lr))


def departure(sr, lr):
    """Where SR contradicts LR: |SR shrunk again - LR| in grey levels, the largest of the channels; int [h, w].

    Arguments as in shrunk. Detail that SR invents does not count, as long as shrinking it gives LR.
    """
    return np.abs(shrunk(sr, lr).astype(int) - utils.to_rgb(lr)).max(axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# The measures by name. To add one, write its entry, at the end: the report shows the first two below its pictures. Only
# those in USUAL are computed if nothing is said.


class Column(NamedTuple):
    """How a measure is shown in a table, and how it is computed."""

    title: str
    digits: int
    about: str  # in a few words
    compute: Callable | None = (
        None  # (sr, hr, lr, border) of one image, as for `measure` → number; None: not of an image
    )
    better: int = 1  # -1 if lower is better
    model: str = ""  # the digest of a file that the figures depend on


COLUMNS = {
    "psnr_y": Column("PSNR-Y", 2, "dB", lambda sr, hr, lr, border: psnr_y(sr, hr, border)),
    "ssim_y": Column("SSIM-Y", 4, "Wang et al.", lambda sr, hr, lr, border: ssim_y(sr, hr, border)),
    "ssim_paper": Column(
        "SSIM-paper",
        4,
        "daala's, the paper's; not comparable with Wang's",
        lambda sr, hr, lr, border: ssim_paper(sr, hr, border),
    ),
    "psnr_rgb": Column("PSNR-RGB", 2, "dB, all three channels", lambda sr, hr, lr, border: psnr_rgb(sr, hr, border)),
    "consistency": Column(
        "LR-PSNR",
        2,
        "dB between LR and the SR shrunk again, RGB, no border off",
        lambda sr, hr, lr, border: consistency(sr, lr),
    ),
    "niqe_own": Column(
        "NIQE-own",
        2,
        "with a model of our own, whole Y plane; lower is better",
        lambda sr, hr, lr, border: niqe.niqe(sr),
        better=-1,
    ),
    "psnr_shift": Column(
        "PSNR-shift",
        2,
        f"dB, PSNR-Y at the best of all shifts by up to {SHIFT} pixels",
        lambda sr, hr, lr, border: psnr_shift(sr, hr, border),
    ),
    "ms_ssim": Column(
        "MS-SSIM", 4, "at five scales, Wang et al. 2003", lambda sr, hr, lr, border: ms_ssim(sr, hr, border)
    ),
    "lpips": Column(
        "LPIPS",
        4,
        "Zhang et al. 2018, AlexNet, RGB, no border off; lower is better",
        lambda sr, hr, lr, border: perceptual.compare("lpips", sr, hr),
        better=-1,
    ),
    "dists": Column(
        "DISTS",
        4,
        "Ding et al. 2020, RGB, no border off; lower is better",
        lambda sr, hr, lr, border: perceptual.compare("dists", sr, hr),
        better=-1,
    ),
    "lite": Column(
        "Lite0",
        4,
        "distance of EfficientNet-Lite0's features, RGB, no border off; lower is better",
        lambda sr, hr, lr, border: perceptual.compare("lite", sr, hr),
        better=-1,
    ),
    "niqe": Column("NIQE", 2, "Mittal et al. 2013, with the model of --niqe-model; lower is better", better=-1),
    "fid": Column("FID", 2, "Heusel et al. 2017, of the set; lower is better", better=-1),
}
USUAL = (
    "psnr_y",
    "ssim_y",
    "ssim_paper",
    "psnr_rgb",
    "consistency",
    "niqe_own",
)  # the others, where they are asked for


def use_niqe_model(path):
    """Give the measure `niqe` the model in a .mat file of the original's. Raises UserError."""
    model = niqe.load_original(path)
    COLUMNS["niqe"] = COLUMNS["niqe"]._replace(
        about=f"Mittal et al. 2013, with the model in {path.name}, whole picture; lower is better",
        compute=lambda sr, hr, lr, border: niqe.original(sr, model),
        model=hashes.file_digest(path, "sha256"),
    )


def measure(names, sr, hr, lr, border):
    """{name: value} of the measures `names` (keys of COLUMNS) of one image.

    sr, hr: uint8 [h, w, 1 or 3]; lr: uint8 [h/scale, w/scale, 1 or 3]; border: pixels, see scored.
    """
    return {name: COLUMNS[name].compute(sr, hr, lr, border) for name in names}
