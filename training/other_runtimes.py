"""Training in another XLA runtime, which has a device that TensorFlow lacks: export the update, collect a run.

`train.py … --export-update DIR` writes three files, with which JAX (or another program that runs XLA) can train:

    update.hlo   the XLA program. Parameters: crops, turns (and LR, with DATA.degradation=photo) and every variable of
                 the training. Results: the logged scalars, sorted by name, and the new values of the variables that an
                 update changes
    start.npz    the initial values of the variables, except those that are zeros, ones or Glorot's random numbers:
                 about.json names these, so that a discriminator of 100 MB need not be copied
    about.json   what each parameter and result is; batch, crop and learning rate; the run's configuration

`train.py --collect DIR RESULTS` makes a run of what was trained: RESULTS/result.npz (the generator's variables in their
order), log.jsonl (lines of metrics.jsonl) and speed.json (device, updates, time). See docs/other_runtimes.md.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
from easydict import EasyDict as edict

from config import check_config
from networks.registry import build_generator
from runs import store
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")

CONSTANTS = {0.0: "zeros", 1.0: "ones"}


def export_update(folder, run, state, whole_update, batch, facts):
    """Write update.hlo, start.npz and about.json into a folder.

    run: store.Run; state: TrainState; whole_update: the function from train.make_update; batch: the arrays of
    data.Batches, for their shapes; facts: a dict that is added to about.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = tf.function(whole_update, jit_compile=True, autograph=False)
    batch = list(map(tf.constant, batch))
    program = step.experimental_get_compiler_ir(*batch)
    (folder / "update.hlo").write_bytes(program(stage="hlo_serialized"))
    traced = step.get_concrete_function(*(tf.TensorSpec(array.shape, array.dtype) for array in batch))

    places = {captured.ref(): i for i, captured in enumerate(traced.captured_inputs)}
    parameters, arrays = describe_parameters(traced, state)
    np.savez_compressed(folder / "start.npz", **arrays)

    def place(variable):
        return places[getattr(variable, "value", variable).handle.ref()]

    train = run.config.TRAIN
    optimizers = {"g": state.g_optimizer} | ({"d": state.d_optimizer} if state.d_optimizer else {})
    about = {
        "mode": run.mode,
        "preset": run.preset,
        "name": run.name,
        "config": run.config,
        "batch": train.batch,
        "crop": run.config.DATA.crop,
        "scale": run.config.MODEL.scale,
        "learning_rate": train.learning_rate,
        "d_rate": train.d_rate,
        "schedule": train.schedule,
        "rates": {name: place(optimizer._learning_rate) for name, optimizer in optimizers.items()},
        "parameters": parameters,
        "aliases": aliases_of(program(stage="hlo")),
        "logged": sorted(traced.structured_outputs),
        "result": [place(variable) for variable in state.result.variables],
        "generator": [place(variable) for variable in state.generator.variables],
    }
    store.write_json(folder / "about.json", about | facts)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: an update of {train.batch} crops, {len(parameters)} variables, {size:.1f} MB")


def describe_parameters(traced, state):
    """([{"shape", "dtype", "start"}] of every variable in the program's order, {start: array} for start.npz)."""
    variables = {variable.handle.ref(): variable for variable in traced.variables}
    drawn = state.discriminator.trainable_variables if state.discriminator else []
    drawn = {variable.value.handle.ref() for variable in drawn if variable.path.endswith("kernel")}
    parameters, arrays = [], {}
    for i, captured in enumerate(traced.captured_inputs):
        value = variables.get(captured.ref(), captured).numpy()
        constant = value.size > 16 and (value == value.flat[0]).all()
        if value.size > 1000 and captured.ref() in drawn:
            start = "glorot_uniform"
        elif constant and float(value.flat[0]) in CONSTANTS:
            start = CONSTANTS[float(value.flat[0])]
        else:
            start = f"v{i}"
            arrays[start] = value
        parameters.append({"shape": value.shape, "dtype": str(value.dtype), "start": start})
    return parameters, arrays


def aliases_of(text):
    """[(result, parameter)] from an XLA program's text: each result that is the new value of a parameter."""
    header = text[: text.index("entry_computation_layout")]
    return [(int(result), int(parameter)) for result, parameter in re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)]


def collect(folder, results, name=None):
    """Make a run directory of what another runtime trained and return the path of its weights.

    folder: where export_update wrote; results: the folder with result.npz; name: the run's, or None for the exported
    one. Raises UserError for files that cannot be read or do not fit together.
    """
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        speed = json.loads((results / "speed.json").read_text(encoding="utf-8"))
        with np.load(results / "result.npz") as values:
            arrays = [values[f"arr_{i}"] for i in range(len(values.files))]
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder} and {results} do not hold an update and its results ({error})") from error
    config = edict(about["config"])
    check_config(config)
    config.TRAIN.update(steps=speed["updates"], learning_rate=speed["rate"], schedule=speed["schedule"])
    generator = build_generator(config.MODEL)
    if [tuple(v.shape) for v in generator.variables] != [array.shape for array in arrays]:
        raise UserError(f"{results / 'result.npz'} belongs to another network than {folder / 'about.json'} describes")
    for variable, array in zip(generator.variables, arrays, strict=True):
        variable.assign(array)
    run = store.Run(store.check_name(name or about["name"]), about["mode"], about["preset"], config)
    kept = {key: about.get(key) for key in ("data", "init", "precision", "vgg") if key in about}
    store.create(run, kept | {"trained_by": speed})
    store.save_weights(generator, run.directory / store.WEIGHTS)
    if (log := Path(results) / "log.jsonl").exists():
        shutil.copy(log, run.directory / "metrics.jsonl")
    print(f"{run.directory / store.WEIGHTS}: {speed['updates']:,} updates on {speed['device']}")
    return run.directory / store.WEIGHTS
