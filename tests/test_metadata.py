"""What stands beside the pixels of an upscaled picture, and how well its pixels are stored."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageCms, PngImagePlugin
from test_animations import Nearest

from images import animations, made, pictures, sixteen_bits

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" dc:title="a title"/></x:xmpmeta>'


def upscaled(source, target, scale=2):
    """The remark about a picture that was read, fitted, enlarged by repeating pixels, and written."""
    name = pictures.format_of(target)
    picture, remark = pictures.fit(pictures.read(source, 200), name, scale)
    height, width, _ = picture.shape
    canvas = picture.canvas(scale)
    large = picture[slice(0, height), slice(0, width)].repeat(scale, axis=0).repeat(scale, axis=1)
    canvas[slice(0, scale * height), slice(0, scale * width)] = large
    pictures.write(target, canvas, name)
    return remark


def tags():
    found = Image.Exif()
    found[271] = "a maker"
    found.get_ifd(34665).update({36867: "2020:01:01 00:00:00", 40962: 40, 40963: 24})
    return found


@pytest.fixture
def pixels(rng):
    return photo(rng, 24, 40)


# ---------------------------------------------------------------------------------------------------------------------
# EXIF and XMP


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif"])
def test_exif_goes_into_every_format_with_the_new_size(tmp_path, pixels, source, ending):
    Image.fromarray(pixels).save(tmp_path / f"in.{source}", exif=tags().tobytes())
    upscaled(tmp_path / f"in.{source}", tmp_path / f"out.{ending}")
    with Image.open(tmp_path / f"out.{ending}") as image:
        exif = image.getexif()
        assert exif[271] == "a maker" and exif[pictures.PROCESSED_BY] == pictures.MARK
        assert exif.get_ifd(34665) == {36867: "2020:01:01 00:00:00", 40962: 80, 40963: 48}
    assert made.is_made(tmp_path / f"out.{ending}") and not made.is_made(tmp_path / f"in.{source}")


def test_exifs_own_width_and_height_in_the_first_table(tmp_path, pixels):
    exif = tags()
    exif[256], exif[257] = 40, 24
    Image.fromarray(pixels).save(tmp_path / "in.jpg", exif=exif)
    upscaled(tmp_path / "in.jpg", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.getexif()[256], image.getexif()[257]) == (80, 48)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_xmp_goes_into_every_format(tmp_path, pixels, ending):
    for source in ("jpg", "webp", "png"):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", (XMP % 1).decode())
        Image.fromarray(pixels).save(
            tmp_path / f"in.{source}", **({"pnginfo": text} if source == "png" else {"xmp": XMP % 1})
        )
        upscaled(tmp_path / f"in.{source}", tmp_path / f"out.{ending}")
        with Image.open(tmp_path / f"out.{ending}") as image:
            image.load()
            assert b"a title" in image.info["xmp"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("how", ["xmp", "raw profile"])
def test_a_png_is_turned_once(tmp_path, how, deep):
    """The mark may stand in XMP, or in EXIF as ImageMagick writes it; the pixels are turned, and it is gone."""
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[:12, :20] = 255  # top left, which is the top right after a quarter turn clockwise
    if how == "xmp":
        chunk = b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6
    else:
        exif = Image.Exif()
        exif[274], exif[271] = 6, "a maker"
        content = exif.tobytes()
        text = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
        chunk = b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)
    if deep:
        sixteen_bits.write_png(tmp_path / "in.png", stored.astype(np.uint16) * 257, {"chunks": [chunk]})
    else:
        text = PngImagePlugin.PngInfo()
        text.add(*chunk)
        Image.fromarray(stored).save(tmp_path / "in.png", pnginfo=text)
    upscaled(tmp_path / "in.png", tmp_path / "out.png")
    assert pictures.read(tmp_path / "out.png", 1).shape == (80, 48, 3)
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.size == (48, 80) and image.getexif().get(274, 1) == 1
        assert image.getpixel((30, 10)) == (255, 255, 255) and image.getpixel((10, 10)) == (0, 0, 0)
        assert b"a title" in image.info["xmp"] if how == "xmp" else image.getexif()[271] == "a maker"


@pytest.mark.parametrize("what", ["exif", "xmp", "comment"])
def test_what_a_jpeg_has_no_room_for_is_left_out_beforehand(tmp_path, pixels, what):
    exif = Image.Exif()
    exif[271] = "a maker"
    if what == "exif":
        exif.get_ifd(34665)[37500] = bytes(70_000)  # a maker's note
    if what == "comment":
        Image.fromarray(pixels).save(tmp_path / "in.png")
        picture = pictures.read(tmp_path / "in.png", 1)
        picture.kept["comment"] = bytes(70_000)
        fitted, remark = pictures.fit(picture, "jpg", 2)
        pictures.write(tmp_path / "out.jpg", fitted, "jpg")
    else:
        more = {"xmp": b"<x/>" * 20_000} if what == "xmp" else {}
        Image.fromarray(pixels).save(tmp_path / "in.webp", exif=exif, **more)
        remark = upscaled(tmp_path / "in.webp", tmp_path / "out.jpg")
    title = {"exif": "EXIF", "xmp": "XMP", "comment": "a comment"}[what]
    assert title in remark and "KB is left out" in remark
    assert made.is_made(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert what == "exif" or what not in image.info


def test_damaged_exif_is_no_reason_to_fail(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "in.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40))
    upscaled(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert made.is_made(tmp_path / "out.jpg")


# ---------------------------------------------------------------------------------------------------------------------
# Profiles


def ink_profile():
    """A CMYK profile by hand, in which every ink but black is yellow's opposite: any colour that Pillow would not give.

    A table of 2⁴ colours in L*a*b*: black ink makes dark, and without it all is a light blue.
    """
    grid = b"".join(bytes([20 if k else 200, 128, 128 if k else 80]) for _ in range(8) for k in (0, 1))
    curve = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + curve * 4 + grid + curve * 3
    table += bytes(-len(table) % 4)
    head = bytearray(128)
    head[8:12] = bytes([2, 0x40, 0, 0])
    head[12:24] = b"prtrCMYKLab "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    body = struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
    head[:4] = struct.pack(">I", 128 + len(body))
    return bytes(head) + body


def test_inks_become_colours_through_their_profile(tmp_path, rng):
    inks = rng.integers(0, 256, (24, 40, 4), dtype=np.uint8)
    inks[..., 3] = 0
    Image.frombytes("CMYK", (40, 24), inks.tobytes()).save(tmp_path / "in.tif", icc_profile=ink_profile())
    remark = upscaled(tmp_path / "in.tif", tmp_path / "out.png")
    assert "CMYK becomes RGB" in remark
    with Image.open(tmp_path / "out.png") as image:
        colours = np.asarray(image).reshape(-1, 3).astype(int)
        assert "icc_profile" not in image.info
    assert np.ptp(colours, axis=0).max() < 4 and colours[0, 2] > colours[0, 0] + 50, colours[0]
    np.testing.assert_array_equal(
        pictures.read_image(tmp_path / "in.tif").repeat(2, 0).repeat(2, 1).reshape(-1, 3), colours
    )


def test_a_gray_profile_does_not_stay_on_colours(tmp_path, pixels):
    """WebP has no gray: the picture becomes RGB, which a profile for gray does not describe."""
    gray = bytearray(SRGB)
    gray[16:20] = b"GRAY"
    Image.fromarray(pixels[..., 0]).save(tmp_path / "in.png", icc_profile=bytes(gray))
    upscaled(tmp_path / "in.png", tmp_path / "out.webp")
    upscaled(tmp_path / "in.png", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.webp") as colours, Image.open(tmp_path / "out.jpg") as still_gray:
        assert "icc_profile" not in colours.info and still_gray.info["icc_profile"] == bytes(gray)


# ---------------------------------------------------------------------------------------------------------------------
# Quality


def test_jpegs_and_webps_are_hardly_worse_than_the_pixels(tmp_path, pixels):
    """JPEG's tables are those of quality 95, colours are stored at full size; WebP is as near."""
    Image.fromarray(pixels).save(tmp_path / "in.png")
    for ending in ("jpg", "webp"):
        upscaled(tmp_path / "in.png", tmp_path / f"out.{ending}")
    large = Image.fromarray(pixels.repeat(2, axis=0).repeat(2, axis=1))
    large.save(tmp_path / "95.jpg", quality=95, subsampling=0)
    large.save(tmp_path / "95.webp", quality=95)
    with Image.open(tmp_path / "out.jpg") as ours, Image.open(tmp_path / "95.jpg") as known:
        assert ours.quantization == known.quantization and ours.layer == known.layer
    with Image.open(tmp_path / "out.webp") as ours, Image.open(tmp_path / "95.webp") as known:
        assert np.array_equal(np.asarray(ours), np.asarray(known))


