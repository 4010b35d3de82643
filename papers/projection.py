"""Runs with the projection of Sønderby et al., 2017, behind the weights of other runs: nothing is trained.

    python -m papers.projection srresnet_x4 srgan_x4
    python evaluate.py --weights srgan_x4 srgan_x4-projected

The new runs are used like any other: by evaluate.py, upscale.py, export.py and demo.py.
"""

import argparse
import shutil

from cli import terminal
from runs import store
from utils import UserError


def name_of(run):
    """The name of the run that `make` makes of a run's name."""
    return f"{run}-projected"


def make(run):
    """Make the run NAME-projected: its weights, with MODEL.projection=bicubic. Returns its directory.

    run: a run's name, directory or weights file. Nothing is made if it is there already, with the same weights. Raises
    UserError.
    """
    weights, about = store.describe_weights(run)
    if about["config"].MODEL.projection != "none":
        raise UserError(f"{weights} has a projection already")
    directory = store.root() / name_of(weights.resolve().parent.name)
    if directory.exists():
        if (directory / store.WEIGHTS).read_bytes() != weights.read_bytes():
            raise UserError(f"{directory} has other weights: remove it to have it made again")
        return directory
    about["config"].MODEL.projection = "bicubic"
    directory.mkdir(parents=True)
    shutil.copyfile(weights, directory / store.WEIGHTS)
    store.write_json(directory / "config.json", about | {"projection_of": weights.resolve().parent.name})
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's name, its directory or weights file")
    for run in parser.parse_args().runs:
        print(f"made: {make(run)}")


if __name__ == "__main__":
    terminal.run_command(main)
