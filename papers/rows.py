"""The rows of the paper's Tables 1 and 2, and the command of train.py that trains each."""

from typing import NamedTuple

# Every row that starts from random weights is trained by this rule. The papers' rules need more than minutes, and with
# one rule for all the networks can be compared. Rows that start from another row's weights keep their paper's rule.
SAME_RULE = {
    "TRAIN.optimizer": "adam",
    "TRAIN.learning_rate": 1e-3,
    "TRAIN.schedule": "cosine",
    "TRAIN.batch": 16,
    "TRAIN.last_layer_rate": 1,
    "TRAIN.clip_value": 0,
    "TRAIN.weight_decay": 0,
    "TRAIN.ema": 0.999,
}
# For all rows: the paper's network without our additions. In a short time, many updates on small crops give a higher
# PSNR than few updates on crops of 96.
ALL = {"DATA.crop": 64, "MODEL.skip": "none", "TRAIN.shift": False}


class Row(NamedTuple):
    """A row of the tables: the name of its run, arguments of train.py, seconds per update, and its title."""

    name: str
    arguments: tuple
    seconds: float  # on two quiet cores, from short trials
    title: str
    paper: str | None = None  # the name in tables.PAPER
    after: str | None = None  # the row whose weights it starts from
    sets: tuple | None = None  # the sets to score it on; None: all (for DRCN that would take hours)
    settings: dict = {}  # that differ from ALL and SAME_RULE
    own: dict = {}  # {set: (PSNR-Y, Wang's SSIM)} from the network's own paper


def after_mse(preset, seconds, title, paper):
    """A row of Table 1 that starts from SRResNet-MSE's weights."""
    return Row(preset, ("--preset", preset), seconds, title, paper, after="srresnet-mse")


SRCNN = {"Set5": (30.48, 0.8628), "Set14": (27.50, 0.7513), "BSD100": (26.90, 0.7101)}
VDSR = {"Set5": (31.35, 0.8838), "Set14": (28.01, 0.7674), "BSD100": (27.29, 0.7251)}
JOHNSON = {"Set5": (27.09, 0.7680)}
JOHNSON_PIXEL = {"Set5": (28.40, 0.8205)}
DRCN = {"Set5": (31.53, 0.8854), "Set14": (28.02, 0.7670), "BSD100": (27.23, 0.7233)}
HEAVY = {"TRAIN.batch": 2, "DATA.validation": 1}  # DRCN does 140 times SRResNet's work per pixel
ROWS = (
    Row("srcnn", ("--model", "srcnn"), 0.40, "SRCNN 9-5-5", "SRCNN", own=SRCNN),
    Row("espcn", ("--model", "espcn"), 0.019, "ESPCN", "ESPCN"),
    Row("espcn-hr", ("--model", "espcn-hr"), 0.037, "ESPCN's layers in HR space, about equal work"),
    Row("vdsr", ("--model", "vdsr"), 2.7, "VDSR", own=VDSR),
    Row("drcn", ("--model", "drcn"), 17.5, "DRCN", "DRCN", sets=("Set5",), settings=HEAVY, own=DRCN),
    Row(
        "johnson-pixel",
        ("--model", "johnson"),
        0.48,
        "Johnson et al., pixel loss",
        own=JOHNSON_PIXEL,
        settings={"TRAIN.loss": "mse"},
    ),
    Row(
        "johnson",
        ("--model", "johnson"),
        0.29,
        "Johnson et al., feature loss",
        own=JOHNSON,
        after="johnson-pixel",
        settings={"TRAIN.schedule": "cosine"},  # with the constant rate of 1e-3 the loss did not fall in 400 updates
    ),
    Row("srresnet-mse", ("--preset", "srresnet-mse"), 0.73, "SRResNet-MSE", "SRResNet"),
    after_mse("srresnet-vgg22", 1.25, "SRResNet-VGG22", "SRResNet-VGG22"),
    Row("random-init", ("--upsampler-init", "random"), 0.73, "SRResNet, sub-pixel convolutions not by ICNR"),
    Row("resize", ("--upsampler", "resize"), 0.75, "SRResNet, nearest-neighbour resizing and convolutions"),
    Row("deconv", ("--upsampler", "deconv"), 0.73, "SRResNet, transposed convolutions"),
    after_mse("srgan-mse", 1.8, "SRGAN-MSE", "SRGAN-MSE"),
    after_mse("srgan-vgg22", 2.3, "SRGAN-VGG22", "SRGAN-VGG22"),
    after_mse("srgan-vgg54", 2.5, "SRGAN-VGG54", "SRGAN"),
    after_mse("slides", 2.5, "SRGAN by the slides' loss", None)._replace(
        arguments=("--mode", "srgan", "--preset", "slides"), name="srgan-slides"
    ),
)


def steps_of(row, minutes):
    """The updates that a row gets for its time, at least one."""
    return max(int(60 * minutes / row.seconds), 1)


def run_name(name):
    """The name of a row's run."""
    return f"row-{name}"


def rule_of(row):
    """The settings {"SECTION.key": value} of a row that override those of its preset or network."""
    return ALL | (SAME_RULE if row.after is None else {}) | row.settings


def command_of(row, minutes, data_directory=None, overrides=()):
    """The arguments of train.py for a new row, which saves about ten times and validates twice."""
    steps = steps_of(row, minutes)
    settings = rule_of(row) | {"TRAIN.save_every": max(steps // 10, 1), "TRAIN.validate_every": max(steps // 2, 1)}
    command = [*row.arguments, "--name", run_name(row.name), "--steps", str(steps)]
    command += ("--init", run_name(row.after)) if row.after else ()
    command += ("--data", data_directory) if data_directory else ()
    for setting in (*(f"{key}={value}" for key, value in settings.items()), *overrides):
        command += ("--set", setting)
    return command
