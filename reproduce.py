"""Train the rows of the paper's Tables 1 and 2 for an equal time each, score them, and write a page of the results.

It can be stopped and started again: finished rows are kept, an unfinished one is resumed. `--report` trains nothing.
`python reproduce.py amortised-map` reproduces another paper: see PAPERS.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

import data
import utils
from cli import terminal
from config import make_config
from images import hashes
from networks.registry import NETWORKS
from papers.results import page_of
from papers.rows import ROWS, command_of, run_name, steps_of
from papers.runner import evaluate, is_finished, train_row
from runs import store
from runs.logs import read_metrics
from training import plan
from utils import UserError

PICTURES = store.PROJECT / "samples" / "reproduce"
# Other papers, each with its own module: reproduce.py NAME.
PAPERS = {"amortised-map": "papers.amortised_map", "pruning": "papers.pruning"}
MEASURES = ("psnr_y", "ssim_y", "ssim_paper")
LENGTH = {"TRAIN.steps", "TRAIN.init_steps", "TRAIN.save_every", "TRAIN.validate_every", "TRAIN.log_every"}


def common_settings(row, begins_with):
    """All settings {"SECTION.key": value} that a row would have without `row.settings`.

    begins_with: the name of the run whose weights it begins with, or None.
    """
    plain = row._replace(after=begins_with, settings={})
    config, _ = plan.read_config(plan.parse_arguments(command_of(plain, 1)))
    return {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}


def facts_of(row):
    """How a finished row was trained, from its run directory: {"steps", "hours", "seconds_per_step", …}."""
    directory = store.root() / run_name(row.name)
    about, lines = store.read_about(directory / "config.json"), read_metrics(directory)
    config, init = about["config"], about.get("init")
    common = common_settings(row, init)
    ran = {name: config[name.split(".")[0]][name.split(".")[1]] for name in common if name not in LENGTH}
    each = [line["seconds_per_step"] for line in lines]  # a step, since the line before
    steps = [line["step"] for line in lines]
    hours = sum(seconds * (b - a) for seconds, a, b in zip(each, [0, *steps], steps, strict=False)) / 3600
    return {
        "steps": steps[-1],
        "minutes": round(steps[-1] * row.seconds / 60, 1),  # as estimated
        "hours": round(hours, 3),
        "seconds_per_step": round(float(np.median(each)), 4),
        "init": init,
        "unlike": {name: value for name, value in ran.items() if value != common[name]},
        "ema": config.TRAIN.ema,
        "vgg": about.get("vgg"),
        "matched": NETWORKS[config.MODEL.network].matched,
        "commit": about.get("commit"),
        "data": about["data"],
        "sha256": hashes.file_digest(directory / store.WEIGHTS, "sha256"),
        "curve": {line["step"]: round(line["val_psnr_y"], 3) for line in lines if "val_psnr_y" in line},
    }


def score(names, data_directory, sets):
    """Score bicubic and rows by evaluate.py: {row name: {set: {measure: mean}}}. Raises UserError."""
    weights = {run_name(name): store.root() / run_name(name) / store.WEIGHTS for name in names}
    scores = {}
    for set_name, methods in evaluate(weights, MEASURES, PICTURES, data_directory, sets).items():
        for method, means in methods.items():
            scores.setdefault(method.removeprefix("row-"), {})[set_name] = means
    return scores


def score_new(rows, facts, before, data_directory, sets, keep):
    """Score the rows that `before` has no scores of, for the same weights; keep(scores) after each call of evaluate.py.

    rows: [Row]; facts: {row name: facts_of}; before: an older content of results.json, or {}; keep is given all scores
    so far, in the form of score(). Raises UserError.
    """
    wanted = tuple(data.find_test_sets(data_directory, sets))
    known = before.get("rows", {})
    same = {"bicubic", *(name for name in known if facts[name]["sha256"] == known[name]["sha256"])}
    # The user's own sets may have changed: they are scored again, except for rows whose runs were deleted.
    again = {"bicubic", *(row.name for row in rows)}
    scores = {
        name: {one: means for one, means in sets_of_row.items() if one in data.TEST_SETS or name not in again}
        for name, sets_of_row in before.get("scores", {}).items()
        if name in same
    }
    new = {}  # {sets: names of the rows to score on them}
    for name, only in (("bicubic", None), *((row.name, row.sets) for row in rows)):
        missing = tuple(one for one in wanted if (only is None or one in only) and one not in scores.get(name, {}))
        if missing:
            new.setdefault(missing, []).append(name)
    if scores.get("bicubic"):
        keep(scores)
    for missing, names in new.items():
        found = score([name for name in names if name != "bicubic"], data_directory, missing)
        for name in names:
            scores[name] = scores.get(name, {}) | found[name]
        keep(scores)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python reproduce.py --minutes 20 --data ~/srgan-data; another paper, with its own flags: "
        f"python reproduce.py {' or '.join(PAPERS)} --help",
    )
    add = parser.add_argument
    minutes = terminal.number(float, 1e-3, 1e6, "a number of minutes above zero")
    add(
        "--minutes",
        type=minutes,
        default=20.0,
        help="of training for each row, as estimated for two idle cores (default: %(default)s)",
    )
    add(
        "--rows",
        type=terminal.names,
        metavar="A,B",
        help=f"rows to train: {', '.join(row.name for row in ROWS)} (default: all)",
    )
    add("--data", metavar="DIR", help="a data root with train/ and the test sets in it")
    add("--sets", type=terminal.names, metavar="A,B", help="the sets to score on, as for evaluate.py")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        help="a setting for all new rows, for trials",
    )
    add("--report", action="store_true", help="train nothing, only score the finished rows and write the page")
    add(
        "--out",
        type=Path,
        default=PICTURES / "page",
        metavar="DIR",
        help="where results.json and results.md go (default: samples/reproduce/page; ours are in docs/)",
    )
    args = parser.parse_args()
    names = [row.name for row in ROWS]
    args.rows = args.rows or names
    if unknown := set(args.rows) - set(names):
        parser.error(f"there is no row called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return args


def main():
    if sys.argv[1:2] and sys.argv[1] in PAPERS:
        paper = sys.argv.pop(1)
        importlib.import_module(PAPERS[paper]).main()
        return
    args = parse_arguments()
    make_config(overrides=args.set)  # a mistake is reported before the first row is trained
    data.find_test_sets(args.data, args.sets)
    wanted = [row for row in ROWS if row.name in args.rows]
    if not args.report:
        needed = {row.after for row in wanted} - {None}
        rows = [row for row in ROWS if row.name in needed or row in wanted]
        total = sum(steps_of(row, args.minutes) * row.seconds for row in rows if not is_finished(row)) / 3600
        print(f"{len(rows)} rows, about {total:.1f} hours on two idle cores; Ctrl-C saves, the same command continues")
        for row in rows:
            train_row(row, args.minutes, args.data, args.set)
    path, page = args.out / "results.json", args.out / "results.md"
    before = store.read_json(path) if path.is_file() else {"rows": {}, "scores": {}}
    finished = [row for row in ROWS if is_finished(row)]
    if not finished and not before["rows"]:
        raise UserError("no row is finished, there is nothing to report")
    facts = before["rows"] | {row.name: facts_of(row) for row in finished}  # runs of earlier rows may have been deleted
    args.out.mkdir(parents=True, exist_ok=True)

    def keep(scores):
        results = {"rows": facts, "scores": scores}
        store.write_json(path, results)
        utils.write_atomically(page, lambda temporary: temporary.write_text(page_of(results), encoding="utf-8"))

    if finished:
        score_new(finished, facts, before, args.data, args.sets, keep)
    else:
        keep(before["scores"])
    print(f"written: {page}, {path}")


if __name__ == "__main__":
    terminal.run_command(main)
