"""Upscale anyone's own pictures, animations and videos: one command on files, folders and globs.

`python upscale.py photo.jpg` writes photo_x4.jpg. A picture is worked off in tiles, each with as much around it as the
network sees, so that the result is the one of the whole picture to the last bit, in bounded memory. In Python:

    from upscale import Upscaler
    sr_u8 = Upscaler("checkpoint/srresnet_x4").upscale(lr_u8)
"""

import argparse
import glob
import itertools
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Read when TensorFlow is imported. Its own convolutions add up in one order wherever a pixel lies; oneDNN's do not, and
# then a tile's numbers would not be the whole picture's.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

import model  # noqa: E402
import pictures  # noqa: E402
import runs  # noqa: E402
import utils  # noqa: E402
import video  # noqa: E402
from utils import LazyModule, UserError  # noqa: E402

tf = LazyModule("tensorflow")

TILE = 256  # the largest core that is chosen by itself, in LR pixels: more saves little time, and takes 2 GiB and more
LEAST_TILE = 24
GRID = 24  # a window's sides are multiples of it: see `windows`
BYTES_PER_PIXEL = 256  # of memory, for an LR pixel of a tile and one of the network's feature maps (README, measured)
BLEED = 8  # LR pixels that colours are spread into transparent parts
MARGIN = 2  # LR pixels that shrinking by --scale needs around a tile


