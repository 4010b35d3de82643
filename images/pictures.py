"""Picture files of all kinds: reading their pixels and metadata, and writing both in the same or another format.

The kind of a picture names its channels: L (gray), LA (gray, alpha), RGB, RGBA or CMYK. A palette becomes RGB(A), and
one bit per pixel becomes gray, since upscaling makes colours in between. Pixels are turned upright by the EXIF
orientation, which is then removed. Pillow reads and writes; 16 bits in several channels are read by OpenCV and written
by sixteen_bits.py.
"""

import io
import logging
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

import utils
from images import sixteen_bits
from utils import LazyModule, UserError

cv2 = LazyModule("cv2")

Image.MAX_IMAGE_PIXELS = None  # opened() has its own limit and message
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its errors come as exceptions too

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # Pillow's names
# {name for --format: (file endings, kinds, 16-bit kinds, longest side in pixels)}
FORMATS = {
    "png": ((".png",), ("L", "LA", "RGB", "RGBA"), ("L", "LA", "RGB", "RGBA"), 2**31 - 1),
    "jpg": ((".jpg", ".jpeg"), ("L", "RGB", "CMYK"), (), 65500),
    "webp": ((".webp",), ("RGB", "RGBA"), (), 16383),
    "tiff": ((".tif", ".tiff"), ("L", "LA", "RGB", "RGBA", "CMYK"), ("L", "RGB", "RGBA"), 2**31 - 1),
    "bmp": ((".bmp",), ("L", "RGB"), (), 2**31 - 1),
}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
# Chunks of a PNG that do not depend on its size, depth or palette, and so are right for the output too.
PNG_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tIME", b"tEXt", b"zTXt", b"iTXt")
# Tags of a TIFF that describe the picture: texts, resolution, XMP, IPTC, EXIF, GPS.
TIFF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 700, 33432, 33723, 34665, 34853)
IFD_TAGS = (34665, 34853)  # EXIF and GPS, whose values are tables


@dataclass
class Picture:
    """One decoded picture. `picture[rows, columns]` (two slices) is uint8 or uint16 [h, w, channels] of its kind.

    pixels: a Pillow image, or uint16 [height, width, channels] for 16 bits in several channels; kind: see CHANNELS;
    kept: metadata to write with the output. CMYK is read as light (255 - ink), like the network's training images: C, M
    and Y as red, green and blue, and K as gray.
    """

    pixels: object
    kind: str
    kept: dict = field(default_factory=dict)

    @property
    def shape(self):
        """(height, width, channels)"""
        height, width = size_of(self.pixels)
        return height, width, CHANNELS[self.kind]

    @property
    def dtype(self):
        if isinstance(self.pixels, np.ndarray):
            return self.pixels.dtype
        return np.dtype(np.uint16 if self.pixels.mode.startswith("I;16") else np.uint8)

    @property
    def has_alpha(self):
        return self.kind in ("LA", "RGBA")

    def __getitem__(self, box):
        if isinstance(self.pixels, np.ndarray):
            return self.pixels[box]
        rows, columns = box
        part = self.pixels.crop((columns.start, rows.start, columns.stop, rows.stop))
        if self.dtype == np.uint8:
            part = part.convert(self.kind)
        part = np.asarray(part).astype(self.dtype).reshape(*part.size[::-1], -1)
        return 255 - part if self.kind == "CMYK" else part

    def __setitem__(self, box, part):
        if isinstance(self.pixels, np.ndarray):
            self.pixels[box] = part
            return
        rows, columns = box
        part = 255 - part if self.kind == "CMYK" else part
        height, width = part.shape[:2]
        part = Image.frombytes(self.pixels.mode, (width, height), np.ascontiguousarray(part).tobytes())
        self.pixels.paste(part, (columns.start, rows.start))

    def canvas(self, scale):
        """An empty picture of the same kind, `scale` times as high and wide, with the same metadata."""
        height, width, channels = self.shape
        if self.dtype == np.uint16 and channels > 1:
            pixels = np.zeros((scale * height, scale * width, channels), np.uint16)
        else:
            pixels = Image.new("I;16" if self.dtype == np.uint16 else self.kind, (scale * width, scale * height))
        return Picture(pixels, self.kind, self.kept)


