"""Upscaler: a generator with its weights, applied to pictures of any size in tiles, in limited memory.

Each tile includes as much of its surroundings as the network sees, so that the result equals the whole picture's to the
last bit. This module must be imported before TensorFlow, because it switches oneDNN off.
"""

import itertools
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

# Read when TensorFlow is imported. Its own convolutions add up in the same order for every pixel; with oneDNN's, a tile
# would differ from the whole picture.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

import utils  # noqa: E402
from inference import compiled  # noqa: E402
from networks.receptive import receptive_radius  # noqa: E402
from runs import store  # noqa: E402
from utils import LazyModule, UserError  # noqa: E402

tf = LazyModule("tensorflow")

# The largest core that is chosen automatically, in LR pixels: a larger one saves little time and takes over 2 GiB.
TILE = 256
LEAST_TILE = 24
GRID = 24  # a window's sides are multiples of this: see `windows`
BYTES_PER_PIXEL = 256  # memory for each LR pixel of a window and feature map of the network (measured: 270)
BLEED = 8  # LR pixels by which colours are spread into transparent parts
# Where a container's memory is told, by cgroups of versions 2 and 1: folder, limit, what is used, what of it is not.
CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
MARGIN = 2  # LR pixels around a tile that shrinking by --scale needs


class Upscaler:
    """A generator with its weights, which upscales pictures of any size in tiles.

    weights: a run's name, its directory or a weights file; None for srgan_x4, or else srresnet_x4, from the project.
    tile: the side of a tile's core in LR pixels; None for what the free memory allows. blend: None, or a number t from
    0 to 1, for the weights (1 - t)·SRResNet + t·weights. scale: None for the network's own factor, or a smaller one:
    the result is then shrunk by MATLAB's bicubic. Raises UserError.
    """

    def __init__(self, weights=None, tile=None, blend=None, scale=None):
        weights, partner, config = choose_weights(weights, blend, scale)
        if partner:
            generator, _ = next(store.blends(partner, weights, [blend]))
        else:
            generator, _ = store.load_generator(weights)
        self.network_scale = config.scale
        self.scale = scale or config.scale
        self.infer = compiled.inference(generator, config)
        self.margin = 0 if self.scale == config.scale else MARGIN
        self.halo = receptive_radius(config) + self.margin
        self.tile = tile or self.affordable_tile(config)

    def affordable_tile(self, config):
        """The largest tile that uses half of the free memory, but no larger than TILE."""
        pixel = BYTES_PER_PIXEL * config.width * (config.scale / 4) ** 2
        side = int((free_memory() / 2 / pixel) ** 0.5) // GRID * GRID
        return max(min(side - 2 * self.halo, TILE), LEAST_TILE)

    def upscale(self, image, out=None, alpha=True, progress=lambda count: None):
        """SR of a picture, of its type and channels: [scale·h, scale·w] or [scale·h, scale·w, c].

        image: uint8 or uint16 [h, w] or [h, w, c], upright: c = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not
        premultiplied); or an object with `shape` and `dtype` that is read and written by two slices, such as
        pictures.Picture. out: where to write the result, of the same kind; None for a new array. alpha: False if the
        last of 2 or 4 channels is not alpha but goes through the network as a gray picture (the K of CMYK). progress:
        called with the number of LR pixels done. Gray goes through the network as three equal channels, whose mean is
        taken; alpha is upscaled by MATLAB's bicubic. Raises UserError.
        """
        if isinstance(image, np.ndarray) and image.ndim == 2:
            return self.upscale(image[..., None], out, alpha, progress)[..., 0]
        height, width, channels = image.shape
        if image.dtype not in (np.uint8, np.uint16) or not 1 <= channels <= 4 or not height * width:
            raise UserError(f"takes uint8 or uint16 [h, w, 1 to 4], not {image.dtype} {list(image.shape)}")
        if out is None:
            out = np.empty((self.scale * height, self.scale * width, channels), image.dtype)
        done = 0
        while done < height * width:
            try:
                for rows, columns in itertools.product(self.windows(height), self.windows(width)):
                    (top, bottom), (left, right) = rows.core, columns.core
                    sr = self.one_tile(image, rows, columns, alpha)
                    out[self.scale * top : self.scale * bottom, self.scale * left : self.scale * right] = sr
                    done += (count := (bottom - top) * (right - left))
                    progress(count)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                progress(-done)
                done = 0
                self.halve()
            except tf.errors.OpError as error:
                raise UserError(f"the network cannot take it ({utils.short(error)})") from error
        return out

    def windows(self, n):
        """The Windows that cover an axis of n LR pixels."""
        return windows(n, self.tile, self.halo)

    def count(self, height, width):
        """How many tiles a picture of this size takes."""
        return len(self.windows(height)) * len(self.windows(width))

    def halve(self):
        """Halve the height and width of tiles, after memory ran out. Raises UserError if they are too small."""
        if self.tile < 2 * LEAST_TILE:
            raise UserError(f"there is not enough memory, even for tiles of {self.tile}×{self.tile} pixels")
        self.tile //= 2
        tqdm.write(f"memory is short: continuing with tiles of {self.tile}×{self.tile} pixels", file=sys.stderr)

    def one_tile(self, image, rows, columns, alpha):
        """SR of the core of a tile; rows, columns: its Windows."""
        spans = (rows.span, columns.span)
        outer = [widened(span, BLEED, n) for span, n in zip(spans, image.shape[:2], strict=True)]
        lr = image[tuple(slice(*span) for span in outer)]
        inner = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(spans, outer, strict=True))
        lr_01 = utils.levels_to_01(lr)
        channels = lr.shape[-1]
        colours = channels - 1 if channels in (2, 4) else channels
        if alpha and colours < channels:
            lr_01 = bleed(lr_01[..., :colours], lr[..., -1:] > 0)
        lr, lr_01 = lr[inner], lr_01[inner]
        parts = [self.run(lr_01[..., :colours], image.dtype)]
        if colours < channels and alpha:
            parts.append(utils.imresize(lr[..., -1:], self.network_scale))
        elif colours < channels:
            parts.append(self.run(lr_01[..., -1:], image.dtype))
        sr = np.concatenate(parts, axis=-1)
        # The core; if it is shrunk, first with the margin that this needs.
        s, inner = self.network_scale, []
        for axis, (n, window) in enumerate(zip(image.shape, (rows, columns), strict=False)):
            region = widened(window.core, self.margin, n)
            sr = sr.take(range(s * (region[0] - window.span[0]), s * (region[1] - window.span[0])), axis)
            inner.append(slice(*(self.scale * (end - region[0]) for end in window.core)))
        return (sr if self.scale == s else utils.imresize(sr, self.scale / s))[tuple(inner)]

    def run(self, lr_01, dtype):
        """The network on float32 [h, w, 1 or 3] in [0, 1]: uint8 or uint16 [s·h, s·w, 1 or 3] at its own scale."""
        sr_m11 = self.infer(tf.constant(utils.to_rgb(lr_01)[None]))[0].numpy()
        if lr_01.shape[-1] == 1:
            sr_m11 = sr_m11.mean(axis=-1, keepdims=True)
        return utils.m11_to_levels(sr_m11, dtype)


