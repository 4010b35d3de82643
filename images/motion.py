"""Films made of photographs, whose motion is known: for training networks that see several frames.

A camera moves over a photograph: it shifts, turns, zooms and tilts, each smoothly. A layer, a patch cut out of another
place of the photograph, moves before it by itself. Frames are rendered at twice their size and shrunk, so that they are
sharp and without steps, and nothing is compressed. Flows are exact: they are computed from the motion, not from pixels.
"""

from typing import NamedTuple

import numpy as np

from utils import LazyModule, UserError

cv2 = LazyModule("cv2")

FINER = 2  # times the size of frames that they are rendered at
PER_PIXEL = 1.25  # photograph's pixels for one of a frame, at a zoom of 1: the photograph's own blur shows less
# At most from frame to frame: pixels, degrees, share, share at the border.
SHIFT, TURN, ZOOM, TILT = 6.0, 0.6, 0.01, 0.02


class Film(NamedTuple):
    """A film with its motion.

    frames: uint8 RGB [n, h, w, 3]; flows: float32 [n - 1, h, w, 2], (x, y) in pixels: what is at p in frame i is at
    p + flows[i](p) in frame i + 1; seen: bool [n - 1, h, w], whether it is to be seen there.
    """

    frames: np.ndarray
    flows: np.ndarray
    seen: np.ndarray


def film_of(photograph, frames, height, width, rng, layer=True):
    """A Film of a photograph, uint8 RGB [h, w, 3]; layer: whether a patch moves before it.

    rng: numpy.random.Generator, which determines all. Raises UserError if the photograph is too small.
    """
    needed = [int(PER_PIXEL * side) + 1 for side in (height, width)]
    if any(have < need for have, need in zip(photograph.shape[:2], needed, strict=True)):
        raise UserError(f"a photograph of {needed[1]}×{needed[0]} pixels or more is needed for {width}×{height}")
    scenes = [path_of(photograph.shape, frames, height, width, rng)]
    middle, radius = rng.uniform(0.3, 0.7, 2) * (width, height), rng.uniform(0.15, 0.3, 2) * (width, height)
    if layer:  # an ellipse in the first frame, of another place's pixels, which moves as they do
        scenes.append(path_of(photograph.shape, frames, height, width, rng))
    pictures, flows, seen = [], [], []
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    for i in range(frames):
        picture = rendered(photograph, scenes[0][i], height, width)
        if layer:
            mask = inside(fine_grid(height, width), scenes[1], i, middle, radius)[..., None]
            picture = np.where(mask, rendered(photograph, scenes[1][i], height, width), picture)
        pictures.append(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
        if i + 1 < frames:
            flow = moved(grid, scenes[0], i) - grid
            there = grid + flow
            visible = ~inside(there, scenes[1], i + 1, middle, radius) if layer else np.ones((height, width), bool)
            if layer:
                mask = inside(grid, scenes[1], i, middle, radius)
                flow = np.where(mask[..., None], moved(grid, scenes[1], i) - grid, flow)
                visible |= mask
                there = grid + flow
            flows.append(flow.astype(np.float32))
            seen.append(visible & ((there >= 0) & (there <= (width - 1, height - 1))).all(axis=-1))
    return Film(np.stack(pictures), np.stack(flows), np.stack(seen))


def path_of(shape, frames, height, width, rng):
    """[frames] of 3×3 matrices that take a frame's pixels (x, y, 1) to the photograph's: a smooth motion.

    Of five things at once: a shift in x and in y, a turn, a zoom and a tilt. Each has a speed that swings. The whole
    has a pace of its own, so that there are calm and quick films.
    """
    swing = np.sin(np.arange(frames) * rng.uniform(0.1, 0.5, (5, 1)) + rng.uniform(0, 6, (5, 1)))
    speed = rng.uniform(0, 1) * (rng.uniform(-1, 1, (5, 1)) + swing / 2) / 1.5
    x, y, turn, zoom, tilt = np.cumsum(speed, axis=1) * np.array([SHIFT, SHIFT, np.radians(TURN), ZOOM, TILT])[:, None]
    # As small as it must be for the whole path to stay in the photograph.
    for share in np.linspace(1, 0, 21):
        start = [(side - 1) / 2 for side in shape[1::-1]]
        matrices = [
            matrix(start, share * x[i], share * y[i], share * turn[i], share * zoom[i], share * tilt[i], height, width)
            for i in range(frames)
        ]
        if all(covers(m, shape, height, width) for m in matrices):
            return moved_about(matrices, shape, height, width, rng)
    raise AssertionError("a camera that does not move stays in the photograph")


def matrix(middle, x, y, turn, zoom, tilt, height, width):
    """The 3×3 matrix of a camera whose frame's middle is (x, y) of its pixels from `middle` of the photograph."""
    size = PER_PIXEL / np.exp(zoom)
    to_middle = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
    tilted = np.array([[1, 0, 0], [0, 1, 0], [2 * tilt / width, 0, 1]])
    c, s = size * np.cos(turn), size * np.sin(turn)
    placed = np.array([[c, -s, middle[0] + PER_PIXEL * x], [s, c, middle[1] + PER_PIXEL * y], [0, 0, 1]])
    return placed @ tilted @ to_middle


def covers(m, shape, height, width):
    """Whether a frame lies inside the photograph."""
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    places = applied(m, corners)
    return (places >= 0).all() and (places <= (shape[1] - 1, shape[0] - 1)).all()


def moved_about(matrices, shape, height, width, rng):
    """The same path from another place of the photograph, drawn among those where it stays inside."""
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    places = np.concatenate([applied(m, corners) for m in matrices])
    low, high = -places.min(axis=0), np.array((shape[1] - 1, shape[0] - 1)) - places.max(axis=0)
    x, y = rng.uniform(low, high)
    return [np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]) @ m for m in matrices]


def applied(m, points):
    """Points [..., 2], (x, y), taken by a 3×3 matrix."""
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1) @ m.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def moved(points, path, i):
    """Where points [..., 2] of frame i are in frame i + 1, on one path."""
    return applied(np.linalg.inv(path[i + 1]), applied(path[i], points))


def inside(points, path, i, middle, radius):
    """bool [...]: whether points [..., 2] of frame i belong to the patch, an ellipse in frame 0."""
    first = applied(np.linalg.inv(path[0]), applied(path[i], points))
    return (((first - middle) / radius) ** 2).sum(axis=-1) < 1


def fine_grid(height, width):
    """[FINER·h, FINER·w, 2]: the places (x, y) in a frame of the pixels that it is rendered with."""
    x, y = ((np.arange(FINER * side) + 0.5) / FINER - 0.5 for side in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1)


def rendered(photograph, m, height, width):
    """uint8 RGB [FINER·h, FINER·w, 3]: what a camera sees."""
    half = 0.5 / FINER - 0.5
    finer = np.array([[1 / FINER, 0, half], [0, 1 / FINER, half], [0, 0, 1]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(photograph, m @ finer, (FINER * width, FINER * height), flags=flags)
