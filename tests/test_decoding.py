"""The one decoder of training, evaluation, NIQE and upscaling: what is stored is what is seen, or it is refused."""

import io
import struct

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from conftest import photo
from PIL import Image, ImageCms

import utils
from images import pictures
from utils import UserError
from web import compare


def opened(path, limit=1):
    with pictures.opened(path, limit):
        pass


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("RGB", "png", 3),
        ("RGB", "bmp", 3),
        ("RGB", "tif", 3),
        ("RGB", "webp", 3),
        ("L", "png", 1),
        ("RGBA", "png", 3),
        ("LA", "png", 1),
        ("P", "png", 3),
        ("1", "png", 1),
        ("CMYK", "jpg", 3),
        ("RGB", "jpg", 3),
    ],
)
def test_read_image_modes(tmp_path, rng, mode, suffix, channels):
    path = tmp_path / f"image.{suffix}"
    whole = Image.fromarray(photo(rng, 24, 40)).convert(mode)
    whole.save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = pictures.read_image(path)
    assert image.dtype == np.uint8 and image.shape == (24, 40, channels)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(utils.to_rgb(image), expected)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path, ending, channels):
    """All levels, rounded and not cut off."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, axis=-1)
    iio.imwrite(tmp_path / f"deep.{ending}", levels.squeeze(), plugin="opencv")
    expected = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / f"deep.{ending}"), expected)


def test_exif_orientation_is_applied(tmp_path, rng):
    image = Image.fromarray(photo(rng, 24, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "turned.png"), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda content: content[: len(content) // 2], "cannot be read"), (lambda content: b"", "is empty")]
    + [(lambda content: b"not an image", "is not a picture")],
)
def test_broken_files_are_named(tmp_path, rng, damage, words):
    path = tmp_path / "broken.png"
    utils.write_image(path, photo(rng, 64, 64))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"broken.png {words}"):
        pictures.read_image(path)


def test_one_wrong_bit_among_the_pixels_is_noticed(tmp_path, rng):
    path = tmp_path / "broken.png"
    utils.write_image(path, photo(rng, 64, 64))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        pictures.read(path, 1)


# ---------------------------------------------------------------------------------------------------------------------
# TIFF: numbers of all kinds


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_of_both_byte_orders(tmp_path, rng, order, channels):
    """Rounded to eight, for gray and colours, and kept whole for upscaling."""
    given = rng.integers(0, 65536, (16, 20, channels), dtype=np.uint16)
    options = {"photometric": "rgb"} if channels > 1 else {}
    options |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "x.tif", given.squeeze().astype(f"{order}u2"), byteorder=order, **options)
    expected = (given[..., :3].astype(int) + 128) // 257
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "x.tif"), expected)
    picture = pictures.read(tmp_path / "x.tif", 1)
    assert picture.dtype == np.uint16 and np.array_equal(picture[slice(0, 16), slice(0, 20)], given)
    if channels < 4:
        assert np.array_equal(np.asarray(pictures.to_eight_bits(picture).pixels).reshape(expected.shape), expected)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_zero_may_be_white(tmp_path, depth):
    given = RAMP.astype(depth) * (257 if depth == np.uint16 else 1)
    tifffile.imwrite(tmp_path / "x.tif", given, photometric="miniswhite")
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "x.tif")[..., 0], 255 - RAMP)


def twelve_bits(path):
    """A TIFF whose values end at 4095, written by hand: two of them are three bytes."""
    tags = [(256, 4), (257, 2), (258, 12), (259, 1), (262, 1), (273, 128), (277, 1), (278, 2), (279, 12)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    path.write_bytes(header.ljust(128, b"\0") + b"\xff" * 12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.float32)), "floating-point"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.int32)), "whole numbers of 32 bits"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(">i4"), byteorder=">"), "whole numbers of 32 bits"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.uint32)), "whole numbers of 32 bits"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.int16)), "with a sign"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.int8)), "with a sign"),
        (twelve_bits, "12 bits"),
        (lambda path: Image.new("LAB", (4, 4)).save(path), "CIE L"),
        (lambda path: tifffile.imwrite(path, RAMP.astype(np.float16)), "of a kind that cannot be read"),
    ],
)
def test_what_is_no_level_is_refused_by_name(tmp_path, make, words):
    path = tmp_path / "x.tif"
    make(path)
    for read in (pictures.read_image, lambda path: pictures.read(path, 1)):
        with pytest.raises(UserError, match=words):
            read(path)


def test_a_tiff_of_a_picture_and_its_thumbnail(tmp_path, rng):
    """The page that is no smaller copy is read, wherever it stands; two pictures are refused."""
    picture, small = photo(rng, 40, 60), photo(rng, 10, 15)
    for name, pages in {"after": [(picture, 0), (small, 1)], "before": [(small, 1), (picture, 0)]}.items():
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for page, kind in pages:
                file.write(page, photometric="rgb", subfiletype=kind, metadata=None)
        np.testing.assert_array_equal(pictures.read_image(tmp_path / f"{name}.tif"), picture)
        assert pictures.header_size(tmp_path / f"{name}.tif") == (40, 60)
    tifffile.imwrite(tmp_path / "two.tif", np.stack([picture, picture]), photometric="rgb", metadata=None)
    for read in (pictures.read_image, opened):
        with pytest.raises(UserError, match="holds 2 pages"):
            read(tmp_path / "two.tif")


def test_a_bmp_of_sixteen_bits_a_pixel(tmp_path):
    """Five or six bits a channel: no sixteen."""
    body = struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 16, 3, len(body), 0, 0, 0, 0)
    (tmp_path / "x.bmp").write_bytes(struct.pack("<2sIII", b"BM", 66 + len(body), 0, 66) + info + masks + body)
    image = pictures.read_image(tmp_path / "x.bmp")
    assert image.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]


# ---------------------------------------------------------------------------------------------------------------------
# Colours


def wide_profile():
    """An RGB profile whose primaries are Adobe RGB's but for rounding: sRGB's with a more saturated green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag, colour in {b"rXYZ": (0.60974, 0.31111, 0.01947), b"gXYZ": (0.20528, 0.62567, 0.06087)}.items():
        place = struct.unpack(">I", profile[(start := profile.index(tag)) + 4 : start + 8])[0]
        profile[place + 8 : place + 20] = struct.pack(">3i", *(round(value * 65536) for value in colour))
    place = struct.unpack(">I", profile[(start := profile.index(b"bXYZ")) + 4 : start + 8])[0]
    profile[place + 8 : place + 20] = struct.pack(">3i", *(round(v * 65536) for v in (0.14919, 0.06322, 0.74457)))
    return bytes(profile)


