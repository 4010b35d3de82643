"""The weights that come with the project: whole, found, and worth having."""

import hashlib

import numpy as np
import pytest
from conftest import PROJECT

import data
import metrics
import runs
import utils

SHIPPED = {"srresnet_x4": "dd65fa117ff3d43ca5a0826a6581b4f56d14120479e23caaf41bc39d43c286bf"}


def test_what_is_shipped_is_listed():
    assert {path.parent.name for path in (PROJECT / "checkpoint").glob("*_x4/" + runs.WEIGHTS)} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights(name):
    """Their bytes are the committed ones, they are found, and on photographs not trained on they beat bicubic."""
    weights, about = runs.find_runs()[name]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == SHIPPED[name]
    assert all(scores["psnr_y"] > 26 for scores in runs.read_scores(weights).values()) and runs.read_scores(weights)
    generator, about = runs.load_generator(name)
    gains = []
    for path in data.package_files(data.SAMPLE_TEST):
        hr = utils.mod_crop(utils.read_image(path)[100:260, 100:260], 4)
        lr = utils.imresize(hr, 1 / 4)
        sr = utils.m11_to_u8(generator(utils.u8_to_01(lr)[None], training=False)[0])
        gains.append(metrics.psnr_y(sr, hr, 4) - metrics.psnr_y(utils.imresize(lr, 4), hr, 4))
    assert np.mean(gains) > 0.5, gains


def test_shipped_configurations_tell_no_paths():
    for path in (PROJECT / "checkpoint").glob("*_x4/*.json*"):
        assert "/home" not in path.read_text() and "/root" not in path.read_text() and '"/' not in path.read_text()
