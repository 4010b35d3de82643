"""Writing pictures with 16 bits in several channels, which Pillow cannot: PNG by own code, TIFF by tifffile.

No library among the requirements writes gray with alpha and the PNG chunks that pictures.py keeps (`kept`).
"""

import re
import struct
import zlib

import numpy as np

from utils import LazyModule

tifffile = LazyModule("tifffile")

# A TIFF's tags of text: processing software, description, maker, model, software, date, artist, host, copyright.
TEXTS = (11, 270, 271, 272, 305, 306, 315, 316, 33432)
DATE = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")


def write_png(path, pixels, kept):
    """Write uint16 [h, w, 2, 3 or 4] as PNG; rows are stored as differences from the row above, which compress well."""
    height, width, channels = pixels.shape
    chunks = list(kept.get("chunks", ()))
    if "icc_profile" in kept:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(kept["icc_profile"])))
    if "dpi" in kept:
        per_metre = (round(float(value) / 0.0254) for value in kept["dpi"])
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if "exif" in kept:
        chunks.append((b"eXIf", kept["exif"].removeprefix(b"Exif\0\0")))
    if "xmp" in kept:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + kept["xmp"]))
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    deflate = zlib.compressobj(kept.get("options", {}).get("compress_level", 2))
    with open(path, "wb") as file:

        def add(name, data):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

        file.write(b"\x89PNG\r\n\x1a\n")
        add(b"IHDR", header)
        for chunk in chunks:
            add(*chunk)
        above = np.zeros((1, width * channels * 2), np.uint8)
        for top in range(0, height, 64):
            rows = pixels[top : top + 64].astype(">u2").view(np.uint8).reshape(-1, width * channels * 2)
            differences = rows - np.concatenate([above, rows[:-1]])
            lines = np.pad(differences, ((0, 0), (1, 0)), constant_values=2)  # 2: PNG's filter "up"
            add(b"IDAT", deflate.compress(lines.tobytes()))
            above = rows[-1:]
        add(b"IDAT", deflate.flush())
        add(b"IEND", b"")


def write_tiff(path, pixels, kept, tags):
    """Write uint16 [h, w, 3 or 4] as TIFF; keeps the texts among the tags, the resolution, the profile and XMP."""
    # As bytes: Pillow reads texts as Latin-1, but tifffile accepts only ASCII strings, and one date format.
    texts = {tag: str(tags[tag]).encode("latin-1", "replace") for tag in TEXTS if tag in tags}
    options = {name: texts.pop(tag) for tag, name in ((270, "description"), (305, "software")) if tag in texts}
    if DATE.fullmatch(date := texts.pop(306, b"").decode("latin-1")):
        options["datetime"] = date
    extra = [(tag, "s", 0, text, True) for tag, text in texts.items()]
    extra += [(700, "B", len(kept["xmp"]), kept["xmp"], True)] if "xmp" in kept else []
    if "dpi" in kept:
        options |= {"resolution": tuple(map(float, kept["dpi"])), "resolutionunit": "INCH"}
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        extrasamples=["unassalpha"] * (pixels.shape[2] - 3),
        compression="zlib",
        metadata=None,
        iccprofile=kept.get("icc_profile"),
        extratags=extra,
        **{"software": False} | options,
    )
