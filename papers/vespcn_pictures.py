"""Pictures for the page of VESPCN, of a film that is made of a photograph: its motion is known, and it may be shown."""

import numpy as np

import data
import utils
from images import motion, pictures
from scoring import films
from utils import LazyModule

pyplot = LazyModule("matplotlib.pyplot")


def example(scale):
    """(HR uint8 [n, h, w], LR, flows [n - 1, h, w, 2] in LR pixels at LR's size) of a film of a photograph."""
    photograph = pictures.read_image(data.package_files(data.SAMPLE_TEST)[1])
    film = motion.film_of(
        photograph, 24, 48 * scale, 96 * scale, np.random.default_rng(4)
    )  # moves as much as Vid4's city
    hr, lr = films.shrink(np.stack([utils.rgb_to_y(frame) for frame in film.frames]), scale)
    cells = film.flows.reshape(len(film.flows), 48, scale, 96, scale, 2)
    return hr, lr, cells.mean(axis=(2, 4)) / scale


def draw_slice(path, hr, srs):
    """Write a row of pixels over time as a PNG: of the original and of each method; srs: {title: uint8 [n, h, w]}."""
    figure, axes = pyplot.subplots(len(srs) + 1, 1, figsize=(8, 1.35 * (len(srs) + 1)), layout="constrained")
    for axis, (title, film) in zip(axes, {"original": hr, **srs}.items(), strict=True):
        axis.imshow(film[:, hr.shape[1] // 2], cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[], ylabel="time →")
        axis.title.set_size(9)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


def coloured(flow, most):
    """RGB [h, w, 3] of a flow [h, w, 2]: the hue is its direction, the saturation its length, full at `most`."""
    from matplotlib.colors import hsv_to_rgb

    hue = (np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi)) % 1
    length = np.clip(np.hypot(*np.moveaxis(flow, -1, 0)) / most, 0, 1)
    return hsv_to_rgb(np.stack([hue, length, np.ones_like(hue)], axis=-1))


def draw_flow(path, lr, flows, network, i=12):
    """Write the flow from frame i to the next as a PNG: the truth, the network's, and what each leaves of the change.

    Of the network's flow the constant is taken that the whole film's flows are off by. Returns (this constant [2], mean
    lengths of the truth, of the error, of the error less the constant, of the truth less its mean), in LR pixels.
    """
    windows = utils.u8_to_01(np.stack([lr[:-2], lr[1:-1], lr[2:]], axis=-1))
    outputs = [network(window[None]) for window in windows]
    error = np.stack([np.asarray(found)[0, :, :, 1] for _, _, found in outputs]) - flows[1:]
    constant = error.mean(axis=(0, 1, 2))
    window, warped = windows[i - 1 : i], np.asarray(outputs[i - 1][1])[0]
    truth, found = flows[i], flows[i] + error[i - 1] - constant
    most = np.hypot(*np.moveaxis(truth, -1, 0)).max()
    before, after = window[0, ..., 2] - window[0, ..., 1], warped[..., 1] - window[0, ..., 1]
    figure, axes = pyplot.subplots(3, 2, figsize=(8, 6.2), layout="constrained")
    parts = {
        "frame": (lr[i], {"cmap": "gray", "vmin": 0, "vmax": 255}),
        "next frame": (lr[i + 1], {"cmap": "gray", "vmin": 0, "vmax": 255}),
        f"true flow, {most:.2f} LR pixels at most": (coloured(truth, most), {}),
        "VESPCN's flow less the constant, same colours": (coloured(found, most), {}),
        f"next frame - frame: RMS {255 * np.sqrt((before**2).mean()):.1f} levels": (before, {"cmap": "gray"}),
        f"warped by VESPCN - frame: {255 * np.sqrt((after**2).mean()):.1f}": (after, {"cmap": "gray"}),
    }
    for axis, (title, (picture, how)) in zip(axes.flat, parts.items(), strict=True):
        if picture is before or picture is after:
            how = how | {"vmin": -0.2, "vmax": 0.2}
        axis.imshow(picture, interpolation="nearest", **how)
        axis.set(title=title, xticks=[], yticks=[])
        axis.title.set_size(9)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)
    parts = (flows[1:], error, error - constant, flows[1:] - flows[1:].mean(axis=(0, 1, 2)))
    return constant, *(float(np.hypot(*np.moveaxis(part, -1, 0)).mean()) for part in parts)
