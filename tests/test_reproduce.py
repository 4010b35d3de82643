"""The script of the tables: a row is trained once, gone on with, scored, and the page says no more than was run."""

import json

import pytest
from conftest import TINY_SETTINGS, assert_refused

import reproduce
import tables

SMALL = [part for setting in TINY_SETTINGS if "batch" not in setting for part in ("--set", setting)]


def test_a_row_from_nothing_to_the_page(run, clone):
    result = run("reproduce.py", "--rows=espcn", "--minutes=0.002", "--sets=samples", *SMALL)
    assert result.returncode == 0, result.stderr
    results = json.loads((clone / "docs" / "results.json").read_text())
    assert results["rows"]["espcn"]["steps"] == 4 and set(results["scores"]) == {"bicubic", "espcn"}
    page = (clone / "docs" / "results.md").read_text()
    psnr = results["scores"]["espcn"]["samples"]["psnr_y"]
    assert f"| ESPCN | 4 | 0.00 | {psnr:.2f} / " in page
    again = run("reproduce.py", "--rows=espcn", "--minutes=0.002", "--sets=samples")
    assert "row-espcn: done before" in again.stdout and again.returncode == 0
    assert (clone / "docs" / "results.md").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows=espnc"], "there is no row called espnc"),
        (["--minutes=0"], "above zero"),
        (["--set=TRAIN.stepz=1"], "did you mean TRAIN.steps"),
        (["--report"], "no row is finished"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, words, monkeypatch, tmp_path):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    assert_refused(run("reproduce.py", *arguments), words)


def test_the_page_sets_ours_beside_the_papers():
    """Figures planted for two rows: they stand in the table, and the claim is the difference of the two."""
    scores = {
        name: {"Set5": {"psnr_y": psnr, "ssim_y": 0.5, "ssim_paper": 0.6}}
        for name, psnr in (("bicubic", 28.0), ("espcn", 29.5), ("espcn-hr", 29.75))
    }
    facts = {"steps": 1234, "hours": 0.25}
    results = {"minutes": 20, "data": {"images": 10}, "rows": {"espcn": facts, "espcn-hr": facts}, "scores": scores}
    lines = reproduce.table(results)
    assert "| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |" in lines
    assert lines[lines.index("| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |") + 1] == (
        "| *the paper's* |  |  | *30.76 / – / 0.8784* |"
    )
    assert list(reproduce.claims(results)) == ["- layers in LR space against HR space at equal work: -0.25 dB on Set5."]


def test_rows_are_those_of_the_paper():
    papers = {row.paper for row in reproduce.ROWS} - {None}
    assert papers <= set(tables.PAPER["Set5"])
    assert set(tables.PAPER["Set5"]) - papers == {"NN", "bicubic", "SelfExSR"}  # the first two are evaluate.py's own
    names = [row.name for row in reproduce.ROWS]
    assert len(set(names)) == len(names) and {row.after for row in reproduce.ROWS} <= {None, *names}
