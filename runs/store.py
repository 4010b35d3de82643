"""The run directory: checkpoint/<run>/ with config.json, logs, generator.weights.h5, best.weights.h5 and checkpoints.

config.json holds all that is needed to build the network again; weights without it are refused. `$SRGAN_RUNS` names
another place for new runs; runs are looked for in both. A checkpoint holds all that training needs to continue exactly.
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

WEIGHTS = "generator.weights.h5"  # the newest weights
BEST = "best.weights.h5"  # the weights with the best validation
SCORES = "scores.json"  # what evaluate.py measured with these weights
ALWAYS = ("scale", "blocks", "width", "output", "bn_momentum", "bn_epsilon")  # keys of MODEL in every config.json
RESERVED = ("evaluate", "readme", "reproduce", "subpixel")  # folders of samples/ with another use
DROPPED = ("TRAIN.accumulate",)  # settings of older runs that no longer exist and are ignored
# Input and output of every generator of this project, for config.json.
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
    "widths",
    "output",
    "upsampler",
    "skip",
)  # the keys of MODEL that weights must agree in


def root():
    """Where new runs are written: $SRGAN_RUNS, else checkpoint/ beside this file."""
    return Path(os.environ.get("SRGAN_RUNS") or PROJECT / "checkpoint")


def kind_of(mode, config):
    """What is trained, for a run's name: the mode, after the network's name if that is not the paper's."""
    network = config.MODEL.network
    return mode if network == "srresnet" else f"{network}-{mode}"


def new_name(kind):
    """The name of a run that was given none: its kind (see kind_of) and the time."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_name(name):
    """The directory of a new run. Raises UserError if the name is taken, reserved or not a plain file name."""
    if not name or Path(name).name != name or name.startswith((".", "-")):
        raise UserError(f"a run's name must be a plain file name, not '{name}'")
    if name.lower() in RESERVED:
        raise UserError(f"samples/{name}/ has another use: choose another --name")
    for place in (root(), PROJECT / "checkpoint", PROJECT / "samples"):
        if (place / name).exists() and devices.is_chief():  # of several workers, the first may have made it already
            raise UserError(f"there is a run called '{name}' already ({place / name}): choose another --name")
    return root() / name


def write_json(path, value):
    utils.write_atomically(
        path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    )


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
    """The commit of this code, with "-dirty" if files differ from it; None without git."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(*packages):
    """The machine that a speed was measured on: cores, system, Python, versions of the packages if installed."""
    facts = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def reopen(name):
    """(Run, config.json's content) of an existing run: its name or directory. Raises UserError if there is none."""
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
    """{name: (weights file, config.json's content)} of every run with weights; prints the names of damaged ones."""
    found = {}
    for place in dict.fromkeys((PROJECT / "checkpoint", root())):
        for path in sorted(place.glob(f"*/{WEIGHTS}")):
            try:
                found.setdefault(path.parent.name, describe_weights(path))
            except UserError as error:
                print(f"left out: {error}")
    return found


def describe_weights(path):
    """(weights file, config.json's content) for a run's name, directory or weights file. Raises UserError."""
    places = [Path(path), *(place / str(path) for place in (root(), PROJECT / "checkpoint"))]
    files = [place / WEIGHTS if place.is_dir() else place for place in places]
    weights = next((file for file in files if file.is_file()), None)
    if not weights:
        raise UserError(f"there are no weights at '{path}': give a {WEIGHTS}, its directory or a run's name")
    about = weights.parent / "config.json"
    if not about.is_file():
        raise UserError(f"there is no config.json beside {weights} to say which network the weights belong to")
    return weights, read_about(about)


