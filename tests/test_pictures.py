"""Every kind of picture file in and out again, what is kept beside the pixels, and what damaged files say."""

import io
import random
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, features
from test_animations import Nearest

import utils
from images import animations, pictures, sixteen_bits

LIMIT = 200  # megapixels
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
H, W = 13, 17


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (H, W, 4), dtype=np.uint8)


@pytest.fixture
def deep(rng):
    return rng.integers(0, 65536, (H, W, 4), dtype=np.uint16)


def whole(picture):
    """All pixels of a Picture as an array."""
    height, width, _ = picture.shape
    return picture[slice(0, height), slice(0, width)]


def exif():
    tags = Image.Exif()
    tags[271] = "a maker"
    tags.get_ifd(34665)[36867] = "2020:01:01 00:00:00"
    return tags


def through(path, name=None):
    """(Picture that was read, the one that is read again after it was written in its own size, remark)."""
    name = name or pictures.format_of(path)
    source = pictures.read(path, LIMIT)
    fitted, remark = pictures.fit(source, name, 1)
    canvas = fitted.canvas(1)
    for rows in (slice(0, 5), slice(5, H)):  # in boxes, as the network's tiles come
        for columns in (slice(0, 9), slice(9, W)):
            canvas[rows, columns] = fitted[rows, columns]
    target = path.with_name(f"out.{name}")
    pictures.write(target, canvas, name)
    return source, pictures.read(target, LIMIT), remark


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, (W, H), pixels.tobytes())
    image.save(path, **options)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "webp", "jp2", "tga"])
