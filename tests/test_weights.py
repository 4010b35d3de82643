"""The weights that come with the project: whole, found, and worth having."""

import hashlib

import numpy as np
import pytest
from conftest import PROJECT

import data
import metrics
import runs
import utils
from config import make_config

SHIPPED = {"srresnet_x4": "4346545a1348903272595e30b03b4c3a6b57c50fac755c17363dadd77bd0092d"}
GOLDEN = PROJECT / "tests" / "golden"


def test_what_is_shipped_is_listed():
    assert {path.parent.name for path in (PROJECT / "checkpoint").glob("*_x4/" + runs.WEIGHTS)} == set(SHIPPED)
    card = (PROJECT / "checkpoint" / "MODEL_CARD.md").read_text()
    assert all(name in card and sha256 in card for name, sha256 in SHIPPED.items())


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request):
    """(name, generator) of each."""
    return request.param, runs.load_generator(request.param)[0]


def pairs():
    """(LR, HR) of photographs that were not trained on, a part of each."""
    for path in data.package_files(data.SAMPLE_TEST):
        hr = utils.mod_crop(utils.read_image(path)[100:260, 100:260], 4)
        yield utils.imresize(hr, 1 / 4), hr


def test_bytes_and_scores(shipped):
    """Their bytes are the committed ones, and scores.json is of them."""
    weights, _ = runs.find_runs()[shipped[0]]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == SHIPPED[shipped[0]]
    scores = runs.read_scores(weights)
    assert set(scores) == {f"{name} ×4" for name in data.TEST_SETS}
    assert all(values["psnr_y"] > 26 for values in scores.values())


def test_golden_output(shipped):
    """SR of a small image is the committed one, but for a level here and there that another processor may round."""
    name, generator = shipped
    lr, _ = next(pairs())
    sr = utils.m11_to_u8(generator(utils.u8_to_01(lr)[None], training=False)[0])
    departure = np.abs(sr.astype(int) - utils.read_image(GOLDEN / f"{name}.png"))
    assert departure.max() <= 1 and np.mean(departure > 0) < 0.01


def test_the_srresnet_is_better_than_bicubic():
    generator = runs.load_generator("srresnet_x4")[0]
    gains = []
    for lr, hr in pairs():
        sr = utils.m11_to_u8(generator(utils.u8_to_01(lr)[None], training=False)[0])
        gains.append(metrics.psnr_y(sr, hr, 4) - metrics.psnr_y(utils.imresize(lr, 4), hr, 4))
    assert np.mean(gains) > 1, gains


def test_a_gan_starts_from_the_shipped_srresnet():
    """That of `train.py --mode=srgan`, without --init; another architecture does not."""
    path, why = runs.find_init(make_config("srgan").MODEL, "any data", 5000)
    assert path.parent == PROJECT / "checkpoint" / "srresnet_x4" and "come with the project" in why
    other = runs.find_init(make_config("srgan", "paper").MODEL, "any data", 5000)[0]
    assert other is None or other.parent.parent != PROJECT / "checkpoint"


def test_shipped_configurations_tell_no_paths():
    for path in (PROJECT / "checkpoint").glob("*_x4/*.json*"):
        assert "/home" not in path.read_text() and "/root" not in path.read_text() and '"/' not in path.read_text()