class Upscaler:
    """A generator with its weights, and the tiles in which it works off pictures of any size.

    weights: a run's name, its directory or a weights file; None for srgan_x4, else the srresnet_x4 that comes with the
    project. tile: the side of a tile's core in LR pixels; None for what the free memory allows. blend: None, or a
    number t from 0 to 1: the weights (1 - t)·SRResNet + t·weights. scale: None for the network's own factor, or a
    smaller one: the result is then shrunk by MATLAB's bicubic. Raises UserError.
    """

    def __init__(self, weights=None, tile=None, blend=None, scale=None):
        weights, partner, config = choose_weights(weights, blend, scale)
        if partner:
            generator, _ = next(runs.blends(partner, weights, [blend]))
        else:
            generator, _ = runs.load_generator(weights)
        self.network_scale = config.scale
        self.scale = scale or config.scale
        self.infer = model.inference(generator, config)
        self.margin = 0 if self.scale == config.scale else MARGIN
        self.halo = model.receptive_radius(config) + self.margin
        self.tile = tile or self.affordable_tile(config)

    def affordable_tile(self, config):
        """The largest tile that uses half of the free memory, but no larger than TILE."""
        pixel = BYTES_PER_PIXEL * config.width * (config.scale / 4) ** 2
        side = int((free_memory() / 2 / pixel) ** 0.5) // GRID * GRID
        return max(min(side - 2 * self.halo, TILE), LEAST_TILE)

    def upscale(self, image, out=None, alpha=True, progress=lambda count: None):
        """SR of a picture, of its type and channels: [scale·h, scale·w] or [scale·h, scale·w, c].

        image: uint8 or uint16 [h, w] or [h, w, c], upright: c = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not
        premultiplied); or anything with `shape` and `dtype` that gives and takes such boxes by two slices, as
        pictures.Picture. out: where the result goes, of the same kind; None for a new array. alpha: False if the last
        of 2 or 4 channels is no alpha but to be seen by the network as a gray picture (the K of CMYK). progress:
        called with the number of LR pixels that were done. Gray is shown to the network as three equal channels, whose
        mean is taken; alpha is upscaled by MATLAB's bicubic. Raises UserError.
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
        return out

    def windows(self, n):
        """The Windows that an axis of n LR pixels is worked off in."""
        return windows(n, self.tile, self.halo)

    def halve(self):
        """Go on with tiles half as high and wide, after memory was short. Raises UserError if they are too small."""
        if self.tile < 2 * LEAST_TILE:
            raise UserError(f"there is not enough memory, even for tiles of {self.tile}×{self.tile} pixels")
        self.tile //= 2
        tqdm.write(f"memory is short: going on with tiles of {self.tile}×{self.tile} pixels", file=sys.stderr)

    def one_tile(self, image, rows, columns, alpha):
        """SR of the core of a tile; rows, columns: its Windows."""
        spans = (rows.span, columns.span)
        around = [grown(span, BLEED, n) for span, n in zip(spans, image.shape[:2], strict=True)]
        lr = image[tuple(slice(*span) for span in around)]
        inner = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(spans, around, strict=True))
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
        # The core, and while it is to be shrunk a little around it.
        s, inner = self.network_scale, []
        for axis, (n, window) in enumerate(zip(image.shape, (rows, columns), strict=False)):
            near = grown(window.core, self.margin, n)
            sr = sr.take(range(s * (near[0] - window.span[0]), s * (near[1] - window.span[0])), axis)
            inner.append(slice(*(self.scale * (end - near[0]) for end in window.core)))
        return (sr if self.scale == s else utils.imresize(sr, self.scale / s))[tuple(inner)]

    def run(self, lr_01, dtype):
        """The network on float32 [h, w, 1 or 3] in [0, 1]: uint8 or uint16 [s·h, s·w, 1 or 3] at its own scale."""
        sr_m11 = self.infer(tf.constant(utils.to_rgb(lr_01)[None]))[0].numpy()
        if lr_01.shape[-1] == 1:
            sr_m11 = sr_m11.mean(axis=-1, keepdims=True)
        return utils.m11_to_levels(sr_m11, dtype)


def choose_weights(weights, blend, scale):
    """(weights, the SRResNet to blend them with or None, MODEL section) for the arguments of Upscaler.

    Nothing heavy is loaded for this. Raises UserError if weights are missing or do not fit.
    """
    if not weights:
        names = [f"{mode}_x{n}" for n in dict.fromkeys((scale or 4, 4)) for mode in ("srgan", "srresnet")]
        places = [place / name for name in names for place in (runs.HERE / "checkpoint", runs.root())]
        weights = next((place for place in places if (place / runs.WEIGHTS).is_file()), None)
        if not weights:
            raise UserError(f"there are no weights: name some by --weights, or train {names[0]} (looked for {names})")
    about = runs.describe_weights(weights)[1]
    config = about["config"].MODEL
    if scale and scale > config.scale:
        raise UserError(f"{weights} is a ×{config.scale} model: --scale {scale} needs --weights of its own")
    if blend is None:
        return weights, None, config
    if about["mode"] != "srgan":
        raise UserError(f"--blend mixes an SRResNet with an SRGAN, and {weights} is no SRGAN: name one by --weights")
    partner = f"srresnet_x{config.scale}"
    runs.check_blend(partner, weights)
    return weights, partner, config


class Window(NamedTuple):
    """A tile along one axis, in LR pixels, each (start, stop): what the network is shown, and what is kept of it."""

    span: tuple
    core: tuple


def windows(n, tile, halo):
    """[Window] that cover an axis of n pixels; a core has `halo` pixels of the window around it, or the border.

    All spans are of one length, about tile + 2·halo at most, and lie inside the picture: where a core touches its
    border, so does the window, and the network pads each of its layers there as in the whole picture. The length is a
    multiple of GRID: TensorFlow's convolutions work off some pixels at a time and sum the rest of the last ones in
    another order, so that there must be no rest. An axis too short for that is one window.
    """
    longest = up(tile + 2 * halo)
    if (n % GRID == 0 and n <= longest) or 2 * (n // GRID * GRID) < n + 2 * halo:
        return [Window((0, n), (0, n))]
    count = max(math.ceil((n - 2 * halo) / (longest - 2 * halo)), 2)
    side = up(math.ceil((n + 2 * halo * (count - 1)) / count))
    starts = [i * (n - side) // (count - 1) for i in range(count)]
    ends = [0, *(start + halo for start in starts[1:]), n]
    return [Window((starts[i], starts[i] + side), (ends[i], ends[i + 1])) for i in range(count)]


def up(n):
    """The next multiple of GRID."""
    return math.ceil(n / GRID) * GRID


def grown(span, margin, n):
    """A span with `margin` more on both sides, within [0, n]."""
    return max(span[0] - margin, 0), min(span[1] + margin, n)


def bleed(colours, known):
    """Colours [h, w, c] spread by BLEED pixels into where they are not known (bool [h, w, 1]).

    What is under fully transparent pixels is mostly black, and would show as a dark fringe once it is upscaled.
    """
    colours = np.where(known, colours, 0)
    for _ in range(0 if known.all() else BLEED):
        total, count = (neighbourhood(a.astype(np.float32)) for a in (colours, known))
        colours = np.where(known, colours, total / np.maximum(count, 1))
        known = count > 0
    return colours.astype(np.float32)


def neighbourhood(a):
    """Sums over the 3×3 pixels around each, of [h, w, c]."""
    a = np.pad(a, ((1, 1), (1, 1), (0, 0)))
    a = a[:-2] + a[1:-1] + a[2:]
    return a[:, :-2] + a[:, 1:-1] + a[:, 2:]


def free_memory():
    """The bytes of memory that may be used now, by what the system and a container's limit say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30  # no Linux: as much as almost every machine has
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without limit
        pass
    return max(free, 0)


# ---------------------------------------------------------------------------------------------------------------------
# The command line


class Job(NamedTuple):
    """One file to make: from where, to where, and how many LR pixels it has in all its frames."""

    source: Path
    target: Path
    pixels: int = 0


