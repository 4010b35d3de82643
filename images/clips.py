"""Clips of films: a few frames of one scene, in Y, to train networks that see several.

A film is a file, or a folder of numbered pictures. A file's frames are halved, so that the traces of compression show
less; pictures are taken as they are.
"""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

import utils
from images import film_encoding, film_reading, film_sequences, pictures, scenes
from utils import UserError


def find(folder):
    """The films in a folder and its subfolders: paths of files, and of numbered pictures such as one/%05d.png.

    None of them if pictures lie in the folder itself: these are photographs.
    """
    folder = Path(folder)
    if any(path.suffix.lower() in utils.IMAGE_SUFFIXES for path in folder.iterdir()):
        return []
    files = utils.list_files(folder)
    rows = [row for place in sorted({path.parent for path in files}) if (row := row_of(place))]
    return [path for path in files if path.suffix.lower() in film_encoding.SUFFIXES] + rows


def row_of(folder):
    """The pattern of a folder's pictures if they are a film's frames, else None, as of photographs that are numbered.

    Frames have numbers without a gap, and one size, and the second looks like the first.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in utils.IMAGE_SUFFIXES)
    if not paths or not (number := re.search(r"\d+$", paths[0].stem)):
        return None
    pattern = folder / f"{paths[0].stem[: number.start()]}%0{len(number[0])}d{paths[0].suffix}"
    found = film_sequences.find(pattern)
    numbers = list(found)
    if len(found) < max(len(paths), 2) or numbers[-1] - numbers[0] >= len(found):
        return None
    if len(set(map(pictures.header_size, paths))) > 1:
        return None
    first, second = (utils.to_rgb(pictures.read_image(found[number])) for number in numbers[:2])
    return None if scenes.is_cut(first, second) else pattern


def opened(path):
    """The film_reading.Film of one of find(). Raises UserError."""
    try:
        is_row = film_sequences.is_pattern(path)
        return film_sequences.look(path, Fraction(25)) if is_row else film_reading.look(path)
    except (UserError, OSError) as error:
        raise UserError(f"{path} {error}") from error


def size_of(film):
    """(width, height) of clips of a film."""
    width, height = film.size
    return (width, height) if film.index is None else (width // 2, height // 2)


def clip_of(film, length, rng):
    """uint8 Y [length, h, w] of frames that follow each other, from anywhere in a film; None where a cut is in them.

    film: of opened(), with `length` frames or more; rng: numpy.random.Generator. Raises UserError if it is damaged.
    """
    first = rng.integers(len(film.times) - length + 1)
    start, end = film.times[first], (*film.times, film.end)[first + length]
    try:
        frames = [frame.pixels for frame in film.frames(False, start, end, film.interlaced)]
    except (UserError, OSError) as error:
        raise UserError(f"{film.path} {error}") from error
    if any(scenes.is_cut(*pair) for pair in zip(frames, frames[1:], strict=False)):
        return None
    if film.index is not None:
        frames = [utils.imresize(utils.mod_crop(frame, 2), 1 / 2) for frame in frames]
    return np.stack([utils.rgb_to_y(frame) for frame in frames])