def read_about(about):
    """The content of a run's config.json, its configuration as a checked EasyDict. Raises UserError."""
    content = read_json(about)
    try:
        written, config = content["config"], copy.deepcopy(DEFAULTS)
        for section in DEFAULTS:
            # The network must be described in full. Other settings may be newer than the run: they have their defaults.
            for key in {*written.get(section, {}), *(ALWAYS if section == "MODEL" else ())}:
                if f"{section}.{key}" not in DROPPED:
                    set_value(config, f"{section}.{key}", written[section][key])
        content["config"] = config
        check_config(config)
        MODES.index(content["mode"])
        for key, text in content.get("network", {}).items():
            if text != NETWORK.get(key):
                raise UserError(f"the network's {key} is '{text}', which is not supported")
    except (KeyError, AttributeError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{about} does not describe a run of train.py ({utils.short(error)})") from None
    return content


def load_generator(path):
    """(generator, config.json's content) for a run's name, directory or weights file. Raises UserError."""
    weights, about = describe_weights(path)
    generator = build_generator(about["config"].MODEL)
    load_weights(generator, weights)
    return generator, about


def read_scores(weights):
    """{"SET ×scale": {measure: mean}} of a weights file from scores.json beside it; {} if it has none for this content.

    Raises UserError if scores.json cannot be read.
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
    raise UserError(f"{path} was not written by evaluate.py; delete it to have it written again")


def write_scores(weights, scores):
    """Write scores, of the form that read_scores returns; those of other weights files in the directory stay."""
    path = weights.parent / SCORES
    recorded = {"sha256": hashes.file_digest(weights, "sha256"), "scores": scores}
    write_json(path, all_scores(path) | {weights.name: recorded})


def default_weights(scales=(4,)):
    """The directory of the run to use if none is named: of the first scale that has one, the SRGAN, else the SRResNet.

    Raises UserError if there is none.
    """
    names = [f"{mode}_x{scale}" for scale in scales for mode in ("srgan", "srresnet")]
    if found := first_run(names):
        return found
    raise UserError(
        f"there are no weights ({' or '.join(names)}): name others, or train a network with one of these --names"
    )


def photo_weights(scales=(4,)):
    """As default_weights, of those trained with DATA.degradation=photo, for compressed pictures; None without any."""
    return first_run(f"{mode}_x{scale}_photo" for scale in scales for mode in ("srgan", "srresnet"))


def first_run(names):
    """The directory of the first of the named runs that is there, or None."""
    places = [place / name for name in names for place in (PROJECT / "checkpoint", root())]
    return next((place for place in places if (place / WEIGHTS).is_file()), None)


def check_blend(first, second):
    """(weights file, config.json's content) of the first of two runs. Raises UserError if their networks differ."""
    (file, about), (_, other) = (describe_weights(path) for path in (first, second))
    if unlike := differences(other["config"].MODEL, about["config"].MODEL):
        raise UserError(f"{first} and {second} are different networks and cannot be blended ({', '.join(unlike)})")
    return file, about


def blends(first, second, shares):
    """Yield (generator, config.json's content of its run) with the weights (1 - t)·first + t·second for each t.

    It is the same generator each time, with other weights: the first's, or the second's if that has a projection, which
    has no weights. Raises UserError if the networks differ.
    """
    check_blend(first, second)
    (generator, about), (other, others) = load_generator(first), load_generator(second)
    ours, theirs = generator.get_weights(), other.get_weights()
    if others["config"].MODEL.projection != "none":
        generator, about = other, others
    for t in shares:
        generator.set_weights([(1 - t) * a + t * b for a, b in zip(ours, theirs, strict=True)])
        yield generator, about


def load_weights(model, weights):
    """Load a weights file into a network. Raises UserError if it is damaged or belongs to another network."""
    try:
        model.load_weights(weights)
    except Exception as error:  # h5py and Keras raise many kinds for a wrong file
        raise UserError(f"{weights} cannot be loaded into the {model.name} ({utils.short(error)})") from error


def load_start(model, weights, scale):
    """Load what the training of a network for `scale` starts from. Raises UserError as load_weights does.

    Of weights for another scale, the layers with the same name and shapes are taken, as EDSR's ×4 starts from its ×2
    (Lim et al., 2017, section 3.2).
    """
    if describe_weights(weights)[1]["config"].MODEL.scale == scale:
        load_weights(model, weights)
        return
    theirs = {layer.name: layer.get_weights() for layer in load_generator(weights)[0].layers}
    for layer in model.layers:
        ours, found = layer.get_weights(), theirs.get(layer.name, [])
        if [array.shape for array in ours] == [array.shape for array in found]:
            layer.set_weights(found)


def differences(theirs, ours, keys=ARCHITECTURE):
    """The keys in which two MODEL sections differ so that weights do not fit, as words; [] if weights fit."""
    return [f"MODEL.{key} {theirs[key]}, not {ours[key]}" for key in keys if theirs[key] != ours[key]]


def find_init(model_config, fingerprint, least_steps):
    """(path, why) of SRResNet weights to start a GAN from, or (None, None).

    The weights that come with the project are first choice, then the finished SRResNet run with the best validation,
    preferably on the data set `fingerprint`. They must fit `model_config` (the MODEL section), and a run must have had
    at least `least_steps` updates, so that a trial does not count.
    """
    candidates = []
    for name, (weights, about) in find_runs().items():
        config = about["config"]
        if about["mode"] != "srresnet" or config.TRAIN.loss != "mse" or differences(config.MODEL, model_config):
            continue
        if name == f"srresnet_x{model_config.scale}":
            return weights, "the weights that come with the project"
        lines = read_metrics(weights.parent)
        scores = [line["val_psnr_y"] for line in lines if "val_psnr_y" in line]
        finished = lines and lines[-1]["step"] >= config.TRAIN.steps >= least_steps
        if scores and finished:
            same = about.get("data", {}).get("fingerprint") == fingerprint
            candidates.append((same, scores[-1], weights))
    if not candidates:
        return None, None
    _, score, weights = max(candidates)
    return weights, f"the finished SRResNet run with the best validation, {score:.2f} dB"
