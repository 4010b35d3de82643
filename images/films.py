"""Films, upscaled frame by frame and kept whole: times of frames, sound, subtitles, chapters, aspect, colours.

A film is a file, or a row of numbered pictures such as frames/%05d.png. film_reading.py gives its frames,
film_encoding.py encodes them in segments that outlast an interruption, film_muxing.py joins these with all that the
source holds besides.
"""

import contextlib
import math
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tqdm import tqdm

import utils
from images import film_encoding, film_muxing, film_reading, film_sequences, pictures, scenes
from images.film_encoding import CODECS, CONTAINERS, SUFFIXES
from utils import LazyModule, UserError

av = LazyModule("av")


@dataclass(frozen=True)
class Options:
    """How films are upscaled. codec: a key of CODECS, or None for the container's usual one; crf: None for the codec's.

    start, end: seconds from the first frame, or None; preview: whether the part is a trial of the whole; fps: frames a
    second of numbered pictures; overwrite: numbered pictures that are there are made again.
    """

    codec: str | None = None
    crf: int | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    preview: bool = False
    deinterlace: bool = False
    fps: Fraction = Fraction(25)
    overwrite: bool = False

    @property
    def suffix(self):
        """What names of results get, so that a part is not taken for the whole."""
        if self.preview:
            return "_preview"
        ends = {"from": self.start, "to": self.end}
        return "".join(f"_{word}{float(end):g}s" for word, end in ends.items() if end is not None)


def frame_rate(fps):
    """The exact Fraction for a rate in decimals: television's 29.97 is 30000/1001."""
    television = Fraction(round(fps * 1.001) * 1000, 1001)
    if not float(fps).is_integer() and abs(float(television) - fps) < 0.006:
        return television
    return Fraction(fps).limit_denominator(1000)


def is_film(path):
    """Whether a path is that of a film by its ending, or of numbered pictures."""
    return Path(path).suffix.lower() in SUFFIXES or film_sequences.is_pattern(path)


@dataclass(frozen=True)
class Plan:
    """What is to be done with a film.

    film: a film_reading.Film; codec: a key of CODECS, or None for pictures; deep: whether 16 bits a colour are read,
    and 10 or 16 written; start, end: times in the film's time base; times: of the frames in between; notes: sentences.
    """

    film: object
    target: Path
    options: Options
    codec: str | None
    deep: bool
    start: int
    end: int
    times: tuple
    notes: tuple

    @property
    def part(self):
        """(start, end) of the part of the film that is wanted, in seconds of its own times; None where it is whole."""
        chosen = (self.options.start, self.start), (self.options.end, self.end)
        return tuple(None if option is None else time * self.film.time_base for option, time in chosen)

    def time_of(self, frame, time_base):
        """(time, duration) of a frame in the target, in its time base."""
        begins, lasts = (time * self.film.time_base for time in (frame.time, frame.duration))
        begins -= self.part[0] or 0
        return round(begins / time_base), max(round(lasts / time_base), 1)


def plan(source, target, options, max_megapixels):
    """The Plan to make the film or the numbered pictures `target` of another. Raises UserError or OSError.

    The source is read through, so that what cannot be done is said before hours of work.
    """
    is_row = film_sequences.is_pattern(source)
    film = film_sequences.look(source, options.fps) if is_row else film_reading.look(source)
    width, height = film.size
    if width * height > max_megapixels * 1e6:
        raise UserError(f"has {width}×{height} pixels a frame, more than --max-megapixels {max_megapixels:g} allows")
    codec, deep, notes = choose(film, target, options)
    start = film.start if options.start is None else film.ticks(options.start)
    end = film.end if options.end is None else min(film.ticks(options.end), film.end)
    times = tuple(time for time in film.times if start <= time < end)
    length = film.seconds(film.end)
    if not film.complete and (options.end is None or film.ticks(options.end) > film.end):
        raise UserError(
            f"is cut off or damaged: it ends after {length:.2f} s, with {len(film.times)} frames; "
            f"--to {math.floor(100 * length) / 100:.2f} takes what is there"
        )
    if not times:
        raise UserError(f"lasts {length:.2f} s: there is no frame in the part that is asked for")
    if film.interlaced and not options.deinterlace:
        notes.append("is interlaced: what moves has combs, which become larger; --deinterlace mends them")
    is_steady = is_constant(film, times)
    if codec is None and not is_steady:
        notes.append("pictures do not say that its frame rate changes")
    if codec and CONTAINERS[target.suffix.lower()][0] == "avi" and not is_steady:
        raise UserError("changes its frame rate, which AVI cannot: give -o with another ending, such as .mkv")
    if codec and film.index is not None:
        notes += film_muxing.check(film, target)
    return Plan(film, target, options, codec, deep, start, end, times, (*film.notes, *notes))


