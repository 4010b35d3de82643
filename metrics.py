"""Image quality, each measure by name and with its source. Images are uint8, [height, width] or [height, width, c].

The protocol of the paper (section 3.1): the Y channel, with as many pixels taken off each border as the scale factor.
"""

import numpy as np

import utils

PROTOCOL = (
    "LR by MATLAB's bicubic imresize; Y of BT.601 (16-235) rounded to 8 bits; {border} pixels off each border; "
    "SSIM of Wang et al."
)


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of two uint8 images of one shape, peak 255; infinite if they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a, b):
    """Structural similarity (Wang et al., 2004) of two uint8 images [height, width], at least 11 pixels wide and high.

    Gaussian window 11×11 with σ = 1.5, K1 = 0.01, K2 = 0.03, population covariance, mean over the windows that fit in.
    """
    from skimage.metrics import structural_similarity

    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, data_range=255, **wang))


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
    """Wang's SSIM on Y without the border; arguments as in psnr_y."""
    return ssim(*scored(sr, hr, border))
