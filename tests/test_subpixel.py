"""The study of upsamplers: its page and pictures from four tiny runs."""

import numpy as np

import reproduce
import state
import subpixel
import utils


def test_arms_differ_in_the_upsampler_alone():
    configs = [subpixel.config_of(row) for row in subpixel.ARMS]
    ways = [(config.pop("upsampler"), config.pop("upsampler_init")) for config in configs]
    assert ways == [("subpixel", "icnr"), ("subpixel", "random"), ("resize", "icnr"), ("deconv", "icnr")]
    assert all(config == configs[0] for config in configs)


def test_first_outputs_show_the_grid():
    """Of LR that is the same in all rows, inside: only with ICNR and resizing are all rows of SR the same too."""
    rng = np.random.default_rng(0)
    lr = rng.integers(0, 256, (1, 24, 3), np.uint8).repeat(24, axis=0)
    rows = [picture[40:56, 40:56].astype(float).std(axis=0).mean() for picture in subpixel.first_outputs(lr)]
    icnr, random, resize, deconv = rows
    assert max(icnr, resize) < 1 and min(random, deconv) > 5, rows


def test_page_is_written_from_the_runs(tmp_path, monkeypatch):
    """Planted logs: what stands in the table is theirs."""
    import json

    from config import make_config

    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    monkeypatch.setattr(subpixel, "DOCS", tmp_path / "docs")
    for i, row in enumerate(subpixel.ARMS):
        config = make_config(overrides=[*subpixel.SMALL, "TRAIN.steps=100"])
        run = subpixel.runs.Run(tmp_path / reproduce.run_name(row.name), "srresnet", "slides", config)
        subpixel.runs.create(run, {"data": {"images": 12}})
        lines = [{"step": s, "mse_loss": (1 + i) / s, "checkerboard": 2.0 + i} for s in range(5, 105, 5)]
        lines[-1] |= {"val_psnr_y": 25.0 + i, "val_bicubic": 28.0}
        (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run.directory / subpixel.runs.WEIGHTS).write_bytes(b"")
        state.save_checkpoint(run.directory, 100, {})
        assert reproduce.is_finished(row)
    subpixel.write_page()
    page = (tmp_path / "docs" / "subpixel.md").read_text()
    assert "| 27.00 | 0.03079 | 4.00 | 4.00 | 4.00 |" in page and "12 photographs" in page and "28.00 dB" in page
    assert utils.read_image(tmp_path / "docs" / "subpixel_curves.png").shape[0] > 200
    assert utils.read_image(tmp_path / "docs" / "subpixel_start.png").shape == (128, 4 * 192 + 12, 3)