def size_of(pixels):
    """(height, width) of a Pillow image or an array."""
    return pixels.shape[:2] if isinstance(pixels, np.ndarray) else pixels.size[::-1]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def opened(path, max_megapixels):
    """The Pillow image of a file, of which only the header is read. Raises UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not Path(path).stat().st_size:
                raise UserError("is empty: it has no bytes")
            image = Image.open(path, formats=READABLE)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError("is not a picture, or is damaged or of a kind that cannot be read") from None
    except Exception as error:  # Pillow raises many kinds of exceptions for a broken file
        raise unreadable(error) from error
    if image.width * image.height > max_megapixels * 1e6:
        image.close()
        raise UserError(
            f"is {image.width}×{image.height} pixels, more than --max-megapixels {max_megapixels:g} allows: raise that "
            "if you trust the file"
        )
    return image


def unreadable(error):
    """The UserError for an exception from a decoder."""
    if isinstance(error, MemoryError):
        return UserError("cannot be read: there is not enough memory")
    reason = getattr(error, "strerror", None) or utils.short(error)
    return UserError(f"cannot be read ({reason})")


def read(path, max_megapixels):
    """The Picture in a file. Raises UserError if it cannot be read; the message continues after the file's name."""
    with opened(path, max_megapixels) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pages = image.n_frames if image.format == "TIFF" else 1
                if pages > 1:
                    raise UserError(f"holds {pages} pages: save each as its own file")
                return decode(path, image)
        except UserError:
            raise
        except Exception as error:  # as above
            raise unreadable(error) from error


KINDS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
KINDS |= {"RGBA": "RGBA", "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "CMYK", "I;16": "L", "I;16B": "L", "I;16L": "L"}
# {EXIF orientation: (quarter turns to the left, whether mirrored after that)}, for arrays.
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (-1, True), 6: (-1, False), 7: (1, True), 8: (1, False)}


def decode(path, image):
    """The Picture of an opened image; passes on the decoder's exceptions."""
    if image.mode not in KINDS:
        raise UserError(f"has pixels of a kind that cannot be upscaled ({image.mode})")
    kind = KINDS[image.mode]
    if image.has_transparency_data:
        kind = {"L": "LA", "RGB": "RGBA"}.get(kind, kind)
    deep = ";16" in str(image.tile) and not image.mode.startswith("I")  # 16 bits, of which Pillow reads 8
    orientation = orientation_of(image)
    kept = facts_of(path, image)
    image.load()
    upright = ImageOps.exif_transpose(image)
    kept |= {key: upright.info[key] for key in ("exif", "xmp") if key in kept and key in upright.info}
    if not deep:
        if image.mode.startswith("I") and "transparency" in image.info:
            kind = "L"  # a single gray of 65,536 is transparent, which upscaling cannot keep
        return Picture(upright, kind, kept)

    content = Path(path).read_bytes()
    if image.format == "PNG" and content[25] == 4:  # gray and alpha, which Pillow reads as RGBA
        kind = "LA"
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.ndim == 3 and pixels.dtype == np.uint16:
        if orientation in TURNS and image.format == "PNG":  # OpenCV turns a TIFF
            turns, mirrored = TURNS[orientation]
            pixels = np.rot90(pixels, turns)[:, :: -1 if mirrored else 1]
        pixels = pixels[..., {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[kind]]  # OpenCV's are BGR
        if np.array_equal(pixels >> 8, np.asarray(upright.convert(kind))):
            return Picture(np.ascontiguousarray(pixels), kind, kept)
    raise UserError("cannot be read: its 16 bits a channel are stored in an unusual way")


def orientation_of(image):
    """The EXIF orientation of an opened image, or None; removes damaged EXIF from the image."""
    try:
        # Parsed again: Pillow ignores damage in what it read when it opened the file.
        Image.Exif().load(image.info.get("exif", b""))
        return image.getexif().get(274)
    except Exception:  # Pillow raises many kinds
        for key in ("exif", "Raw profile type exif"):
            image.info.pop(key, None)
        return None


def upright_size(image):
    """(height, width) of an opened image after its EXIF rotation."""
    return image.size if orientation_of(image) in (5, 6, 7, 8) else image.size[::-1]


def facts_of(path, image):
    """The metadata of an opened image to write with the output; keys only for what the image has."""
    info = image.info
    kept = {key: info[key] for key in ("icc_profile", "exif", "xmp", "dpi", "comment") if info.get(key)}
    if image.format == "PNG":
        with open(path, "rb") as file:
            kept["chunks"] = [chunk for chunk in png_chunks(file.read()) if chunk[0] in PNG_CHUNKS]
    if image.format == "TIFF":
        kept["tags"] = described(image.getexif())
    if image.format == "WEBP":
        with open(path, "rb") as file:
            kept["lossless"] = b"VP8L" in file.read(2**16)
    return kept


def png_chunks(content):
    """Yield (name, data) of the chunks of a PNG, up to the first incomplete one."""
    position = 8
    while position + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[position : position + 8])
        yield name, content[position + 8 : position + 8 + length]
        position += 12 + length


# ---------------------------------------------------------------------------------------------------------------------
# Fitting a picture into another format


