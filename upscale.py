"""Upscale your own pictures, animations and films: files, folders and globs.

`python upscale.py photo.jpg` writes photo_x4.jpg. A picture is upscaled in tiles, so that memory is bounded, by the
engine that is fastest on this machine; with --exact the result equals that of the whole picture to the last bit. In
Python:

    from upscale import Upscaler
    sr_u8 = Upscaler("srresnet_x4").upscale(lr_u8)
"""

import argparse
import contextlib
import functools
import glob
import io
import json
import mimetypes
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

import utils
from cli import terminal
from images import animations, compression, film_sequences, films, pictures, unfinished
from images.hashes import file_digest
from images.made import is_made, remember
from inference.engines import ENGINES
from inference.tiles import EXACT_TILE, LEAST_TILE, TILE, Upscaler, choose_engine, choose_weights, describe
from runs import store
from utils import UserError

BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} megapixels, {remaining} left, {rate_noinv_fmt}{postfix}"
LARGEST_FACTOR = 16
AUTO = "auto"  # for --weights: those that suit each picture
FORBIDDEN = set('<>:"/\\|?*') | set(map(chr, range(32)))  # in names of files, by Windows or by all


class Job(NamedTuple):
    """One file to make: its source and target, and the number and size of the source's frames in LR pixels.

    size: (height, width) of the result; None for the Upscaler's factor. options: how it is written, see `options_of`.
    film: the films.Plan of a film, as measure() makes it of the films.Options.
    """

    source: Path
    target: Path
    frames: int = 0
    height: int = 0
    width: int = 0
    size: tuple | None = None
    options: dict = {}
    film: object = films.Options()

    @property
    def pixels(self):
        return self.frames * self.height * self.width

    def passes(self, scale):
        """[(height, width)] of what an Upscaler of this factor enlarges, one after the other."""
        sizes = [(self.height, self.width)]
        while self.size and any(scale * side < wanted for side, wanted in zip(sizes[-1], self.size, strict=True)):
            sizes.append(tuple(scale * side for side in sizes[-1]))
        return sizes

    def work(self, scale):
        """The number of pixels that an Upscaler of this factor enlarges."""
        return self.frames * sum(height * width for height, width in self.passes(scale))

    @property
    def notes(self):
        """Sentences on what the result will lack, to be read before the work."""
        return self.film.notes if isinstance(self.film, films.Plan) else ()


class Failures:
    """Counts the files that could not be done, and prints one sentence for each at once; record: called with facts."""

    def __init__(self, record=None):
        self.named, self.record = set(), record or unrecorded

    @property
    def count(self):
        return len(self.named)

    def add(self, path, error):
        if str(path) in self.named:  # ** finds a file by itself and in its folder
            return
        self.named.add(str(path))
        tqdm.write(f"upscale.py: {path}: {reason(error)}", file=sys.stderr)
        self.record(status="failed", source=str(path), reason=reason(error))


def reason(error):
    """Why a file could not be done, to be printed behind its name; error: UserError, OSError or MemoryError."""
    if isinstance(error, OSError):
        return error.strerror or utils.short(error)
    return "there is not enough memory" if isinstance(error, MemoryError) else str(error)


