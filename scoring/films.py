"""Films scored: PSNR and SSIM of Y of each frame, and T-PSNR of what changes from one frame to the next.

T-PSNR is 10·log10(255² / mean of ((SR' - SR) - (HR' - HR))²). SR and HR are a frame, SR' and HR' the next one, brought
back to it along the motion in HR, which OpenCV's DIS optical flow finds. So it measures what comes and goes where
nothing should: a blur that moves with the scene does not count. HR's own change is subtracted, so that errors of the
flow count little. Like PSNR it is in dB, and more is better.
"""

import numpy as np

import utils
from images import film_reading, pictures
from scoring import metrics
from utils import LazyModule, UserError

cv2 = LazyModule("cv2")

BORDER = 8  # HR pixels that are not scored
PROTOCOL = f"Y; LR by MATLAB's bicubic from Y, rounded to 8 bits; {BORDER} pixels off each border"
MEASURES = ("PSNR", "SSIM", "T-PSNR")


def find(folder):
    """{name: path} of the films in a folder: folders of pictures, and MKVs of one gray plane. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix == ".mkv"}
    if not found:
        raise UserError(f"{folder} holds no films: neither folders of pictures nor MKVs")
    return found


def read_luma(path):
    """uint8 [frames, h, w]: Y of a film of one gray plane, or of the pictures in a folder."""
    if path.is_dir():
        return np.stack([utils.rgb_to_y(utils.to_rgb(pictures.read_image(file))) for file in utils.list_images(path)])
    with film_reading.opened(path) as film:
        return np.stack([frame.to_ndarray(format="gray") for frame in film.decode(video=0)])


def shrink(hr, scale):
    """(HR cut to a multiple of the scale, LR), uint8 [n, h, w] both."""
    hr = np.stack([utils.mod_crop(frame[..., None], scale)[..., 0] for frame in hr])
    return hr, np.moveaxis(utils.imresize(np.moveaxis(hr, 0, -1), 1 / scale), -1, 0)


def bicubic(lr, scale):
    """Bicubic SR of uint8 [n, h, w]."""
    return np.moveaxis(utils.imresize(np.moveaxis(lr, 0, -1), scale), -1, 0)


def flows_of(hr):
    """[flow float32 [h, w, 2], (x, y) in pixels] from each frame of uint8 [n, h, w] to the next one."""
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return [finder.calc(*pair, None) for pair in zip(hr, hr[1:], strict=False)]


def changes(film, flows):
    """float32 [n - 1, h, w]: each next frame along the flow, less the frame; film: uint8 [n, h, w]."""
    height, width = film.shape[1:]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    film = film.astype(np.float32)
    back = [
        cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for after, flow in zip(film[1:], flows, strict=True)
    ]
    return np.stack(back) - film[:-1]


def score(sr, hr, flows):
    """(PSNR, SSIM, T-PSNR), means over the frames of uint8 [n, h, w] without BORDER; flows: flows_of(hr)."""
    inside = slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER)
    pairs = list(zip(sr[inside], hr[inside], strict=True))
    measured = [np.mean([measure(*pair) for pair in pairs]) for measure in (metrics.psnr, metrics.ssim)]
    errors = ((changes(sr, flows) - changes(hr, flows)) ** 2)[inside].mean(axis=(1, 2))
    with np.errstate(divide="ignore"):
        measured.append(np.mean(10 * np.log10(255**2 / errors)))
    return tuple(map(float, measured))
