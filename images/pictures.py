"""Picture files of all kinds: reading their pixels and metadata, and writing both in the same or another format.

The kind of a picture names its channels: L (gray), LA (gray, alpha), RGB, RGBA or CMYK. A palette becomes RGB(A), and
one bit per pixel becomes gray, since upscaling makes colours in between. Pixels are turned upright by the EXIF
orientation, which is then removed. Pillow reads and writes; 16 bits in several channels are read by OpenCV and written
by sixteen_bits.py.
"""

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import struct
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

import utils
from images import sixteen_bits
from utils import LazyModule, UserError

cv2 = LazyModule("cv2")
pillow_heif = LazyModule("pillow_heif")

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its errors come as exceptions too

LARGEST = 200  # megapixels of a picture for training or evaluation
READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000")  # Pillow's names, known by first bytes
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # kinds of HEIC files, behind their "ftyp"
# {name for --format: (file endings, kinds, 16-bit kinds, longest side in pixels)}
FORMATS = {
    "png": ((".png",), ("L", "LA", "RGB", "RGBA"), ("L", "LA", "RGB", "RGBA"), 2**31 - 1),
    "jpg": ((".jpg", ".jpeg", ".jpe", ".jfif"), ("L", "RGB", "CMYK"), (), 65500),
    "webp": ((".webp",), ("RGB", "RGBA"), (), 16383),
    "tiff": ((".tif", ".tiff"), ("L", "LA", "RGB", "RGBA", "CMYK"), ("L", "RGB", "RGBA"), 2**31 - 1),
    "bmp": ((".bmp",), ("L", "RGB"), (), 2**31 - 1),
    "avif": ((".avif",), ("RGB", "RGBA"), (), 32768),
    "jp2": ((".jp2", ".j2k", ".jpx", ".jpf"), ("L", "LA", "RGB", "RGBA"), ("L",), 2**31 - 1),
    "tga": ((".tga",), ("L", "LA", "RGB", "RGBA"), (), 65535),
}
PILLOW = {"jpg": "JPEG", "jp2": "JPEG2000"}  # its names of formats, where they are others
READ_ONLY = {".mpo": "jpg", ".heic": "jpg", ".heif": "jpg"}  # endings that are read, and what is written instead
SUFFIXES = (*(suffix for suffixes, *_ in FORMATS.values() for suffix in suffixes), *READ_ONLY)
# Endings of pictures that are not read, beside those that the system calls pictures.
FOREIGN = tuple(".jxl .exr .hdr .psd .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .ppm .pgm .pfm".split())
BARE = ("jp2", "tga")  # formats that are written without metadata, in sRGB
AVIF = {"quality": 90, "subsampling": "4:4:4"}  # colours in full resolution
SAME_SPACE = 3  # a profile whose colours differ from sRGB by at most so many levels is taken for sRGB
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
# Chunks of a PNG that do not depend on its size, depth or palette, and so are right for the output too.
PNG_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tIME", b"tEXt", b"zTXt", b"iTXt")
PARSED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts of a PNG that are kept as XMP and EXIF
PROCESSED_BY, MARK = 11, "srgan"  # EXIF's tag for the software that has worked on a picture, and what it says here
# Tags of a TIFF that describe the picture: texts, resolution, XMP, IPTC, EXIF, GPS.
TIFF_TAGS = (PROCESSED_BY, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 700, 33432, 33723, 34665, 34853)
IFD_TAGS = (34665, 34853)  # EXIF and GPS, whose values are tables
SIZES = ((256, 257), (40962, 40963))  # width and height in EXIF's first table, and in its own
LONGEST = 65533 - 29  # bytes of EXIF, XMP or a comment that a JPEG has room for; XMP has 29 in front of it


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
        return self.blank(scale * self.shape[0], scale * self.shape[1])

    def blank(self, height, width):
        """An empty picture of the same kind, so high and wide, with the same metadata."""
        channels = CHANNELS[self.kind]
        if self.dtype == np.uint16 and channels > 1:
            pixels = np.zeros((height, width, channels), np.uint16)
        else:
            pixels = Image.new("I;16" if self.dtype == np.uint16 else self.kind, (width, height))
        return Picture(pixels, self.kind, self.kept)

    def resized(self, height, width):
        """This picture, so high and wide by MATLAB's bicubic."""
        resized = self.blank(height, width)
        pixels = self[slice(0, self.shape[0]), slice(0, self.shape[1])]
        resized[slice(0, height), slice(0, width)] = utils.imresize_to(pixels, height, width)
        return resized