def find_inputs(names, out, failures):
    """{file: its Path below the output folder} for files, folders and globs.

    What was made here before is left out, in `out` and everywhere, and this is printed; it is taken if it is named
    itself, and nothing else is there.
    """
    found, again = {}, {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            excluded = out.resolve() if out and out.resolve() != path.resolve() else None
            for file in files_below(path, failures):
                if excluded is None or not file.resolve().is_relative_to(excluded):
                    (found if not is_made(file) else again).setdefault(file, file.relative_to(path))
        elif path.exists():
            (found if not is_made(path) else again).setdefault(path, Path(path.name))
        elif film_sequences.is_pattern(path) and film_sequences.find(path):
            found.setdefault(path, Path(path.name))
        elif matches := sorted(glob.glob(name, recursive=True)):
            for match in matches:
                for file in files_of(Path(match), failures):
                    (found if not is_made(file) else again).setdefault(file, Path(file.name))
        else:
            failures.add(name, "there is no such file or folder")
    named = {path: place for path, place in again.items() if str(path) in map(str, map(Path, names))}
    if named and not found:
        return named
    for path in again:
        print(f"left out: {path}, it was made here (name nothing else to upscale it again)")
    return found


def is_known(path):
    """Whether a file's ending is that of a picture, an animation or a film."""
    suffix = Path(path).suffix.lower()
    return suffix in pictures.SUFFIXES or suffix == ".gif" or suffix in films.SUFFIXES


def is_foreign(path):
    """Whether a file looks like a picture of a kind that is not read."""
    kind = mimetypes.guess_type(path)[0] or ""
    return not is_known(path) and (kind.startswith("image/") or Path(path).suffix.lower() in pictures.FOREIGN)


def files_of(path, failures):
    """The files of one match of a glob: the file itself, or the files in the folder."""
    if path.is_dir():
        return files_below(path, failures)
    if is_foreign(path):
        failures.add(path, UserError("is of a kind that is not read"))
    return [path] if is_known(path) else []


def files_below(folder, failures):
    """All files with known endings in a folder and below, sorted, without hidden ones; reports unreadable folders."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: failures.add(error.filename, error)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in [Path(parent, name) for name in sorted(names) if not name.startswith(".")]:
            files += files_of(path, failures)
    return files


def is_file_name(out):
    """Whether -o names a file, by its ending, and not a folder; out: Path or None."""
    return out is not None and is_known(out) and not out.is_dir()


def suffix_of(args, scale):
    """What is put behind the names: --suffix, else _x4 beside the inputs and nothing in another folder."""
    if args.suffix is not None:
        return args.suffix
    if args.out:
        return ""
    if args.fit:
        return f"_{args.fit[0]}x{args.fit[1]}"
    if scale == 1:
        return "_style"
    return f"_{args.width}w" if args.width else f"_{args.height}h" if args.height else f"_x{args.outscale or scale:g}"


def target_of(source, place, args, scale):
    """The Path that `source` is upscaled into; place: its Path below the output folder, see find_inputs."""
    if is_file_name(args.out):
        return args.out
    folder = args.out / place.parent if args.out else source.parent
    name = args.format or pictures.READ_ONLY.get(source.suffix.lower())
    ending = pictures.FORMATS[name][0][0] if name and not films.is_film(source) else source.suffix
    part = args.film.suffix if films.is_film(source) else ""
    return folder / f"{source.stem}{suffix_of(args, scale)}{part}{ending}"


def plan(args, found, scale, failures):
    """[Job] for the inputs found, without finished files, which is said; a target that is an input is a failure.

    Raises UserError before anything is written if two inputs would become one file.
    """
    targets = {source: target_of(source, place, args, scale) for source, place in found.items()}
    inputs = {identity(source) or place_of(source): source for source in found}
    jobs, owners, finished = [], {}, 0
    for source, target in targets.items():
        if (other := inputs.get(identity(target) or place_of(target))) is not None:
            which = "itself" if other == source else f"the input {other}"
            failures.add(source, f"its output would be {which}: give another -o, or a --suffix")
        elif (other := owners.setdefault(place_of(target), source)) != source:
            raise UserError(f"{other} and {source} would both become {target}: give each an -o of its own")
        elif target.exists() and not args.overwrite:
            finished += 1
            failures.record(status="finished before", source=str(source), target=str(target))
        else:
            jobs.append(Job(source, target, film=args.film))
    if finished:
        print(f"skipped: {finished} finished before (--overwrite does them again)")
    return jobs


def identity(path):
    """What is the same for all names of one file: links, and capitals where a folder knows none; None if there is none.

    A file system without numbers for its files has the real path.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.normcase(os.path.realpath(path))


def place_of(target):
    """The real path of a file that need not exist, without capitals where its folder knows none."""
    path = target.resolve()
    return str(path).casefold() if ignores_case(path.parent) else str(path)


def ignores_case(folder):
    """Whether upper and lower case are one in a folder, or where it will be made, judged by the folder's own name."""
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    name = folder.name.swapcase()
    return name != folder.name and folder.with_name(name).exists() and folder.with_name(name).samefile(folder)


def measure(job, max_megapixels, size_of=lambda height, width: None):
    """The Job with the size that the file's header gives. Raises UserError if the file cannot be upscaled.

    size_of: from LR's (height, width) to that of the result, or to None.
    """
    if films.is_film(job.source):
        if not films.is_film(job.target):
            raise UserError(f"is a film and cannot become {job.target.name}")
        plan = films.plan(job.source, job.target, job.film, max_megapixels)
        width, height = plan.film.size
        if size_of(height, width):
            raise UserError("is a film: it takes the factors that there are weights for, or smaller whole ones")
        return job._replace(frames=len(plan.times), height=height, width=width, film=plan)
    suffix = job.target.suffix.lower()
    with pictures.opened(job.source, max_megapixels, page=0) as image:
        frames = animations.frames_of(image, job.target)
        pages = len(pictures.pages_of(image))
        if pages > 1 and pictures.format_of(job.target) != "tiff":
            raise UserError(f"holds {pages} pages, which {job.target.name} cannot: take .tif")
        if not pictures.format_of(job.target) and not (suffix == ".gif" and (frames > 1 or image.format == "GIF")):
            raise UserError(f"cannot become {job.target.name}: give a --format")
        height, width = pictures.upright_size(image)
        size = size_of(height, width)
        if size and (frames * pages > 1 or suffix == ".gif"):
            kind = "holds several pages" if pages > 1 else "is an animation"
            raise UserError(f"{kind}: it takes the factors that there are weights for, or smaller whole ones")
        return job._replace(frames=frames * pages, height=height, width=width, size=size)


def size_asked_for(args, height, width):
    """(height, width) of the result for LR of this size, or None if --scale says it. Raises UserError."""
    if args.fit:
        factor = min(args.fit[0] / width, args.fit[1] / height)
    elif args.width or args.height:
        factor = args.width / width if args.width else args.height / height
    elif args.outscale:
        factor = args.outscale
    else:
        return None
    size = max(round(factor * height), 1), max(round(factor * width), 1)
    if not 1 < factor <= LARGEST_FACTOR:
        raise UserError(
            f"is {width}×{height} and would become {size[1]}×{size[0]}: factors above 1 and up to {LARGEST_FACTOR} "
            "are possible"
        )
    return size


def options_of(args, name):
    """The options of args for Pillow's writer of the format `name`."""
    if args.quality and name in ("jpg", "webp", "avif"):
        return {"quality": args.quality} | ({"lossless": False} if name == "webp" else {})
    return {"compress_level": args.compression} if args.compression is not None and name == "png" else {}


def work_off(job, upscaler, max_megapixels, progress, keep=False):
    """Upscale one file; returns a remark about the result, or "". Raises UserError, OSError or MemoryError.

    keep: a large picture that is interrupted can go on the next time.
    """
    job.target.parent.mkdir(parents=True, exist_ok=True)
    remark = make(job, upscaler, max_megapixels, progress, keep)
    if not film_sequences.is_pattern(job.target):  # whose pictures bear the mark
        remember(job.target)
    return remark


def make(job, upscaler, max_megapixels, progress, keep):
    """What work_off does, in a folder that is there."""
    if films.is_film(job.source):
        return films.upscale_film(job.film, upscaler, progress)
    with pictures.opened(job.source, max_megapixels, page=0) as image:
        pages = len(pictures.pages_of(image))
        is_animation = job.target.suffix.lower() == ".gif" or animations.frames_of(image, job.target) > 1
    if is_animation:
        animations.upscale_animation(job.source, job.target, upscaler, max_megapixels, progress)
        return ""
    if pages == 1:
        return make_page(job, upscaler, max_megapixels, progress, keep, 0, pictures.write)
    with pictures.pages_written(job.target) as append:
        remarks = {
            make_page(job, upscaler, max_megapixels, progress, keep, page, lambda path, picture, name: append(picture))
            for page in range(pages)
        }
    return "; ".join(sorted(filter(None, remarks)))


def make_page(job, upscaler, max_megapixels, progress, keep, page, write):
    """What work_off does with a still picture, or a page of a TIFF; write: as pictures.write."""
    name = pictures.format_of(job.target)
    picture = pictures.read(job.source, max_megapixels, page)
    size = job.size or tuple(upscaler.scale * side for side in picture.shape[:2])
    compressed = remark_on(picture, upscaler)
    picture, remark = pictures.fit(picture, name, size=size)
    picture.kept["options"] = job.options
    with contextlib.ExitStack() as stack:
        for _ in job.passes(upscaler.scale):
            picture = enlarge(job.source, page, picture, upscaler, progress, keep, stack)
        if picture.shape[:2] != size:
            picture = picture.resized(*size)
        write(job.target, picture, name)
    return "; ".join(filter(None, (remark, compressed)))


def remark_on(picture, upscaler):
    """What is said about a Picture that looks compressed if the Upscaler's weights are not for such; else ""."""
    suited = store.photo_weights(dict.fromkeys((upscaler.scale, 4)))
    if upscaler.for_photos or not suited or not compression.is_compressed(picture):
        return ""
    return f"it looks like a JPEG, whose traces are enlarged too: the weights {suited.name} suit it better"


def weights_for(job, weights, scale, max_megapixels):
    """Those of --weights auto for a Job: `weights`, or photo_weights for a picture that looks compressed."""
    suited = store.photo_weights(dict.fromkeys((scale, 4)))
    if not suited or films.is_film(job.source) or job.source.suffix.lower() == ".gif":
        return weights
    return suited if compression.is_compressed(pictures.read(job.source, max_megapixels, page=0)) else weights


def enlarge(source, page, picture, upscaler, progress, keep, stack):
    """A Picture upscaled once; what is needed to go on after an interruption stays until the ExitStack is left."""
    height, width, channels = picture.shape
    shape = (upscaler.scale * height, upscaler.scale * width, channels)
    facts = [file_digest(source, "sha256"), page, picture.kind, *upscaler.facts()]
    pixels = stack.enter_context(unfinished.canvas(facts, shape, picture.dtype, keep))
    if pixels and pixels.start:
        tqdm.write(f"{source}: goes on with row {pixels.start // upscaler.scale} of {height}")
    out = picture.canvas(upscaler.scale) if pixels is None else pixels
    upscaler.upscale(picture, out, picture.kind != "CMYK", progress)
    if pixels:
        upscaler.release()
        out = picture.canvas(upscaler.scale)
        for rows, band in pixels.bands():
            out[rows, slice(0, shape[1])] = band
    return out


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Upscale pictures (PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC, JPEG 2000, TGA), animations (GIF, "
        "WebP, PNG) and films (MP4, MOV, MKV, AVI, WebM). Gray, alpha, CMYK, 16 bits, colour profile, metadata, "
        "sound, subtitles and HDR are kept.",
        epilog="examples: python upscale.py photo.jpg; python upscale.py ~/photos -o ~/large --fit 3840x2160; find . "
        "-name '*.jpg' | python upscale.py - -o ~/large; exit status: 0 all done, 1 some files could not be upscaled "
        "(each is named), 2 nothing was done (wrong arguments, no weights, no input). Finished files are skipped when "
        "the command is given again, and a large picture that was interrupted goes on.",
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="PHOTO",
        help="files, folders (with their subfolders), globs in quotes (** for subfolders), or - for standard input: a "
        "picture, or a list of files, one a line",
    )
    add("-o", "--out", metavar="OUT", type=Path, help="a folder, or a file for one input (default: beside the input)")
    add(
        "--weights",
        metavar="RUN",
        help="a run's name or directory, or a weights file (default: srgan_x4, srresnet_x4); auto: srgan_x4_photo "
        "for pictures that look like a JPEG, else the default; a run of papers.style paints instead (docs/style.md)",
    )
    add(
        "--blend",
        metavar="T",
        type=terminal.number(float, 0, 1, "a number from 0 to 1"),
        help="from 0, the smooth SRResNet, to 1, the SRGAN: their weights are mixed",
    )
    side = terminal.number(int, 1, 10**6, "a number of pixels")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--scale",
        type=int,
        choices=(2, 3, 4, 8, 16),
        help="the factor (default: the network's, 4); a smaller one without weights is shrunk by MATLAB's bicubic, a "
        "larger one takes two passes",
    )
    sizes.add_argument(
        "--outscale",
        metavar="F",
        type=terminal.number(float, 1, LARGEST_FACTOR, f"a factor from 1 to {LARGEST_FACTOR}"),
        help="any factor, as 2.5: enlarged by the network as often as it needs, then shrunk by MATLAB's bicubic",
    )
    sizes.add_argument("--width", metavar="W", type=side, help="the result's width in pixels; its height follows")
    sizes.add_argument("--height", metavar="H", type=side, help="the result's height in pixels; its width follows")
    sizes.add_argument("--fit", metavar="WxH", type=box, help="as large as fits into W×H pixels")
    add("--colour-fix", action="store_true", help="large areas keep the colours of the input")
    add(
        "--tile",
        metavar="N",
        type=terminal.number(int, LEAST_TILE, 2**15, f"a whole number of LR pixels, {LEAST_TILE} or more"),
        help=f"side of a tile in LR pixels, without the pixels around it (default: by free memory, at most {TILE}, or "
        f"{EXACT_TILE} if exact)",
    )
    add(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="what computes the network (default: the one that is done first here, which is measured once)",
    )
    add("--exact", action="store_true", help="tiles equal the whole picture to the last bit; takes much longer")
    add(
        "--half",
        action="store_true",
        help="compute in 16 bits: several times as fast on a GPU, or a CPU with AMX, for small differences",
    )
    add("--format", choices=pictures.FORMATS, help="format of pictures (default: the input's); films keep theirs")
    percent = terminal.number(int, 1, 100, "a whole number from 1 to 100")
    add("--quality", metavar="Q", type=percent, help="of JPEG and WebP (default: 95) and AVIF (90), 1 to 100")
    add(
        "--compression",
        metavar="N",
        type=terminal.number(int, 0, 9, "a whole number from 0 to 9"),
        help="of PNG: from 0, fast, to 9, small (default: 2)",
    )
    add("--suffix", metavar="TEXT", help='added to the names (default: "_x4" without -o, nothing with it)')
    add("--overwrite", action="store_true", help="write files again that exist already")
    add("--dry-run", action="store_true", help="say what would be made, and make nothing")
    add("--quiet", action="store_true", help="print nothing but what goes wrong")
    add("--json", action="store_true", help="print a line of JSON for each file, for programs, and nothing else")
    add(
        "--max-megapixels",
        metavar="N",
        type=terminal.number(float, 1e-6, 1e6, "a number of megapixels above zero"),
        default=200,
        help="refuse inputs with more pixels (default: %(default)s), a guard against files made to fill the memory",
    )
    add_film_flags(parser.add_argument_group("films").add_argument)
    args = parser.parse_args()
    args.film = film_options(args, parser)
    if args.weights == AUTO and args.blend is not None:
        parser.error("--blend mixes the weights that are named: leave out --weights auto")
    if args.suffix is not None and set(args.suffix) & FORBIDDEN:
        parser.error(f"--suffix takes a part of a file's name, not '{args.suffix}'")
    check_out(args.out, args.format, parser)
    choose_engine(args.engine, args.exact, args.half)
    return args


