"""The doctor's measures against NumPy and planted pictures; its remarks on planted ailments, once each."""

import re

import numpy as np
import pytest

from config import DEFAULTS, make_config
from training import doctor

WELL = {
    "mse_loss": 0.01, "mse_loss_grad": 1e-3, "vgg_loss": 0.01, "vgg_loss_grad": 2e-3, "g_gan_loss": 0.003,
    "g_gan_loss_grad": 1e-3, "g_loss": 0.02, "d_loss": 1.0, "d_grad": 1.0, "d_real": 0.7, "d_fake": 0.3,
    "colour_drift": 0.5, "checkerboard": 0.2,
}  # fmt: skip


def remarks(mode="srgan", steps=60, **changes):
    """All that is said on so many logged steps; a change is a value or a function of the step."""
    examiner = doctor.Doctor(mode)
    said = []
    for step in range(steps):
        now = {name: value(step) if callable(value) else value for name, value in changes.items()}
        said += examiner.examine(WELL | now)
    return said


def test_the_healthy_are_left_in_peace():
    assert remarks() == []
    srresnet = {name: WELL[name] for name in ("mse_loss", "mse_loss_grad", "g_loss", "colour_drift", "checkerboard")}
    examiner = doctor.Doctor("srresnet")
    assert [examiner.examine(srresnet) for _ in range(60)] == [[]] * 60
    assert remarks(tv_loss=1e-5, tv_loss_grad=1e-12) == []  # is meant to be faint
    examiner = doctor.Doctor("srresnet")  # DRCN's terms are weak by turns
    drcn = srresnet | {"mse_loss_grad": 1e-9, "recursion_loss": 0.01, "recursion_loss_grad": 1e-3}
    assert [examiner.examine(drcn) for _ in range(60)] == [[]] * 60


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vgg_loss_grad": 0.0}, ["vgg_loss is dead", "VGG.layer"]),
        ({"g_gan_loss_grad": 1e-9}, ["g_gan_loss is dead", "TRAIN.loss"]),
        ({"d_real": 0.999, "d_fake": 0.001}, ["the discriminator has won", "TRAIN.d_rate"]),
        ({"d_real": 0.501, "d_fake": 0.5}, ["sees no difference", "TRAIN.d_rate"]),
        ({"colour_drift": 9.0}, ["colours drift", "9.0 grey levels", "TRAIN.learning_rate"]),
        ({"checkerboard": 2.0}, ["a grid appears", "2.0 grey levels", "TRAIN.ema"]),
    ],
)
def test_each_ailment_is_named_once_with_what_to_try(changes, words):
    said = remarks(**changes)
    assert len(said) == 1
    assert all(word in said[0] for word in words), said[0]


def test_a_grid_is_named_though_it_swings_from_batch_to_batch():
    assert len(remarks(checkerboard=lambda step: (0.4, 1.5)[step % 2])) == 1
    assert remarks(checkerboard=lambda step: (0.2, 1.1)[step % 2]) == []


def test_each_remark_names_a_setting_that_exists():
    """And a value that it takes, where one is named."""
    remarks = doctor.Doctor("srgan").known_ailments(WELL)
    assert len(remarks) == 2 + 3 + 2  # of the picture, the terms, the discriminator
    for cause, (_, sentence) in remarks.items():
        named = re.findall(r"\b([A-Z]+\.\w+)(?:=([\w.]*\w))?", sentence)
        assert named, cause
        for name, value in named:
            section, key = name.split(".")
            make_config("srgan", overrides=[f"{name}={value or DEFAULTS[section][key]}"])


def test_two_ailments_are_both_named():
    assert len(remarks(vgg_loss_grad=0.0, d_real=1.0, d_fake=0.0)) == 2


def test_what_passes_is_not_named():
    assert remarks(d_real=lambda step: 1.0 if step % 5 else 0.7, d_fake=0.0) == []
    # Colours of a fresh network are far off, and on their way.
    assert remarks(colour_drift=lambda step: 80 * 0.95**step, checkerboard=lambda step: 5 * 0.95**step) == []


def test_measures_against_numpy_and_planted_faults(rng):
    scale, h, w = 4, 6, 5
    real = rng.uniform(-0.5, 0.5, (3, h * scale, w * scale, 3)).astype(np.float32)
    lr = ((real + 1) / 2).reshape(3, h, scale, w, scale, 3).mean(axis=(2, 4))

    def measure(fake):
        values = doctor.strengths(doctor.measure(fake, real, lr, scale))
        return {name: float(value) for name, value in values.items()}

    assert measure(real) == pytest.approx({"colour_drift": 0, "checkerboard": 0}, abs=1e-3)
    shifted = measure(real + np.float32([0.1, 0, -0.2]))
    assert shifted == pytest.approx({"colour_drift": 0.2 * 127.5, "checkerboard": 0}, abs=1e-2)
    grid = np.zeros((scale, scale, 3), np.float32)
    grid[::2, ::2] = 0.1  # every second pixel of every second row
    gridded = measure(real + np.tile(grid, (h, w, 1)))
    assert gridded["checkerboard"] == pytest.approx(127.5 * grid.std(), rel=1e-3)
    noisy = measure(real + rng.normal(0, 0.1, real.shape).astype(np.float32))
    assert noisy["checkerboard"] < 3 * 12.75 / np.sqrt(3 * h * w)  # noise averages out
