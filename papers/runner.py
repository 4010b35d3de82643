"""Training and scoring rows: train.py and evaluate.py in processes of their own."""

import contextlib
import signal
import subprocess
import sys

import data
from papers.rows import command_of, run_name, steps_of
from runs import store
from training.state import newest_step
from utils import UserError


def is_finished(row):
    """Whether a row's run has saved all the updates in its config.json."""
    return has_ended(run_name(row.name))


def has_ended(name):
    """Whether the run `name` has saved all the updates in its config.json."""
    directory = store.root() / name
    if not all((directory / file).is_file() for file in ("config.json", store.WEIGHTS)):
        return False
    return newest_step(directory) >= store.read_about(directory / "config.json")["config"].TRAIN.steps


def train_row(row, minutes, data_directory, overrides):
    """Start or resume a row's run. Raises UserError if train.py does not finish it."""
    name = run_name(row.name)
    if is_finished(row):
        done = store.read_about(store.root() / name / "config.json")["config"].TRAIN.steps
        wanted = steps_of(row, minutes)
        other = f" (not {wanted:,}: remove {store.root() / name} to train it again)" if done != wanted else ""
        print(f"{name}: finished before, {done:,} updates{other}")
        return
    train_run(name, command_of(row, minutes, data_directory, overrides), data_directory)


def train_run(name, command, data_directory=None):
    """Start train.py with the arguments `command` for the run `name`, or resume it. Raises UserError if it stops."""
    if (store.root() / name / "config.json").is_file():
        command = ["--resume", name, *(("--data", data_directory) if data_directory else ())]
    print(f"{name}: python train.py {' '.join(command)}", flush=True)
    with subprocess.Popen([sys.executable, store.PROJECT / "train.py", *command]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # train.py saves and exits
        while process.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # train.py gets Ctrl-C too
                process.wait()
        signal.signal(signal.SIGTERM, before)
    if not has_ended(name):
        raise UserError(f"{name} is not finished; the same command continues it")


def evaluate(weights, metrics, out, data_directory=None, sets=None):
    """Score bicubic and {name of a run: its weights} by evaluate.py: {set: {method: {measure: mean}}}.

    metrics: names of measures; out: the folder of the pictures and results.json; sets: their names, None for all that
    are there. Raises UserError.
    """
    command = ["--methods", ",".join(["bicubic", *weights]), "--metrics", ",".join(metrics), "--out", out]
    command += ["--weights", *weights.values()] if weights else []
    command += ["--sets", ",".join(sets or data.find_test_sets(data_directory))]
    command += ["--data", data_directory] if data_directory else []
    if subprocess.run([sys.executable, store.PROJECT / "evaluate.py", *command], check=False).returncode:
        raise UserError(f"{', '.join(weights) or 'bicubic'} could not be scored, see above")
    results = store.read_json(out / "results.json")
    return {
        name: {method: {measure: means[measure] for measure in metrics} for method, means in methods.items()}
        for name, methods in results.items()
    }
