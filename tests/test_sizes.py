"""Results of any size, options of formats, standard input, and what is printed for people and for programs."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import tifffile
from conftest import photo
from PIL import Image

import upscale
import utils
from cli import terminal
from images import pictures, sixteen_bits
from inference.tiles import Upscaler


@pytest.fixture
def command(tiny_run, monkeypatch, capsys):
    """command("a.png", …) → (exit status, standard output, standard error), with the tiny network, in this process."""

    def run_command(*arguments, standard_input=b""):
        monkeypatch.setattr(sys, "argv", ["upscale.py", "--weights", str(tiny_run), *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(standard_input)))
        with pytest.raises(SystemExit) as end:
            terminal.run_command(upscale.main)
        return end.value.code or 0, *capsys.readouterr()

    return run_command


@pytest.fixture
def picture(tmp_path, rng):
    """A file of 30×20 pixels."""
    Image.fromarray(photo(rng, 20, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize(
    ("arguments", "name", "size"),
    [
        (("--outscale", "2.5"), "a_x2.5.png", (75, 50)),
        (("--width", "100"), "a_100w.png", (100, 67)),
        (("--height", "70"), "a_70h.png", (105, 70)),
        (("--fit", "64x1000"), "a_64x1000.png", (64, 43)),
        (("--fit", "1000×61"), "a_1000x61.png", (92, 61)),
        (("--scale", "8"), "a_x8.png", (240, 160)),
        (("--scale", "16"), "a_x16.png", (480, 320)),
    ],
)
def test_any_size(command, picture, arguments, name, size):
    status, printed, errors = command(picture, *arguments)
    assert status == 0, errors
    assert size_of(picture.with_name(name)) == size
    assert f"(30×20 → {size[0]}×{size[1]}, {2 if size[0] > 120 else 1} tile" in printed


@pytest.mark.slow
def test_the_pixels_of_other_sizes(command, picture, tiny_run):
    """×2.5 is ×4 shrunk by MATLAB's bicubic; ×16 is ×4 of ×4."""
    upscaler = Upscaler(tiny_run)
    with Image.open(picture) as image:
        large = upscaler.upscale(np.asarray(image))
    command(picture, "--outscale", 2.5, "-o", picture.with_name("s.png"))
    with Image.open(picture.with_name("s.png")) as image:
        assert np.array_equal(np.asarray(image), utils.imresize(large, 2.5 / 4))
    command(picture, "--scale", 16, "-o", picture.with_name("l.png"))
    with Image.open(picture.with_name("l.png")) as image:
        assert np.array_equal(np.asarray(image), upscaler.upscale(large))


def test_resizing_to_a_size(rng):
    image = rng.integers(0, 256, (20, 32, 3), np.uint8)
    assert np.array_equal(utils.imresize_to(image, 10, 16), utils.imresize(image, 0.5))
    assert utils.imresize_to(image, 7, 50).shape == (7, 50, 3)
    flat = np.full((9, 9, 1), 77, np.uint16)
    assert (utils.imresize_to(flat, 5, 23) == 77).all()


def test_sizes_that_are_none(command, picture, tmp_path):
    for arguments, words in {
        ("--width", "30"): "is 30×20 and would become 30×20: factors above 1 and up to 16",
        ("--fit", "10000x10000"): "would become 10000×6667",
        ("--height", "10"): "would become 15×10",
    }.items():
        status, _, errors = command(picture, *arguments)
        assert status == 1 and words in errors
    for arguments, words in {
        ("--fit", "100"): "as 1920x1080, not '100'",
        ("--fit", "0x5"): "as 1920x1080",
        ("--outscale", "17"): "a factor from 1 to 16",
        ("--outscale", "2", "--width", "5"): "not allowed with",
        ("--quality", "0"): "from 1 to 100",
        ("--compression", "10"): "from 0 to 9",
    }.items():
        status, _, errors = command(picture, *arguments)
        assert status == 2 and words in errors
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    status, _, errors = command(tmp_path / "x.gif", "--outscale", "2.5")
    assert status == 1 and "is an animation: it takes the factors that there are weights for" in errors


