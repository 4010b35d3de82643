"""Replicas, workers and precisions: the same numbers whatever a run is computed on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL, TINY, TINY_SETTINGS, assert_refused, photo, tiny_vgg

import train
from config import make_config
from networks import features, registry
from runs import devices
from training.state import TrainState
from utils import LazyModule, UserError

keras = LazyModule("keras")

CLUSTER = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}


# ---------------------------------------------------------------------------------------------------------------------
# What is asked for


def test_workers(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.workers() == (0, 1) and devices.is_chief()
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    assert devices.workers() == (1, 2) and not devices.is_chief()


@pytest.mark.parametrize("text", ["{", "5", "{}", json.dumps(CLUSTER | {"task": {"type": "worker", "index": 2}}),
                                  json.dumps(CLUSTER | {"task": {"type": "ps", "index": 0}})])  # fmt: skip
def test_a_wrong_tf_config_is_refused_with_an_example(call, text):
    assert_refused(call("train.py", env={"TF_CONFIG": text}), "TF_CONFIG must be like", "host1:2222")


def test_batches_must_be_cut_evenly(call, clone, monkeypatch):
    """Four logical devices, which TensorFlow makes at its very start alone, are stood in for."""
    monkeypatch.setattr(devices, "choose_strategy", lambda replicas: SimpleNamespace(num_replicas_in_sync=replicas))
    result = call("train.py", "--replicas=4", "--batch=6", "--steps=1", "--name=uneven")
    assert_refused(result, "a batch of 6 cannot be split equally among 4 replicas")
    assert not (clone / "checkpoint" / "uneven").exists()


def test_precision_of_a_cpu_is_float32():
    import keras

    assert devices.choose_precision("auto") == "float32"
    assert devices.choose_precision("mixed_bfloat16") == "mixed_bfloat16"
    with features.in_floats("float32"):
        assert keras.config.dtype_policy().name == "float32"
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    devices.choose_precision("float64")
    assert keras.config.floatx() == "float64"
    devices.choose_precision("float32")
    assert keras.config.floatx() == "float32"


def test_float32_is_not_tf32():
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    registry.build_generator(make_config(overrides=["MODEL.blocks=1", "MODEL.width=4"]).MODEL)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize(
    ("capabilities", "expected"), [([(8, 0), (7, 0)], "mixed_float16"), ([(8, 0), (6, 1)], "float32")]
)
def test_auto_is_mixed_where_all_gpus_have_tensor_cores(monkeypatch, capabilities, expected):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: capabilities)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpu})
    try:
        assert devices.choose_precision("auto") == expected
    finally:
        devices.choose_precision("float32")


def test_what_a_user_can_mend_is_explained(monkeypatch):
    import tensorflow as tf

    run = train.store.Run(Path("somewhere/a"), "srgan", "slides", make_config("srgan"))
    full = devices.explained(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), run)
    assert isinstance(full, UserError) and "a smaller --batch" in str(full) and "OOM" in str(full)
    no_room = devices.explained(tf.errors.ResourceExhaustedError(None, None, "x; No space left on device"), run)
    assert "the disk is full" in str(no_room) and "--batch" not in str(no_room)
    lost = tf.errors.UnavailableError(None, None, "connection reset")
    assert devices.explained(lost, run) is lost
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    assert "start all of them again with --resume a" in str(devices.explained(lost, run))


# ---------------------------------------------------------------------------------------------------------------------
# Mixed precision


def tiny_step(mode, *settings):
    import keras

    config = make_config(mode, overrides=[*TINY_SETTINGS, "TRAIN.batch=4", *settings])
    devices.choose_precision(config.TRAIN.precision)
    keras.utils.set_random_seed(0)
    state = TrainState(config, mode, vgg=tiny_vgg() if mode == "srgan" else None)
    return train.make_step(config, state, xla=False), state


def batch_of_four(rng):
    import tensorflow as tf

    return tf.constant(np.stack([photo(rng, 48, 48) for _ in range(4)])), tf.constant(np.zeros((4, 3), bool))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_like_float32(rng, precision, small_judge):
    """Weights and losses stay float32, activations do not; the first losses agree to the precision's digits.

    No weight is what it starts from: blocks that are identities would be computed exactly in any precision.
    """
    batch = batch_of_four(rng)
    plain, state = tiny_step("srgan")
    weights = {}
    for name in ("generator", "discriminator", "vgg"):
        start = getattr(state, name).get_weights()
        weights[name] = [array + rng.normal(0, 0.1 * max(array.std(), 0.3), array.shape) for array in start]

    def update(step, state):
        for name, arrays in weights.items():
            getattr(state, name).set_weights(arrays)
        return step(*batch)

    expected = update(plain, state)
    try:
        mixed, state = tiny_step("srgan", f"TRAIN.precision={precision}")
        values = update(mixed, state)
        assert state.generator.get_layer("block1_conv1").compute_dtype == precision.removeprefix("mixed_")
    finally:
        devices.choose_precision("float32")
    assert {variable.dtype for variable in state.generator.variables} == {"float32"}
    assert values.vector.dtype == "float32"
    epsilon = {"mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}[precision]
    for name in ("mse_loss", "vgg_loss", "g_gan_loss", "d_loss", "mse_loss_grad", "vgg_loss_grad", "g_grad"):
        assert values[name] == pytest.approx(expected[name], rel=2 * epsilon), name
        assert values[name] != expected[name], name


@pytest.mark.slow
def test_float16_leaves_an_overflowing_update_out(rng):
    """The loss scale is halved then, and weights stay as they are."""
    try:
        step, state = tiny_step("srresnet", "TRAIN.precision=mixed_float16")
        state.g_optimizer.dynamic_scale.assign(1e30)
        before = state.generator.get_weights()
        values = step(*batch_of_four(rng))
    finally:
        devices.choose_precision("float32")
    assert not np.isfinite(float(values["g_grad"])) and np.isfinite(float(values["mse_loss"]))
    assert float(state.g_optimizer.dynamic_scale) == pytest.approx(5e29)
    trained = [np.array_equal(a, b) for a, b in zip(before, state.generator.get_weights(), strict=True)]
    kinds = [variable.trainable for variable in state.generator.variables]
    assert all(same for same, trainable in zip(trained, kinds, strict=True) if trainable)
    assert int(state.step.numpy()) == 1


@pytest.mark.slow
def test_clipping(rng):
    """An update with a clipped gradient is the update of the scaled gradient: with Adam's first step, the same but for
    epsilon, so the moments tell."""
    step, state = tiny_step("srresnet", "TRAIN.clip_norm=0.01")
    norm = float(step(*batch_of_four(rng))["g_grad"])
    moments = [v for v in state.g_optimizer.variables if "momentum" in v.path]
    assert norm > 0.02 and moments
    total = np.sqrt(sum(np.sum(np.square(v)) for v in moments)) / 0.1  # the first moment is (1 - beta1) times it
    assert total == pytest.approx(0.01, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Replicas and workers


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


SMALL_TRAIN = f"""
import model, train
from cli import terminal
model.CONVOLUTIONS = {SMALL}
terminal.run_command(train.main)
"""


def start(clone, name, *arguments, **variables):
    """train.py with these arguments and a small discriminator, as a process of its own."""
    command = [sys.executable, "-B", "-c", SMALL_TRAIN, f"--name={name}", *arguments]
    settings = {"cwd": clone, "env": os.environ | variables, "text": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["srresnet", "srgan"])
def test_the_same_curve_on_one_device_on_two_and_with_two_workers(call, clone, tiny_run, mode, small_judge):
    """4 updates in float64 by the command: synchronised batch norm, shares of the batch, means of gradients.

    SRResNet alone is compiled by XLA, as by default; the SRGAN takes the plain graph, which is ready sooner.
    """
    common = [f"--mode={mode}", "--steps=4", "--batch=4", "--precision=float64", "--vgg=hed", *TINY]
    common += ["--set=TRAIN.validate_every=4", "--set=TRAIN.save_every=4", f"--set=TRAIN.xla={mode == 'srresnet'}"]
    common += [f"--init={tiny_run}"] if mode == "srgan" else []
    result = call("train.py", f"--name={mode}-alone", *common)
    assert result.returncode == 0, result.stderr

    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    processes = [start(clone, f"{mode}-workers", *common, TF_CONFIG=json.dumps(task)) for task in tasks]
    processes.append(start(clone, f"{mode}-replicas", *common, "--replicas=2"))
    outputs = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert "worker 1 of 2" in outputs[0] and "worker 2 of 2" in outputs[1]
    assert "2 replicas on the plain graph" in outputs[2]

    curves = {}
    for name in ("alone", "replicas", "workers"):
        lines = (clone / "checkpoint" / f"{mode}-{name}" / "metrics.jsonl").read_text().splitlines()
        curves[name] = [json.loads(line) for line in lines]
        assert [line["step"] for line in curves[name]] == list(range(1, 5))  # one process writes
    for name in ("replicas", "workers"):
        for ours, alone in zip(curves[name], curves["alone"], strict=True):
            for key in alone.keys() - {"seconds_per_step"}:
                assert ours[key] == pytest.approx(alone[key], rel=1e-4), (name, ours["step"], key)


def test_several_workers_need_a_start_for_a_gan(call):
    result = call("train.py", "--mode=srgan", "--steps=1", "--vgg=hed", "--name=lonely", *TINY, "--set=MODEL.width=12",
                  env={"TF_CONFIG": json.dumps(CLUSTER)})  # fmt: skip
    assert_refused(result, "name it with --init")


@pytest.mark.parametrize("count", [1, 2])
def test_gpus_that_are_not_used_are_not_seen(monkeypatch, count):
    seen = []
    config = SimpleNamespace(
        list_physical_devices=lambda kind: ["a", "b", "c"], set_visible_devices=lambda gpus, kind: seen.append(gpus)
    )
    distribute = SimpleNamespace(get_strategy=lambda: "one", MirroredStrategy=lambda names: names)
    monkeypatch.setattr(devices, "tf", SimpleNamespace(config=config, distribute=distribute))
    assert devices.choose_strategy(count) == {1: "one", 2: ["GPU:0", "GPU:1"]}[count]
    assert seen == [["a", "b", "c"][:count]]


def test_keras_does_not_reduce_gradients_once_more(monkeypatch):
    import tensorflow as tf

    from training.state import make_optimizer

    def fail(*arguments, **settings):
        raise AssertionError("reduced")

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", fail)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = make_optimizer(make_config(overrides=["TRAIN.optimizer=sgd", "TRAIN.beta1=0"]), network)
    before = [variable.numpy() for variable in network.trainable_variables]
    optimizer.apply([tf.ones_like(variable) for variable in network.trainable_variables])
    rate = float(optimizer.learning_rate.numpy())
    for old, variable in zip(before, network.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - rate, rtol=1e-5)


def test_workers_that_differ_are_refused(monkeypatch):
    """What another worker has is planted where the workers' figures are gathered."""
    import tensorflow as tf

    monkeypatch.setattr(devices, "workers", lambda: (0, 2))

    class Cluster:
        run = staticmethod(lambda figures: figures())
        other = staticmethod(lambda figures: figures)

        def gather(self, figures, axis):
            return tf.concat([figures, self.other(figures)], axis)

    facts, cluster = {"configuration": {"a": 1.5}, "feature network": None, "photographs": "f"}, Cluster()
    devices.check_agreement(cluster, facts)
    cluster.other = lambda figures: figures + [[0, 1, 1]]
    with pytest.raises(UserError, match="the workers differ in feature network and photographs"):
        devices.check_agreement(cluster, facts)
    monkeypatch.setattr(devices, "workers", lambda: (0, 1))
    devices.check_agreement(cluster, facts)


def test_a_cluster_on_cpus_has_one_replica_a_worker(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    with pytest.raises(UserError, match="a CPU has one replica"):
        devices.choose_strategy(2)
