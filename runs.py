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

from utils import UserError

HERE = Path(__file__).resolve().parent
WEIGHTS = "generator.weights.h5"


def root():
    """Where new runs are written: $SRGAN_RUNS, else checkpoint/ beside this file."""
    return Path(os.environ.get("SRGAN_RUNS") or HERE / "checkpoint")


def new_name(mode):
    """A run's name when none is given: mode and time."""
    return f"{mode}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_name(name):
    """The directory of a new run. Raises UserError if the name is taken or is no plain file name."""
    if not name or Path(name).name != name or name.startswith((".", "-")):
        raise UserError(f"a run's name must be a plain file name, not '{name}'")
    for place in (root(), HERE / "checkpoint"):
        if (place / name).exists():
            raise UserError(f"there is a run called '{name}' already in {place}: choose another --name")
    return root() / name


def write_atomically(path, write):
    """Call write(temporary path beside `path`), then put the file in its place: it appears whole or not at all."""
    temporary = path.with_name(f".tmp.{path.name}")  # keeps the ending, which Keras wants to be .weights.h5
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path, value):
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error


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
    """The lines of metrics.jsonl as dicts; a last line cut short by a kill is left out."""
    lines = []
    path = directory / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def save_weights(model, directory):
    write_atomically(directory / WEIGHTS, lambda temporary: model.save_weights(temporary))


# ---------------------------------------------------------------------------------------------------------------------
# Finding and loading what was trained


def find_runs():
    """{name: directory} of every run that has weights, the shipped ones first."""
    found = {}
    for place in dict.fromkeys((HERE / "checkpoint", root())):
        for path in sorted(place.glob(f"*/{WEIGHTS}")):
            if (path.parent / "config.json").exists():
                found.setdefault(path.parent.name, path.parent)
    return found


def describe_weights(path):
    """(weights file, config.json's content) of a run's name, its directory or its weights file. Raises UserError."""
    path = find_runs().get(str(path), Path(path))
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise UserError(f"there are no weights at {path}: give a {WEIGHTS}, its directory or a run's name")
    about = weights.parent / "config.json"
    if not about.is_file():
        raise UserError(f"there is no config.json beside {weights}, which says what network the weights belong to")
    content = read_json(about)
    try:
        content["config"] = edict(content["config"])
        content["config"].MODEL.scale, content["mode"]
    except (KeyError, AttributeError, TypeError):
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
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{weights} cannot be loaded into the {model.name} ({reason})") from error


def find_init(model_config):
    """(path, why) of SRResNet weights to start a GAN from, or (None, None).

    The weights shipped in checkpoint/ come first, then the finished SRResNet run with the best validation; both must be
    of the architecture `model_config`, the MODEL section.
    """
    candidates = []
    shipped = f"srresnet_x{model_config.scale}"
    for name, directory in find_runs().items():
        weights, about = describe_weights(directory)
        if about["mode"] != "srresnet" or about["config"].MODEL != model_config:
            continue
        if name == shipped:
            return weights, "the weights that come with the project"
        scores = [line["val_psnr_y"] for line in read_metrics(directory) if "val_psnr_y" in line]
        steps = max((line["step"] for line in read_metrics(directory)), default=0)
        if scores and steps >= about["config"].TRAIN.steps:
            candidates.append((scores[-1], weights))
    if not candidates:
        return None, None
    score, weights = max(candidates)
    return weights, f"the finished SRResNet run with the best validation, {score:.2f} dB"
