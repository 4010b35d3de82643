"""Numbered pictures, such as frames/%05d.png, as films: read in order, and written one for each frame."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

import utils
from images import pictures, scenes
from images.film_reading import Colour, Damaged, Film, Frame
from utils import UserError

NUMBER = re.compile(r"%0?(\d*)d")
LARGEST = 10_000  # megapixels of a picture: the limit of a film's frames is asked of the first one


def is_pattern(path):
    """Whether a path stands for numbered pictures: %05d or %d in its name, and the ending of a picture."""
    path = Path(path)
    is_named = path.suffix.lower() in utils.IMAGE_SUFFIXES and len(NUMBER.findall(path.name)) == 1
    return is_named and not path.exists()


def find(pattern):
    """{number: Path} of the pictures that a pattern stands for, in order."""
    before, width, after = NUMBER.split(pattern.name)
    name = re.compile(re.escape(before) + rf"(\d{{{width or 1},}})" + re.escape(after))
    found = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        if (match := name.fullmatch(path.name)) and pattern.name % int(match[1]) == path.name:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Row(Film):
    """Numbered pictures as a film_reading.Film. paths: their files."""

    paths: tuple = ()

    @property
    def identity(self):
        """What tells these pictures from others, and from themselves after a change."""
        return str(self.path.resolve()), len(self.paths), max(path.stat().st_mtime_ns for path in self.paths)

    def frames(self, deep, start, end, deinterlace=False):
        """Yield the Frames whose times are in [start, end), of uint16 if `deep`, else uint8; none is interlaced."""
        for time in range(start, end):
            yield Frame(time, 1, self.paths[time], lambda path: self.pixels_of(path, deep))

    def pixels_of(self, path, deep):
        """uint16 if `deep`, else uint8 RGB [h, w, 3] of a picture; all must have the size of the first one."""
        try:
            picture = in_colours(pictures.read(path, LARGEST))
        except UserError as error:
            raise Damaged(f"{path.name} {error}") from error
        height, width, _ = picture.shape
        if (width, height) != self.size:
            raise Damaged(f"{path.name} has {width}×{height} pixels, the first picture {self.size[0]}×{self.size[1]}")
        pixels = utils.to_rgb(np.asarray(picture[0:height, 0:width]))
        if deep and pixels.dtype == np.uint8:
            return pixels.astype(np.uint16) * 257
        return (
            pixels
            if deep or pixels.dtype == np.uint8
            else np.asarray((pixels.astype(np.uint32) + 128) // 257, np.uint8)
        )


def in_colours(picture):
    """A pictures.Picture as gray or RGB, in sRGB, without alpha."""
    if picture.has_alpha:
        picture = pictures.over_white(pictures.to_eight_bits(picture) if picture.dtype == np.uint16 else picture)
    return picture if picture.dtype == np.uint16 else pictures.to_srgb(picture)


def look(pattern, fps):
    """The Row of a pattern, at `fps` frames a second. Raises UserError if one is missing, or the first is damaged."""
    found = find(pattern)
    numbers = list(found)
    if gaps := [a + 1 for a, b in zip(numbers, numbers[1:], strict=False) if b > a + 1]:
        raise UserError(f"has no picture number {gaps[0]}: {pattern.name % gaps[0]} is missing")
    first = pictures.read(found[numbers[0]], LARGEST)
    height, width, _ = first.shape
    return Row(
        path=pattern,
        index=None,
        size=(width, height),
        aspect=Fraction(1),
        turn=(False, False, False),
        time_base=1 / Fraction(fps),
        times=tuple(range(len(numbers))),
        end=len(numbers),
        rate=Fraction(fps),
        bits=16 if first.dtype == np.uint16 and not first.has_alpha else 8,
        colour=Colour(1, 1, 1, False),
        light={},
        interlaced=False,
        complete=True,
        notes=("transparent parts become white",) if first.has_alpha else (),
        paths=tuple(found.values()),
    )


def write(plan, upscaler, progress):
    """Upscale the frames of a films.Plan into numbered pictures, from 1 on; those that are there stay.

    Returns a remark, or "".
    """
    film, pattern = plan.film, plan.target
    name = pictures.format_of(pattern)
    width, height = film.size
    size = [upscaler.scale * side for side in film.size]
    if max(size) > pictures.FORMATS[name][3]:
        raise UserError(
            f"would become {size[0]}×{size[1]} pixels, but {name} allows {pictures.FORMATS[name][3]} a side"
        )
    kept, _ = pictures.metadata_for(name, {"chunks": chunks_of(plan)}, size)
    before = 0

    def path_of(i):
        return pattern.with_name(pattern.name % (i + 1))

    def is_done(i):
        return path_of(i).exists() and not plan.options.overwrite

    frames = film.frames(plan.deep, plan.start, plan.end, plan.options.deinterlace)
    for i, (_, sr) in enumerate(scenes.upscaled(frames, is_done, upscaler, progress)):
        if sr is None:
            progress(width * height)
            before += 1
            continue
        picture = pictures.Picture(sr if plan.deep else pictures.Image.fromarray(sr), "RGB", kept)
        pictures.write(path_of(i), picture, name)
    return f"{before} of {len(plan.times)} pictures were there before (--overwrite makes them again)" if before else ""


def chunks_of(plan):
    """The PNG chunks that say how HDR's numbers mean light (cICP)."""
    colour = plan.film.colour
    return [(b"cICP", bytes([colour.primaries, colour.transfer, 0, 1]))] if plan.deep and colour.hdr else []
