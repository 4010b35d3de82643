"""The study of upsamplers: its page and pictures from four tiny runs."""

import json

import numpy as np
import pytest
from conftest import PROJECT

import utils
from config import make_config
from images import pictures
from papers import rows, runner, subpixel
from training import state


def test_arms_differ_in_the_upsampler_alone():
    configs = [subpixel.config_of(row) for row in subpixel.ARMS]
    ways = [(config.pop("upsampler"), config.pop("upsampler_init")) for config in configs]
    assert ways == [("subpixel", "icnr"), ("subpixel", "random"), ("resize", "icnr"), ("deconv", "icnr")]
    assert all(config == configs[0] for config in configs)


@pytest.mark.slow
def test_first_outputs_show_the_grid():
    """Of LR that is the same in all rows, inside: only with ICNR and resizing are all rows of SR the same too."""
    rng = np.random.default_rng(0)
    lr = rng.integers(0, 256, (1, 24, 3), np.uint8).repeat(24, axis=0)
    rows = [picture[40:56, 40:56].astype(float).std(axis=0).mean() for picture in subpixel.first_outputs(lr)]
    icnr, random, resize, deconv = rows
    assert max(icnr, resize) < 1 and min(random, deconv) > 5, rows


def plant(root, row, value, steps=100, photographs="a"):
    """A finished run of an arm whose log is made up."""
    config = make_config(overrides=[*subpixel.SMALL, f"TRAIN.steps={steps}"])
    run = subpixel.store.Run(root / rows.run_name(row.name), "srresnet", "slides", config)
    subpixel.store.create(run, {"data": {"images": 12, "fingerprint": photographs}})
    lines = [{"step": s, "mse_loss": value / s, "checkerboard": 1.0 + value} for s in range(5, steps + 5, 5)]
    lines[-1] |= {"val_psnr_y": 24.0 + value, "val_bicubic": 28.0}
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.directory / subpixel.store.WEIGHTS).write_bytes(b"")
    state.save_checkpoint(run.directory, steps, {})
    assert runner.is_finished(row)


@pytest.mark.slow
def test_page_is_written_from_the_runs(tmp_path, monkeypatch):
    """Planted logs of two seeds: what stands in the table is their mean and spread, and the claims count the seeds."""
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    for i, row in enumerate(subpixel.ARMS):
        for seed in (0, 1):
            plant(tmp_path, subpixel.seeded(row, seed), 1 + i * (2 - 3 * seed) % 5)  # 1 3 5 2, and 1 5 4 3
    resumed = tmp_path / "row-small-random-1" / "metrics.jsonl"  # has logged where it was stopped as well
    resumed.write_text(resumed.read_text() + '{"step": 42, "mse_loss": 9.0, "checkerboard": 9.0}\n')
    study = subpixel.read_study((0, 1))
    subpixel.write_page(study, tmp_path / "docs")
    page = (tmp_path / "docs" / "subpixel.md").read_text()
    assert "12 photographs" in page and "28.00 dB" in page and "Seeds: 0, 1;" in page
    share = np.mean([1 / 95, 1 / 100])  # the planted losses' last tenth: a value over its step
    assert f"| 28.00 ± 1.41 | 0.4167 ± 0.1473 | {4 * share:.5f} ± {2**0.5 * share:.5f} | 5.00 ± 1.41 |" in page  # 3, 5
    assert f"| {4.5 * share:.5f} ± {0.5**0.5 * share:.5f} | 5.50 ± 0.71 |" in page  # 5, 4
    # Validation of the arms is 25 27 29 26 with one seed and 25 29 28 27 with the other.
    differences = np.array([[2, 4, 1, 2, -1, -3], [4, 3, 2, -1, -2, -1]])
    assert f"varies by {np.var(differences, axis=0, ddof=1).mean() ** 0.5:.2f} dB with the seed" in page
    assert "lower with 2 of 2 and 2 of 2 seeds" in page.replace("\n", " ") and "kernels' with 1 of 2 seeds" in page
    assert pictures.read_image(tmp_path / "docs" / "subpixel_curves.png").shape[0] > 200
    assert pictures.read_image(tmp_path / "docs" / "subpixel_start.png").shape == (128, 4 * 192 + 12, 3)
    assert json.loads((tmp_path / "docs" / "subpixel.json").read_text()) == study


def test_runs_of_other_lengths_are_not_averaged(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    for row in subpixel.ARMS:
        plant(tmp_path, subpixel.seeded(row, 0), 1, steps=150 if row.name == "small-deconv" else 100)
    with pytest.raises(utils.UserError, match="row-small-icnr-0 100, .*row-small-deconv-0 150"):
        subpixel.read_study((0,))


def test_runs_on_other_photographs_are_not_averaged(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    for row in subpixel.ARMS:
        plant(tmp_path, subpixel.seeded(row, 0), 1, photographs=row.name)
    with pytest.raises(utils.UserError, match="different photographs"):
        subpixel.read_study((0,))


def test_the_committed_page_is_made_of_the_committed_figures():
    study = json.loads((PROJECT / "docs" / "subpixel.json").read_text())
    assert subpixel.page_of(study) == (PROJECT / "docs" / "subpixel.md").read_text()