def format_of(path):
    """The name in FORMATS for a file's ending, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, (suffixes, *_) in FORMATS.items() if suffix in suffixes), None)


def fit(picture, name, scale):
    """(picture, remark): the picture in a form that the format `name` can hold; what is lost as text, or "".

    Where the format cannot hold them, transparent parts become white, 16 bits become 8, and CMYK becomes RGB (by its
    profile if it has one). Raises UserError if the picture, upscaled by `scale`, is too large for the format.
    """
    _, kinds, deep_kinds, longest = FORMATS[name]
    height, width, _ = picture.shape
    if scale * max(height, width) > longest:
        raise UserError(f"would become {scale * width}×{scale * height} pixels, but {name} allows {longest} a side")
    remarks = []
    if picture.dtype == np.uint16 and picture.kind not in deep_kinds:
        picture = to_eight_bits(picture)
        remarks.append("8 of 16 bits are kept")
    if picture.kind == "CMYK" and "CMYK" not in kinds:
        picture = to_rgb(picture)
        remarks.append("CMYK becomes RGB")
    if picture.has_alpha and picture.kind not in kinds and "RGBA" not in kinds:
        picture = over_white(picture)
        remarks.append("transparent parts become white")
    if picture.kind not in kinds:  # gray in a format for colours: nothing is lost
        kind = {"L": "RGB", "LA": "RGBA"}[picture.kind]
        kept = {key: value for key, value in picture.kept.items() if key != "icc_profile"}  # the profile is for gray
        picture = Picture(picture.pixels.convert(picture.kind).convert(kind), kind, kept)
    return picture, f"{', '.join(remarks)}: {name} cannot hold more" if remarks else ""


def to_eight_bits(picture):
    """The Picture with 16 bits rounded to 8."""
    pixels = np.asarray(picture.pixels).astype(np.uint32)
    return Picture(Image.fromarray(((pixels + 128) // 257).astype(np.uint8)), picture.kind, picture.kept)


def to_rgb(picture):
    """The RGB Picture of a CMYK one, in sRGB if its profile can be read."""
    kept = {key: value for key, value in picture.kept.items() if key != "icc_profile"}
    pixels = picture.pixels.convert("CMYK")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.kept["icc_profile"]))
        pixels = ImageCms.profileToProfile(pixels, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, OSError, ImageCms.PyCMSError):
        pixels = pixels.convert("RGB")
    return Picture(pixels, "RGB", kept)


def over_white(picture):
    """The Picture without alpha, as it looks on white."""
    kind = picture.kind.removesuffix("A")
    pixels = picture.pixels.convert(picture.kind)
    white = Image.new(kind, pixels.size, "white")
    white.paste(pixels.convert(kind), mask=pixels.getchannel("A"))
    return Picture(white, kind, picture.kept)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write(path, picture, name):
    """Write a picture from fit() in the format `name`; the file appears whole or not at all. Raises UserError."""
    try:
        utils.write_atomically(Path(path), lambda temporary: encode(temporary, picture, name))
    except UserError:
        raise
    except Exception as error:  # for example metadata too long for the format
        raise UserError(f"cannot be written as {name} ({utils.short(error)})") from error


def encode(path, picture, name):
    kept = picture.kept
    if isinstance(picture.pixels, np.ndarray):
        if name == "png":
            return sixteen_bits.write_png(path, picture.pixels, kept)
        return sixteen_bits.write_tiff(path, picture.pixels, kept, tiff_tags(kept))
    options = {key: kept[key] for key in ("icc_profile", "exif", "dpi") if key in kept}
    if name == "png":
        # Level 2 takes a third of the time of PNG's default, for files of about the same size.
        options |= {"compress_level": 2, "pnginfo": PngImagePlugin.PngInfo()}
        for chunk in kept.get("chunks", ()):
            options["pnginfo"].add(*chunk)
        if "xmp" in kept and "chunks" not in kept:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", kept["xmp"].decode(errors="replace"))
    elif name == "jpg":
        options |= {"quality": 95, "subsampling": 0} | {key: kept[key] for key in ("xmp", "comment") if key in kept}
    elif name == "webp":
        options |= {"quality": 95, "lossless": kept.get("lossless", False)}
        options |= {"xmp": kept["xmp"]} if "xmp" in kept else {}
    elif name == "tiff":
        tags = tiff_tags(kept)
        # Pillow writes the tables of EXIF and GPS only without compression.
        has_tables = any(tag in tags for tag in IFD_TAGS)
        options |= {"tiffinfo": tags, "compression": "raw" if has_tables else "tiff_deflate"}
        options.pop("exif", None)
    picture.pixels.save(path, format={"jpg": "JPEG"}.get(name, name.upper()), **options)


def described(exif):
    """{tag: value} of the tags in a Pillow Exif that describe the picture; EXIF's and GPS's values are {tag: value}."""
    return {tag: exif.get_ifd(tag) if tag in IFD_TAGS else exif[tag] for tag in TIFF_TAGS if tag in exif}


def tiff_tags(kept):
    """The tags that describe a picture, for Pillow to write: those of a TIFF, or from another format's EXIF and XMP."""
    source, tags = Image.Exif(), TiffImagePlugin.ImageFileDirectory_v2()
    if "tags" not in kept and "exif" in kept:
        source.load(kept["exif"])
    for tag, value in (kept.get("tags") or described(source)).items():
        tags[tag] = value
    if "xmp" in kept:
        tags[700] = kept["xmp"]
    return tags
