"""The run directory: checkpoint/<run>/ with config.json, metrics.jsonl and generator.weights.h5.

config.json says all that is needed to build the network again; weights without it are refused. `$SRGAN_RUNS` names
another place for new runs; runs are looked for in both.
"""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from easydict import EasyDict as edict

import utils
from config import DEFAULTS
from utils import UserError

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


def create(directory, mode, preset, config, facts):
    """Make the run directory and write config.json: the configuration, `facts` (a dict) and the versions in use."""
    directory.mkdir(parents=True)
    versions = {name: version(name) for name in ("tensorflow", "keras", "tensorlayer", "numpy", "pillow")}
    versions["python"] = platform.python_version()
    about = {"mode": mode, "preset": preset, "config": config, **facts, "versions": versions}
    write_json(directory / "config.json", about)


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
        raise UserError(f"there are no weights at {path}: give a {WEIGHTS}, its directory or a run's name")
    about = weights.parent / "config.json"
    if not about.is_file():
        raise UserError(f"there is no config.json beside {weights}, which says what network the weights belong to")
    content = read_json(about)
    try:
        content["config"] = edict(content["config"])
        content["mode"], content["config"].TRAIN.steps
        for key in DEFAULTS.MODEL:
            content["config"].MODEL[key]
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError(f"{about} does not describe a run of train.py") from None
    return weights, content


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
