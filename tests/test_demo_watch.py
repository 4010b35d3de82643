"""The page that watches a run: what it says of it, and that it follows."""

import importlib.util
import json

import numpy as np
import pytest
from conftest import open_page, requested
from test_demo import Server, find, sizes, text_of, wait_until

import utils
from config import make_config
from runs import store
from web import serving, watching

needs_packages = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, serving.GRADIO)), reason=f"needs {', '.join(serving.GRADIO)}"
)


def line_of(step, **values):
    terms = {"mse_loss": 0.01, "mse_loss_grad": 1.0, "g_gan_loss": 1e-3, "g_gan_loss_grad": 0.1}
    return {"step": step, **terms, "d_real": 0.9, "d_fake": 0.2, "seconds_per_step": 2.0} | values


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run at step 30 of 100 with two sample grids, of which the doctor has said something."""
    monkeypatch.setattr(store, "PROJECT", tmp_path)
    config = make_config("srgan", overrides=["TRAIN.steps=100"])
    store.create(run := store.Run(tmp_path / "checkpoint" / "mine", "srgan", "slides", config), {})
    lines = [line_of(10, val_psnr_y=27.0, val_bicubic=28.0), line_of(20), line_of(30, val_psnr_y=27.5)]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.directory / "log.txt").write_text(
        "2026-01-01 00:00:00  step 20: the doctor says: a grid <b>appears</b>\nmore\n"
    )
    for step in (9, 20):
        utils.write_image(run.samples / f"step_{step:07d}.png", np.full((8, 4 * step, 3), step, np.uint8))
    return run


def test_state_in_words(run):
    lines = [line_of(10), line_of(40)]
    assert watching.state(run, [], 0).startswith("nothing is logged yet")
    assert watching.state(run, lines, 1) == (
        "srgan, step 40 of 100, 2.00 s a step, 0 h 02 min to go if it goes on like that"
    )
    stopped = watching.state(run, lines, 1200)
    assert stopped.endswith("nothing new for 20 minutes: stopped? `python train.py --resume mine` goes on")
    assert watching.state(run, [{"step": 40}], 1) == "srgan, step 40 of 100"
    assert watching.state(run, [line_of(100)], 9999) == "srgan, step 100 of 100: finished"


def test_a_run_that_is_resumed_for_longer_is_not_finished(run):
    about = json.loads((run.directory / "config.json").read_text())
    about["config"]["TRAIN"]["steps"] = 250
    (run.directory / "config.json").write_text(json.dumps(about))
    assert watching.state(run, [{"step": 100}], 1) == "srgan, step 100 of 250"


def test_grids_and_remarks(run):
    assert [(step, path.name) for step, path in watching.grids(run).items()] == [
        ("20", "step_0000020.png"),
        ("9", "step_0000009.png"),
    ]
    assert watching.remarks(run) == "2026-01-01 00:00:00  step 20: the doctor says: a grid <b>appears</b>"
    (run.directory / "log.txt").unlink()
    assert watching.remarks(run) == "nothing so far"


@needs_packages
def test_the_page_follows_the_run(clone, run, browser, tmp_path):
    served = Server(tmp_path / "checkpoint", tmp_path, "--run", "mine", project=clone)
    samples = clone / "samples" / "mine"
    utils.write_image(samples / "step_0000020.png", np.zeros((8, 80, 3), np.uint8))

    try:
        open_page(browser, served.address)
        wait_until(lambda: text_of(browser, "state").startswith("srgan, step 30 of 100, 2.00 s a step"))
        assert "a grid <b>appears</b>" in text_of(browser, "doctor")
        wait_until(lambda: len(find(browser, "canvas, svg.marks")) == 3)  # nothing is known of colours
        assert wait_until(lambda: sizes(browser, "#samples img")) == [[80, 8]]

        with open(run.directory / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line_of(40, colour_drift=2.0, checkerboard=0.1)) + "\n")
        with open(run.directory / "log.txt", "a") as file:
            file.write("step 40: the doctor says: mind the colours\n")
        utils.write_image(samples / "step_0000040.png", np.zeros((8, 160, 3), np.uint8))
        wait_until(lambda: text_of(browser, "state").startswith("srgan, step 40 of 100"))
        wait_until(lambda: len(find(browser, "canvas, svg.marks")) == 4)
        wait_until(lambda: sizes(browser, "#samples img") == [[160, 8]])
        assert "mind the colours" in text_of(browser, "doctor")
        hosts = {address.split("/")[2] for address in requested(browser) if address.startswith("http")}
        assert hosts == {served.address.removeprefix("http://")}
    finally:
        printed = served.stop()
    assert printed == "stopped; the run goes on\n" and not list(served.temporary.iterdir())
