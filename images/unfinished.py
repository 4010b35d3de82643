"""A large picture while it is being made: its pixels are in a file, so that memory stays free and work can go on.

The file is in `unfinished` of the cache folder. If the work is interrupted, the next call with the same inputs starts
behind the last row that was written; what nobody has gone on with for a week is deleted.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time

import numpy as np
from filelock import FileLock, Timeout

import utils

LEAST = 16e6  # pixels of a picture that is worth a file: of them a CPU makes less in a minute
WEEK = 7 * 24 * 3600  # seconds
BAND = 256  # rows that are read at a time


class Canvas:
    """uint8 or uint16 [height, width, channels] in a file, written by two slices as an array is; see `canvas`.

    start: the number of rows at the top that were there already.
    """

    def __init__(self, path, shape, dtype):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.rows = path.with_suffix(".rows")
        self.file = open(path, "r+b" if path.exists() else "w+b", buffering=0)
        size = math.prod(shape) * self.dtype.itemsize
        try:
            self.start = (
                int(self.rows.read_text(encoding="utf-8")) if os.fstat(self.file.fileno()).st_size == size else 0
            )
        except (OSError, ValueError):
            self.start = 0
        self.file.truncate(size)

    def __setitem__(self, box, part):
        rows, columns = box
        pixel = self.shape[2] * self.dtype.itemsize
        for y, row in enumerate(np.ascontiguousarray(part, self.dtype), rows.start):
            self.file.seek((y * self.shape[1] + columns.start) * pixel)
            self.file.write(row.data)

    def reached(self, row):
        """Note that all rows above `row` are written."""
        os.fsync(self.file.fileno())
        self.rows.write_text(str(row), encoding="utf-8")

    def bands(self):
        """Yield (slice of rows, array [rows, width, channels]) from the top down."""
        self.file.seek(0)
        for top in range(0, self.shape[0], BAND):
            rows = slice(top, min(top + BAND, self.shape[0]))
            band = np.fromfile(self.file, self.dtype, (rows.stop - top) * math.prod(self.shape[1:]))
            yield rows, band.reshape(-1, *self.shape[1:])

    def remove(self):
        self.file.close()
        self.path.unlink(missing_ok=True)
        self.rows.unlink(missing_ok=True)


@contextlib.contextmanager
def canvas(facts, shape, dtype, keep=True):
    """Gives a Canvas, or None if it is not worth it, there is no place, or another process works on the same.

    facts: all that the pixels depend on, as json.dumps takes it; keep: the Canvas stays if an exception comes through.
    """
    folder = utils.cache_folder() / "unfinished"
    path = folder / f"{hashlib.sha256(json.dumps([facts, shape]).encode()).hexdigest()[:24]}.pixels"
    with contextlib.ExitStack() as stack:
        try:
            if math.prod(shape[:2]) < LEAST:
                raise OSError("it is small")
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock"), timeout=0))
            sweep(folder, path)
            if not path.exists() and shutil.disk_usage(folder).free < 2 * math.prod(shape) * np.dtype(dtype).itemsize:
                raise OSError("the disk is almost full")
            pixels = Canvas(path, shape, dtype)
        except (OSError, Timeout):
            yield None
            return
        stack.callback(pixels.file.close if keep else pixels.remove)
        yield pixels
        pixels.remove()


def sweep(folder, path):
    """Delete what is older than a week, and the locks; `path` is in use."""
    for file in folder.iterdir():
        if file.stem != path.stem and time.time() - file.stat().st_mtime > WEEK:
            file.unlink(missing_ok=True)
