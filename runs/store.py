"""The run directory: checkpoint/<run>/ with config.json, logs, generator.weights.h5, best.weights.h5 and checkpoints.

config.json says all that is needed to build the network again; weights without it are refused. `$SRGAN_RUNS` names
another place for new runs; runs are looked for in both. A checkpoint holds all that training needs to go on exactly.
"""

import contextlib
import copy
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import utils
from config import DEFAULTS, MODES, check_config, set_value
from images import hashes
from networks.registry import build_generator
from runs import devices
from runs.logs import read_metrics
from utils import PROJECT, UserError

WEIGHTS = "generator.weights.h5"  # the newest
BEST = "best.weights.h5"  # those with the best validation
SCORES = "scores.json"  # what evaluate.py measured of these weights
ALWAYS = ("scale", "blocks", "width", "output", "bn_momentum", "bn_epsilon")  # the keys of MODEL that all runs name
RESERVED = ("evaluate", "readme", "reproduce", "subpixel")  # folders of samples/ with another use
DROPPED = ("TRAIN.accumulate",)  # settings of older runs that exist no more and are left out
# What every generator of this project takes and gives, written into config.json.
NETWORK = {
    "input": "LR [batch, height, width, 3], RGB from 0 to 1",
    "output": "SR [batch, scale·height, scale·width, 3], RGB from -1 to 1",
    "kernel": "MATLAB's bicubic with antialiasing, rounded to 8 bits",
}
ARCHITECTURE = (
    "network",
    "scale",
    "blocks",
    "width",
    "output",
    "upsampler",
    "skip",
)  # the keys of MODEL that weights must agree in


def root():
    """Where new runs are written: $SRGAN_RUNS, else checkpoint/ beside this file."""
    return Path(os.environ.get("SRGAN_RUNS") or PROJECT / "checkpoint")


def kind_of(mode, config):
    """What is trained, in a word: the mode, behind the network if that is not the paper's; config: all sections."""
    network = config.MODEL.network
    return mode if network == "srresnet" else f"{network}-{mode}"


def new_name(kind):
    """A run's name when none is given: its kind (see kind_of) and the time."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_name(name):
    """The directory of a new run. Raises UserError if the name is taken, reserved or no plain file name."""
    if not name or Path(name).name != name or name.startswith((".", "-")):
        raise UserError(f"a run's name must be a plain file name, not '{name}'")
    if name.lower() in RESERVED:
        raise UserError(f"samples/{name}/ has another use: choose another --name")
    for place in (root(), PROJECT / "checkpoint", PROJECT / "samples"):
        if (place / name).exists() and devices.is_chief():  # the first of several workers may be there already
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

    @property
    def samples(self):
        """Where its sample grids are written."""
        return PROJECT / "samples" / self.name


def create(run, facts):
    """Make the run's directory and write config.json: the configuration, `facts` (a dict), versions and git commit."""
    if not devices.is_chief():
        return
    run.directory.mkdir(parents=True)
    versions = {name: version(name) for name in ("tensorflow", "keras", "tensorlayer", "numpy", "pillow")}
    versions["python"] = platform.python_version()
    about = {"mode": run.mode, "preset": run.preset, "network": NETWORK, "config": run.config, **facts}
    about["versions"] = versions
    write_json(run.directory / "config.json", about | {"commit": git_commit()})


def git_commit():
    """The commit of this code, with "-dirty" if files differ from it; None where there is no git to ask."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(*packages):
    """What measured speed belongs to: cores, system, Python, and the versions of those packages that are installed."""
    facts = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def reopen(name):
    """(Run, facts) of a run that is to be resumed, as its config.json says. Raises UserError."""
    places = [Path(name), *(place / name for place in (root(), PROJECT / "checkpoint"))]
    place = next((place.resolve() for place in places if name and (place / "config.json").is_file()), None)
    if not place:
        raise UserError(f"there is no run called '{name}'")
    about = read_about(place / "config.json")
    return Run(place, about["mode"], about["preset"], about["config"]), about


def save_weights(network, path):
    """Write a network's weights to `path`, which ends in .weights.h5."""
    if devices.is_chief():
        utils.write_atomically(path, lambda temporary: network.save_weights(temporary))


# ---------------------------------------------------------------------------------------------------------------------
# Finding and loading what was trained


