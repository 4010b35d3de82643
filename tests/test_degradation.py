"""Photographs as they are: the drawn LR in numbers, in the batches, and in a training that is resumed."""

import io
import json
import shutil

import numpy as np
import pytest
from conftest import TINY, photo, read_photographs
from PIL import Image
from test_train import assert_same_run

import data
import utils
from images import degradation


@pytest.fixture
def always(monkeypatch):
    """always(SOME=…, …): the module's constants for a test; no LR is clean, and what is not given changes little."""

    def set_constants(**values):
        constants = {"CLEAN": 0.0, "SOME": 0.0, "NOISE": 4.0, "QUALITIES": (100, 100)} | values
        for name, value in constants.items():
            monkeypatch.setattr(degradation, name, value)

    return set_constants


def batches(photos, batch=6, crop=32, scale=4, degradation="photo", **how):
    return data.Batches(photos, range(len(photos)), batch, crop, scale, seed=5, degradation=degradation, **how)


def test_clean_lr_is_that_of_the_graph(folder, always):
    """To the bit, at the borders as well; crops and turns are those of DATA.degradation=bicubic."""
    always(CLEAN=1.0)
    for scale, detail in ((2, 0.0), (4, 0.5)):
        photos = read_photographs(folder)
        make, plain = (batches(photos, scale=scale, detail=detail, degradation=kind) for kind in ("photo", "bicubic"))
        for step in range(1, 6):
            crops, turns, lr = make(step)
            for ours, expected in zip((crops, turns), plain(step), strict=True):
                np.testing.assert_array_equal(ours, expected)
            for ours, expected in zip(
                data.degrade(crops, turns, scale, lr), data.degrade(crops, turns, scale), strict=True
            ):
                np.testing.assert_array_equal(ours, expected)


def test_a_batch_depends_on_seed_and_step_alone(folder):
    """Shares in order are the batch; another step and another object draw anew and draw the same."""
    make, again = batches(read_photographs(folder)), batches(read_photographs(folder, cache="none"))
    lr = make(7)[2]
    assert lr.shape == (6, 8, 8, 3) and lr.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([again(7, share=(i, 3))[2] for i in range(3)]), lr)
    assert not np.array_equal(make(8)[2], lr)
    assert [len(parts) for parts in make.stream(7, 8)] == [4, 4]


def test_a_quarter_is_clean(rng):
    hr = photo(rng, 64, 64)
    clean = utils.imresize(hr, 1 / 4)
    draws = [degradation.photo(np.random.default_rng(i), hr, 4) for i in range(400)]
    assert np.mean([np.array_equal(lr, clean) for lr in draws]) == pytest.approx(0.25, abs=0.06)
    assert np.mean([utils.unrounded_y(lr) - utils.unrounded_y(clean) for lr in draws]) == pytest.approx(0, abs=0.3)


def test_blur_and_noise_have_the_widths_that_they_say(rng, always):
    """A step edge spreads as a Gaussian does; noise on gray has the drawn deviation, gray or in colours."""
    always(SOME=1.0, NOISE=0.0, QUALITIES=(100, 100))
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 32:] = 255
    soft = [degradation.photo(np.random.default_rng(i), stripes, 4).astype(int) for i in range(100)]
    steps = [np.diff(lr[8, :, 1]).max() for lr in soft]
    sharp = np.diff(utils.imresize(stripes, 1 / 4)[8, :, 1].astype(int)).max()
    assert sharp * 0.6 < min(steps) < sharp * 0.9 and max(steps) <= sharp + 2

    always(SOME=1.0, BLUR=0.0, GRAY=0.5)
    flat = np.full((256, 256, 3), 128, np.uint8)
    noise = [degradation.photo(np.random.default_rng(i), flat, 4).astype(int) - 128 for i in range(60)]
    widths = [part.std() for part in noise]
    assert max(widths) == pytest.approx(4, abs=0.3) and np.mean(widths) == pytest.approx(2, abs=0.4)
    strong = [part for part in noise if part.std() > 1.5]
    colours = [(part - part.mean(axis=-1, keepdims=True)).std() > 0.2 * part.std() for part in strong]
    assert 0.25 < np.mean(colours) < 0.75


def test_jpeg_is_of_the_drawn_quality_and_keeps_gray(rng, always):
    """Pillow's own file of each quality, in half the resolution of colours; better quality is nearer."""
    image = photo(rng, 48, 40)
    for quality in (30, 75, 95):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
        np.testing.assert_array_equal(degradation.jpeg(image, quality), np.asarray(Image.open(file)))
    gray = image[..., :1]
    assert degradation.jpeg(gray, 90).shape == gray.shape

    errors = []
    for quality in (50, 75, 95):
        always(QUALITIES=(quality, quality))
        lr = degradation.photo(np.random.default_rng(0), image, 2)
        errors.append(np.mean((lr.astype(float) - utils.imresize(image, 1 / 2)) ** 2))
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0


def test_blocks_begin_at_any_place_of_a_crop(rng, always):
    """Where a column of strong steps stands in a flat slope of quality 1: at each phase of 8, and at 0 in a whole."""
    always(QUALITIES=(1, 1))
    slope = np.repeat(np.linspace(0, 255, 48 * 2).astype(np.uint8)[None, :, None], 96, axis=0).repeat(3, axis=2)

    def phase(lr, margin):
        steps = np.abs(np.diff(lr[..., 1].astype(int), axis=1)).sum(axis=0)
        return (np.argmax(steps) + 1) % 8

    margin = degradation.MARGIN
    wide = np.pad(slope, ((2 * margin, 2 * margin), (2 * margin, 2 * margin), (0, 0)), "reflect")
    assert phase(degradation.photo(np.random.default_rng(0), slope, 2), 0) == 0
    phases = {phase(degradation.photo(np.random.default_rng(i), wide, 2, margin), margin) for i in range(60)}
    assert phases == set(range(8))


def test_a_resumed_training_is_bit_for_bit(call, clone, rng):
    """Its validation has LR of the same kind."""
    for i in range(6):
        utils.write_image(clone / "photos" / f"{i}.png", photo(rng, 64, 72))
    settings = [*TINY, "--data=photos", "--steps=4", "--set=DATA.degradation=photo"]
    result = call("train.py", *settings, "--name=whole")
    assert result.returncode == 0, result.stderr
    whole, killed = (clone / "checkpoint" / name for name in ("whole", "killed"))
    shutil.copytree(whole, killed)  # what a kill after step 2 would have left
    (killed / "checkpoint-00000004.npz").unlink()
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(lines[:2]))
    result = call("train.py", "--resume=killed", "--data=photos")
    assert result.returncode == 0, result.stderr
    assert_same_run(whole, killed, 4)
    other = call("train.py", *settings, "--name=other", "--set=DATA.degradation=bicubic")
    assert other.returncode == 0, other.stderr
    bicubic = [json.loads(lines[1])["val_bicubic"]]
    bicubic += [
        json.loads((clone / "checkpoint" / "other" / "metrics.jsonl").read_text().splitlines()[1])["val_bicubic"]
    ]
    assert bicubic[0] < bicubic[1]