def size_of(pixels):
    """(height, width) of a Pillow image or an array."""
    return pixels.shape[:2] if isinstance(pixels, np.ndarray) else pixels.size[::-1]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@contextlib.contextmanager
def opened(path, max_megapixels, page=None):
    """Gives the Pillow image of a file, its header read and nothing else; a TIFF's at its picture. Raises UserError.

    page: which of a TIFF's pages_of; None refuses several.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = identified(file, str(path))
                check_size(image.size, max_megapixels)
                if image.format == "TIFF":
                    turn_to_picture(image, page)
                    check_size(image.size, max_megapixels)
        except UserError:
            raise
        except Exception as error:  # Pillow raises many kinds of exceptions for a broken file
            raise unreadable(error) from error
        yield image


def identified(file, name):
    """Image.open without Pillow's limit on the size, which stays as it is for other code."""
    Image.init()
    start = file.read(16)
    if not start:
        raise UserError("is empty: it has no bytes")
    if start[4:8] == b"ftyp" and start[8:12] in HEIF:
        if not importlib.util.find_spec("pillow_heif"):
            raise UserError("is a HEIC file, which needs pillow-heif: pip install pillow-heif")
        file.seek(0)
        return pillow_heif.HeifImageFile(file, name)
    ways = [Image.OPEN[readable] for readable in READABLE]
    if name.lower().endswith(".tga"):  # these begin with nothing by which they are known
        ways.append((Image.OPEN["TGA"][0], lambda start: True))
    for read_header, accepts in ways:
        if accepts(start) is True:
            try:
                file.seek(0)
                return read_header(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):  # as Image.open has it: not of this format
                continue
    if start.startswith((b"II*\0", b"MM\0*")):
        unread = "floating-point colours, 16-bit gray with alpha, more than 4 channels"
        raise UserError(f"is a TIFF that is damaged or of a kind that cannot be read ({unread}): save it as a PNG")
    if start.startswith(b"\x76\x2f\x31\x01"):
        raise UserError("is an OpenEXR file, which is not read: save it as a TIFF of 16 bits")
    raise UserError("is not a picture, or is damaged or of a kind that cannot be read")


def is_picture(content):
    """Whether bytes are a picture file, by its first bytes; TGA files have none to be known by."""
    try:
        identified(io.BytesIO(content), "")
    except UserError as error:
        return "pillow-heif" in str(error)
    except Exception:  # a damaged header
        return True
    return True


def check_size(size, max_megapixels):
    """Raise UserError if (width, height) are more pixels than allowed."""
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise UserError(
            f"is {width}×{height} pixels, more than --max-megapixels {max_megapixels:g} allows "
            "(an option of upscale.py and demo.py): raise that if you trust the file"
        )


def pages_of(image):
    """The pages of an opened TIFF that are no thumbnail, smaller copy or mask of another; [0] of another image."""
    if image.format != "TIFF":
        return [0]
    pages, here = [], image.tell()
    for i in range(image.n_frames):
        image.seek(i)
        if not image.tag_v2.get(254, 0) & 0b101 and image.tag_v2.get(255) != 2:
            pages.append(i)
    image.seek(here)
    return pages or [0]


def turn_to_picture(image, page):
    """Seek one of the pages_of a TIFF. Raises UserError if page is None and there are several."""
    pages = pages_of(image)
    if page is None and len(pages) > 1:
        raise UserError(f"holds {len(pages)} pages: save them as files of their own")
    image.seek(pages[page or 0])


def seek(image, i):
    """Go to frame i of an animation. Raises UserError if Pillow would enlarge the canvas for it."""
    size = image.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.seek(i)
    if image.size != size:
        raise UserError(f"is damaged: its frame {i + 1} is larger than the animation")


def unreadable(error):
    """The UserError for an exception from a decoder."""
    if isinstance(error, MemoryError):
        return UserError("cannot be read: there is not enough memory")
    reason = getattr(error, "strerror", None) or utils.short(error)
    return UserError(f"cannot be read ({reason})")


