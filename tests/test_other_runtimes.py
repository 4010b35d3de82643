"""The update as an XLA program: written, run by JAX with TensorFlow's losses, and made a run again."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY_SETTINGS, photo, tiny_vgg

import train
from config import make_config
from runs import devices, store
from training import other_runtimes
from training.state import TrainState
from utils import UserError

pytestmark = pytest.mark.slow

# Runs the program for as many updates as there are batches; gives the logged scalars of each and the new weights.
RUNNER = """
import json, sys
from pathlib import Path
import numpy as np
import jax
jax.config.update("jax_enable_x64", True)
import jax.extend.backend
from jax._src import compiler
from jax._src.lib import _jax, xla_client

folder = Path(sys.argv[1])
about, start = json.loads((folder / "about.json").read_text()), np.load(folder / "start.npz")
simple = {"zeros": np.zeros, "ones": np.ones}
state = [
    simple[p["start"]](p["shape"], p["dtype"]) if p["start"] in simple else start[p["start"]]
    for p in about["parameters"]
]
device = jax.devices("cpu")[0]
program = _jax.mlir.hlo_to_stablehlo((folder / "update.hlo").read_bytes())
options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
run = jax.extend.backend.get_backend().compile_and_load(program, xla_client.DeviceList((device,)), options)
batches, lines = np.load(folder / "batches.npz"), []
for crops, turns in zip(batches["crops"], batches["turns"]):
    put = [jax.device_put(value, device) for value in (crops, turns, *state)]
    results = [shards[0] for shards in run.execute_sharded(put).disassemble_into_single_device_arrays()]
    lines.append({name: float(np.asarray(results[i])) for i, name in enumerate(about["logged"])})
    for result, parameter in about["aliases"]:
        state[parameter - 2] = np.asarray(results[result])
(folder / "log.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
np.savez(folder / "result.npz", *(state[i] for i in about["result"]))
"""


def python_with_jax():
    """The interpreter that $SRGAN_JAX names, or this one if it has JAX."""
    if not (os.environ.get("SRGAN_JAX") or importlib.util.find_spec("jax")):
        pytest.skip("needs JAX, here or in the Python that $SRGAN_JAX names")
    return os.environ.get("SRGAN_JAX", sys.executable)


@pytest.fixture(autouse=True)
def usual_precision():
    yield
    devices.choose_precision("float32")


def exported(folder, rng, mode, precision):
    """(run, state, [(crops, turns)]) of a tiny training whose update lies in the folder."""
    import keras

    settings = [*TINY_SETTINGS, "TRAIN.xla=true", f"TRAIN.precision={precision}"]
    run = store.Run(folder / "run", mode, "default", make_config(mode, overrides=settings))
    devices.choose_precision(precision)
    keras.utils.set_random_seed(0)
    state = TrainState(run.config, mode, vgg=tiny_vgg() if mode == "srgan" else None)
    batches = [
        (np.stack([photo(rng, 48, 48) for _ in range(2)]), rng.integers(0, 2, (2, 3)).astype(bool)) for _ in range(3)
    ]
    other_runtimes.export_update(folder, run, state, train.make_update(run.config, state), batches[0], {"init": None})
    return run, state, batches


# The SRGAN in float64: Adam divides by the root of tiny squares, which magnifies float32's rounding to 1e-4 of a
# gradient's norm within three updates.
@pytest.mark.parametrize(
    ("mode", "precision", "tolerance"), [("srresnet", "float32", 1e-5), ("srgan", "float64", 1e-9)]
)
def test_jax_gives_the_update_of_tensorflow(tmp_path, rng, mode, precision, tolerance):
    python = python_with_jax()
    run, state, batches = exported(tmp_path, rng, mode, precision)
    about = json.loads((tmp_path / "about.json").read_text())
    drawn = [p["start"] for p in about["parameters"]].count("glorot_uniform")
    assert (drawn > 0) == (mode == "srgan")
    about, arrays = with_drawn_values(tmp_path, about, state)
    crops, turns = (np.stack(parts) for parts in zip(*batches, strict=True))
    np.savez(tmp_path / "batches.npz", crops=crops, turns=turns)
    subprocess.run([python, "-c", RUNNER, tmp_path], check=True, timeout=240)
    step = train.make_step(run.config, state)
    for batch, line in zip(batches, (tmp_path / "log.jsonl").read_text().splitlines(), strict=True):
        assert json.loads(line) == pytest.approx(dict(step(*batch)), rel=tolerance, abs=0)
    with np.load(tmp_path / "result.npz") as result:
        for i, variable in enumerate(state.result.variables):
            np.testing.assert_allclose(result[f"arr_{i}"], variable.numpy(), rtol=0, atol=tolerance)


def with_drawn_values(folder, about, state):
    """Put this training's own random discriminator in place of "glorot_uniform", so that both begin alike."""
    drawn = (
        [v for v in state.discriminator.trainable_variables if v.path.endswith("kernel")] if state.discriminator else []
    )
    drawn = {tuple(v.shape): v.numpy() for v in drawn}  # no two of them have one shape
    with np.load(folder / "start.npz") as start:
        arrays = dict(start)
    for i, parameter in enumerate(about["parameters"]):
        if parameter["start"] == "glorot_uniform":
            parameter["start"] = f"v{i}"
            arrays[f"v{i}"] = drawn[tuple(parameter["shape"])]
    np.savez(folder / "start.npz", **arrays)
    (folder / "about.json").write_text(json.dumps(about))
    return about, arrays


def test_what_comes_back_becomes_a_run(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    _, state, _ = exported(tmp_path, rng, "srresnet", "float32")
    weights = [rng.normal(size=variable.shape).astype(np.float32) for variable in state.result.variables]
    np.savez(tmp_path / "result.npz", *weights)
    speed = {"device": "a card", "updates": 1234, "rate": 5e-4, "schedule": "cosine"}
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    (tmp_path / "log.jsonl").write_text('{"step": 1234, "mse_loss": 0.5}\n')
    path = other_runtimes.collect(tmp_path, tmp_path, "back")
    network, about = store.load_generator(path)
    for variable, array in zip(network.variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array)
    train_section = about["config"].TRAIN
    assert (train_section.steps, train_section.learning_rate, train_section.schedule) == (1234, 5e-4, "cosine")
    assert about["trained_by"] == speed
    assert (path.parent / "metrics.jsonl").read_text() == '{"step": 1234, "mse_loss": 0.5}\n'

    np.savez(tmp_path / "result.npz", *weights[1:])
    with pytest.raises(UserError, match="another network"):
        other_runtimes.collect(tmp_path, tmp_path, "other")