@pytest.mark.slow
def test_quality_and_compression(command, tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / "a.png")
    for ending in ("jpg", "webp", "avif"):
        sizes = []
        for quality in (20, 90):
            out = tmp_path / f"{quality}.{ending}"
            assert command(tmp_path / "a.png", "-o", out, "--quality", quality)[0] == 0
            sizes.append(out.stat().st_size)
        assert sizes[1] > 1.5 * sizes[0]
    pixels, sizes = [], []
    for level in (0, 9):
        assert command(tmp_path / "a.png", "-o", tmp_path / "o.png", "--compression", level, "--overwrite")[0] == 0
        sizes.append((tmp_path / "o.png").stat().st_size)
        pixels.append(pictures.read_image(tmp_path / "o.png"))
    assert sizes[0] > sizes[1] and np.array_equal(*pixels)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["avif", "jp2", "tga", "jfif"])
def test_further_formats(command, tmp_path, picture, tiny_run, ending):
    image = Image.open(picture)
    exif = Image.Exif()
    exif[271] = "a maker"
    image.save(tmp_path / f"b.{ending}", **({"exif": exif} if ending in ("avif", "jfif") else {}))
    status, printed, errors = command(tmp_path / f"b.{ending}")
    assert status == 0, errors
    with Image.open(tmp_path / f"b_x4.{ending}") as result:
        assert result.size == (120, 80)
        if ending in ("avif", "jfif"):
            assert result.getexif()[271] == "a maker"
    status, printed, _ = command(tmp_path, "-o", tmp_path / "out")
    assert status == 0 and printed.count("left out") == 1 and f"b_x4.{ending}, it was made here" in printed


def test_what_formats_without_metadata_lose_is_said(command, tmp_path, rng):
    exif = Image.Exif()
    exif[271] = "a maker"
    Image.fromarray(photo(rng, 9, 9)).save(tmp_path / "a.png", exif=exif)
    _, printed, _ = command(tmp_path / "a.png", "--format", "jp2")
    assert "what stands beside the pixels is left out: jp2 cannot hold more" in printed