class Failures:
    """What could not be done, each told at once in one sentence."""

    def __init__(self):
        self.count = 0

    def add(self, path, error):
        self.count += 1
        if isinstance(error, OSError):
            error = error.strerror or utils.short(error)
        elif isinstance(error, MemoryError):
            error = "there is not enough memory"
        tqdm.write(f"upscale.py: {path}: {error}", file=sys.stderr)


def find_inputs(names, out, failures):
    """{file: its place below the output folder} for files, folders and globs, without what is below `out` already."""
    found = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = out and out.resolve() != path.resolve() and out.resolve()
            for file in files_below(path, failures):
                if not (inside and file.resolve().is_relative_to(inside)):
                    found.setdefault(file, file.relative_to(path))
        elif path.exists():
            found.setdefault(path, Path(path.name))
        elif matches := sorted(glob.glob(name, recursive=True)):
            found |= {Path(match): Path(Path(match).name) for match in matches if is_known(match)}
        else:
            failures.add(name, "there is no such file or folder")
    return found


def is_known(path):
    """Whether a file's ending is that of a picture, an animation or a video."""
    suffix = Path(path).suffix.lower()
    return suffix in utils.IMAGE_SUFFIXES or suffix == ".gif" or suffix in video.SUFFIXES


def files_below(folder, failures):
    """All files of known endings below a folder, sorted, without hidden ones; folders that cannot be read are told."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: failures.add(error.filename, error)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".") and is_known(name)]
    return files


def plan(args, found, scale, failures):
    """[Job] for the inputs found: outputs of earlier runs and finished files are left out, and said to be.

    Raises UserError before anything is written if two inputs would become one file.
    """
    single = len(found) == 1 and args.out and is_known(args.out) and not args.out.is_dir()
    suffix = args.suffix if args.suffix is not None else "" if args.out else f"_x{scale}"

    def target(source, place):
        moving = source.suffix.lower() in video.SUFFIXES
        ending = pictures.FORMATS[args.format][0][0] if args.format and not moving else source.suffix
        if single:
            return args.out
        return (args.out / place.parent if args.out else source.parent) / f"{source.stem}{suffix}{ending}"

    targets = {source: target(source, place) for source, place in found.items()}
    made = {(path.parent.resolve(), path.stem): source for source, path in targets.items()}
    jobs, owners, finished = [], {}, 0
    for source, path in targets.items():
        maker = made.get((source.parent.resolve(), source.stem), source)
        if maker != source and suffix:
            print(f"left out: {source}, it was made from {maker}")
        elif path.resolve() == source.resolve():
            failures.add(source, "its output would be itself: give another -o, or a --suffix")
        elif (other := owners.setdefault(path.resolve(), source)) != source:
            raise UserError(f"{other} and {source} would both become {path}: upscale them one after the other")
        elif path.exists() and not args.overwrite:
            finished += 1
        else:
            jobs.append(Job(source, path))
    if finished:
        print(f"skipped: {finished} finished before (--overwrite does them again)")
    return jobs


def measure(job, args):
    """The Job with its number of LR pixels, after a look at its header. Raises UserError if that is no good."""
    suffix = job.target.suffix.lower()
    if job.source.suffix.lower() in video.SUFFIXES:
        if suffix not in video.SUFFIXES:
            raise UserError(f"is a video and cannot become {job.target.name}")
        return job._replace(pixels=math.prod(video.describe(job.source)))
    with pictures.opened(job.source, args.max_megapixels) as image:
        if suffix != ".gif" and not pictures.format_of(job.target):
            raise UserError(f"cannot become {job.target.name}: give a --format")
        return job._replace(pixels=image.width * image.height * video.frames_of(image, job.target))


def work_off(job, upscaler, args, progress):
    """Upscale one file; returns what is to be remarked about it, or "". Raises UserError, OSError or MemoryError."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if job.source.suffix.lower() in video.SUFFIXES:
        return video.upscale_video(job.source, job.target, upscaler, args.max_megapixels, progress)
    with pictures.opened(job.source, args.max_megapixels) as image:
        moving = job.target.suffix.lower() == ".gif" or video.frames_of(image, job.target) > 1
    if moving:
        return video.upscale_animation(job.source, job.target, upscaler, args.max_megapixels, progress)
    name = pictures.format_of(job.target)
    picture = pictures.read(job.source, args.max_megapixels)
    picture, remark = pictures.fit(picture, name, upscaler.scale)
    canvas = upscaler.upscale(picture, picture.canvas(upscaler.scale), picture.kind != "CMYK", progress)
    pictures.write(job.target, canvas, name)
    return remark


