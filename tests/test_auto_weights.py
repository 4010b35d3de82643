"""upscale.py on pictures that were JPEGs: what it says, and which weights it takes."""

import json
import sys

import numpy as np
import pytest
from conftest import make_run, photo
from PIL import Image

import upscale
from cli import terminal
from images import degradation, pictures
from inference.tiles import Upscaler
from runs import store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of two tiny runs, one of them for photographs as they are."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "srresnet_x4", "srresnet", seed=1)
    make_run(folder / "srresnet_x4_photo", "srresnet", "DATA.degradation=photo", seed=2)
    return folder


@pytest.fixture
def command(runs, monkeypatch, capsys):
    """command("a.png", …) → (exit status, [dict of a line of --json], standard error), in this process."""
    monkeypatch.setenv("SRGAN_RUNS", str(runs))
    monkeypatch.setattr(store, "PROJECT", runs)

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["upscale.py", "--json", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            terminal.run_command(upscale.main)
        printed, errors = capsys.readouterr()
        return end.value.code or 0, [json.loads(line) for line in printed.splitlines()], errors

    return run_command


@pytest.fixture
def folder(tmp_path, rng):
    """A clean picture, and a PNG that was a JPEG, with alpha."""
    clean = photo(rng, 64, 72)
    Image.fromarray(clean).save(tmp_path / "clean.png")
    blocky = degradation.jpeg(clean, 40)
    Image.fromarray(np.dstack([blocky, np.full((64, 72), 255, np.uint8)])).save(tmp_path / "was_jpeg.png")
    return tmp_path


@pytest.mark.slow
def test_a_compressed_picture_is_told(command, folder):
    status, (clean, blocky), errors = command(folder, "-o", folder / "out")
    assert status == 0, errors
    assert clean["remark"] == "" and "the weights srresnet_x4_photo suit it better" in blocky["remark"]
    _, (one, other), _ = command(folder, "-o", folder / "fine", "--weights", "srresnet_x4_photo")
    assert one["remark"] == other["remark"] == ""


@pytest.mark.slow
def test_auto_takes_the_weights_that_suit(command, folder):
    status, lines, errors = command(folder, "-o", folder / "out", "--weights", "auto")
    assert status == 0 and {line["remark"] for line in lines} == {""}, errors
    for name, weights in (("clean", "srresnet_x4"), ("was_jpeg", "srresnet_x4_photo")):
        made, source = (pictures.read(folder / place / f"{name}.png", 1).pixels for place in ("out", "."))
        assert np.array_equal(np.asarray(made), Upscaler(weights).upscale(np.asarray(source)))
    status, lines, _ = command(folder, "-o", folder / "none", "--weights", "auto", "--dry-run")
    assert status == 0 and [line["status"] for line in lines] == ["would be made"] * 2


def test_what_auto_cannot(command, folder):
    assert "leave out --weights auto" in command(folder, "--weights", "auto", "--blend", "0.5")[2]
    (folder / "was_jpeg.png").write_bytes((folder / "was_jpeg.png").read_bytes()[:500])
    status, lines, errors = command(folder, "-o", folder / "out", "--weights", "auto")
    assert status == 1 and "was_jpeg.png: cannot be read" in errors
    assert [line["status"] for line in lines] == ["failed", "done"]