def box(text):
    """A `type` for argparse: (width, height) of "1920x1080"."""
    width, x, height = text.lower().replace("×", "x").partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"takes a width and a height, as 1920x1080, not '{text}'")
    return int(width), int(height)


def add_film_flags(add):
    """The flags of films; add: add_argument of a parser."""
    add("--codec", choices=films.CODECS, help="how pictures are encoded (default: h264; hevc for 10 bits; vp9 in WebM)")
    add(
        "--crf",
        metavar="N",
        type=terminal.number(int, 0, 63, "a whole number from 0 to 63"),
        help="quality: less is better and larger (default: a loss that is hardly visible)",
    )
    add(
        "--from",
        metavar="TIME",
        dest="start",
        type=terminal.seconds,
        help="where to begin, such as 90, 2.5s or 1:02:03",
    )
    add("--to", metavar="TIME", dest="end", type=terminal.seconds, help="where to end")
    add("--preview", metavar="TIME", type=terminal.seconds, help="only so much, such as 3s, to see how it will be")
    add("--deinterlace", action="store_true", help="make whole frames of an interlaced film")
    add(
        "--fps",
        metavar="N",
        type=terminal.number(float, 0.001, 1000, "frames a second, from 0.001 to 1000"),
        default=25,
        help="frames a second of numbered pictures, such as 'frames/%%05d.png' (default: %(default)s)",
    )