def read(path, max_megapixels, page=None):
    """The Picture in a file. Raises UserError if it cannot be read; the message continues after the file's name.

    page: which of a TIFF's pages_of; None refuses several.
    """
    with opened(path, max_megapixels, page) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return decode(path, image, page)
        except UserError:
            raise
        except Exception as error:  # as above
            raise unreadable(error) from error


def read_image(path):
    """The pixels of an image file as uint8 [height, width, channels]: one channel if the file is gray, else RGB.

    For training and evaluation: `read`, without alpha, 16 bits rounded to 8, and in sRGB if the file's profile says
    that its colours are in another space. Raises UserError, with the file's name.
    """
    try:
        picture = read(path, LARGEST)
        if picture.dtype == np.uint16:
            picture = to_eight_bits(picture)
        picture = to_srgb(picture)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    pixels = picture.pixels.convert(picture.kind).convert(picture.kind.removesuffix("A"))
    return np.array(pixels).reshape(*picture.shape[:2], -1)


def header_size(path):
    """(height, width) from the header of an image file, before any EXIF rotation; (0, 0) if it cannot be read."""
    try:
        with opened(path, LARGEST) as image:
            return image.size[::-1]
    except UserError:  # decoding the file will report what is wrong
        return 0, 0


KINDS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
KINDS |= {"RGBA": "RGBA", "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "CMYK", "I;16": "L", "I;16B": "L", "I;16L": "L"}
# Pillow's names of kinds that are refused, in words.
REFUSED = {"F": "floating-point numbers", "I": "whole numbers of 32 bits or with a sign", "LAB": "CIE L*a*b*"}
# {EXIF orientation: (quarter turns to the left, whether mirrored after that)}, for arrays.
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (-1, True), 6: (-1, False), 7: (1, True), 8: (1, False)}