@pytest.mark.parametrize("alpha", [False, True])
def test_a_wide_gamut_becomes_srgb_and_srgb_stays(tmp_path, rng, alpha):
    pixels = photo(rng, 24, 40)
    stored = np.dstack([pixels, np.full((24, 40), 255, np.uint8)]) if alpha else pixels
    wide, plain = wide_profile(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(stored).save(tmp_path / "wide.png", icc_profile=wide)
    Image.fromarray(stored).save(tmp_path / "plain.png", icc_profile=plain)
    Image.fromarray(stored).save(tmp_path / "damaged.png", icc_profile=wide[:200])
    profile = ImageCms.ImageCmsProfile(io.BytesIO(wide))
    expected = ImageCms.profileToProfile(Image.fromarray(pixels), profile, ImageCms.createProfile("sRGB"))
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() > 20
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "wide.png"), np.asarray(expected))
    assert not alpha or pictures.to_srgb(pictures.read(tmp_path / "wide.png", 1)).pixels.getextrema()[3] == (255, 255)
    np.testing.assert_array_equal(compare.view_of(tmp_path / "wide.png"), np.asarray(expected))
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "plain.png"), pixels)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "damaged.png"), pixels)


# ---------------------------------------------------------------------------------------------------------------------
# Size


def test_pillows_own_bound_stays(tmp_path, monkeypatch):
    """Nothing here switches it off for others; a file that our limit allows is read all the same."""
    assert Image.MAX_IMAGE_PIXELS
    Image.new("L", (40, 30)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert pictures.read_image(tmp_path / "x.png").shape == (30, 40, 1)
    with pytest.raises(UserError, match="40×30 pixels, more than --max-megapixels 0.001 "):
        opened(tmp_path / "x.png", 0.001)
