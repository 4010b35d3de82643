"""The curves of runs: what is drawn of metrics.jsonl, and the picture."""

import json

import numpy as np
import pytest
from conftest import assert_refused

from config import make_config
from images import pictures
from runs import store
from training import curves


def line_of(step, **values):
    terms = {"mse_loss": 0.01, "mse_loss_grad": 1.0, "g_gan_loss": 1e-3, "g_gan_loss_grad": 0.1}
    return {"step": step, **terms, "d_real": 0.9, "d_fake": 0.2} | values


def test_curves_are_thinned_and_whole():
    lines = [line_of(step, d_real=step / 5000) for step in range(1, 5001)] + [line_of(5001, d_real=float("nan"))]
    points = curves.curve(lines, ("d_real", "val_psnr_y"))
    assert len(points) == curves.POINTS and points[0] == (1, 1 / 5000, "d_real")
    assert points[-1] == (5000, 1.0, "d_real") and [p[0] for p in points] == sorted(p[0] for p in points)
    losses = curves.curve(lines[:2] + [line_of(3, mse_loss=0.0)], None)
    assert [p[:2] for p in losses if p[2] == "mse_loss"] == [(1, -2.0), (2, -2.0)]  # 0 has no logarithm
    assert {p[2] for p in losses} == {"mse_loss", "g_gan_loss"}


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    for name, lines in (
        (
            "smooth",
            [
                {"step": 10, "mse_loss": 0.1, "mse_loss_grad": 1, "val_psnr_y": 27.0},
                {"step": 20, "mse_loss": 0.05, "colour_drift": 1},
            ],
        ),
        ("sharp", [line_of(10), line_of(20, val_psnr_y=26.0, val_bicubic=25.0)]),
        ("nothing", []),
    ):
        store.create(run := store.Run(tmp_path / name, "srresnet", "slides", make_config()), {})
        (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_a_picture_has_a_row_a_run(two_runs, call, tmp_path):
    result = call("-m", "training.curves", "smooth", "sharp", "-o", tmp_path / "out" / "curves.png")
    assert result.returncode == 0, result.stderr
    drawn = pictures.read_image(tmp_path / "out" / "curves.png")
    quarters = [part for half in np.array_split(drawn, 2) for part in np.array_split(half, 4, axis=1)]
    assert [part[:, 20:].min() == 255 for part in quarters] == [False, False, True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "there is no run called 'nosuch'"),
        (["nothing"], "has logged nothing yet"),
        (["smooth", "-o", "curves.jpg"], "--out must end in .png, not curves.jpg"),
    ],
)
def test_mistakes_are_one_sentence(two_runs, call, arguments, words):
    assert_refused(call("-m", "training.curves", *arguments), words)
