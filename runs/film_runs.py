"""The runs of `python -m papers.vespcn`: a directory with config.json, vespcn.weights.h5 and metrics.jsonl.

They are looked for where other runs are (runs/store.py); their networks (networks/vespcn.py) see several frames.
"""

import platform
from importlib.metadata import version
from pathlib import Path

from easydict import EasyDict as edict

from networks import vespcn
from runs import store
from utils import PROJECT, UserError, short

MODE = "vespcn"  # in config.json, as the mode of other runs
WEIGHTS = "vespcn.weights.h5"
# Of MODEL.
KEYS = {"network": tuple(vespcn.NETWORKS), "scale": (2, 3, 4), "width": range(1, 1025), "skip": (False, True)}


def write(directory, network, config, facts):
    """Write a run: its network's weights, and config.json with the configuration, {"MODEL", "TRAIN"}, and facts."""
    directory.mkdir(parents=True, exist_ok=True)
    store.save_weights(network, directory / WEIGHTS)
    versions = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    versions["python"] = platform.python_version()
    about = {"mode": MODE, "config": config, **facts, "versions": versions, "commit": store.git_commit()}
    store.write_json(directory / "config.json", about)


def describe(path):
    """(weights file, config.json's content) for a run's name, directory or weights file; None if it is none of these.

    The configuration is an EasyDict. Raises UserError for a damaged config.json.
    """
    places = [Path(path), *(place / str(path) for place in (store.root(), PROJECT / "checkpoint"))]
    files = [place / WEIGHTS if place.is_dir() else place for place in places]
    weights = next((file for file in files if file.name == WEIGHTS and file.is_file()), None)
    if not weights:
        return None
    content = store.read_json(weights.parent / "config.json")
    try:
        content["config"] = edict(content["config"])
        for key, allowed in KEYS.items():
            if content["config"].MODEL[key] not in allowed:
                raise ValueError(f"MODEL.{key}")
        if content["mode"] != MODE:
            raise ValueError("mode")
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        about = weights.parent / "config.json"
        raise UserError(f"{about} does not describe a run of VESPCN ({short(error)})") from None
    return weights, content


def load(weights, config):
    """The network of networks/vespcn.build with the weights of a file; config: the MODEL section. Raises UserError."""
    network = vespcn.build(config.network, config.scale, config.width, config.skip)
    store.load_weights(network, weights)
    return network