@pytest.mark.parametrize("profile", [b"", bytes(70_000)])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_is_as_lossless_as_it_was(tmp_path, pixels, lossless, profile):
    Image.fromarray(pixels).save(tmp_path / "in.webp", lossless=lossless, icc_profile=profile)
    upscaled(tmp_path / "in.webp", tmp_path / "out.webp")
    with Image.open(tmp_path / "in.webp") as before, Image.open(tmp_path / "out.webp") as after:
        expected = np.asarray(before).repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(np.asarray(after), expected) == lossless


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "deep.png", "deep.tif", "gif"])
def test_no_file_is_open_while_it_takes_its_place(tmp_path, pixels, monkeypatch, ending):
    """Windows refuses to rename an open file."""
    replaced = []

    def replace(source, target, move=os.replace):
        links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert source not in [link.readlink() for link in links if link.is_symlink()]
        replaced.append(target)
        move(source, target)

    if ending == "gif":
        frames = [Image.fromarray(np.roll(pixels, i, axis=0)) for i in range(3)]
        frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    elif "deep" in ending:
        sixteen_bits.write_png(tmp_path / "in.png", pixels.astype(np.uint16) * 257, {})
    else:
        Image.fromarray(pixels).save(tmp_path / "in.png")
    monkeypatch.setattr(os, "replace", replace)
    target = tmp_path / f"out.{ending}"
    if ending == "gif":
        animations.upscale_animation(tmp_path / "in.gif", target, Nearest(), 1, lambda count: None)
    else:
        upscaled(tmp_path / "in.png", target)
    assert replaced == [target]