def film_options(args, parser):
    """The films.Options of the arguments."""
    start, end = args.start, args.end
    if args.preview is not None:
        if end is not None:
            parser.error("--preview and --to both say where to end: leave out one of them")
        end = (start or 0) + args.preview
    if end is not None and end <= (start or 0):
        parser.error("there is nothing between --from and --to")
    return films.Options(
        codec=args.codec,
        crf=args.crf,
        start=start,
        end=end,
        preview=args.preview is not None,
        deinterlace=args.deinterlace,
        fps=films.frame_rate(args.fps),
        overwrite=args.overwrite,
    )


def check_out(out, format_name, parser):
    """End with a sentence if -o names a file of a kind that is not written, or another than --format does."""
    if out is None or out.is_dir():
        return
    suffix = out.suffix.lower()
    unknown = (mimetypes.guess_type(out.name)[0] or "").startswith("video/") and not is_known(out)
    if is_foreign(out) or unknown or suffix in pictures.READ_ONLY:
        written = [ending for ending in pictures.SUFFIXES if ending not in pictures.READ_ONLY]
        kinds = ", ".join((*written, ".gif", *films.SUFFIXES))
        parser.error(f"-o {out} is of a kind that is not written; there are {kinds}")
    if format_name and is_known(out) and suffix not in (*pictures.FORMATS[format_name][0], *films.SUFFIXES):
        parser.error(f"-o {out} is no {format_name}, as --format has it: leave out one of them")


