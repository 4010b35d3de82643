"""The run directory: checkpoint/<run>/ with config.json, metrics.jsonl, generator.weights.h5 and checkpoints.

config.json says all that is needed to build the network again; weights without it are refused. `$SRGAN_RUNS` names
another place for new runs; runs are looked for in both. A checkpoint holds all that training needs to go on exactly.
"""

import json
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

import utils
from config import DEFAULTS, MODES, check_config, make_config, set_value
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")

HERE = Path(__file__).resolve().parent
WEIGHTS = "generator.weights.h5"
ARCHITECTURE = ("scale", "blocks", "width", "output")  # the keys of MODEL that weights must agree in


def root():
    """Where new runs are written: $SRGAN_RUNS, else checkpoint/ beside this file."""
    return Path(os.environ.get("SRGAN_RUNS") or HERE / "checkpoint")


def new_name(mode):
    """A run's name when none is given: mode and time."""
    return f"{mode}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_name(name):
    """The directory of a new run. Raises UserError if the name is taken, reserved or no plain file name."""
    if not name or Path(name).name != name or name.startswith((".", "-")):
        raise UserError(f"a run's name must be a plain file name, not '{name}'")
    if name in ("evaluate", "readme"):
        raise UserError(f"samples/{name}/ has another use: choose another --name")
    for place in (root(), HERE / "checkpoint", HERE / "samples"):
        if (place / name).exists():
            raise UserError(f"there is a run called '{name}' already ({place / name}): choose another --name")
    return root() / name


def write_json(path, value):
    utils.write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({utils.short(error)})") from error


@dataclass
class Run:
    """One training of one network: where it is written, its mode and preset, and its configuration (config.py)."""

    directory: Path
    mode: str
    preset: str
    config: dict

    @property
    def name(self):
        return self.directory.name


def create(run, facts):
    """Make the run's directory and write config.json: the configuration, `facts` (a dict) and the versions in use."""
    run.directory.mkdir(parents=True)
    versions = {name: version(name) for name in ("tensorflow", "keras", "tensorlayer", "numpy", "pillow")}
    versions["python"] = platform.python_version()
    about = {"mode": run.mode, "preset": run.preset, "config": run.config, **facts, "versions": versions}
    write_json(run.directory / "config.json", about)


def reopen(name):
    """(Run, facts) of a run that is to be resumed, as its config.json says. Raises UserError."""
    places = [Path(name), *(place / name for place in (root(), HERE / "checkpoint"))]
    place = next((place.resolve() for place in places if name and (place / "config.json").is_file()), None)
    if not place:
        raise UserError(f"there is no run called '{name}' to resume")
    about = read_about(place / "config.json")
    return Run(place, about["mode"], about["preset"], about["config"]), about


