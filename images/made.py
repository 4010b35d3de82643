"""Recognises files that upscale.py has made: by a mark in their EXIF, or by a list in the folder if a format has none.

The mark is in EXIF's tag for the processing software, so it stays with a file that is moved.
"""

import json
import math
from pathlib import Path

from PIL import Image

from images import pictures

LIST = ".srgan-made.jsonl"  # a line for each file: [name, bytes]


def remember(path):
    """Add a file that was made here to the list of its folder, unless it bears the mark. Raises OSError."""
    path = Path(path)
    if not is_marked(path) and [path.name, path.stat().st_size] not in listed(path.parent):
        with open(path.with_name(LIST), "a", encoding="utf-8") as file:
            file.write(json.dumps([path.name, path.stat().st_size]) + "\n")


def is_made(path):
    """Whether a file was made by upscale.py."""
    path = Path(path)
    return is_marked(path) or [path.name, path.stat().st_size] in listed(path.parent)


def is_marked(path):
    """Whether a picture or animation bears the mark; only its header is read."""
    try:
        with pictures.opened(path, math.inf, page=0) as image:
            if image.format == "TIFF":
                return image.tag_v2.get(pictures.PROCESSED_BY) == pictures.MARK
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            return exif.get(pictures.PROCESSED_BY) == pictures.MARK
    except Exception:  # no picture, or damaged: Pillow raises many kinds
        return False


def listed(folder):
    """[[name, bytes]] of the files of a folder that its list names; a damaged line names none."""
    try:
        lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
