"""Checkpoints: whole or absent, the newest three, damage named; the average of the weights; rollbacks."""

import numpy as np
import pytest
from conftest import TINY
from easydict import EasyDict as edict

from config import make_config
from networks import registry
from runs import store
from runs.logs import read_metrics
from training import state
from utils import UserError


def part(*values):
    import tensorflow as tf

    return [tf.Variable(value) for value in values]


@pytest.fixture
def saved(tmp_path):
    """A run with checkpoints of steps 1 to 5, whose value is the step."""
    directory = tmp_path
    for step in range(1, 6):
        state.save_checkpoint(directory, step, {"g": part([float(step)], step), "o": part([[2.0 * step]])})
        with open(directory / "metrics.jsonl", "a") as log:
            log.write(f'{{"step": {step}}}\n')
    return directory


def load(directory):
    parts = {"g": part([0.0], 0), "o": part([[0.0]])}
    step = state.load_checkpoint(directory, parts)
    return step, [variable.numpy().tolist() for part in parts.values() for variable in part]


def test_the_newest_three_checkpoints_are_kept(saved):
    assert [path.name for path in state.checkpoints(saved)] == [f"checkpoint-0000000{i}.npz" for i in (5, 4, 3)]
    assert load(saved) == (5, [[5.0], 5, [[10.0]]])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(saved, damage, capsys):
    newest = state.checkpoints(saved)[0]
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = b""
    else:
        at = content.index(np.float32(5.0).tobytes())
        content[at] ^= 1
    newest.write_bytes(content)
    assert state.newest_step(saved) == 4
    assert load(saved) == (4, [[4.0], 4, [[8.0]]])
    assert f"{newest} is damaged and ignored" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(saved)][-1] == 4  # what came after is trained again


def test_no_whole_checkpoint_is_an_error(saved):
    for path in state.checkpoints(saved):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="no undamaged checkpoint"):
        load(saved)


def test_a_checkpoint_of_other_networks_is_refused(saved):
    with pytest.raises(UserError, match="other networks"):
        state.load_checkpoint(saved, {"g": part([0.0, 0.0], 0), "o": part([[0.0]])})
    with pytest.raises(UserError, match="other networks"):
        state.load_checkpoint(saved, {"g": part([0.0], 0)})


def test_a_full_disk_leaves_the_older_checkpoints_whole(saved, monkeypatch):
    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.np, "savez", fail)
    with pytest.raises(UserError, match="checkpoint-00000006.npz cannot be written .No space left on device"):
        state.save_checkpoint(saved, 6, {"g": part([6.0], 6)})
    assert load(saved)[0] == 5
    assert not list(saved.glob(".tmp*"))


# ---------------------------------------------------------------------------------------------------------------------
# The state


def tiny_state(mode="srresnet", *settings):
    return state.TrainState(make_config(mode, overrides=[*TINY[1::2], *settings]), mode)


@pytest.mark.slow
def test_a_start_from_weights_of_another_scale(tiny_run):
    """What fits is theirs; a third upsampling, which they don't have, keeps its own start."""
    theirs, about = store.load_generator(tiny_run)
    for scale in (2, 8):
        ours = registry.build_generator(edict(about["config"].MODEL, scale=scale))
        before = {layer.name: layer.get_weights() for layer in ours.layers}
        store.load_start(ours, tiny_run, scale)
        for layer in ours.layers:
            kept = layer.name in ("upsample3_conv", "upsample3_prelu")
            expected = before[layer.name] if kept else theirs.get_layer(layer.name).get_weights()
            assert all(map(np.array_equal, layer.get_weights(), expected)), layer.name


@pytest.mark.slow
def test_a_checkpoint_holds_everything():
    whole = tiny_state("srgan").parts()
    assert set(whole) == {"generator", "g_optimizer", "average", "discriminator", "d_optimizer", "state"}
    assert set(tiny_state("srresnet", "TRAIN.ema=0").parts()) == {"generator", "g_optimizer", "state"}
    # Adam keeps two moments of every weight, and its step and rate.
    trained = len(tiny_state("srgan").discriminator.trainable_variables)
    assert len(whole["d_optimizer"]) == 2 * trained + 2


def test_the_average_follows_as_a_plain_loop_says(rng):
    """min(decay, (1 + t) / (10 + t)), on every variable, batch norm's statistics among them."""
    made = tiny_state()
    expected = [variable.numpy() for variable in made.generator.variables]
    for step in range(1, 5):
        made.step.assign(step)
        decay = min(0.3, (1 + step) / (10 + step))
        for i, variable in enumerate(made.generator.variables):
            variable.assign(rng.normal(size=variable.shape).astype(np.float32))
            expected[i] = decay * expected[i] + (1 - decay) * variable.numpy()
        made.follow(0.3)
    for ours, theirs in zip(made.average.variables, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert made.result is made.average


def test_learning_rates():
    made = tiny_state("srgan", "TRAIN.d_rate=0.5")
    config = make_config("srgan", overrides=["TRAIN.d_rate=0.5", "TRAIN.learning_rate=1e-3", "TRAIN.steps=100"])
    made.slowdown.assign(0.25)
    assert made.set_learning_rate(config, 1) == pytest.approx(2.5e-4)
    assert float(made.g_optimizer.learning_rate) == pytest.approx(2.5e-4)
    assert float(made.d_optimizer.learning_rate) == pytest.approx(1.25e-4)
    assert made.set_learning_rate(config, 51) == pytest.approx(2.5e-5)  # the step of the schedule
