"""Runs of networks that train.py does not train: a directory with config.json, a weights file and metrics.jsonl.

They are looked for where other runs are (runs/store.py); the weights file's name tells their kind.
"""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from easydict import EasyDict as edict

from networks.features import in_floats
from runs import store
from utils import PROJECT, UserError, short


class Kind(NamedTuple):
    """A kind of runs."""

    name: str  # for messages
    mode: str  # in config.json, as the mode of other runs
    weights: str  # the name of the weights file
    keys: dict  # {key of MODEL: what it may be}
    build: Callable  # the MODEL section → the network
    floats: str = "float32"  # of the weights file

    def write(self, directory, network, config, facts):
        """Write a run: its network's weights, and config.json with the configuration, {"MODEL", "TRAIN"}, and facts."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.floats != "float32":
            with in_floats(self.floats):
                smaller = self.build(edict(config["MODEL"]))
            smaller.set_weights(network.get_weights())
            network = smaller
        store.save_weights(network, directory / self.weights)
        versions = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
        versions["python"] = platform.python_version()
        about = {"mode": self.mode, "config": config, **facts, "versions": versions, "commit": store.git_commit()}
        store.write_json(directory / "config.json", about)

    def describe(self, path):
        """(weights file, config.json's content) for a run's name, directory or weights file; None if it is neither.

        The configuration is an EasyDict. Raises UserError for a damaged config.json.
        """
        places = [Path(path), *(place / str(path) for place in (store.root(), PROJECT / "checkpoint"))]
        files = [place / self.weights if place.is_dir() else place for place in places]
        weights = next((file for file in files if file.name == self.weights and file.is_file()), None)
        if not weights:
            return None
        content = store.read_json(weights.parent / "config.json")
        try:
            content["config"] = edict(content["config"])
            for key, allowed in self.keys.items():
                if content["config"].MODEL[key] not in allowed:
                    raise ValueError(f"MODEL.{key}")
            if content["mode"] != self.mode:
                raise ValueError("mode")
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            about = weights.parent / "config.json"
            raise UserError(f"{about} does not describe a run of {self.name} ({short(error)})") from None
        return weights, content

    def load(self, weights, config):
        """The network with the weights of a file; config: the MODEL section. Raises UserError."""
        network = self.build(config)
        store.load_weights(network, weights)
        return network
