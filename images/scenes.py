"""Scenes of a film: where one ends, and frames with their neighbours of the same scene, for networks that see several.

A cut is where two frames differ much more than motion makes them differ, looked at so small that motion moves little.
"""

import itertools

import numpy as np

import utils
from utils import LazyModule

cv2 = LazyModule("cv2")

SMALL = (32, 18)  # (width, height) in pixels at which frames are compared
# Grey levels of 255 by which two frames differ at a cut, on the mean. In eight films, one of them with five cuts,
# frames of one scene differ by 19 at most, in fast motion; those at a cut by 42 or more, those of two films by 32.
CUT = 26


def is_cut(before, after):
    """Whether two frames that follow each other, uint8 or uint16 RGB [h, w, 3], are of different scenes."""
    return np.abs(small(before) - small(after)).mean() > CUT


def small(pixels):
    """Y of a frame, float [18, 32] in grey levels of 255."""
    few = utils.levels_to_01(cv2.resize(pixels, SMALL, interpolation=cv2.INTER_AREA))
    return 255 * few @ np.array([0.299, 0.587, 0.114], np.float32)


def upscaled(frames, is_done, upscaler, progress):
    """Yield (film_reading.Frame, its SR) for all frames of a film; None for those that are done already.

    is_done: from the frame's number to whether it is; upscaler: an Upscaler, progress: as its upscale() takes it. A
    network that sees several frames gets those of one scene; memory holds no more than these.
    """
    radius = upscaler.frames // 2
    for i, window in enumerate(neighbourhoods(frames, radius)):
        if is_done(i):
            yield window[radius], None
        else:
            pixels = np.concatenate([frame.pixels for frame in window], axis=-1)
            yield window[radius], upscaler.upscale(pixels, progress=progress)


def neighbourhoods(frames, radius):
    """Yield [2·radius + 1 frames] around each frame of a film, in order; memory holds no more than these.

    frames: iterator of things with `pixels`, such as film_reading.Frame. Where the film or the scene ends, its last
    frame stands for those that are missing.
    """
    window, scene, before = [], 0, None
    for i, frame in enumerate(itertools.chain(frames, [None] * radius)):
        if frame is not None:
            scene += radius > 0 and before is not None and is_cut(before.pixels, frame.pixels)
            window.append((frame, scene))
            before = frame
        if i >= radius:
            middle = min(i - radius, radius)
            if middle < len(window):
                yield around(window, middle, radius)
            if middle == radius:
                window.pop(0)


def around(window, middle, radius):
    """[2·radius + 1 frames] around the one at `middle` of [(frame, scene)], all of its scene."""
    found = [window[middle][0]]
    for step in (-1, 1):
        place = middle
        for _ in range(radius):
            there = 0 <= place + step < len(window) and window[place + step][1] == window[middle][1]
            place += step if there else 0
            found.insert(0 if step < 0 else len(found), window[place][0])
    return found
