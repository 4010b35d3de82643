"""The command line of train.py, read and checked completely before TensorFlow loads."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import data
from config import CHOICES, MODES, PRESETS, VGG_LOSSES, check_config, make_config, make_init_config, set_value
from networks import features
from runs import devices, places, store
from training.state import newest_step
from utils import UserError

# Flags that stand for a setting: {flag: "SECTION.key"}. A resumed run takes those of HOW, and refuses those of WHAT.
WHAT = {"batch": "TRAIN.batch", "seed": "TRAIN.seed", "vgg": "VGG.network", "precision": "TRAIN.precision"}
WHAT |= {"model": "MODEL.network", "upsampler": "MODEL.upsampler", "upsampler_init": "MODEL.upsampler_init"}
HOW = {"steps": "TRAIN.steps", "cache": "DATA.cache"}
HOW |= {name: f"TRAIN.{name}" for name in ("xla", "replicas", "on_nan")}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description="Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan); the losses are at the top of train.py.",
        epilog="example: python train.py --mode=srresnet --data ~/photos --name mine --steps 2000",
    )
    add = parser.add_argument
    add("--mode", choices=MODES, help="srgan has a discriminator (default: the preset's mode, else srresnet)")
    add(
        "--preset",
        choices=PRESETS,
        help="a set of settings (default: default, for hours on a CPU; see docs/training.md)",
    )
    add("--model", choices=CHOICES["MODEL.network"], help="the network to train (default: the preset's, else srresnet)")
    add("--upsampler", choices=CHOICES["MODEL.upsampler"], help="how srresnet upscales (default: subpixel)")
    kernels = "initial weights of sub-pixel convolutions (default: icnr)"
    add("--upsampler-init", choices=CHOICES["MODEL.upsampler_init"], help=kernels)
    add("--steps", metavar="N", help="number of updates (default: the paper's, 1e6 for srresnet, 2e5 for srgan)")
    add("--batch", metavar="N", help="crops per update (default: the network's, 16 for the paper's)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of HR photographs")
    add("--cache", choices=CHOICES["DATA.cache"], help="where decoded photographs are kept (default: auto)")
    add("--name", metavar="RUN", help="name of the run, checkpoint/RUN/ (default: mode and time)")
    add("--init", metavar="WEIGHTS", help="weights to start from: a file, a run's directory or its name; any scale")
    vgg = "the perceptual network; lite2: EfficientNet-Lite2; auto: vgg19, or hed without a connection (default: auto)"
    add("--vgg", choices=CHOICES["VGG.network"], help=vgg)
    add("--seed", metavar="N", help="seed of weights and batches (default: 0)")
    precision = "number format; auto: mixed_float16 on GPUs with tensor cores, else float32 (default: auto)"
    add("--precision", choices=CHOICES["TRAIN.precision"], help=precision)
    add(
        "--no-xla",
        dest="xla",
        action="store_false",
        default=None,
        help="run the plain graph instead of compiling the update",
    )
    add("--replicas", metavar="N", help="copies of the network that share each batch (default: one per GPU)")
    on_nan = "if a loss is not finite; rollback: go back to the last checkpoint (default: stop)"
    add("--on-nan", choices=CHOICES["TRAIN.on_nan"], help=on_nan)
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of config.py; repeatable")
    resume = "continue this run from its newest checkpoint; only --data, --steps, --cache, --replicas, --no-xla, "
    resume += "--on-nan and --dry-run may be given with it"
    add("--resume", metavar="RUN", help=resume)
    export = "write the compiled update for another XLA runtime such as JAX instead of training"
    add("--export-update", type=Path, metavar="DIR", help=export)
    collect = "make a run of RESULTS, which another runtime trained with the update in DIR; --name names it"
    add("--collect", type=Path, nargs=2, metavar=("DIR", "RESULTS"), help=collect)
    add("--dry-run", action="store_true", help="check everything, print the configuration and stop")
    return parser.parse_args(arguments)


class Plan(NamedTuple):
    """The runs to train, and what they are trained with."""

    jobs: list  # [store.Run], in order; each starts from the weights of the one before
    photographs: list
    data_facts: dict
    init: Path | None  # weights that the first run starts from
    vgg_path: Path | None  # from features.find_vgg
    resumed: bool = False  # the one run continues from its newest checkpoint
    about: dict | None = None  # the new content of its config.json, if --steps changed its length


def read_plan(args):
    """The Plan of parsed arguments; None after a dry run, which prints it. Raises UserError at the first mistake."""
    plan = read_new(args) if args.resume is None else read_resumed(args)
    if not args.dry_run:
        return plan
    run = plan.jobs[-1]
    print(json.dumps(run.config, indent=2))
    next_step = f"{run.name} would continue" if plan.resumed else f"{run.directory} would be written"
    print(f"dry run: no mistake was found, {next_step}")
    return None


# ---------------------------------------------------------------------------------------------------------------------
# A new run


def read_new(args):
    """The Plan of a new run. A GAN that finds no weights to start from gets an SRResNet run before it."""
    config, overrides = read_config(args)
    name = store.new_name(store.kind_of(args.mode, config)) if args.name is None else args.name
    run = store.Run(store.check_name(name), args.mode, args.preset, config)
    jobs, init = [run], None
    if args.init is not None:
        init = check_init(args.init, config)
        scale = store.describe_weights(init)[1]["config"].MODEL.scale
        part = "" if scale == config.MODEL.scale else f": of this ×{scale} network, all layers that fit"
        print(f"starting from {init} (--init){part}")
    check_frozen_statistics(run, init)
    photographs, data_facts = data.read_training(args.data, config)
    vgg_path = find_vgg(config)
    if args.mode == "srgan" and not init:
        first_config = make_init_config(config, overrides)
        init, why = store.find_init(config.MODEL, data_facts["fingerprint"], first_config.TRAIN.steps)
        if init:
            print(f"starting from {init} ({why})")
        else:
            jobs = [srresnet_before(run, first_config), run]
            check_two_runs_are_possible(args)
    return Plan(jobs, photographs, data_facts, init, vgg_path)


def read_config(args):
    """(configuration, ["SECTION.key=value"] from the command line) of a new run; fills in args.mode and args.preset."""
    args.preset = args.preset or "default"
    args.mode = args.mode or next(iter(PRESETS[args.preset]))
    overrides = args.set + settings_of(args, WHAT | HOW)
    return make_config(args.mode, args.preset, overrides), overrides


def settings_of(args, flags):
    """["SECTION.key=value"] of those of `flags`, {flag: "SECTION.key"}, that were given."""
    given = {key: getattr(args, flag) for flag, key in flags.items()}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def check_init(path, config):
    """The weights file of --init. Raises UserError if there is none or if it belongs to another architecture.

    The scale may be another (store.load_start).
    """
    weights, about = store.describe_weights(path)
    keys = [key for key in store.ARCHITECTURE if key != "scale"]
    if different := store.differences(about["config"].MODEL, config.MODEL, keys):
        raise UserError(f"{weights} is of another architecture than this run: {', '.join(different)}")
    return weights


def check_frozen_statistics(run, init):
    """Raise UserError if the batch norms of an SRResNet are to be frozen but no weights bring their statistics."""
    if run.config.TRAIN.batch_norm == "frozen" and run.mode == "srresnet" and not init:
        raise UserError("TRAIN.batch_norm=frozen trains with the statistics of trained weights: name some with --init")


def find_vgg(config):
    """The path of VGG19's weights if the loss looks at features; None without it, or for another network.

    Writes what "auto" means on this machine into the configuration, so that the run can be resumed on another one.
    """
    if config.TRAIN.loss not in VGG_LOSSES:
        return None
    path = features.find_vgg(config.VGG.network)
    if config.VGG.network == "auto":
        set_value(config, "VGG.network", "vgg19" if path else "hed")
    return path


def srresnet_before(run, config):
    """The SRResNet run that a GAN without weights starts from, which is printed; run: the GAN's; config: SRResNet's."""
    before = store.Run(store.check_name(f"{run.name}-srresnet"), "srresnet", run.preset, config)
    print(
        f"there are no SRResNet weights to start from (--init could name some): first training SRResNet as run "
        f"{before.name} for {config.TRAIN.steps:,} updates (--set TRAIN.init_steps=N changes this number)"
    )
    return before


def check_two_runs_are_possible(args):
    """Raise UserError if an SRResNet cannot be trained before the GAN in the same command."""
    if args.export_update:
        raise UserError("--export-update of a GAN needs weights to start from: name some with --init")
    if devices.workers()[1] > 1:
        raise UserError("with several workers a GAN needs weights: first train an SRResNet, then name it with --init")


# ---------------------------------------------------------------------------------------------------------------------
# A run that is resumed


def read_resumed(args):
    """The Plan of a run that continues: with its own settings, on the same photographs, with the same VGG."""
    check_flags_of_resume(args)
    run, about = store.reopen(args.resume)
    if "precision" in about:  # what "auto" meant when the run began: checkpoints of float16 hold more values
        set_value(run.config, "TRAIN.precision", about["precision"])
    if run.config.VGG.network == "auto" and "vgg" in about:
        set_value(run.config, "VGG.network", "vgg19" if about["vgg"].startswith("VGG19") else "hed")
    for setting in settings_of(args, HOW):
        set_value(run.config, *setting.split("=", 1))
    check_config(run.config)
    args.data = places.data_of(run.name, args.data)
    photographs, data_facts = data.read_training(args.data, run.config)
    check_same_photographs(run, about.get("data", {}), data_facts)
    vgg_path = find_vgg(run.config)
    check_same_vgg(run, about.get("vgg"), vgg_path)
    check_steps_are_left(run)
    changed = None if args.steps is None else about  # run.config is the configuration in it
    return Plan([run], photographs, data_facts, None, vgg_path, resumed=True, about=changed)


def check_flags_of_resume(args):
    """Raise UserError if flags were given that would change what is trained."""
    fixed = ("mode", "preset", "name", "init", "set", "export_update", *WHAT)
    if given := [f"--{flag.replace('_', '-')}" for flag in fixed if getattr(args, flag) not in (None, [])]:
        raise UserError(f"--resume uses the run's own settings: leave out {', '.join(given)}")


def check_same_photographs(run, before, now):
    """Raise UserError unless the photographs are those the run began with; before, now: facts of data.read_training."""
    if now["fingerprint"] != before.get("fingerprint"):
        raise UserError(
            f"{run.name} was trained on other photographs ({before.get('images')} images in '{before.get('name')}'; "
            f"these are {now['images']} in '{now['name']}', with other names or sizes): name the same ones with --data"
        )


def check_same_vgg(run, before, vgg_path):
    """Raise UserError unless the VGG is the one the run began with; before: its description in config.json, or None."""
    if run.config.TRAIN.loss in VGG_LOSSES and (now := features.describe_vgg(run.config, vgg_path)) != before:
        raise UserError(f"{run.name} was trained with {before}, but now there is {now}")


def check_steps_are_left(run):
    """Raise UserError if the run's newest checkpoint is at its last step already."""
    if (done := newest_step(run.directory)) >= run.config.TRAIN.steps:
        raise UserError(f"{run.name} has done {done:,} steps already: give more with --steps")