def decode(path, image, page=None):
    """The Picture of an opened image, whose page this is; passes on the decoder's exceptions."""
    if unusual := unusual_pixels(image):
        raise UserError(f"has pixels of a kind that is not read: {unusual}")
    kind = KINDS.get(image.mode, "L")
    if image.has_transparency_data:
        kind = {"L": "LA", "RGB": "RGBA"}.get(kind, kind)
    # Pillow reads only eight of the sixteen bits of these.
    deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile) and not image.mode.startswith("I")
    image.load()  # now: later Pillow would load while it looks for a PNG's EXIF, and overlook damage
    orientation = orientation_of(image)
    kept = facts_of(path, image)
    if lost := [words for words in (further_pictures(image), lost_bits(path, image)) if words]:
        kept["more"] = "; ".join(lost)
    upright = ImageOps.exif_transpose(image)
    kept |= {key: upright.info[key] for key in ("exif", "xmp") if key in kept and key in upright.info}
    if "exif" not in kept and "Raw profile type exif" in image.info:
        kept["exif"] = upright.getexif().tobytes()
    if not deep:
        if image.mode == "F":
            upright, kept["more"] = from_floats(np.asarray(upright)), "floating-point numbers become 16 bits"
        if image.mode.startswith("I") and "transparency" in image.info:
            kind = "L"  # one of 65,536 grays is transparent, which upscaling cannot keep
        if image.mode.startswith("I") and image.format == "TIFF" and image.tag_v2.get(262) == 0:  # zero is white
            upright = Image.fromarray(65535 - np.asarray(upright).astype(np.uint16))
        return Picture(upright, kind, kept)

    if page:
        raise UserError("has a further page of 16 bits a channel in colour: save it as a file of its own")
    content = Path(path).read_bytes()
    if image.format == "PNG" and content[25] == 4:  # gray and alpha, which Pillow reads as RGBA
        kind = "LA"
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.ndim == 3 and pixels.dtype == np.uint16 and kind in ("LA", "RGB", "RGBA"):
        if orientation in TURNS and image.format == "PNG":  # OpenCV turns a TIFF
            turns, mirrored = TURNS[orientation]
            pixels = np.rot90(pixels, turns)[:, :: -1 if mirrored else 1]
        pixels = pixels[..., {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[kind]]  # OpenCV's are BGR
        if np.array_equal(pixels >> 8, np.asarray(upright.convert(kind))):
            return Picture(np.ascontiguousarray(pixels), kind, kept)
    raise UserError("cannot be read: its 16 bits a channel are stored in an unusual way")


def from_floats(values):
    """The Pillow image of 16 bits from floats [h, w], black 0 and white 1. Raises UserError if they are others."""
    least, most = float(np.min(values)), float(np.max(values))
    if not 0 <= least <= most <= 1:  # which NaN is not, either
        raise UserError(f"has floating-point numbers from {least:g} to {most:g}: those from 0, black, to 1 are read")
    return Image.fromarray(utils.round_to(values * np.float64(65535), np.uint16))


def further_pictures(image):
    """What a file has beside the picture that is read, in words; "" if there is nothing."""
    more = getattr(image, "n_frames", 1) - 1 if image.format in ("MPO", "HEIF", "AVIF") else 0
    return (
        f"{more} further picture{'s' if more > 1 else ''} in the file {'are' if more > 1 else 'is'} left out"
        if more
        else ""
    )


def lost_bits(path, image):
    """What is not read of an AVIF, HEIC or JPEG 2000 of more than 8 bits a channel, in words; "" if nothing."""
    if image.format not in ("AVIF", "HEIF", "JPEG2000") or image.mode.startswith("I"):
        return ""
    with open(path, "rb") as file:
        start = file.read(2**16)
    bits = image.info.get("bit_depth", 8)  # a HEIC's
    if image.format == "AVIF" and (place := start.find(b"av1C")) >= 0:  # AV1's configuration: its third byte has flags
        bits = 12 if start[place + 6] & 0x20 else 10 if start[place + 6] & 0x40 else 8
    if image.format == "JPEG2000" and (place := start.find(b"\xff\x51")) >= 0:
        bits = (start[place + 40] & 0x7F) + 1  # this marker begins sizes and bits
    return f"8 of its {bits} bits are read" if bits > 8 else ""


def unusual_pixels(image):
    """What the numbers of an opened image are, in words, if they are not levels from black to white; else ""."""
    if image.mode == "F" and image.format == "TIFF":
        return ""
    if image.mode not in KINDS:
        return REFUSED.get(image.mode, image.mode)
    if image.format != "TIFF":
        return ""
    if not {1, 4} >= set(image.tag_v2.get(339, (1,))):
        return "numbers with a sign, or floating-point numbers"
    return "12 bits, which look almost black as 16" if ";12" in str(image.tile) else ""


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
            chunks = png_chunks(file.read())
        kept["chunks"] = [(name, data) for name, data in chunks if name in PNG_CHUNKS and not data.startswith(PARSED)]
    if image.format == "TIFF":
        kept["tags"] = described(image.getexif())
    if image.format == "WEBP":
        with open(path, "rb") as file:
            kept["lossless"] = {b"VP8L"} == set(webp_chunks(file.read())) & {b"VP8 ", b"VP8L"}
    return kept


def png_chunks(content):
    """Yield (name, data) of the chunks of a PNG, up to the first incomplete one."""
    position = 8
    while position + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[position : position + 8])
        yield name, content[position + 8 : position + 8 + length]
        position += 12 + length


def webp_chunks(content):
    """Yield the names of the chunks of a WebP, those of an animation's frames too."""
    position = 12
    while position + 8 <= len(content):
        name, length = struct.unpack("<4sI", content[position : position + 8])
        yield name
        # A frame's chunks begin behind its 16 bytes of place and time.
        position += 8 + (16 if name == b"ANMF" else length + length % 2)


# ---------------------------------------------------------------------------------------------------------------------
# Fitting a picture into another format