@pytest.mark.parametrize(("kind", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_eight_bits_come_back_as_they_were(tmp_path, pixels, ending, kind, channels):
    if kind not in pictures.FORMATS[pictures.format_of(f"x.{ending}")][1]:
        pytest.skip(f"{ending} has no {kind}")
    given = pixels[..., :channels].squeeze()
    save(tmp_path / f"in.{ending}", given, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    source, again, remark = through(tmp_path / f"in.{ending}")
    assert source.kind == again.kind == kind and again.dtype == np.uint8 and not remark
    assert np.array_equal(whole(source).squeeze(), given)
    seen = pixels[..., 3:] > 0 if ending == "webp" and channels == 4 else True  # WebP drops what cannot be seen
    assert np.array_equal(whole(again) * seen, whole(source) * seen)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("kind", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_sixteen_bits_come_back_as_they_were(tmp_path, deep, ending, kind, channels):
    path, given = tmp_path / f"in.{ending}", deep[..., :channels]
    if kind == "L":
        save(path, given[..., 0])
    elif ending == "png":
        sixteen_bits.write_png(path, given, {})
    elif kind == "LA":
        pytest.skip("nothing here writes such a file")
    else:
        sixteen_bits.write_tiff(path, given, {}, {})
    source, again, remark = through(path)
    assert source.kind == again.kind == kind and again.dtype == np.uint16 and not remark
    assert np.array_equal(whole(source), given) and np.array_equal(whole(again), given)


def test_our_png_is_what_others_read(tmp_path, deep):
    import cv2

    sixteen_bits.write_png(tmp_path / "x.png", deep, {})
    assert np.array_equal(cv2.imread(tmp_path / "x.png", cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]], deep)


def test_palettes_and_bits(tmp_path, pixels):
    palette = Image.fromarray(pixels[..., :3]).quantize(16)
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "t.png", transparency=3)
    source, again, _ = through(tmp_path / "p.png")
    assert again.kind == "RGB" and np.array_equal(whole(again), np.asarray(palette.convert("RGB")))
    source, again, _ = through(tmp_path / "t.png")
    assert again.kind == "RGBA" and np.array_equal(whole(again)[..., 3] == 0, np.asarray(palette) == 3)
    save(tmp_path / "bits.png", pixels[..., 0] > 100)
    source, again, _ = through(tmp_path / "bits.png")
    assert again.kind == "L" and np.array_equal(whole(again)[..., 0], (pixels[..., 0] > 100) * 255)
    colour = tuple(int(value) for value in pixels[2, 3, :3])
    save(tmp_path / "colour.png", pixels[..., :3], transparency=colour)
    source, again, _ = through(tmp_path / "colour.png")
    assert again.kind == "RGBA" and np.argwhere(whole(again)[..., 3] == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_inks_stay(tmp_path, pixels, ending):
    save(tmp_path / f"c.{ending}", pixels, "CMYK", quality=95, icc_profile=b"a press")
    source, again, remark = through(tmp_path / f"c.{ending}")
    assert source.kind == again.kind == "CMYK" and again.kept["icc_profile"] == b"a press" and not remark
    if ending == "tif":
        assert np.array_equal(255 - whole(source), pixels) and np.array_equal(whole(again), whole(source))


@pytest.mark.parametrize("name", ["png", "jpg", "webp", "tiff"])
def test_what_stands_beside_the_pixels_is_kept(tmp_path, pixels, name):
    options = {"exif": exif().tobytes(), "icc_profile": PROFILE, "dpi": (300, 300)}
    if name in ("jpg", "webp"):
        options["xmp"] = b"<x/>"
    if name == "png":
        from PIL import PngImagePlugin

        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Title", "a title")
        options["pnginfo"].add(b"gAMA", struct.pack(">I", 45455))
    path = tmp_path / f"in.{name}"
    save(path, pixels[..., :3], **options)
    source, _, _ = through(path)
    with Image.open(path) as before, Image.open(tmp_path / f"out.{name}") as after:
        assert after.getexif()[271] == "a maker"
        assert after.getexif().get_ifd(34665) == before.getexif().get_ifd(34665) != {}
        assert after.info["icc_profile"] == PROFILE
        kept = {"png": {"gamma", "Title"}, "jpg": {"xmp"}, "webp": {"xmp"}}.get(name, set())
        kept |= {"dpi"} if name != "webp" else set()  # WebP has no place for it
        assert kept <= set(before.info)
        for key in kept:
            assert after.info[key] == before.info[key], key


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_what_stands_beside_sixteen_bits_is_kept(tmp_path, deep, name):
    tags = {270: "a text", 306: "2026-01-01T10:00:00Z", 315: "J. Müller ©"}
    kept = {"icc_profile": PROFILE, "dpi": (300, 300), "tags": tags, "chunks": [(b"tEXt", b"Title\0x")]}
    kept |= {"exif": exif().tobytes()} if name == "png" else {}
    pictures.encode(tmp_path / f"in.{name}", pictures.Picture(deep[..., :3], "RGB", kept), name)
    _, again, _ = through(tmp_path / f"in.{name}")
    assert again.kept["icc_profile"] == PROFILE
    assert np.allclose(np.array(again.kept["dpi"], float), 300, atol=0.01)
    with Image.open(tmp_path / f"out.{name}") as after:
        if name == "png":
            assert after.getexif()[271] == "a maker" and after.info["Title"] == "x"
        else:
            assert after.getexif()[270] == "a text" and after.getexif()[315] == "J. Müller ©"


@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize("name", ["png", "deep.png", "jpg", "tiff"])
def test_pictures_are_turned_upright(tmp_path, mark, name):
    """A picture with a bright top left corner is stored turned by each mark; it is read upright, the mark is gone."""
    from PIL import ImageOps

    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:8, :16] = 255
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = Image.fromarray(upright)
    if mark > 1:
        image = stored.copy()
        image.getexif()[274] = undo[mark]
        stored = ImageOps.exif_transpose(image)
    tags = Image.Exif()
    tags[274], tags[271] = mark, "a maker"
    path = tmp_path / f"x.{name}"
    if name == "deep.png":
        sixteen_bits.write_png(path, np.asarray(stored).astype(np.uint16) * 257, {"exif": tags.tobytes()})
    else:
        stored.save(path, exif=tags)
    picture = pictures.read(path, LIMIT)
    assert picture.shape == (32, 48, 3)
    assert np.abs(whole(picture) / np.iinfo(picture.dtype).max - upright / 255).max() < 0.3
    pictures.write(tmp_path / "out.png", picture, "png")
    with Image.open(tmp_path / "out.png") as again:
        assert again.getexif().get(274, 1) == 1
        if name != "tiff":
            assert again.getexif()[271] == "a maker"


def test_what_a_format_cannot_hold_is_said(tmp_path, pixels, deep):
    pixels[:4, :, 3] = 0
    save(tmp_path / "a.png", pixels)
    _, again, remark = through(tmp_path / "a.png", "jpg")
    assert again.kind == "RGB" and "white" in remark
    assert np.abs(whole(through(tmp_path / "a.png", "bmp")[1])[:4].astype(int) - 255).max() == 0
    sixteen_bits.write_png(tmp_path / "d.png", deep[..., :3], {})
    _, again, remark = through(tmp_path / "d.png", "bmp")
    assert "8 of 16 bits" in remark and np.array_equal(whole(again), (deep[..., :3] + 128.0) // 257)
    save(tmp_path / "c.tif", pixels, "CMYK")
    _, again, remark = through(tmp_path / "c.tif", "png")
    assert again.kind == "RGB" and "CMYK becomes RGB" in remark
    save(tmp_path / "g.png", pixels[..., 0])
    source, again, remark = through(tmp_path / "g.png", "webp")
    assert again.kind == "RGB" and not remark
    with pytest.raises(utils.UserError, match="webp allows 16383"):
        pictures.fit(source, "webp", 1000)


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


def five_channels(path):
    import tifffile

    tifffile.imwrite(path, np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")


def bomb(path):
    """A PNG whose header says 50,000 × 50,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 50000, 50000)
    content[29:33] = struct.pack(">I", __import__("zlib").crc32(content[12:29]))
    path.write_bytes(content)


def cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def pages(path):
    first = Image.new("L", (4, 4))
    first.save(path, save_all=True, append_images=[first])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("empty.png", lambda path: path.write_bytes(b""), "no bytes"),
        ("text.png", lambda path: path.write_text("no picture"), "is not a picture"),
        ("cut.png", cut, "cannot be read"),
        ("cut.jpg", cut, "cannot be read"),
        ("cut.tif", cut, "cannot be read"),
        ("cut.bmp", cut, "cannot be read"),
        ("cut.webp", cut, "cannot be read"),
        ("bomb.png", bomb, "50000×50000 pixels, more than --max-megapixels 200"),
        ("five.tif", five_channels, "of a kind that cannot be read"),
        ("pages.tif", pages, "holds 2 pages"),
        ("float.tif", lambda path: Image.new("F", (4, 4), 2).save(path), "floating-point numbers from 2 to 2"),
        ("folder.png", lambda path: path.mkdir(), "cannot be read"),
        ("missing.png", lambda path: None, "No such file"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(utils.UserError, match=words) as refusal:
        pictures.read(tmp_path / name, LIMIT)
    assert "\n" not in str(refusal.value)


def seeds(folder, rng):
    """One small file of each kind, to be damaged."""
    array = rng.integers(0, 256, (24, 20, 4), dtype=np.uint8)
    for name, options in {
        "a.png": {},
        "a.jpg": {"exif": exif(), "icc_profile": PROFILE},
        "a.webp": {"exif": exif(), "lossless": True},
        "b.webp": {},
        "a.tif": {"compression": "tiff_lzw"},
        "b.tif": {},
        "a.bmp": {},
        "a.gif": {},
        "a.jp2": {},
        "a.tga": {"compression": "tga_rle"},
    }.items():
        Image.fromarray(array[..., : 4 if name == "a.png" else 3]).save(folder / name, **options)
    Image.fromarray(array[..., :3]).quantize(8).save(folder / "p.png", transparency=2)
    Image.frombytes("CMYK", (20, 24), array.tobytes()).save(folder / "c.jpg")
    sixteen_bits.write_png(folder / "deep.png", array.astype(np.uint16) * 257, {"icc_profile": PROFILE})
    sixteen_bits.write_tiff(folder / "deep.tif", array.astype(np.uint16) * 257, {}, {})
    for name, kind in {"f": "<f4", "big_f": ">f4", "i": "<i4", "big": ">u2", "big_rgb": ">u2"}.items():
        levels = array[..., :3] if name == "big_rgb" else array[..., 0]
        tifffile.imwrite(folder / f"{name}.tif", levels.astype(kind), byteorder=kind[0])
    frames = [Image.fromarray(np.roll(array[..., :3], i, axis=0)) for i in range(3)]
    for ending, options in {"gif": {"comment": b"x"}, "webp": {"exif": exif()}, "png": {"default_image": True}}.items():
        frames[0].save(folder / f"moving.{ending}", save_all=True, append_images=frames[1:], duration=50, **options)
    second = b"," + struct.pack("<HHHHB", 0, 0, 3000, 3000, 0) + b"\x02\x02\x4c\x01\0;"
    (folder / "growing.gif").write_bytes((folder / "moving.gif").read_bytes().removesuffix(b";") + second)
    if features.check("avif"):
        frames[0].save(folder / "a.avif")
    return sorted(folder.iterdir())


def damaged(content, chance):
    """`content` with some bytes changed, left out, doubled or cut off; chance: a random.Random."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place, length = chance.randrange(len(content)), chance.choice((1, 1, 1, 2, 4, 32))
        match chance.randrange(6):
            case 0 | 1:
                content[place] = chance.randrange(256)
            case 2:
                content[place : place + length] = chance.choice((b"\x00", b"\xff", b"\x7f")) * length
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length]
            case 5:
                del content[max(place, 1) :]
        content = content or bytearray(b"\0")
    return bytes(content)


def fuzz(folder, count, seed):
    """Read `count` damaged files: each becomes a file of some format, or gives a UserError. Returns both numbers."""
    chance = random.Random(seed)
    (folder / "seeds").mkdir()
    sources = [(path.name, path.read_bytes()) for path in seeds(folder / "seeds", np.random.default_rng(0))]
    good = bad = 0
    (folder / "out").mkdir()
    for _ in range(count):
        name, content = chance.choice(sources)
        path = folder / f"x{name[name.index('.') :]}"
        path.write_bytes(damaged(content, chance))
        target = folder / "out" / f"x.{chance.choice(('png', 'jpg', 'webp', 'tif'))}"
        try:
            with pictures.opened(path, 1) as image:
                moves = animations.frames_of(image, target) > 1
            if moves:
                animations.upscale_animation(path, target, Nearest(), 1, lambda count: None)
            else:
                pictures.read_image(path)
                name = pictures.format_of(target)
                picture, _ = pictures.fit(pictures.read(path, 1), name, 1)
                pictures.write(target, picture, name)
                pictures.read(target, 1)
            target.unlink()
            good += 1
        except utils.UserError as error:
            assert "\n" not in str(error)
            bad += 1
        assert not list((folder / "out").iterdir()), "a partial file was left"
    return good, bad


def test_damaged_files_are_read_or_refused(tmp_path):
    good, bad = fuzz(tmp_path, 400, seed=0)
    assert good > 20 and bad > 100


if __name__ == "__main__":  # python tests/test_pictures.py FILES
    import resource
    import sys
    import tempfile
    from pathlib import Path

    total = np.zeros(2, int)
    for seed in range(1, int(sys.argv[1]) // 500 + 1):
        with tempfile.TemporaryDirectory() as folder:
            total += fuzz(Path(folder), 500, seed)
    print(f"{total.sum()} damaged files: {total[0]} read, {total[1]} refused in a sentence, no other exception")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory")