def main():
    args = parse_arguments()
    with contextlib.ExitStack() as stack:
        record = functools.partial(print_json, sys.stdout) if args.json else unrecorded
        if args.json or args.quiet:  # what is said is for people; errors go elsewhere
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        args.inputs = list(read_standard_input(args, stack))
        return upscale_inputs(args, record)


def unrecorded(**facts):
    """What is called with facts about a file where nobody wants them."""


def print_json(stream, **facts):
    print(json.dumps(facts), file=stream, flush=True)


def read_standard_input(args, stack):
    """Yield the inputs, instead of - the file or the names of files that come from standard input.

    stack: an ExitStack; the file is there until it is left. Raises UserError.
    """
    for name in args.inputs:
        if name != "-":
            yield name
            continue
        content = sys.stdin.buffer.read()
        if pictures.is_picture(content):
            if not is_file_name(args.out):
                raise UserError("a picture from standard input needs a file to be written to: -o FILE")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="srgan-"))
            (path := Path(folder, "standard-input")).write_bytes(content)
            yield str(path)
        elif b"\0" in content:
            raise UserError(
                "what comes from standard input is neither a list of files nor a picture that is known without its name"
            )
        else:
            yield from filter(None, os.fsdecode(content).splitlines())


def upscale_inputs(args, record):
    """What main does, with `args.inputs` as names; record: called with facts about each file. Returns the status."""
    failures = Failures(record)
    automatic, args.weights = args.weights == AUTO, None if args.weights == AUTO else args.weights
    weights = args.weights or store.default_weights(dict.fromkeys((args.scale or 4, 4)))
    check_style(weights, args)
    if args.scale and args.scale > describe(weights)[1]["config"].MODEL.scale:
        args.scale, args.outscale = None, args.scale  # in two passes
    config = choose_weights(weights, args.blend, args.scale)[2]
    scale = args.scale or config.scale
    found = find_inputs(args.inputs, args.out, failures)
    if not found:
        raise UserError("there is nothing to upscale: none of the inputs is or holds a picture or a film")
    if args.out and len(found) > 1 and (args.out.is_file() or is_file_name(args.out)):
        raise UserError(f"-o {args.out} is a file, but there are {len(found)} inputs: name a folder")
    groups = {}  # {weights: [Job]}
    for job in plan(args, found, scale, failures):
        try:
            job = measure(job, args.max_megapixels, functools.partial(size_asked_for, args))
            suited = weights_for(job, weights, scale, args.max_megapixels) if automatic else weights
        except (UserError, OSError, MemoryError) as error:
            failures.add(job.source, error)
        else:
            job = job._replace(options=options_of(args, pictures.format_of(job.target)))
            groups.setdefault(suited, []).append(job)
    for weights, jobs in groups.items():
        upscale_group(jobs, weights, args, failures)
    if failures.count:
        print(f"{failures.count} of the inputs could not be upscaled", file=sys.stderr)
    return 1 if failures.count else 0