def choose(film, target, options):
    """(codec or None, whether with more than 8 bits, [note]) for the film or pictures `target`. Raises UserError."""
    deep, notes = film.bits > 8, []
    if film_sequences.is_pattern(target):
        codec, able = None, "RGB" in pictures.FORMATS[pictures.format_of(target)][2]
        other, name = "give .png", target.suffix
    else:
        suffix = target.suffix.lower()
        codecs = CONTAINERS[suffix][1]
        if options.codec not in (None, *codecs):
            raise UserError(f"cannot become {options.codec} in {suffix}, which holds {' or '.join(codecs)} here")
        codec = options.codec or next((c for c in codecs if CODECS[c].is_deep and deep), codecs[0])
        if options.crf is not None and options.crf > CODECS[codec].most:
            raise UserError(f"cannot become {codec} of --crf {options.crf}: its crf ends at {CODECS[codec].most}")
        able = CODECS[codec].is_deep
        keeps = [c for c in codecs if CODECS[c].is_deep]
        other, name = f"give --codec {keeps[0]}" if keeps else "give -o with .mp4 or .mkv", f"{codec} in {suffix}"
    if deep and not able:
        lost = f"its HDR ({film.colour.hdr}) becomes ordinary light" if film.colour.hdr else "its colours get 8 bits"
        notes.append(f"{lost}, since {name} has no more here: {other} to keep it")
    elif codec and film.bits > 10:
        notes.append(f"10 of {film.bits} bits are kept")
    return codec, deep and able, notes


def is_constant(film, times):
    """Whether frames follow each other at the film's rate; one may be missing, and times be rounded."""
    places = [float((time - times[0]) * film.time_base * film.rate) for time in times]
    is_near = all(abs(place - round(place)) < 0.25 for place in places)
    return is_near and len(set(map(round, places))) == len(places)


def upscale_film(plan, upscaler, progress):
    """Carry out a Plan; returns remarks on the result as text, or "".

    progress: called with the number of LR pixels done. What an interrupted call has done of a film's file stays beside
    the target, and the same call goes on behind it. Raises UserError or OSError.
    """
    with film_encoding.reasons():
        return (write_film if plan.codec else film_sequences.write)(plan, upscaler, progress)


def write_film(plan, upscaler, progress):
    """What upscale_film does for a film file."""
    film, target = plan.film, plan.target
    coding = coding_of(plan, upscaler.scale)
    probe = upscaler.upscale(film_encoding.PROBE, progress=lambda count: None)
    work = repr((av.__version__, film.identity, plan.start, plan.end, plan.part, plan.options.deinterlace, coding))
    segments = film_encoding.Segments(target, coding, work, probe)
    before, last, began = segments.done, 0, time.perf_counter()
    progress(before * film.size[0] * film.size[1])
    try:
        frames = film.frames(plan.deep, plan.start, plan.end, plan.options.deinterlace)
        for frame, sr in scenes.upscaled(frames, lambda i: i < before, upscaler, progress):
            moment, last = plan.time_of(frame, coding.time_base)
            if sr is not None:
                segments.add(sr, moment, last)
        segments.finish()
    except film_reading.Damaged:
        segments.remove()
        raise
    except BaseException:
        keep(segments, len(plan.times))
        raise

    def join(path):
        packets = film_muxing.Pictures(segments.files, coding.time_base, last)
        source = None if film.index is None else film
        film_muxing.join(path, CONTAINERS[target.suffix.lower()][0], packets, source, *plan.part)
        if (written := film_reading.count_pictures(path)) != segments.done:
            raise UserError(f"{target} cannot be written: {written} of {segments.done} frames are in it")

    utils.write_atomically(target, join)
    segments.remove()
    return remarks(plan, upscaler.scale, before, segments.done, time.perf_counter() - began)


def coding_of(plan, scale):
    """The film_encoding.Coding of a Plan and a factor."""
    film, container = plan.film, CONTAINERS[plan.target.suffix.lower()][0]
    is_mapped = film.colour.hdr and not plan.deep  # by film_reading.Converter
    return film_encoding.Coding(
        codec=plan.codec,
        crf=CODECS[plan.codec].crf if plan.options.crf is None else plan.options.crf,
        size=film_encoding.even([scale * side for side in film.size]),
        deep=plan.deep,
        time_base=1 / film.rate if container == "avi" else film.time_base,
        rate=film.rate,
        aspect=film.aspect,
        colour=film_reading.Colour(1, 1, 1, False) if is_mapped else film.colour,
        light=film.light if plan.deep else {},
        container="avi" if container == "avi" else "mp4",
    )


def keep(segments, count):
    """Bring what an interrupted work has done to the disk, as far as that goes, and say so."""
    with contextlib.suppress(Exception):  # what has ended the work may end this too; earlier segments are there
        segments.finish()
    if segments.files:
        done = sum(segment.frames for segment in segments.files)
        tqdm.write(f"{done} of {count} frames are kept: the same command goes on behind them", file=sys.stderr)
    else:
        segments.remove()


def remarks(plan, scale, before, count, seconds):
    """What is to be said of a film that is done: frames in all and before this call, and its seconds."""
    rate = (count - before) / seconds
    said = [f"{rate:.3g} frames a second"] if count > before else []
    if plan.options.preview and count > before:
        whole = len(plan.film.times)
        said.append(f"the whole film of {whole} frames would take about {duration(whole / rate)}")
    if before:
        said.append(f"{before} of {count} frames were there from an earlier call")
    if count < len(plan.times):
        said.append(f"{len(plan.times) - count} of {len(plan.times)} packets held no picture")
    if odd := [name for name, side in zip(("column", "row"), plan.film.size, strict=True) if scale * side % 2]:
        are = "are" if len(odd) > 1 else "is"
        said.append(f"the last {' and '.join(odd)} {are} there twice: players want even sides")
    return "; ".join(said)


def duration(seconds):
    """Seconds in words."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
