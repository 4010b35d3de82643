"""The runs of `python -m papers.vespcn`; their networks (networks/vespcn.py) see several frames."""

from networks import vespcn
from runs.kinds import Kind

MODE = "vespcn"
WEIGHTS = "vespcn.weights.h5"
KEYS = {"network": tuple(vespcn.NETWORKS), "scale": (2, 3, 4), "width": range(1, 1025), "skip": (False, True)}


def build(config):
    """The network, untrained, of the MODEL section of such a run's config.json."""
    return vespcn.build(config.network, config.scale, config.width, config.skip)


FILMS = Kind("VESPCN", MODE, WEIGHTS, KEYS, build)
write, describe, load = FILMS.write, FILMS.describe, FILMS.load