def parse_arguments():
    def number(kind, least, most, words):
        def convert(text):
            try:
                value = kind(text)
            except ValueError:
                value = math.nan
            if not least <= value <= most:
                raise argparse.ArgumentTypeError(f"takes {words}, not '{text}'")
            return value

        return convert

    parser = argparse.ArgumentParser(
        description="Upscale pictures (PNG, JPEG, WebP, TIFF, BMP), animations (GIF, WebP, PNG) and videos (MP4, MOV, "
        "MKV, AVI, WebM). What came in goes out: gray, alpha, CMYK, 16 bits, profile, metadata, sound.",
        epilog="examples: python upscale.py photo.jpg; python upscale.py ~/photos -o ~/large; exit status: 0 all done, "
        "1 some files could not be done (each is named, the others are done), 2 nothing was done: wrong arguments, "
        "no weights, no input. Finished files are skipped when the command is given again.",
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="PHOTO", help="files, folders (all in them and below) or globs in quotes")
    add("-o", "--out", metavar="OUT", type=Path, help="a folder, or a file for one input (default: beside the input)")
    add(
        "--weights", metavar="RUN", help="a run's name or directory, or a weights file (default: srgan_x4, srresnet_x4)"
    )
    add(
        "--blend",
        metavar="T",
        type=number(float, 0, 1, "a number from 0 to 1"),
        help="from 0, the smooth SRResNet, to 1, the SRGAN: their weights are mixed",
    )
    add(
        "--scale",
        type=int,
        choices=(2, 3, 4, 8),
        help="the factor (default: the network's, 4); where there are no weights for a smaller one, the ×4 result is "
        "shrunk by MATLAB's bicubic",
    )
    add(
        "--tile",
        metavar="N",
        type=number(int, LEAST_TILE, 2**15, f"a whole number of LR pixels, {LEAST_TILE} or more"),
        help=f"side of a tile without its surroundings, in LR pixels (default: by free memory, {TILE} at most); "
        "the result does not depend on it",
    )
    add("--format", choices=pictures.FORMATS, help="format of pictures (default: the input's); videos keep theirs")
    add("--suffix", metavar="TEXT", help='put behind the names (default: "_x4" without -o, nothing with it)')
    add("--overwrite", action="store_true", help="make files again that are there already")
    add(
        "--max-megapixels",
        metavar="N",
        type=number(float, 1e-6, 1e6, "a number of megapixels above zero"),
        default=200,
        help="refuse inputs with more pixels (default: %(default)s), against files made to fill the memory",
    )
    args = parser.parse_args()
    if args.suffix is not None and Path(f"a{args.suffix}").name != f"a{args.suffix}":
        parser.error(f"--suffix takes a part of a file's name, not '{args.suffix}'")
    return args


def main():
    args = parse_arguments()
    failures = Failures()
    weights, partner, config = choose_weights(args.weights, args.blend, args.scale)
    scale = args.scale or config.scale
    found = find_inputs(args.inputs, args.out, failures)
    if not found:
        raise UserError("there is nothing to upscale: none of the inputs is or holds a picture or a video")
    if args.out and len(found) > 1 and (args.out.is_file() or (is_known(args.out) and not args.out.is_dir())):
        raise UserError(f"-o {args.out} is a file, but there are {len(found)} inputs: name a folder")
    jobs = []
    for job in plan(args, found, scale, failures):
        try:
            jobs.append(measure(job, args))
        except (UserError, OSError, MemoryError) as error:
            failures.add(job.source, error)
    if jobs:
        mixed = f", {args.blend:g} of them mixed with {1 - args.blend:g} of {partner}" if partner else ""
        shrunk = f", shrunk to ×{scale} by MATLAB's bicubic" if scale != config.scale else ""
        print(f"weights: {weights}, ×{config.scale}{mixed}{shrunk}")
        upscale_all(jobs, Upscaler(args.weights, args.tile, args.blend, args.scale), args, failures)
    if failures.count:
        print(f"{failures.count} of the inputs could not be upscaled", file=sys.stderr)
    return 1 if failures.count else 0


def upscale_all(jobs, upscaler, args, failures):
    """Work off the jobs under one bar, which counts LR pixels; a line a file says what was done."""
    print(f"tiles: {upscaler.tile}×{upscaler.tile} LR pixels and {upscaler.halo} around them")
    total = sum(job.pixels for job in jobs)
    with tqdm(total=total, unit="px", unit_scale=True, smoothing=0.1, disable=None) as bar:
        end = 0
        for job in jobs:
            bar.set_description(job.source.name)
            end += job.pixels
            start = time.perf_counter()
            try:
                remark = work_off(job, upscaler, args, bar.update)
            except (UserError, OSError, MemoryError) as error:
                failures.add(job.source, error)
            else:
                seconds = time.perf_counter() - start
                tqdm.write(f"{job.source} → {job.target} ({job.pixels / 1e6:.2f} megapixels in, {seconds:.1f} s)")
                if remark:
                    tqdm.write(f"  {remark}")
            bar.update(end - bar.n)


if __name__ == "__main__":
    utils.run_command(main)
