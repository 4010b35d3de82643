"""The script of the tables: a row is trained once and scored, and the page says no more than was run."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, TINY_SETTINGS, assert_refused

import reproduce
from config import make_config
from papers import runner
from papers.rows import ROWS, run_name
from runs import store
from training.state import save_checkpoint

SMALL = [part for setting in TINY_SETTINGS if "batch" not in setting for part in ("--set", setting)]


@pytest.mark.slow
def test_a_row_from_nothing_to_the_page(run, clone):
    result = run("reproduce.py", "--rows=espcn", "--minutes=0.001", "--sets=samples", *SMALL)
    assert result.returncode == 0, result.stderr
    directory = clone / "samples" / "reproduce" / "page"
    results = json.loads((directory / "results.json").read_text())
    assert results["rows"]["espcn"]["steps"] == 3 and set(results["scores"]) == {"bicubic", "espcn"}
    page = (directory / "results.md").read_text()
    psnr = results["scores"]["espcn"]["samples"]["psnr_y"]
    assert re.search(rf"\| ESPCN \| 3 \| [\d.]+ \| 0\.00 \| {psnr:.2f} / ", page)
    assert f" {results['rows']['espcn']['data']['images']} photographs" in page
    assert "`MODEL.width=8`" in page  # a trial is told of as one
    shutil.rmtree(clone / "checkpoint" / "row-espcn")
    (directory / "results.md").unlink()
    assert run("reproduce.py", "--report").returncode == 0  # what was known stays known
    assert (directory / "results.md").read_text() == page


def test_a_finished_row_is_left_alone_and_told_as_it_was(tmp_path, monkeypatch, capsys):
    """Hours from the logged steps, which are denser at the start and after a resume."""
    row = ROWS[0]
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    config = make_config(overrides=["TRAIN.steps=30"])
    run = store.Run(tmp_path / run_name(row.name), "srresnet", "slides", config)
    store.create(run, {"data": {"images": 5}})
    assert not runner.is_finished(row)
    lines = [{"step": s, "seconds_per_step": 60.0} for s in (1, 2, 3, 10, 11, 20, 30)]
    lines[-1]["val_psnr_y"] = 25.1234
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.directory / store.WEIGHTS).write_bytes(b"")
    save_checkpoint(run.directory, 20, {})
    assert not runner.is_finished(row)  # all is logged, not all is saved
    save_checkpoint(run.directory, 30, {})
    monkeypatch.setattr(runner.subprocess, "Popen", None)  # nothing is started
    runner.train_row(row, 20, None, ())
    assert "row-srcnn: finished before" in capsys.readouterr().out
    facts = reproduce.facts_of(row)
    assert facts["unlike"]["DATA.crop"] == 96 and "TRAIN.batch" not in facts["unlike"]  # begun by another rule
    assert facts["unlike"]["MODEL.network"] == "srresnet" and "TRAIN.steps" not in facts["unlike"]
    assert (facts["steps"], facts["hours"], facts["seconds_per_step"], facts["curve"]) == (30, 0.5, 60.0, {30: 25.123})


def stop_while_training(tmp_path, stop):
    """stop(process) of a script in train_row, whose train.py takes its time to save: it must be waited for."""
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, signal, time\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path('saved').write_text('x')\n    raise SystemExit\n"
        "signal.signal(signal.SIGINT, save)\nsignal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path('started').write_text('x')\ntime.sleep(60)\n"
    )
    code = (
        "import pathlib; from cli import terminal; from papers import rows, runner; from runs import store\n"
        "store.PROJECT = pathlib.Path('.').resolve()\n"
        "terminal.run_command(lambda: runner.train_row(rows.ROWS[0], 1, None, ()))"
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
    stop(process)
    _, error = process.communicate(timeout=60)
    assert (tmp_path / "saved").exists() and process.returncode == 2 and "continues it" in error


@pytest.mark.slow
def test_ctrl_c_lets_the_row_save(tmp_path):
    """The signal goes to the whole group."""
    stop_while_training(tmp_path, lambda process: os.killpg(process.pid, signal.SIGINT))


@pytest.mark.slow
def test_sigterm_lets_the_row_save(tmp_path):
    """A polite kill of the script alone is handed on, so that no training goes on without it."""
    stop_while_training(tmp_path, lambda process: process.terminate())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows=espnc"], "there is no row called espnc"),
        (["--minutes=0"], "above zero"),
        (["--set=TRAIN.stepz=1"], "did you mean TRAIN.steps"),
        (["--report", "--out=nowhere"], "no row is finished"),
    ],
)
def test_mistakes_are_one_sentence(call, arguments, words, tmp_path):
    assert_refused(call("reproduce.py", *arguments, env={"SRGAN_RUNS": str(tmp_path)}), words)


def test_only_what_is_new_is_scored(tmp_path, monkeypatch):
    """Weights of before keep their scores, also on sets not asked for now; a row of one set is scored on that alone."""
    espcn, srcnn, drcn = (next(row for row in ROWS if row.name == name) for name in ("espcn", "srcnn", "drcn"))
    monkeypatch.setattr(reproduce.data, "find_test_sets", lambda root, sets: dict.fromkeys(sets or ("Set5", "Set14")))
    calls, kept = [], []

    def score(names, root, sets):
        calls.append((names, sets))
        return {name: dict.fromkeys(sets, len(calls)) for name in ("bicubic", *names)}

    def scores_of(rows, before, sets=None):
        calls.clear(), kept.clear()
        reproduce.score_new(rows, facts, before, None, sets, lambda scores: kept.append(copy.deepcopy(scores)))
        return kept[-1]

    monkeypatch.setattr(reproduce, "score", score)
    facts = {name: {"sha256": name} for name in ("espcn", "srcnn", "drcn")}
    first = scores_of([espcn], {})
    assert calls == [(["espcn"], ("Set5", "Set14"))] and first["bicubic"] == first["espcn"] == {"Set5": 1, "Set14": 1}
    before = {"rows": {"espcn": {"sha256": "espcn"}}, "scores": first}
    second = scores_of([espcn, srcnn, drcn], before)
    assert calls == [(["srcnn"], ("Set5", "Set14")), (["drcn"], ("Set5",))]
    assert second == first | {"srcnn": {"Set5": 1, "Set14": 1}, "drcn": {"Set5": 2}}
    assert kept == [first, first | {"srcnn": {"Set5": 1, "Set14": 1}}, second]  # nothing is lost if the next one fails
    assert scores_of([espcn], before, ["Set5"]) == first and calls == []
    facts["espcn"] = {"sha256": "trained on"}
    assert scores_of([espcn], before, ["Set5"]) == {"bicubic": first["bicubic"], "espcn": {"Set5": 1}}
    before["rows"]["srcnn"] = facts["srcnn"]  # whose run is lost
    before["scores"] = {"bicubic": first["bicubic"], "srcnn": {"Set5": 7, "samples": 8}}
    assert scores_of([espcn], before, ["Set5"])["srcnn"] == before["scores"]["srcnn"]
    before["scores"] = {"bicubic": {"samples": 0}}  # other images may be called so today
    assert scores_of([], before, ["samples"]) == {"bicubic": {"samples": 1}}