def check_style(weights, args):
    """Raise a UserError if weights that paint in a style, at a picture's size, are asked for another size or tiles."""
    if describe(weights)[1]["config"].MODEL.scale == 1:
        flags = ("scale", "outscale", "width", "height", "fit", "blend", "tile")
        if given := [f"--{flag}" for flag in flags if getattr(args, flag) is not None]:
            raise UserError(f"{weights} paints a whole picture at its own size: leave out {' and '.join(given)}")


def upscale_group(jobs, weights, args, failures):
    """Upscale [Job], or say what would be made, with one network; weights: as for Upscaler. Raises UserError."""
    weights, partner, config = choose_weights(weights, args.blend, args.scale)
    scale = args.scale or config.scale
    mixed = f", {args.blend:g} of them mixed with {1 - args.blend:g} of {partner}" if partner else ""
    shrunk = f", shrunk to ×{scale} by MATLAB's bicubic" if scale != config.scale else ""
    print(f"weights: {weights}, ×{config.scale}{mixed}{shrunk}")
    if args.dry_run:
        list_jobs(jobs, scale, failures.record)
        return
    work = sum(job.work(scale) for job in jobs)
    how = {"engine": args.engine, "exact": args.exact, "half": args.half, "colour_fix": args.colour_fix}
    upscale_all(jobs, Upscaler(weights, args.tile, args.blend, args.scale, **how, pixels=work), args, failures)


