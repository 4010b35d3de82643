"""Upscaler: a generator with its weights, applied to pictures of any size in tiles, in limited memory.

Each tile is computed with some of what is around it. With HALO pixels a few values in a million differ by a level from
the whole picture's. `exact` takes all that the network sees, and the result is the same to the last bit.
"""

import itertools
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import utils
from inference import engines
from networks import vespcn
from runs import film_runs, store, style_runs
from utils import LazyModule, UserError

cv2 = LazyModule("cv2")

TILE, EXACT_TILE = 512, 256  # the largest cores that are chosen automatically, in LR pixels
LEAST_TILE = 24
HALO = 16  # LR pixels around a core, if the network sees further and it need not be exact
STRIP = 2**14  # LR pixels of a tile that go through what follows the first part of a network at a time
GRID = 24  # an exact window's sides are multiples of this: see `windows`
BYTES_WHOLE = 256  # memory for each LR pixel of a window and feature map of a network in one part (measured: 270)
BYTES_STYLE = 1000  # memory for each pixel of a picture that a network paints as a whole (measured: 820)
BYTES_FILM, FILM_TILE = 3000, 1280  # memory for each LR pixel of a network for films, and its largest tile
MOST = 0.75 * 2**30  # bytes that a window takes of the first of several parts, so that 12 megapixels need 1.5 GiB
BLEED = 8  # LR pixels by which colours are spread into transparent parts
# Where a container's memory is told, by cgroups of versions 2 and 1: folder, limit, what is used, what of it is not.
CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
BLUR = 7  # LR pixels, twice: what counts as a low frequency for --colour-fix; less than HALO around a pixel
MARGIN = 2  # LR pixels around a tile that shrinking by --scale needs


