"""A large picture goes on where it was interrupted, in the same pixels, and leaves nothing behind."""

import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photo
from filelock import FileLock
from PIL import Image

import upscale
from cli import terminal
from images import pictures, unfinished
from inference.tiles import Upscaler


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of unfinished pictures, of which none is too small."""
    monkeypatch.setenv("SRGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unfinished, "LEAST", 1)
    return tmp_path / "cache" / "unfinished"


def left(folder):
    return [path.name for path in folder.glob("*") if path.suffix != ".lock"]


@pytest.fixture
def command(tiny_run, monkeypatch, capsys):
    """command(file) → (exit status, standard output): upscale.py in tiles of 24 pixels in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["upscale.py", "--weights", str(tiny_run), "--tile=24", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            terminal.run_command(upscale.main)
        return end.value.code or 0, capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RGB", "LA", "CMYK", "deep"])
def test_an_interrupted_picture_goes_on(command, folder, tiny_run, tmp_path, rng, monkeypatch, kind):
    pixels = np.dstack([photo(rng, 100, 70), photo(rng, 100, 70)[..., :1]])
    path = tmp_path / ("a.tif" if kind == "CMYK" else "a.png")
    image = {
        "RGB": lambda: Image.fromarray(pixels[..., :3]),
        "LA": lambda: Image.fromarray(pixels[..., 2:], "LA"),
        "CMYK": lambda: Image.frombytes("CMYK", (70, 100), pixels.tobytes()),
        "deep": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
    }[kind]()
    image.save(path)
    assert command(path, "-o", tmp_path / f"whole{path.suffix}")[0] == 0 and not left(folder)

    run, calls = Upscaler.run, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return run(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "run", interrupted)
        assert command(path)[0] == 130
    assert len(left(folder)) == 2 and not (tmp_path / f"a_x4{path.suffix}").exists()
    calls.clear()
    monkeypatch.setattr(Upscaler, "run", lambda self, *arguments: calls.append(1) or run(self, *arguments))
    status, printed = command(path)
    assert status == 0 and "goes on with row " in printed and not left(folder)
    upscaler = Upscaler(tiny_run, tile=24)
    assert len(calls) < upscaler.count(100, 70) * (2 if kind == "CMYK" else 1)
    ours, whole = (pictures.read(tmp_path / name, 1) for name in (f"a_x4{path.suffix}", f"whole{path.suffix}"))
    everything = (slice(0, 400), slice(0, 280))
    assert np.array_equal(ours[everything], whole[everything])


def test_rows_and_damage(folder):
    """Only what was reached counts, and only of a file of the right length."""
    part = np.full((4, 3, 2), 7, np.uint16)
    for reached, expected in ((None, 0), (4, 4)):
        with pytest.raises(KeyboardInterrupt), unfinished.canvas("facts", (8, 6, 2), np.uint16) as canvas:
            canvas[0:4, 0:3], canvas[0:4, 3:6] = part, part + 1
            if reached:
                canvas.reached(reached)
            raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt), unfinished.canvas("facts", (8, 6, 2), np.uint16) as canvas:
            assert canvas.start == expected
            [(rows, band)] = canvas.bands()
            assert rows == slice(0, 8) and np.array_equal(band[:4, 3:6], part + 1) and not band[4:].any()
            raise KeyboardInterrupt
    [path] = folder.glob("*.pixels")
    path.write_bytes(b"short")
    with unfinished.canvas("facts", (8, 6, 2), np.uint16) as canvas:
        assert canvas.start == 0
    assert not left(folder)
    with unfinished.canvas("other", (8, 6, 2), np.uint16) as canvas:
        assert canvas.start == 0


def test_where_there_is_no_place_memory_is_taken(folder, monkeypatch):
    with unfinished.canvas("a", (4, 4, 1), np.uint8) as first, unfinished.canvas("a", (4, 4, 1), np.uint8) as second:
        assert first is not None and second is None  # the same by two processes
    monkeypatch.setattr(unfinished, "LEAST", 100)
    with unfinished.canvas("a", (4, 4, 1), np.uint8) as canvas:
        assert canvas is None
    monkeypatch.setattr(unfinished, "LEAST", 1)
    monkeypatch.setattr(unfinished.shutil, "disk_usage", lambda folder: SimpleNamespace(free=9))
    with unfinished.canvas("a", (4, 4, 1), np.uint8) as canvas:
        assert canvas is None


def test_a_week_later_it_is_gone(folder):
    folder.mkdir(parents=True)
    for name, age in (("old.pixels", unfinished.WEEK + 60), ("old.rows", unfinished.WEEK + 60), ("new.pixels", 60)):
        (folder / name).write_text("1")
        os.utime(folder / name, (time.time() - age,) * 2)
    with unfinished.canvas("a", (4, 4, 1), np.uint8), FileLock(folder / "other.lock"):
        pass
    assert left(folder) == ["new.pixels"]


def test_what_need_not_stay_goes(folder):
    with pytest.raises(KeyboardInterrupt), unfinished.canvas("a", (4, 4, 1), np.uint8, keep=False) as canvas:
        canvas.reached(2)
        raise KeyboardInterrupt
    assert not left(folder)
