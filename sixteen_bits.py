"""Pictures of 16 bits in more than one channel, which Pillow cannot write: PNG by hand, TIFF by tifffile.

No library here writes both gray with alpha and the chunks of a PNG that pictures.py keeps (`kept`).
"""

import struct
import zlib

import numpy as np

from utils import LazyModule

tifffile = LazyModule("tifffile")


def write_png(path, pixels, kept):
    """Write uint16 [h, w, 2, 3 or 4] as PNG: rows as differences from the row above, which deflate well."""
    height, width, channels = pixels.shape
    chunks = list(kept.get("chunks", ()))
    if "icc_profile" in kept:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(kept["icc_profile"])))
    if "dpi" in kept:
        per_metre = (round(float(value) / 0.0254) for value in kept["dpi"])
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if "exif" in kept:
        chunks.append((b"eXIf", kept["exif"].removeprefix(b"Exif\0\0")))
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    deflate = zlib.compressobj(2)
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
            lines = np.pad(differences, ((0, 0), (1, 0)), constant_values=2)  # 2: this filter, "up"
            add(b"IDAT", deflate.compress(lines.tobytes()))
            above = rows[-1:]
        add(b"IDAT", deflate.flush())
        add(b"IEND", b"")


def write_tiff(path, pixels, kept, tags):
    """Write uint16 [h, w, 3 or 4] as TIFF; of the tags the texts are kept, and the resolution, the profile and XMP."""
    texts = {270: "description", 305: "software", 306: "datetime"}
    options = {name: str(tags[tag]) for tag, name in texts.items() if tag in tags}
    extra = [(tag, "s", 0, str(tags[tag]), True) for tag in (271, 272, 315, 316, 33432) if tag in tags]
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