class Upscaler:
    """A generator with its weights, which upscales pictures of any size in tiles.

    weights: a run's name, its directory or a weights file; None for srgan_x4, or else srresnet_x4, from the project.
    tile: the side of a tile's core in LR pixels; None for what the free memory allows. blend: None, or a number t from
    0 to 1, for the weights (1 - t)·SRResNet + t·weights. scale: None for the network's own factor, or a smaller one:
    the result is then shrunk by MATLAB's bicubic. engine: a name in engines.ENGINES, or "auto" for the one that is done
    first with `pixels` LR pixels. exact: as one call on the whole picture to the last bit, by TensorFlow without
    oneDNN. half: in 16 bits, by TensorFlow. colour_fix: large areas keep the colours of LR. Raises UserError.

    frames: how many frames of a film the network sees at a time; a picture stands for all of them. A network that
    paints in a style (papers/style.py) has the factor 1 and takes each picture as a whole.
    """

    def __init__(
        self,
        weights=None,
        tile=None,
        blend=None,
        scale=None,
        engine="auto",
        exact=False,
        half=False,
        colour_fix=False,
        pixels=10**6,
    ):
        weights, partner, config = choose_weights(weights, blend, scale)
        self.network_scale = config.scale
        self.scale = scale or config.scale
        self.exact, self.half, self.colour_fix = exact, half, colour_fix
        choose_onednn(not exact)
        self.source = source_of(weights, partner, blend)
        self.frames = self.source.frames
        trained_on = describe(weights)[1]["config"].get("DATA", {})  # a network for films has no such section
        self.for_photos = self.source.whole or trained_on.get("degradation") == "photo"
        only_tensorflow = self.frames > 1 or self.source.whole
        self.engine = choose_engine(engine, exact, half, only_tensorflow) or engines.fastest(self.source, pixels)
        self.parts, self.radii, self.batch, self.bytes = engines.load(self.engine, self.source, exact, half)
        self.margin = 0 if self.scale == config.scale else MARGIN
        radius = sum(self.radii)
        self.halo = (radius if exact or self.frames > 1 else min(radius, HALO)) + self.margin
        self.tile = sys.maxsize if self.source.whole else tile or self.affordable_tile(config)

    def affordable_tile(self, config):
        """The largest tile that uses half of the free memory, within MOST, TILE, EXACT_TILE or FILM_TILE."""
        room, growth = free_memory() / 2 / self.batch, (config.scale / 4) ** 2
        if len(self.parts) > 1:
            pixel, room, most = self.bytes * config.width, min(room, MOST), TILE
        elif self.frames > 1:
            pixel, most = BYTES_FILM * growth, FILM_TILE
        else:
            pixel, most = BYTES_WHOLE * config.width * growth, EXACT_TILE
        side = int((room / pixel) ** 0.5) // GRID * GRID
        return max(min(side - 2 * self.halo, most), LEAST_TILE)

    def release(self):
        """Give back the memory that LiteRT or onnxruntime hold, before a large result is put together."""
        if engines.ENGINES[self.engine]:
            self.parts = None  # loaded again, in a moment, when there is something to upscale

    def upscale(self, image, out=None, alpha=True, progress=lambda count: None):
        """SR of a picture, of its type and channels: [scale·h, scale·w] or [scale·h, scale·w, c].

        image: uint8 or uint16 [h, w] or [h, w, c], upright: c = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not
        premultiplied), 3·frames RGB of neighbours in a film, of which SR is the middle one; or an object with `shape`
        and `dtype` that is read and written by two slices, such as pictures.Picture. out: where to write the result, of
        the same kind or an unfinished.Canvas; None for a new array. alpha: False if the last of 2 or 4 channels is not
        alpha but goes through the network as a gray picture (the K of CMYK). progress: called with the number of LR
        pixels done. Gray goes through the network as three equal channels, whose mean is taken; alpha is upscaled by
        MATLAB's bicubic. Raises UserError.
        """
        if isinstance(image, np.ndarray) and image.ndim == 2:
            return self.upscale(image[..., None], out, alpha, progress)[..., 0]
        height, width, channels = image.shape
        known = channels in (1, 2, 3, 4, 3 * self.frames)
        if image.dtype not in (np.uint8, np.uint16) or not known or not height * width:
            raise UserError(f"takes uint8 or uint16 [h, w, 1 to 4], not {image.dtype} {list(image.shape)}")
        if self.source.whole and height * width * BYTES_STYLE > free_memory():
            most = free_memory() / BYTES_STYLE / 1e6
            raise UserError(f"has {height * width / 1e6:.1f} megapixels, and there is memory for {most:.1f}: shrink it")
        if out is None:
            out = np.empty((self.scale * height, self.scale * width, channels if channels <= 4 else 3), image.dtype)
        done = 0
        while done < height * width:
            try:
                for count in self.fill(out, image, alpha):
                    done += count
                    progress(count)
            except MemoryError:
                progress(-done)
                done = 0
                self.halve()
        return out

    def fill(self, out, image, alpha):
        """Write the SR of all tiles into `out`; yields the number of LR pixels of what is there, then of each batch.

        One batch is read, and another is written, while a third is computed.
        """
        tiles = itertools.product(*map(self.windows, image.shape[:2]))
        start = getattr(out, "start", 0) // self.scale
        tiles = [(rows, columns) for rows, columns in tiles if rows.core[1] > start]
        batches = [tiles[i : i + self.batch] for i in range(0, len(tiles), self.batch)]
        if there := image.shape[0] * image.shape[1] - sum(map(pixels_of, tiles)):
            yield there
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(self.read, image, tiles[: self.batch], alpha) if tiles else None
            written = pool.submit(int)
            for i, batch in enumerate(batches):
                networked, finished = waiting.result()
                if i + 1 < len(batches):
                    waiting = pool.submit(self.read, image, batches[i + 1], alpha)
                parts = [self.run(lr_01, image.dtype) for lr_01 in networked]
                written.result()
                written = pool.submit(self.write, out, batch, [*parts, *finished])
                yield sum(map(pixels_of, batch))
            written.result()

    def read(self, image, batch, alpha):
        """([what goes through the network, float32 [n, h, w, c] in [0, 1]], [what is finished]) of n tiles.

        What is finished is SR of their alpha, [n, s·h, s·w, 1] of the image's type. batch: [(Window, Window)] of rows
        and columns.
        """
        tiles = [self.read_tile(image, rows.span, columns.span, alpha) for rows, columns in batch]
        lr_01, last = map(np.stack, zip(*tiles, strict=True))
        if last.shape[-1] == 0:
            return [lr_01], []
        if alpha:
            return [lr_01], [np.stack([utils.imresize(tile, self.network_scale) for tile in last])]
        return [lr_01, utils.levels_to_01(last)], []

    def read_tile(self, image, rows, columns, alpha):
        """(colours float32 [h, w, c] in [0, 1], the last of 2 or 4 channels as it is) of a window.

        rows, columns: its spans. Colours are spread into transparent parts.
        """
        spans = (rows, columns)
        outer = [widened(span, BLEED, n) for span, n in zip(spans, image.shape[:2], strict=True)]
        lr = image[tuple(slice(*span) for span in outer)]
        inner = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(spans, outer, strict=True))
        colours = {2: 1, 4: 3}.get(lr.shape[-1], lr.shape[-1])
        lr_01, last = utils.levels_to_01(lr[..., :colours]), lr[..., colours:]
        if alpha and last.size:
            lr_01 = bleed(lr_01, last > 0)
        return lr_01[inner], last[inner]

    def write(self, out, batch, parts):
        """Write the cores of n tiles into `out`; parts: their channels, arrays [n, s·h, s·w, c]."""
        for (rows, columns), sr in zip(batch, np.concatenate(parts, axis=-1), strict=True):
            place = tuple(slice(self.scale * start, self.scale * stop) for start, stop in (rows.core, columns.core))
            # The core; if it is shrunk, first with the margin that this needs.
            s, inner = self.network_scale, []
            for axis, window in enumerate((rows, columns)):
                start, stop = widened(window.core, self.margin, out.shape[axis] // self.scale)
                sr = sr.take(range(s * (start - window.span[0]), s * (stop - window.span[0])), axis)
                inner.append(slice(*(self.scale * (end - start) for end in window.core)))
            out[place] = (sr if self.scale == s else utils.imresize(sr, self.scale / s))[tuple(inner)]
            if place[1].stop == out.shape[1] and hasattr(out, "reached"):
                out.reached(place[0].stop)

    def run(self, lr_01, dtype):
        """The network on float32 [n, h, w, c] in [0, 1]: uint8 or uint16 [n, s·h, s·w, 1 or 3], at its scale."""
        n, height, width, channels = lr_01.shape
        parts = self.parts = self.parts or engines.load(self.engine, self.source).parts
        s, x = self.network_scale, utils.to_rgb(lr_01)
        if channels == 3 * self.frames:
            channels, lr_01 = 3, lr_01[..., self.frames // 2 * 3 :][..., :3]
        else:
            x = np.tile(x, self.frames)
        made = strips(parts[0], x, self.radii[0], sys.maxsize)  # the first part takes a tile as a whole
        for part, radius in zip(parts[1:], self.radii[1:], strict=True):
            first, *others = made
            made = strips(part, np.concatenate([first, *others], axis=1) if others else first, radius, STRIP)
        sr, row = np.empty((n, s * height, s * width, channels), dtype), 0
        for sr_m11 in map(np.asarray, made):
            if channels == 1:
                sr_m11 = sr_m11.mean(axis=-1, keepdims=True)
            sr[:, row : row + sr_m11.shape[1]] = utils.m11_to_levels(sr_m11, dtype)
            row += sr_m11.shape[1]
        return with_colours_of(lr_01, sr) if self.colour_fix else sr

    def windows(self, n):
        """The Windows that cover an axis of n LR pixels."""
        return windows(n, self.tile, self.halo, GRID if self.exact else 1, 1 if self.frames == 1 else vespcn.CELL)

    def count(self, height, width):
        """How many tiles a picture of this size takes."""
        return len(self.windows(height)) * len(self.windows(width))

    def facts(self):
        """What the pixels depend on beside the picture: texts and numbers."""
        return [self.source.digest(), self.engine, self.exact, self.half, self.colour_fix, self.scale, self.tile]

    def halve(self):
        """Halve the height and width of tiles, after memory ran out. Raises UserError if they are too small."""
        if self.tile < 2 * LEAST_TILE:
            raise UserError(f"there is not enough memory, even for tiles of {self.tile}×{self.tile} pixels")
        self.tile //= 2
        tqdm.write(f"memory is short: continuing with tiles of {self.tile}×{self.tile} pixels", file=sys.stderr)


def choose_engine(name, exact, half, plain=False):
    """The engine that is asked for, or None for the fastest; exact and half need TensorFlow. Raises UserError.

    plain: the network, for films or styles, runs in TensorFlow and float32 alone.
    """
    if plain and (exact or half or name not in ("auto", "tensorflow")):
        raise UserError(
            "a network for films or styles runs in TensorFlow and float32: leave out --exact, --half and --engine"
        )
    if exact and half:
        raise UserError("--exact and --half exclude each other: 16 bits are not exact")
    if (exact or half) and name not in ("auto", "tensorflow"):
        raise UserError(f"--{'exact' if exact else 'half'} needs --engine tensorflow, not {name}")
    return "tensorflow" if exact or half or plain else None if name == "auto" else name


def choose_onednn(wanted):
    """Switch oneDNN on or off for TensorFlow, which reads this when it is imported. Raises UserError if it is too late.

    TensorFlow's own convolutions add up in the same order for every pixel; with oneDNN's, which are faster, a tile
    would differ from the whole picture.
    """
    variable = "TF_ENABLE_ONEDNN_OPTS"
    if wanted:
        os.environ.setdefault(variable, "1")
    elif "tensorflow" not in sys.modules:
        os.environ[variable] = "0"
    elif os.environ.get(variable) != "0":
        raise UserError(f"exact tiles need {variable}=0 before TensorFlow is imported")


def source_of(weights, partner, blend):
    """The engines.Source of what choose_weights returns."""
    weights, about = describe(weights)
    if about["mode"] == film_runs.MODE:
        return engines.FilmSource(weights, None, None, about["config"].MODEL)
    if about["mode"] == style_runs.MODE:
        return engines.StyleSource(weights, None, None, about["config"].MODEL)
    partner = partner and store.describe_weights(partner)[0]
    return engines.Source(weights, partner, blend if partner else None, about["config"].MODEL)


def describe(weights):
    """(weights file, config.json's content) of a generator, or of a network for films or styles. Raises UserError."""
    return film_runs.describe(weights) or style_runs.describe(weights) or store.describe_weights(weights)


def choose_weights(weights, blend, scale):
    """(weights, the SRResNet to blend them with or None, MODEL section) for the arguments of Upscaler.

    Does not load TensorFlow. Raises UserError if weights are missing or do not fit.
    """
    weights = weights or store.default_weights(dict.fromkeys((scale or 4, 4)))
    about = describe(weights)[1]
    config = about["config"].MODEL
    if scale and scale > config.scale:
        raise UserError(f"{weights} is a ×{config.scale} model: --scale {scale} needs other --weights")
    if blend is None:
        return weights, None, config
    if about["mode"] != "srgan":
        raise UserError(f"--blend mixes an SRResNet with an SRGAN, but {weights} is no SRGAN: name one with --weights")
    for_photos = about["config"].DATA.degradation == "photo"
    partner = f"srresnet_x{config.scale}" + "_photo" * for_photos
    store.check_blend(partner, weights)
    return weights, partner, config


def strips(part, x, radius, pixels):
    """part(x) of maps [n, h, w, c], in strips [n, h', w', c'], one below another, as the part's library returns them.

    radius: how many rows above and below a strip the part sees. pixels: of the maps that a strip has, without these.
    """
    n, height, width, _ = x.shape
    for (start, stop), (top, bottom) in windows(height, max(pixels // (n * width), 1), radius):
        y = part(x[:, start:stop])
        scale = y.shape[1] // (stop - start)
        yield y[:, scale * (top - start) : scale * (bottom - start)]


class Window(NamedTuple):
    """A tile along one axis: two ranges (start, stop) of LR pixels."""

    span: tuple  # the network's input
    core: tuple  # the part whose SR is kept


def windows(n, tile, halo, grid=1, step=1):
    """[Window] that cover an axis of n pixels; each core has `halo` pixels of its span, or the border, on both sides.

    All spans have the same length, about tile + 2·halo at most, and lie inside the picture. Where a core ends at the
    picture's border, so does its span: the network pads each layer there as in the whole picture. The length is a
    multiple of `grid`, which for exact tiles is GRID: TensorFlow's convolutions compute several pixels at a time, and
    add up in another order for a remainder, so there must be none. An axis too short for several spans is one window.
    step: spans begin at its multiples and end as the axis does, for networks with strides.
    """
    longest = next_multiple(tile + 2 * halo, grid)
    if (n % grid == 0 and n <= longest) or 2 * (n // grid * grid) < n + 2 * halo:
        return [Window((0, n), (0, n))]
    count = max(math.ceil((n - 2 * halo) / (longest - 2 * halo)), 2)
    side = next_multiple(math.ceil((n + 2 * halo * (count - 1)) / count) + step - 1, grid)
    side += (n - side) % step
    if side >= n:
        return [Window((0, n), (0, n))]
    starts = [i * (n - side) // (count - 1) // step * step for i in range(count)]
    ends = [0, *(start + halo for start in starts[1:]), n]
    return [Window((starts[i], starts[i] + side), (ends[i], ends[i + 1])) for i in range(count)]


def pixels_of(tile):
    """The number of LR pixels of a tile's core; tile: (Window, Window)."""
    return math.prod(stop - start for start, stop in (window.core for window in tile))


def next_multiple(n, grid):
    """The smallest multiple of `grid` that is at least n."""
    return math.ceil(n / grid) * grid


def widened(span, margin, n):
    """A span (start, stop) with `margin` more on both sides, within [0, n]."""
    return max(span[0] - margin, 0), min(span[1] + margin, n)


def with_colours_of(lr_01, sr):
    """SR with the low frequencies of LR, of about BLUR pixels and more.

    lr_01: [n, h, w, c] in [0, 1]; sr: uint8 or uint16 [n, s·h, s·w, c].
    """
    n, height, width, channels = lr_01.shape
    most, scale = np.iinfo(sr.dtype).max, sr.shape[1] // height
    means = sr.reshape(n, height, scale, width, scale, channels).mean(axis=(2, 4), dtype=np.float32)
    fixed = np.empty_like(sr)
    for i, error in enumerate(most * lr_01 - means):
        for _ in range(2):
            error = cv2.blur(error, (BLUR, BLUR), borderType=cv2.BORDER_REFLECT)
        error = cv2.resize(error, sr.shape[2:0:-1], interpolation=cv2.INTER_CUBIC)
        fixed[i] = utils.round_to(sr[i] + error.reshape(sr.shape[1:]), sr.dtype)
    return fixed


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
