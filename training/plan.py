"""What train.py is asked to do: its command line, read and checked to the end before TensorFlow loads."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import data
from config import CHOICES, MODES, PRESETS, VGG_LOSSES, check_config, make_config, make_init_config, set_value
from networks import features
from runs import devices, store
from training.state import newest_step
from utils import UserError

# What a flag is short for. How a run is computed may be changed when it is resumed, what is computed may not.
WHAT = {"batch": "TRAIN.batch", "seed": "TRAIN.seed", "vgg": "VGG.network", "precision": "TRAIN.precision"}
WHAT |= {"model": "MODEL.network", "upsampler": "MODEL.upsampler", "upsampler_init": "MODEL.upsampler_init"}
HOW = {"steps": "TRAIN.steps", "cache": "DATA.cache"}
HOW |= {name: f"TRAIN.{name}" for name in ("xla", "replicas", "on_nan")}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description="Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan); the losses stand first in train.py.",
    )
    add = parser.add_argument
    add("--mode", choices=MODES, help="srgan: with a discriminator (default: what the preset is of, else srresnet)")
    add(
        "--preset",
        choices=PRESETS,
        help="default: for hours on a CPU; slides: their losses; a column of the paper's Table 1; the TensorLayer code",
    )
    add("--model", choices=CHOICES["MODEL.network"], help="the network to train (default: the preset's, else srresnet)")
    add("--upsampler", choices=CHOICES["MODEL.upsampler"], help="of srresnet (default: subpixel)")
    add("--upsampler-init", choices=CHOICES["MODEL.upsampler_init"], help="of sub-pixel convolutions (default: icnr)")
    add("--steps", metavar="N", help="updates (default: the paper's, 1e6 for srresnet, 2e5 for srgan)")
    add("--batch", metavar="N", help="crops an update (default: the network's, 16 for the paper's)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of HR photographs")
    add("--cache", choices=CHOICES["DATA.cache"], help="where decoded photographs are kept (default: auto)")
    add("--name", metavar="RUN", help="name of the run, checkpoint/RUN/ (default: mode and time)")
    add("--init", metavar="WEIGHTS", help="weights to start from: a file, a run's directory or its name")
    add("--vgg", choices=CHOICES["VGG.network"], help="the perceptual network (default: auto)")
    add("--seed", metavar="N", help="of weights and batches (default: 0)")
    add(
        "--precision",
        metavar="P",
        help="auto, float32, mixed_float16, mixed_bfloat16 (default: auto, which is mixed on GPUs with tensor cores)",
    )
    add("--no-xla", dest="xla", action="store_false", default=None, help="run the plain graph, do not compile the step")
    add(
        "--replicas",
        metavar="N",
        help="copies of the network, each with its share of the batch (default: one for each GPU)",
    )
    add("--on-nan", choices=CHOICES["TRAIN.on_nan"], help="what to do about a loss that is no number (default: stop)")
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of config.py; repeatable")
    add(
        "--resume",
        metavar="RUN",
        help="go on with this run from its newest checkpoint (besides: --data, --steps, and how it is computed)",
    )
    add(
        "--export-update",
        type=Path,
        metavar="DIR",
        help="train nothing: write the compiled update for another XLA runtime, as JAX (docs/other_runtimes.md)",
    )
    add(
        "--collect",
        type=Path,
        nargs=2,
        metavar=("DIR", "RESULTS"),
        help="make a run of what another runtime trained with the update in DIR; --name gives it a name",
    )
    add("--dry-run", action="store_true", help="check everything, print the configuration and stop")
    return parser.parse_args(arguments)


class Plan(NamedTuple):
    """What there is to train."""

    jobs: list  # [store.Run]; each begins with the weights of the one before
    photographs: list
    data_facts: dict
    init: Path | None  # weights that the first one begins with
    vgg_path: Path | None  # of features.find_vgg
    resumed: bool = False  # the one job goes on from its newest checkpoint
    about: dict | None = None  # what is to be its config.json from now on, if its length is another


def read_plan(args):
    """The Plan of parsed arguments, or None for a dry run, which is told. Raises UserError at the first mistake."""
    return read_resumed(args) if args.resume is not None else read_new(args)


def read_new(args):
    """The Plan of a new run, and of the SRResNet run before a GAN that finds no weights to begin with."""
    config, overrides = read_config(args)
    name = store.new_name(store.kind_of(args.mode, config)) if args.name is None else args.name
    jobs = [store.Run(store.check_name(name), args.mode, args.preset, config)]
    init = None if args.init is None else check_init(args.init, config)
    if config.TRAIN.batch_norm == "frozen" and args.mode == "srresnet" and not init:
        raise UserError("TRAIN.batch_norm=frozen trains with the statistics of trained weights: name some by --init")
    photographs, data_facts = data.read_training(args.data, config)

    vgg_path = features.find_vgg(config.VGG.network) if config.TRAIN.loss in VGG_LOSSES else None
    if config.TRAIN.loss in VGG_LOSSES:  # what "auto" is here, for whoever goes on with the run
        set_value(config, "VGG.network", "vgg19" if vgg_path else "hed")
    if args.mode == "srgan" and not init:
        init_config = make_init_config(config, overrides)
        init, why = store.find_init(config.MODEL, data_facts["fingerprint"], init_config.TRAIN.steps)
        if init:
            print(f"starting from {init} ({why})")
        else:
            jobs.insert(0, store.Run(store.check_name(f"{name}-srresnet"), "srresnet", args.preset, init_config))
            print(
                f"no SRResNet weights to start from (--init names some): first training SRResNet as run "
                f"{name}-srresnet for {init_config.TRAIN.steps:,} updates (--set TRAIN.init_steps=N)"
            )
    if args.export_update and len(jobs) > 1:
        raise UserError("--export-update of a GAN needs weights to begin with: name some by --init")
    if args.dry_run:
        print(json.dumps(config, indent=2))
        print(f"dry run: all is in order, {jobs[-1].directory} would be written")
        return None
    if len(jobs) > 1 and devices.workers()[1] > 1:
        raise UserError("several workers need weights to start a GAN from: train SRResNet first and name it by --init")
    return Plan(jobs, photographs, data_facts, init, vgg_path)


def read_resumed(args):
    """The Plan of a run that goes on as it was begun, if the photographs and the VGG are those of then."""
    kept = ("mode", "preset", "name", "init", "set", "export_update", *WHAT)
    if given := [f"--{key.replace('_', '-')}" for key in kept if getattr(args, key) not in (None, [])]:
        raise UserError(f"--resume goes on with the run's own settings: leave out {', '.join(given)}")
    run, about = store.reopen(args.resume)
    # What "auto" was where the run was begun: a checkpoint of float16 has more in it than one of float32.
    for override in [f"TRAIN.precision={about.get('precision')}"] * ("precision" in about) + settings_of(args, HOW):
        set_value(run.config, *override.split("=", 1))
    if run.config.VGG.network == "auto" and "vgg" in about:
        set_value(run.config, "VGG.network", "vgg19" if about["vgg"].startswith("VGG19") else "hed")
    check_config(run.config)
    photographs, data_facts = data.read_training(args.data, run.config)
    theirs = about.get("data", {})
    if data_facts["fingerprint"] != theirs.get("fingerprint"):
        raise UserError(
            f"{run.name} was begun with others ({theirs.get('images')} images in '{theirs.get('name')}'; these "
            f"are {data_facts['images']} in '{data_facts['name']}', with other names or sizes): name them by --data"
        )
    looks = run.config.TRAIN.loss in VGG_LOSSES
    vgg_path = features.find_vgg(run.config.VGG.network) if looks else None
    if looks and (now := features.describe_vgg(run.config, vgg_path)) != about.get("vgg"):
        raise UserError(f"{run.name} was begun with {about.get('vgg')}, and what there is now is {now}")
    if (done := newest_step(run.directory)) >= run.config.TRAIN.steps:
        raise UserError(f"{run.name} has done {done:,} steps already: --steps must name more")
    if args.dry_run:
        print(json.dumps(run.config, indent=2))
        print(f"dry run: all is in order, {run.name} would go on")
        return None
    changed = about if args.steps is not None else None  # it shares the configuration
    return Plan([run], photographs, data_facts, None, vgg_path, resumed=True, about=changed)


def read_config(args):
    """(configuration, ["SECTION.key=value"] by hand) of a new run; the mode and preset of `args` are filled in."""
    args.preset = args.preset or "default"
    args.mode = args.mode or next(iter(PRESETS[args.preset]))
    overrides = args.set + settings_of(args, WHAT | HOW)
    return make_config(args.mode, args.preset, overrides), overrides


def settings_of(args, flags):
    """["SECTION.key=value"] of the flags {name: "SECTION.key"} that were given."""
    given = {key: getattr(args, flag) for flag, key in flags.items()}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def check_init(path, config):
    """The weights file of --init. Raises UserError if there is none or if it is of another architecture."""
    weights, about = store.describe_weights(path)
    if different := store.differences(about["config"].MODEL, config.MODEL):
        raise UserError(f"{weights} is of another architecture than this run: {', '.join(different)}")
    print(f"starting from {weights} (--init)")
    return weights