def log_metrics(directory, **values):
    """Append one line to metrics.jsonl; floats are cut to six digits."""
    line = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
    with open(directory / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(directory):
    """The lines of metrics.jsonl as dicts with a "step"; others, as one cut short by a kill, are left out."""
    lines = []
    path = directory / "metrics.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "step" in value:
            lines.append(value)
    return lines


def save_weights(model, directory):
    utils.write_atomically(directory / WEIGHTS, lambda temporary: model.save_weights(temporary))


class Progress:
    """A bar with the loss terms; where there is no terminal, a line every half minute. Also the clock of the steps."""

    def __init__(self, first, steps):
        """first: the step to go on from, 0 for a new run; steps: the last one."""
        self.bar = tqdm(total=steps, initial=first, unit="step", smoothing=0.05, dynamic_ncols=True, disable=None)
        self.update, self.close = self.bar.update, self.bar.close
        self.first, self.steps, self.told = first, steps, 0.0
        self.step, self.time = first, time.perf_counter()

    def show(self, step, values):
        """Show the terms of {name: float}, gradient norms left out; return the seconds a step since the last call."""
        now = time.perf_counter()
        seconds = (now - self.time) / max(step - self.step, 1)
        self.step, self.time = step, now
        terms = {name: f"{value:.3g}" for name, value in values.items() if not name.endswith("_grad")}
        self.bar.set_postfix(terms, refresh=False)
        if self.bar.disable and (now - self.told > 30 or step == self.steps):
            self.told = now
            # The first step compiles and tells nothing about the rest.
            known = self.first + 1 < step < self.steps
            left = f"{(self.steps - step) * seconds / 60:.0f} min left, " if known else ""
            print(f"step {step}/{self.steps} {left}" + " ".join(f"{k}={v}" for k, v in terms.items()), flush=True)
        return seconds

    def write(self, text):
        """Print a line above the bar; the time that it took to come by it is not counted as the steps'."""
        self.bar.write(text)
        self.time = time.perf_counter()


# Core-seconds of an update (batch 16, full networks) on the AMD EPYC that this was built on: for a first estimate.
CORE_SECONDS = {"srresnet": 3.2, "srgan": 14.0}


def estimate(jobs):
    """Without a GPU, say what the jobs (runs.Run) will take if that is more than a few hours."""
    if tf.config.list_physical_devices("GPU"):
        return
    cores = os.cpu_count()
    hours = 0.0
    for run in jobs:
        work = run.config.TRAIN.batch / 16 * (run.config.DATA.crop / 96) ** 2 * CORE_SECONDS[run.mode] / cores
        hours += work * run.config.TRAIN.steps / 3600
    if hours > 6:
        print(
            f"\n  No GPU was found: on these {cores} cores this will take about {hours / 24:.1f} days. "
            f"--steps {max(int(run.config.TRAIN.steps / hours), 1):,} would take about an hour.\n"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints

KEPT = 3  # checkpoints of a run; older ones are deleted


def checkpoints(directory):
    """The checkpoint files of a run, newest first."""
    return sorted(directory.glob("checkpoint-*.npz"), reverse=True)


def step_of(checkpoint):
    """The step of a checkpoint file."""
    return int(checkpoint.stem.split("-")[1])


def save_checkpoint(directory, step, parts):
    """Write checkpoint-<step>.npz with all variables of `parts` {name: network or optimizer}; keep the newest KEPT."""
    arrays = {f"{name}/{i}": np.asarray(v) for name, part in parts.items() for i, v in enumerate(part.variables)}
    path = directory / f"checkpoint-{step:08d}.npz"
    utils.write_atomically(path, lambda temporary: np.savez(temporary, **arrays))
    for old in checkpoints(directory)[KEPT:]:
        old.unlink()


def load_checkpoint(directory, parts):
    """Put the newest whole checkpoint into `parts` and return its step; cut metrics.jsonl back to it.

    An .npz keeps a CRC-32 of every array, checked as it is read: a damaged checkpoint is named and the one before it
    taken. Raises UserError if there is no whole one, or if it is of other networks.
    """
    for path in checkpoints(directory):
        try:
            with open(path, "rb") as opened, np.load(opened) as file:
                arrays = {name: file[name] for name in file.files}
            break
        except Exception:  # zipfile, zlib and NumPy each have their own for a damaged file
            print(f"{path} is damaged and left out")
    else:
        raise UserError(f"there is no whole checkpoint in {directory} to resume from")
    targets = {f"{name}/{i}": v for name, part in parts.items() for i, v in enumerate(part.variables)}
    if {name: array.shape for name, array in arrays.items()} != {name: tuple(v.shape) for name, v in targets.items()}:
        raise UserError(f"{path} is of other networks than config.json beside it describes")
    for name, variable in targets.items():
        variable.assign(arrays[name])
    step = step_of(path)
    lines = [json.dumps(line) for line in read_metrics(directory) if line["step"] <= step]
    text = "".join(line + "\n" for line in lines)
    utils.write_atomically(directory / "metrics.jsonl", lambda temporary: temporary.write_text(text))
    return step


# ---------------------------------------------------------------------------------------------------------------------
# Finding and loading what was trained


def find_runs():
    """{name: (weights file, config.json's content)} of every run that has weights; one that is broken is named."""
    found = {}
    for place in dict.fromkeys((HERE / "checkpoint", root())):
        for path in sorted(place.glob(f"*/{WEIGHTS}")):
            try:
                found.setdefault(path.parent.name, describe_weights(path))
            except UserError as error:
                print(f"left out: {error}")
    return found


def describe_weights(path):
    """(weights file, config.json's content) of a run's name, its directory or its weights file. Raises UserError."""
    places = [Path(path), *(place / str(path) for place in (root(), HERE / "checkpoint"))]
    files = [place / WEIGHTS if place.is_dir() else place for place in places]
    weights = next((file for file in files if file.is_file()), None)
    if not weights:
        raise UserError(f"there are no weights at '{path}': give a {WEIGHTS}, its directory or a run's name")
    about = weights.parent / "config.json"
    if not about.is_file():
        raise UserError(f"there is no config.json beside {weights}, which says what network the weights belong to")
    return weights, read_about(about)


def read_about(about):
    """The content of a run's config.json, its configuration as a checked EasyDict. Raises UserError."""
    content = read_json(about)
    try:
        theirs, config = content["config"], make_config()
        for section in DEFAULTS:
            # The network must be described in full; a setting of training that is newer than the run is its default.
            for key in DEFAULTS[section] if section == "MODEL" else theirs.get(section, {}):
                set_value(config, f"{section}.{key}", theirs[section][key])
        content["config"] = config
        check_config(config)
        MODES.index(content["mode"])
    except (KeyError, AttributeError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{about} does not describe a run of train.py ({utils.short(error)})") from None
    return content


def load_generator(path):
    """(generator, config.json's content) of a run's name, directory or weights file. Raises UserError."""
    from model import build_generator

    weights, about = describe_weights(path)
    generator = build_generator(about["config"].MODEL)
    load_weights(generator, weights)
    return generator, about


def load_weights(model, weights):
    """Load a weights file into a network. Raises UserError if it is damaged or belongs to another network."""
    try:
        model.load_weights(weights)
    except Exception as error:  # h5py and Keras raise many kinds for a broken or foreign file
        raise UserError(f"{weights} cannot be loaded into the {model.name} ({utils.short(error)})") from error


def differences(theirs, ours):
    """What two MODEL sections disagree in that weights depend on, as words; an empty list if they agree."""
    return [f"MODEL.{key} {theirs[key]}, not {ours[key]}" for key in ARCHITECTURE if theirs[key] != ours[key]]


def find_init(model_config, fingerprint, least_steps):
    """(path, why) of SRResNet weights to start a GAN from, or (None, None).

    The weights shipped in checkpoint/ come first, then the finished SRResNet run with the best validation, those on the
    data set `fingerprint` before others. They must be of the architecture `model_config` (the MODEL section), and a run
    must have had `least_steps` updates: the leftovers of a trial are no start.
    """
    candidates = []
    for name, (weights, about) in find_runs().items():
        if about["mode"] != "srresnet" or differences(about["config"].MODEL, model_config):
            continue
        if name == f"srresnet_x{model_config.scale}":
            return weights, "the weights that come with the project"
        lines = read_metrics(weights.parent)
        scores = [line["val_psnr_y"] for line in lines if "val_psnr_y" in line]
        finished = lines and lines[-1]["step"] >= about["config"].TRAIN.steps >= least_steps
        if scores and finished:
            same = about.get("data", {}).get("fingerprint") == fingerprint
            candidates.append((same, scores[-1], weights))
    if not candidates:
        return None, None
    _, score, weights = max(candidates)
    return weights, f"the finished SRResNet run with the best validation, {score:.2f} dB"