def sizes_of(job, scale):
    """What is said about the sizes of a Job, as 30×20 → 120×80; scale: the Upscaler's."""
    height, width = job.size or (scale * job.height, scale * job.width)
    return f"{job.width}×{job.height} → {width}×{height}"


def list_jobs(jobs, scale, record):
    """Say what would be made of [Job]."""
    for job in jobs:
        print(f"would make: {job.source} → {job.target} ({sizes_of(job, scale)})")
        record(status="would be made", source=str(job.source), target=str(job.target))
    count = f"{len(jobs)} file{'' if len(jobs) == 1 else 's'}"
    print(f"{count} of {sum(job.pixels for job in jobs) / 1e6:.2g} megapixels; nothing was made (--dry-run)")


def upscale_all(jobs, upscaler, args, failures):
    """Upscale the files of [Job] with one progress bar of output megapixels; prints a line for each file."""
    tile = upscaler.tile
    parts = f"tiles of {tile}×{tile} LR pixels and {upscaler.halo} around them"
    print(f"engine: {upscaler.engine}, {'whole pictures' if upscaler.source.whole else parts}")
    each = upscaler.scale**2 / 1e6  # megapixels that an LR pixel becomes
    total = each * sum(job.work(upscaler.scale) for job in jobs)
    hidden = True if args.quiet or args.json else None  # None: where standard error is no terminal
    with tqdm(total=total, unit=" megapixels", smoothing=0.1, disable=hidden, bar_format=BAR) as bar:
        end = 0
        for job in jobs:
            bar.set_description(job.source.name)
            work = each * job.work(upscaler.scale)
            end += work
            bar.set_postfix_str("", refresh=False)
            for note in job.notes:
                tqdm.write(f"{job.source}: {note}")
            start = time.perf_counter()

            def advance(pixels, job=job):
                bar.update(each * pixels)
                if job.frames > 1 and (rate := bar.format_dict["rate"]):
                    bar.set_postfix_str(f"{rate / each / job.height / job.width:.3g} frames/s", refresh=False)

            try:
                remark = work_off(job, upscaler, args.max_megapixels, advance, keep=True)
            except (UserError, OSError, MemoryError) as error:
                failures.add(job.source, error)
            else:
                seconds = time.perf_counter() - start
                count = f"{job.frames} frames of " if job.frames > 1 else ""
                tiles = sum(upscaler.count(*size) for size in job.passes(upscaler.scale))
                count += f"{tiles} tile{'s' if tiles > 1 else ''}"
                speed = f"{seconds:.1f} s, {work / seconds:.2f} megapixels/s"
                tqdm.write(f"{job.source} → {job.target} ({sizes_of(job, upscaler.scale)}, {count}, {speed})")
                if remark:
                    tqdm.write(f"  {remark}")
                facts = {"source": str(job.source), "target": str(job.target), "seconds": round(seconds, 3)}
                failures.record(status="done", **facts, remark=remark)
            bar.update(end - bar.n)


if __name__ == "__main__":
    terminal.run_command(main)
