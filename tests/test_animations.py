"""Animations: frames, times, transparency."""

import struct

import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageSequence, PngImagePlugin

import utils
from images import animations

COUNT = 6


class Nearest:
    """Stands for an Upscaler: every pixel becomes 2×2."""

    scale, frames = 2, 1

    def upscale(self, image, out=None, alpha=True, progress=None):
        height, width, _ = image.shape
        large = image[slice(0, height), slice(0, width)].repeat(2, axis=0).repeat(2, axis=1)
        progress(height * width)
        if out is None:
            return large
        out[slice(0, 2 * height), slice(0, 2 * width)] = large
        return out


def upscale(function, source, target, *limit):
    done = []
    function(source, target, Nearest(), *limit, done.append)
    return sum(done)


@pytest.fixture
def frames(rng):
    """RGBA frames with a transparent corner that grows."""
    frames = []
    for i in range(COUNT):
        frame = np.dstack([photo(rng, 20, 24), np.full((20, 24), 255, np.uint8)])
        frame[: 3 + i, : 3 + i] = 0
        frames.append(Image.fromarray(frame))
    return frames


def save(path, frames, **options):
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animations_keep_frames_times_loops_and_transparency(tmp_path, frames, ending):
    times = [40, 80, 120, 40, 200, 60]
    lossless = {"lossless": True} if ending == "webp" else {}
    save(
        tmp_path / f"in.{ending}", frames, duration=times, loop=3, **({"disposal": 2} if ending == "gif" else lossless)
    )
    done = upscale(animations.upscale_animation, tmp_path / f"in.{ending}", tmp_path / f"out.{ending}", 200)
    assert done == COUNT * 20 * 24
    with Image.open(tmp_path / f"in.{ending}") as source, Image.open(tmp_path / f"out.{ending}") as result:
        assert result.n_frames == COUNT and result.size == (48, 40) and result.info["loop"] == source.info["loop"]
        pairs = zip(ImageSequence.Iterator(source), ImageSequence.Iterator(result), times, strict=True)
        for before, after, time in pairs:
            after.load()
            assert after.info["duration"] == time
            a = np.asarray(before.convert("RGBA")).repeat(2, axis=0).repeat(2, axis=1)
            b = np.asarray(after.convert("RGBA"))
            assert np.array_equal(a[..., 3], b[..., 3])
            assert np.abs(a[..., :3].astype(int) - b[..., :3])[a[..., 3] > 0].mean() < 8


def test_a_single_gif_and_opaque_ones(tmp_path, frames):
    frames[0].convert("RGB").save(tmp_path / "one.gif")
    upscale(animations.upscale_animation, tmp_path / "one.gif", tmp_path / "one_out.gif", 200)
    with Image.open(tmp_path / "one_out.gif") as result:
        assert result.n_frames == 1 and result.size == (48, 40) and "transparency" not in result.info


def test_a_damaged_animation_leaves_nothing(tmp_path, frames):
    save(tmp_path / "in.gif", frames, duration=50)
    content = (tmp_path / "in.gif").read_bytes()
    (tmp_path / "in.gif").write_bytes(content[: len(content) // 2])
    with pytest.raises(utils.UserError, match="cannot be read"):
        upscale(animations.upscale_animation, tmp_path / "in.gif", tmp_path / "out.gif", 200)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gif"]


def test_a_lossless_webp_stays_lossless(tmp_path, frames):
    """Every pixel that is seen; a lossy one stays lossy, of high quality."""
    for name, options in {"exact": {"lossless": True}, "lossy": {"quality": 80}}.items():
        save(tmp_path / f"{name}.webp", frames, duration=50, icc_profile=bytes(70_000), **options)
        upscale(animations.upscale_animation, tmp_path / f"{name}.webp", tmp_path / f"{name}_out.webp", 200)
        differences = []
        with Image.open(tmp_path / f"{name}.webp") as source, Image.open(tmp_path / f"{name}_out.webp") as result:
            for before, after in zip(ImageSequence.Iterator(source), ImageSequence.Iterator(result), strict=True):
                a, b = (np.asarray(image.convert("RGBA")) for image in (before, after))
                a = a.repeat(2, axis=0).repeat(2, axis=1)
                differences.append(np.abs(a.astype(int) - b)[a[..., 3] > 0].mean())
        assert max(differences) == 0 if name == "exact" else 0 < max(differences) < 4


@pytest.mark.parametrize("ending", ["png", "webp", "gif"])
def test_a_poster_is_no_frame(tmp_path, rng, ending):
    """What is shown where animations are not known stays that in a PNG, and is left out elsewhere."""
    poster, *frames = (Image.new("RGB", (24, 20), colour) for colour in ("red", "lime", "blue", "white"))
    save(tmp_path / "in.png", [poster, *frames], default_image=True, duration=[40, 80, 120])
    with Image.open(tmp_path / "in.png") as source:
        assert animations.frames_of(source, tmp_path / f"out.{ending}") == (4 if ending == "png" else 3)
    upscale(animations.upscale_animation, tmp_path / "in.png", tmp_path / f"out.{ending}", 200)
    with Image.open(tmp_path / f"out.{ending}") as result:
        seen = []
        for i in range(result.n_frames):
            result.seek(i)
            result.load()
            seen.append((result.convert("RGB").getpixel((9, 9)), result.info.get("duration")))
        result.seek(0)
        if ending == "png":
            assert result.info["default_image"] and seen.pop(0)[0] == (255, 0, 0)
    assert [time for _, time in seen] == [40, 80, 120]
    for (colour, _), expected in zip(seen, [(0, 255, 0), (0, 0, 255), (255, 255, 255)], strict=True):
        assert np.abs(np.subtract(colour, expected)).max() < 40


def test_what_stands_beside_an_animations_pixels_is_kept(tmp_path, frames):
    tags, text = Image.Exif(), PngImagePlugin.PngInfo()
    tags[271] = "a maker"
    text.add_text("Title", "a title")
    save(tmp_path / "a.gif", frames, comment=b"a comment", duration=50)
    save(tmp_path / "a.webp", frames, exif=tags, xmp=b"<x/>", duration=50)
    save(tmp_path / "a.png", frames, exif=tags, pnginfo=text, duration=50)
    results = {}
    for ending in ("gif", "webp", "png"):
        upscale(animations.upscale_animation, tmp_path / f"a.{ending}", tmp_path / f"b.{ending}", 200)
        with Image.open(tmp_path / f"b.{ending}") as image:
            results[ending] = image.info, image.getexif().get(271)
    assert results["gif"][0]["comment"] == b"a comment"
    assert results["webp"][0]["xmp"] == b"<x/>" and results["webp"][1] == results["png"][1] == "a maker"
    assert results["png"][0]["Title"] == "a title"


def test_a_gif_whose_canvas_grows_is_refused(tmp_path):
    """A small first frame and a large one in a few bytes: no memory is taken for the second."""
    Image.new("P", (8, 8)).save(tmp_path / "in.gif")
    second = b"," + struct.pack("<HHHHB", 0, 0, 12000, 12000, 0) + b"\x02\x02\x4c\x01\0;"
    (tmp_path / "in.gif").write_bytes((tmp_path / "in.gif").read_bytes().removesuffix(b";") + second)
    with pytest.raises(utils.UserError, match="is damaged: its frame 2 is larger than the animation"):
        upscale(animations.upscale_animation, tmp_path / "in.gif", tmp_path / "out.gif", 200)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gif"]
