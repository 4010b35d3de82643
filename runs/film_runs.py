"""The runs of `python -m papers.vespcn`; their networks (networks/vespcn.py) see several frames."""

from networks import vespcn
from runs.kinds import Kind

MODE = "vespcn"
WEIGHTS = "vespcn.weights.h5"
KEYS = {"network": tuple(vespcn.NETWORKS), "scale": (2, 3, 4), "width": range(1, 1025)}

FILMS = Kind("VESPCN", MODE, WEIGHTS, KEYS, lambda config: vespcn.build(config.network, config.scale, config.width))
write, describe, load = FILMS.write, FILMS.describe, FILMS.load