def test_a_phones_second_picture(command, tmp_path, rng):
    images = [Image.fromarray(photo(rng, 20, 30)) for _ in range(2)]
    for name in ("a.mpo", "b.jpg"):
        images[0].save(tmp_path / name, format="MPO", save_all=True, append_images=images[1:])
    status, printed, _ = command(tmp_path)
    assert status == 0 and printed.count("1 further picture in the file is left out") == 2
    first = pictures.read_image(tmp_path / "a.mpo").astype(int)
    assert np.abs(first - np.asarray(images[0])).mean() < np.abs(first - np.asarray(images[1])).mean() / 2
    for name in ("a_x4.jpg", "b_x4.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "JPEG" and image.size == (120, 80)


def test_heic(command, tmp_path, rng, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, which is optional")
    image = photo(rng, 40, 64)
    heif.from_pillow(Image.fromarray(image)).save(tmp_path / "a.heic", quality=90)
    assert command(tmp_path / "a.heic")[0] == 0
    read = pictures.read_image(tmp_path / "a.heic").astype(int)
    assert np.abs(read - image).mean() < 6 and size_of(tmp_path / "a_x4.jpg") == (256, 160)


def test_heic_without_its_library_is_a_hint(command, tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    status, _, errors = command(tmp_path / "a.heic")
    assert status == 1 and "needs pillow-heif: pip install pillow-heif" in errors


@pytest.mark.slow
def test_all_pages_of_a_tiff(command, tmp_path, rng, tiny_run):
    exif = Image.Exif()
    exif[271] = "a maker"
    exif.get_ifd(34665)[36867] = "2020:01:01 00:00:00"
    pages = [photo(rng, 20, 30), photo(rng, 9, 12)[..., 0], photo(rng, 11, 8)[..., 0].astype(np.uint16) * 257]
    first, *others = map(Image.fromarray, pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, exif=exif)
    status, printed, errors = command(tmp_path / "a.tif")
    assert status == 0, errors
    upscaler = Upscaler(tiny_run)
    with Image.open(tmp_path / "a_x4.tif") as image:
        assert image.n_frames == 3 and image.getexif()[271] == "a maker"
        for i, page in enumerate(pages):
            image.seek(i)
            assert np.array_equal(np.asarray(image), upscaler.upscale(page))
    status, _, errors = command(tmp_path / "a.tif", "--format", "png")
    assert status == 1 and "holds 3 pages, which a_x4.png cannot: take .tif" in errors
    assert not list(tmp_path.glob(".tmp*"))
    with pytest.raises(utils.UserError, match="holds 3 pages: save them as files of their own"):
        pictures.read(tmp_path / "a.tif", 1)  # for training


@pytest.mark.slow
def test_floating_point_numbers(command, tmp_path):
    ramp = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.array_equal(
        np.asarray(pictures.read(tmp_path / "a.tif", 1).pixels), utils.round_to(ramp * np.float64(65535), np.uint16)
    )
    _, printed, _ = command(tmp_path / "a.tif")
    assert "floating-point numbers become 16 bits" in printed
    for wrong, words in (
        (ramp - 0.1, "from -0.1 to 0.9"),
        (ramp * 2, "from 0 to 2"),
        (ramp * np.nan, "from nan to nan"),
    ):
        Image.fromarray(wrong).save(tmp_path / "b.tif")
        status, _, errors = command(tmp_path / "b.tif")
        assert status == 1 and f"has floating-point numbers {words}: those from 0" in errors


def test_deep_pictures_that_are_refused(command, tmp_path, rng):
    """16-bit gray with alpha is taken as PNG and not as TIFF; further floating-point numbers, and OpenEXR, never."""
    gray = rng.integers(0, 65536, (8, 9, 2), dtype=np.uint16)
    sixteen_bits.write_png(tmp_path / "a.png", gray, {})
    assert command(tmp_path / "a.png")[0] == 0
    made = pictures.read(tmp_path / "a_x4.png", 1)
    assert (made.kind, made.dtype, made.shape) == ("LA", np.uint16, (32, 36, 2))
    tifffile.imwrite(tmp_path / "a.tif", gray, photometric="minisblack", extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "b.tif", rng.random((8, 9, 3), np.float32), photometric="rgb")
    (tmp_path / "c.exr").write_bytes(b"\x76\x2f\x31\x01" + bytes(64))
    for name, words in {"a.tif": "is a TIFF that", "b.tif": "is a TIFF that", "c.exr": "is an OpenEXR file"}.items():
        status, _, errors = command(tmp_path / name, "-o", tmp_path / "o.png")
        assert status == 1 and f"{name}: {words}" in errors


@pytest.mark.parametrize(
    ("pixels", "remark"), [("rgb48le", "8 of its 16 bits are read"), ("rgb24", "")], ids=["16 bits", "8 bits"]
)
def test_bits_of_jpeg_2000_that_are_not_read_are_told(tmp_path, rng, pixels, remark):
    with av.open(str(tmp_path / "a.jp2"), "w", format="image2") as file:
        stream = file.add_stream("jpeg2000", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 72, pixels
        frame = av.VideoFrame.from_ndarray(photo(rng, 72, 96), format="rgb24").reformat(format=pixels)
        file.mux([*stream.encode(frame), *stream.encode()])
    assert pictures.fit(pictures.read(tmp_path / "a.jp2", 1), "png")[1] == remark


def test_bits_of_avif_that_are_not_read_are_told(tmp_path, rng):
    """golden/ten_bits.avif was written by SVT-AV1 4.1: one gray of 96×72 pixels."""
    deep = pictures.read(Path(__file__).parent / "golden" / "ten_bits.avif", 1)
    assert pictures.fit(deep, "png")[1] == "8 of its 10 bits are read" and deep.shape == (72, 96, 3)
    Image.fromarray(photo(rng, 72, 96)).save(tmp_path / "a.avif")
    assert pictures.fit(pictures.read(tmp_path / "a.avif", 1), "png")[1] == ""


def test_pictures_that_are_not_taken_are_named(command, picture, tmp_path):
    for name in ("b.psd", "c.svg", "d.CR2", "e.exr", "notes.txt"):
        (tmp_path / name).write_text("x")
    status, printed, errors = command(tmp_path, "-o", tmp_path / "out")
    assert status == 1 and errors.count("is of a kind that is not read") == 4 and "notes" not in errors
    assert (tmp_path / "out" / "a.png").is_file()
    _, _, errors = command(tmp_path / "**", "-o", tmp_path / "out")  # finds each by itself and in its folder
    assert errors.count("is of a kind that is not read") == 4 and "4 of the inputs" in errors


@pytest.mark.slow
def test_standard_input(command, picture, tmp_path):
    names = f"{picture}\n\n{tmp_path / 'nothing.png'}\n"
    status, printed, errors = command("-", "-o", tmp_path / "out", standard_input=names.encode())
    assert status == 1 and "nothing.png: there is no such file" in errors and (tmp_path / "out" / "a.png").is_file()
    status, _, _ = command("-", "-o", tmp_path / "b.png", standard_input=picture.read_bytes())
    assert status == 0 and size_of(tmp_path / "b.png") == (120, 80)
    status, _, errors = command("-", standard_input=picture.read_bytes())
    assert status == 2 and "needs a file to be written to: -o FILE" in errors
    assert command("-", standard_input=b"")[0] == 2
    Image.open(picture).save(tga := io.BytesIO(), format="tga")  # known by its name alone
    status, _, errors = command("-", "-o", tmp_path / "c.png", standard_input=tga.getvalue())
    assert status == 2 and errors.splitlines()[-1].endswith("nor a picture that is known without its name")


@pytest.mark.slow
def test_what_is_printed(command, picture, tmp_path):
    shutil.copy(picture, tmp_path / "b.png")
    (tmp_path / "c.png").write_text("x")
    status, printed, errors = command(tmp_path, "--dry-run")
    assert status == 1 and printed.count("would make: ") == 2 and "nothing was made" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]
    status, printed, errors = command(tmp_path, "--json", "-o", tmp_path / "out")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert status == 1 and [line["status"] for line in lines] == ["failed", "done", "done"]
    assert lines[1]["source"] == str(picture) and lines[1]["target"] == str(tmp_path / "out" / "a.png")
    assert lines[1]["seconds"] > 0 and lines[1]["remark"] == ""
    status, printed, errors = command(picture, "--quiet", "--overwrite")
    assert (status, printed, errors) == (0, "", "")
    _, printed, _ = command(picture, "--json")
    assert json.loads(printed)["status"] == "finished before"


@pytest.mark.slow
def test_colours_are_kept(tiny_run, rng):
    """The means of large areas are LR's, tiles make no seams, and textures stay."""
    lr = photo(rng, 90, 70)
    plain, fixed = (Upscaler(tiny_run, colour_fix=fix) for fix in (False, True))

    def drift(sr):
        return np.abs(sr.reshape(90, 4, 70, 4, 3).mean(axis=(1, 3)) - lr)[8:-8, 8:-8].reshape(-1, 3).mean()

    before, after = plain.upscale(lr), fixed.upscale(lr)
    assert drift(after) < 0.6 * drift(before)
    fixed.tile = 24
    assert np.abs(fixed.upscale(lr).astype(int) - after).max() <= 1
    edges = [np.abs(np.diff(sr.astype(int), axis=1)).mean() for sr in (before, after)]
    assert edges[1] > 0.8 * edges[0]
    for shape in ((30, 20), (30, 20, 2), (30, 20, 4)):
        lr = rng.integers(0, 65536, shape).astype(np.uint16)
        assert fixed.upscale(lr).shape == (120, 80, *shape[2:])