def format_of(path):
    """The name in FORMATS for a file's ending, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, (suffixes, *_) in FORMATS.items() if suffix in suffixes), None)


def fit(picture, name, scale=1, size=None):
    """(picture, remark): the picture in a form that the format `name` can hold; what is lost as text, or "".

    Where the format cannot hold them, transparent parts become white, 16 bits become 8, and CMYK becomes RGB (by its
    profile if it has one). size: the (height, width) that it is upscaled to, instead of `scale` times its own. Raises
    UserError if that is too large for the format.
    """
    _, kinds, deep_kinds, longest = FORMATS[name]
    height, width = size or (scale * side for side in picture.shape[:2])
    if max(height, width) > longest:
        raise UserError(f"would become {width}×{height} pixels, but {name} allows {longest} a side")
    remarks = []
    if picture.dtype == np.uint16 and picture.kind not in deep_kinds:
        picture = to_eight_bits(picture)
        remarks.append("8 of 16 bits are kept")
    if picture.kind == "CMYK" and "CMYK" not in kinds:
        picture = to_srgb(picture)
        remarks.append("CMYK becomes RGB")
    if name in BARE and picture.dtype == np.uint8:
        picture = to_srgb(picture)
    if name in BARE and {"exif", "xmp", "chunks", "tags"} & {key for key, value in picture.kept.items() if value}:
        remarks.append("what stands beside the pixels is left out")
    if picture.has_alpha and picture.kind not in kinds and "RGBA" not in kinds:
        picture = over_white(picture)
        remarks.append("transparent parts become white")
    if picture.kind not in kinds:  # gray in a format for colours: nothing is lost
        kind = {"L": "RGB", "LA": "RGBA"}[picture.kind]
        kept = {key: value for key, value in picture.kept.items() if key != "icc_profile"}  # the profile is for gray
        picture = Picture(picture.pixels.convert(picture.kind).convert(kind), kind, kept)
    kept, left_out = metadata_for(name, picture.kept, (width, height))
    remarks += left_out
    said = [picture.kept["more"]] if "more" in picture.kept else []
    said += [f"{', '.join(remarks)}: {name} cannot hold more"] if remarks else []
    return replace(picture, kept=kept), "; ".join(said)


def metadata_for(name, kept, size):
    """(metadata for a file of the format `name`, [what is left out]): with the new (width, height) and the MARK."""
    kept, left_out = dict(kept), []
    try:
        with warnings.catch_warnings():  # of EXIF that is damaged in part
            warnings.simplefilter("ignore")
            exif = new_exif(kept, size)
            if name == "tiff":
                kept["tags"] = described(exif)
            else:
                kept["exif"] = exif.tobytes()
    except Exception:  # Pillow raises many kinds for damaged EXIF
        exif = new_exif({}, size)
        kept |= {"exif": exif.tobytes(), "tags": dict(exif)}
    if name == "jpg":
        for key, title in {"exif": "EXIF", "xmp": "XMP", "comment": "a comment"}.items():
            if len(kept.get(key, b"")) > LONGEST:
                left_out.append(f"{title} of {len(kept.pop(key)) // 1024} KB is left out")
        kept.setdefault("exif", new_exif({}, size).tobytes())
    return kept, left_out


def new_exif(kept, size):
    """The Pillow Exif of metadata, from a TIFF's tags or another file's EXIF; size: the new (width, height)."""
    exif = Image.Exif()
    if "tags" in kept:
        for tag, value in kept["tags"].items():
            if tag != 700:  # XMP, which is kept by itself
                exif[tag] = dict(value) if tag in IFD_TAGS else value
        tables = (exif, exif.get(IFD_TAGS[0], {}))
    else:
        exif.load(kept.get("exif", b""))
        tables = (exif, exif.get_ifd(IFD_TAGS[0]) if IFD_TAGS[0] in exif else {})
    for table, tags in zip(tables, SIZES, strict=True):
        for tag, value in zip(tags, size, strict=True):
            if tag in table:
                table[tag] = value
    exif[PROCESSED_BY] = MARK
    return exif


def to_eight_bits(picture):
    """The Picture with 16 bits rounded to 8."""
    pixels = np.asarray(picture.pixels).astype(np.uint32)
    return Picture(Image.fromarray(((pixels + 128) // 257).astype(np.uint8)), picture.kind, picture.kept)


def to_srgb(picture):
    """The eight-bit Picture in sRGB: CMYK becomes RGB, and RGB(A) changes if its profile says it is in another space.

    RGB stays as it is if the profile cannot be read or is nearly sRGB (SAME_SPACE); so do gray pictures.
    """
    if picture.kind in ("L", "LA"):
        return picture
    kind = picture.kind.replace("CMYK", "RGB")
    pixels = picture.pixels.convert(picture.kind)
    kept = {key: value for key, value in picture.kept.items() if key != "icc_profile"}
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.kept["icc_profile"]))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), picture.kind, kind)
    except (KeyError, OSError, ImageCms.PyCMSError):
        return picture if kind == picture.kind else Picture(pixels.convert(kind), kind, kept)
    if kind == picture.kind and changes_little(transform, kind):
        return picture
    return Picture(ImageCms.applyTransform(pixels, transform), kind, kept)


def changes_little(transform, kind):
    """Whether a transform of ImageCms between RGB(A) leaves all colours within SAME_SPACE levels."""
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(12, 18, 3)
    seen = np.asarray(ImageCms.applyTransform(Image.fromarray(levels).convert(kind), transform))[..., :3]
    return np.abs(levels.astype(int) - seen).max() <= SAME_SPACE


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


@contextlib.contextmanager
def pages_written(path):
    """Gives a function that appends a picture from fit() to a TIFF, which appears whole at the end or not at all.

    EXIF's tables stay with the first page alone. Raises UserError.
    """
    path = Path(path)
    with utils.beside(path) as folder:
        with TiffImagePlugin.AppendingTiffWriter(str(folder / path.name), new=True) as writer:

            def append(picture):
                tags = picture.kept.get("tags", {})
                if writer.isFirst:
                    kept = picture.kept
                else:
                    kept = picture.kept | {"tags": {tag: tags[tag] for tag in tags if tag not in IFD_TAGS}}
                write(folder / "page.tif", replace(picture, kept=kept), "tiff")
                with open(folder / "page.tif", "rb") as file:
                    shutil.copyfileobj(file, writer)
                writer.newFrame()

            yield append
        utils.write_atomically(path, lambda temporary: os.replace(folder / path.name, temporary))


def encode(path, picture, name):
    kept = picture.kept
    if isinstance(picture.pixels, np.ndarray):
        if name == "png":
            return sixteen_bits.write_png(path, picture.pixels, kept)
        return sixteen_bits.write_tiff(path, picture.pixels, kept, tiff_tags(kept))
    if name == "tiff":
        tags = tiff_tags(kept)
        # Pillow's compressing writer cannot write EXIF's tables; its plain one can.
        plain = any(tag in tags for tag in IFD_TAGS)
        options = {key: kept[key] for key in ("icc_profile", "dpi") if key in kept}
        options |= {"tiffinfo": tags, "compression": "raw" if plain else "tiff_deflate"}
    else:
        options = options_for(name, kept)
    picture.pixels.save(path, format=PILLOW.get(name, name.upper()), **options)


def options_for(name, kept):
    """Pillow's options for any format but TIFF, also for animations, with metadata from metadata_for."""
    options = {key: kept[key] for key in ("icc_profile", "exif", "dpi") if key in kept}
    if name == "png":
        # Level 2 takes a third of the time of PNG's default, for files of about the same size.
        options |= {"compress_level": 2, "pnginfo": PngImagePlugin.PngInfo()}
        for chunk in kept.get("chunks", ()):
            options["pnginfo"].add(*chunk)
        if "xmp" in kept:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", kept["xmp"].decode(errors="replace"))
    elif name == "jpg":
        options |= {"quality": 95, "subsampling": 0} | {key: kept[key] for key in ("xmp", "comment") if key in kept}
    elif name in ("webp", "avif"):
        options |= {"quality": 95, "lossless": kept.get("lossless", False)} if name == "webp" else AVIF
        options |= {"xmp": kept["xmp"]} if "xmp" in kept else {}
    elif name in ("jp2", "tga"):  # JPEG 2000 is lossless
        options = {"compression": "tga_rle"} if name == "tga" else {}
    return options | kept.get("options", {})


def described(exif):
    """{tag: value} of the tags of a Pillow Exif that describe a picture; EXIF's own and GPS's are {tag: value}."""
    found = {tag: exif[tag] for tag in TIFF_TAGS if tag in exif}
    tables = {tag: exif.get_ifd(tag) for tag in IFD_TAGS if tag in found and not isinstance(found[tag], dict)}
    return found | tables


def tiff_tags(kept):
    """The tags that describe a picture, XMP among them, for Pillow to write."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in kept.get("tags", {}).items():
        tags[tag] = value
    if "xmp" in kept:
        tags[700] = kept["xmp"]
    return tags