def choose_weights(weights, blend, scale):
    """(weights, the SRResNet to blend them with or None, MODEL section) for the arguments of Upscaler.

    Does not load TensorFlow. Raises UserError if weights are missing or do not fit.
    """
    weights = weights or store.default_weights(dict.fromkeys((scale or 4, 4)))
    about = store.describe_weights(weights)[1]
    config = about["config"].MODEL
    if scale and scale > config.scale:
        raise UserError(f"{weights} is a ×{config.scale} model: --scale {scale} needs other --weights")
    if blend is None:
        return weights, None, config
    if about["mode"] != "srgan":
        raise UserError(f"--blend mixes an SRResNet with an SRGAN, but {weights} is no SRGAN: name one with --weights")
    partner = f"srresnet_x{config.scale}"
    store.check_blend(partner, weights)
    return weights, partner, config


class Window(NamedTuple):
    """A tile along one axis: two ranges (start, stop) of LR pixels."""

    span: tuple  # the network's input
    core: tuple  # the part whose SR is kept


def windows(n, tile, halo):
    """[Window] that cover an axis of n pixels; each core has `halo` pixels of its span, or the border, on both sides.

    All spans have the same length, about tile + 2·halo at most, and lie inside the picture. Where a core ends at the
    picture's border, so does its span: the network pads each layer there as in the whole picture. The length is a
    multiple of GRID: TensorFlow's convolutions compute several pixels at a time, and add up in another order for a
    remainder, so there must be none. An axis too short for several spans is one window.
    """
    longest = next_multiple(tile + 2 * halo)
    if (n % GRID == 0 and n <= longest) or 2 * (n // GRID * GRID) < n + 2 * halo:
        return [Window((0, n), (0, n))]
    count = max(math.ceil((n - 2 * halo) / (longest - 2 * halo)), 2)
    side = next_multiple(math.ceil((n + 2 * halo * (count - 1)) / count))
    starts = [i * (n - side) // (count - 1) for i in range(count)]
    ends = [0, *(start + halo for start in starts[1:]), n]
    return [Window((starts[i], starts[i] + side), (ends[i], ends[i + 1])) for i in range(count)]


def next_multiple(n):
    """The smallest multiple of GRID that is at least n."""
    return math.ceil(n / GRID) * GRID


def widened(span, margin, n):
    """A span (start, stop) with `margin` more on both sides, within [0, n]."""
    return max(span[0] - margin, 0), min(span[1] + margin, n)


def bleed(colours, known):
    """Colours [h, w, c] spread by BLEED pixels to where they are unknown; known: bool [h, w, 1].

    Fully transparent pixels are mostly black, which would show as a dark fringe after upscaling.
    """
    colours = np.where(known, colours, 0)
    for _ in range(0 if known.all() else BLEED):
        total, count = (neighbourhood(a.astype(np.float32)) for a in (colours, known))
        colours = np.where(known, colours, total / np.maximum(count, 1))
        known = count > 0
    return colours.astype(np.float32)


def neighbourhood(a):
    """Sums over the 3×3 pixels around each pixel of [h, w, c]."""
    a = np.pad(a, ((1, 1), (1, 1), (0, 0)))
    a = a[:-2] + a[1:-1] + a[2:]
    return a[:, :-2] + a[:, 1:-1] + a[:, 2:]


def free_memory(root="/"):
    """The bytes of memory that are free now, for the system and within a container's limit.

    root: where /proc and /sys are. In a container, files that were read and not used again count as free: the system
    drops them when memory is needed.
    """
    root = Path(root)
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30  # not Linux: an amount that almost every machine has
    for folder, limit, used, unused in CGROUPS:
        try:
            folder = root / folder
            statistics = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
            busy = int((folder / used).read_text(encoding="utf-8")) - int(statistics[unused])
            free = min(free, int((folder / limit).read_text(encoding="utf-8")) - busy)
        except (OSError, ValueError, KeyError):  # no container, one of the other version, or one without limit
            pass
    return max(free, 0)
