"""The runs of `python -m papers.style`; their networks (networks/style.py) paint a picture in a style, at its size."""

from layers.upsampling import UPSAMPLERS
from networks import style
from runs.kinds import Kind

MODE = "style"
WEIGHTS = "style.weights.h5"  # in float16; a run's checkpoints are in float32
KEYS = {"network": ("style",), "scale": (1,), "upsampler": tuple(UPSAMPLERS), "width": range(1, 1025)}

STYLES = Kind(
    "papers.style", MODE, WEIGHTS, KEYS, lambda config: style.transformer(config.upsampler, config.width), "float16"
)
write, describe, load = STYLES.write, STYLES.describe, STYLES.load
