"""The script of the tables: a row is trained once and scored, and the page says no more than was run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, TINY_SETTINGS, assert_refused

import reproduce
import runs
import tables
from config import make_config

SMALL = [part for setting in TINY_SETTINGS if "batch" not in setting for part in ("--set", setting)]


def test_a_row_from_nothing_to_the_page(run, clone):
    result = run("reproduce.py", "--rows=espcn", "--minutes=0.002", "--sets=samples", *SMALL)
    assert result.returncode == 0, result.stderr
    results = json.loads((clone / "docs" / "results.json").read_text())
    assert results["rows"]["espcn"]["steps"] == 3 and set(results["scores"]) == {"bicubic", "espcn"}
    page = (clone / "docs" / "results.md").read_text()
    psnr = results["scores"]["espcn"]["samples"]["psnr_y"]
    assert f"| ESPCN | 3 | 0.00 | {psnr:.2f} / " in page
    assert "3 photographs" not in page and str(results["rows"]["espcn"]["data"]["images"]) + " photographs" in page


def test_a_finished_row_is_left_alone_and_told_as_it_was(tmp_path, monkeypatch, capsys):
    """Hours from the logged steps, which are denser at the start and after a resume."""
    row = reproduce.ROWS[0]
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    config = make_config(overrides=["TRAIN.steps=30"])
    run = runs.Run(tmp_path / reproduce.run_name(row.name), "srresnet", "slides", config)
    runs.create(run, {"data": {"images": 5}})
    assert not reproduce.is_finished(row)
    lines = [{"step": s, "seconds_per_step": 60.0} for s in (1, 2, 3, 10, 11, 20, 30)]
    lines[-1]["val_psnr_y"] = 25.1234
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.directory / runs.WEIGHTS).write_bytes(b"")
    monkeypatch.setattr(reproduce.subprocess, "Popen", None)  # nothing is started
    reproduce.train_row(row, 20, None, ())
    assert "row-srcnn: done before" in capsys.readouterr().out
    facts = reproduce.facts_of(row)
    assert (facts["steps"], facts["hours"], facts["seconds_per_step"], facts["curve"]) == (30, 0.5, 60.0, {30: 25.123})


def test_ctrl_c_lets_the_row_save(tmp_path, monkeypatch):
    """The signal goes to the whole group; train.py takes its time to save, and is waited for."""
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, signal, time\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path('saved').write_text('x')\n    raise SystemExit\n"
        "signal.signal(signal.SIGINT, save)\npathlib.Path('started').write_text('x')\ntime.sleep(60)\n"
    )
    code = (
        "import pathlib, sys; import reproduce, runs; runs.HERE = pathlib.Path('.').resolve()\n"
        "reproduce.utils.run_command(lambda: reproduce.train_row(reproduce.ROWS[0], 1, None, ()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "SRGAN_RUNS": str(tmp_path / "runs")},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (tmp_path / "saved").exists() and process.returncode == 2 and "goes on with it" in error


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
    facts = {"steps": 1234, "hours": 0.25, "minutes": 20.0, "data": {"images": 10}}
    results = {"rows": {"espcn": facts, "espcn-hr": facts}, "scores": scores}
    lines = reproduce.table(results)
    assert "| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |" in lines
    assert lines[lines.index("| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |") + 1] == (
        "| *the paper's* |  |  | *30.76 / – / 0.8784* |"
    )
    assert list(reproduce.claims(results)) == ["- layers in LR space against HR space at equal work: -0.25 dB on Set5."]


def test_only_what_is_new_is_scored(tmp_path, monkeypatch):
    """Weights of before on the same sets keep their scores; a row of one set is scored on that alone."""
    espcn, srcnn, drcn = (
        next(row for row in reproduce.ROWS if row.name == name) for name in ("espcn", "srcnn", "drcn")
    )
    monkeypatch.setattr(reproduce.data, "find_test_sets", lambda root, sets: dict.fromkeys(sets or ("Set5", "Set14")))
    calls = []

    def score(names, root, sets, out):
        calls.append((names, sets))
        return {name: dict.fromkeys(sets, len(calls)) for name in ("bicubic", *names)}

    monkeypatch.setattr(reproduce, "score", score)
    facts = {name: {"sha256": name} for name in ("espcn", "srcnn", "drcn")}
    first = reproduce.score_new([espcn], facts, {}, None, None, tmp_path)
    assert calls == [(["espcn"], ("Set5", "Set14"))] and first["bicubic"] == first["espcn"] == {"Set5": 1, "Set14": 1}
    before = {"rows": {"espcn": {"sha256": "espcn"}}, "scores": first}
    second = reproduce.score_new([espcn, srcnn, drcn], facts, before, None, None, tmp_path)
    assert calls[1:] == [(["srcnn"], ("Set5", "Set14")), (["drcn"], ("Set5",))]
    assert second == first | {"srcnn": {"Set5": 2, "Set14": 2}, "drcn": {"Set5": 3}}
    facts["espcn"] = {"sha256": "trained on"}
    third = reproduce.score_new([espcn], facts, before, None, ["Set5"], tmp_path)
    assert calls[3:] == [(["espcn"], ("Set5",))] and third == {"bicubic": {"Set5": 1}, "espcn": {"Set5": 4}}


def test_rows_are_those_of_the_paper():
    papers = {row.paper for row in reproduce.ROWS} - {None}
    assert papers <= set(tables.PAPER["Set5"])
    assert set(tables.PAPER["Set5"]) - papers == {"NN", "bicubic", "SelfExSR"}  # the first two are evaluate.py's own
    names = [row.name for row in reproduce.ROWS]
    assert len(set(names)) == len(names) and {row.after for row in reproduce.ROWS} <= {None, *names}
