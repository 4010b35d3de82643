"""Hashes of files, and of decoded pixels, which recognise a test image in any file format."""

import hashlib
import json
from pathlib import Path

import numpy as np

import utils

# Sets whose pixels are not known here, since their originals could not be had: how many images they have.
COUNTS = {"Urban100": 100, "Manga109": 109}


def file_digest(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def pixel_hash(image_u8):
    """SHA-256 of the size and pixels of an image, gray ones as RGB."""
    image_u8 = np.ascontiguousarray(utils.to_rgb(image_u8))
    digest = hashlib.sha256(repr(image_u8.shape).encode())
    digest.update(image_u8.reshape(-1))
    return digest.hexdigest()


def read_manifest():
    """{set: {name: {"size": [width, height], "channels": 1 or 3, "sha256": {crop: pixel hash}}}} of the test images."""
    return json.loads((Path(__file__).parent / "testsets.json").read_text(encoding="utf-8"))


def load_manifest():
    """{pixel hash: (set, name, crop)} of all test images, whole (crop 1) and cropped to multiples of 2, 3, 4 and 8."""
    return pixels_of(read_manifest())


def pixels_of(sets):
    """load_manifest of sets of one's own: {set: {name: entry}}, as read_manifest has them."""
    table = {}
    for set_name, images in sets.items():
        for name, entry in images.items():
            for crop, digest in entry["sha256"].items():
                table[digest] = (set_name, name, int(crop))
    return table
