"""Amortised MAP inference: -logit D and instance noise in the project's SRGAN; its methods, toy and page."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY_SETTINGS

import train
from config import make_config
from networks import losses
from training.state import TrainState
from utils import UserError


def test_minus_logit_d(rng):
    """-log D/(1 - D), with the weight of the slides; its gradient does not fade where D is sure."""
    import tensorflow as tf

    logits = tf.constant(rng.normal(0, 3, (6, 1)), tf.float32)
    image = np.zeros((6, 8, 8, 3), np.float32)
    config = make_config("srgan", "srgan-mse", ["TRAIN.adversarial=logit"])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        term = train.generator_losses(config, image, image, logits)["g_gan_loss"]
    d = 1 / (1 + np.exp(-logits.numpy().astype(float)))
    assert float(term) == pytest.approx(1e-3 * np.mean(np.log((1 - d) / d)), rel=1e-4)
    np.testing.assert_allclose(tape.gradient(term, logits), np.full((6, 1), -1e-3 / 6), rtol=1e-5)


def test_instance_noise_falls_to_zero_and_differs():
    config = make_config("srgan", overrides=["TRAIN.instance_noise=0.2", "TRAIN.steps=100"])
    images = np.full((4, 32, 32, 3), 0.5, np.float32)

    def noise(step, which=0, seed=0):
        config.TRAIN.seed = seed
        return np.asarray(train.noisy(config, SimpleNamespace(step=np.int64(step)), images, which)) - images

    for step, deviation in ((0, 0.2), (50, 0.1), (90, 0.02)):
        assert noise(step).std() == pytest.approx(deviation, rel=0.05) and abs(noise(step).mean()) < deviation / 20
    assert not noise(100).any()
    np.testing.assert_array_equal(noise(3), noise(3))
    others = [noise(3, 1), noise(4), noise(3, seed=1)]
    assert all(abs(np.corrcoef(noise(3).ravel(), other.ravel())[0, 1]) < 0.05 for other in others)
    config.TRAIN.instance_noise = 0.0
    assert train.noisy(config, None, images, 0) is images


def test_the_discriminator_alone_sees_the_noise(small_judge, rng, monkeypatch):
    """In both updates: HR and SR when D learns, SR when G does; the losses of pixels are of SR itself."""
    settings = [*TINY_SETTINGS, "TRAIN.instance_noise=0.2", "TRAIN.steps=10"]
    config = make_config("srgan", "srgan-mse", settings)
    state, seen = TrainState(config, "srgan"), []

    def record(images, deviation, seed, step):
        seen.append((float(deviation), int(step)))
        return images + 100.0

    monkeypatch.setattr(losses, "noisy", record)
    judge, judged = state.discriminator, []
    state.discriminator = lambda images, training: judged.append(float(np.min(images))) or judge(images)
    state.discriminator.trainable_variables = judge.trainable_variables
    crops = rng.integers(0, 256, (2, 48, 48, 3), np.uint8)
    values = train.update(config, state, crops, np.zeros((2, 3), bool)).by_name()
    assert seen == [(pytest.approx(0.2), which) for which in (0, 1, 1)]
    assert min(judged) > 90 and float(values["mse_loss"]) < 10


@pytest.mark.parametrize(
    ("mode", "overrides", "what"),
    [
        ("srresnet", ["TRAIN.instance_noise=0.1"], "needs a discriminator"),
        ("srresnet", ["TRAIN.adversarial=logit"], "is for --mode=srgan"),
        ("srgan", ["TRAIN.adversarial=logit", "TRAIN.relativistic=true"], "not with TRAIN.relativistic"),
        ("srgan", ["TRAIN.instance_noise=-1"], "zero or more"),
        ("srresnet", ["MODEL.projection=cubic"], "MODEL.projection must be one of none, bicubic"),
    ],
)
def test_settings_that_contradict_each_other(mode, overrides, what):
    with pytest.raises(UserError, match=what):
        make_config(mode, overrides=overrides)