def find_runs():
    """{name: (weights file, config.json's content)} of every run that has weights; one that is broken is named."""
    found = {}
    for place in dict.fromkeys((PROJECT / "checkpoint", root())):
        for path in sorted(place.glob(f"*/{WEIGHTS}")):
            try:
                found.setdefault(path.parent.name, describe_weights(path))
            except UserError as error:
                print(f"left out: {error}")
    return found


def describe_weights(path):
    """(weights file, config.json's content) of a run's name, its directory or its weights file. Raises UserError."""
    places = [Path(path), *(place / str(path) for place in (root(), PROJECT / "checkpoint"))]
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
        theirs, config = content["config"], copy.deepcopy(DEFAULTS)
        for section in DEFAULTS:
            # The network must be described in full; a setting that is newer than the run is its default.
            for key in {*theirs.get(section, {}), *(ALWAYS if section == "MODEL" else ())}:
                if f"{section}.{key}" not in DROPPED:
                    set_value(config, f"{section}.{key}", theirs[section][key])
        content["config"] = config
        check_config(config)
        MODES.index(content["mode"])
        for key, theirs in content.get("network", {}).items():
            if theirs != NETWORK.get(key):
                raise UserError(f"the network's {key} is '{theirs}', which this program does not know")
    except (KeyError, AttributeError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{about} does not describe a run of train.py ({utils.short(error)})") from None
    return content


def load_generator(path):
    """(generator, config.json's content) of a run's name, directory or weights file. Raises UserError."""
    weights, about = describe_weights(path)
    generator = build_generator(about["config"].MODEL)
    load_weights(generator, weights)
    return generator, about


def read_scores(weights):
    """{"SET ×scale": {measure: mean}} that scores.json beside a weights file holds for just these weights, else {}.

    Raises UserError if there is such a file but it cannot be understood.
    """
    recorded = all_scores(weights.parent / SCORES).get(weights.name)
    return recorded["scores"] if recorded and recorded["sha256"] == hashes.file_digest(weights, "sha256") else {}


def all_scores(path):
    """The content of a scores.json: {weights file: {"sha256", "scores"}}, {} if there is none. Raises UserError."""
    content = read_json(path) if path.is_file() else {}
    try:
        means = [mean for entry in content.values() for row in entry["scores"].values() for mean in row.values()]
        if all(isinstance(value, float | int) for value in means) and all(
            "sha256" in entry for entry in content.values()
        ):
            return content
    except (AttributeError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is not what evaluate.py wrote; delete it to have it written anew")


def write_scores(weights, scores):
    """Write scores as read_scores gives them; those of the directory's other weights files stay."""
    path = weights.parent / SCORES
    recorded = {"sha256": hashes.file_digest(weights, "sha256"), "scores": scores}
    write_json(path, all_scores(path) | {weights.name: recorded})


def default_weights(scales=(4,)):
    """The directory of the run to use where none is named: of the first scale that has one, the SRGAN's if it is there.

    Raises UserError.
    """
    names = [f"{mode}_x{scale}" for scale in scales for mode in ("srgan", "srresnet")]
    for name in names:
        for place in (PROJECT / "checkpoint", root()):
            if (place / name / WEIGHTS).is_file():
                return place / name
    raise UserError(f"there are no weights, none of {', '.join(names)}: name others, or train one by that --name")


def check_blend(first, second):
    """(weights file, config.json's content) of the first of two runs; UserError unless they are of one network."""
    (file, about), (_, other) = (describe_weights(path) for path in (first, second))
    if unlike := differences(other["config"].MODEL, about["config"].MODEL):
        raise UserError(f"{first} and {second} are different networks and cannot be blended ({', '.join(unlike)})")
    return file, about


def blends(first, second, shares):
    """Yield (generator, config.json's content of the first) with the weights (1 - t)·first + t·second for each t.

    It is one generator, whose weights are changed from turn to turn. Raises UserError.
    """
    check_blend(first, second)
    generator, about = load_generator(first)
    ours, theirs = generator.get_weights(), load_generator(second)[0].get_weights()
    for t in shares:
        generator.set_weights([(1 - t) * a + t * b for a, b in zip(ours, theirs, strict=True)])
        yield generator, about


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
        theirs = about["config"]
        if about["mode"] != "srresnet" or theirs.TRAIN.loss != "mse" or differences(theirs.MODEL, model_config):
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
