"""Amortised MAP inference: -logit D and instance noise in the project's SRGAN; its methods, toy and page."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY_SETTINGS, assert_refused, slow_but

import train
import utils
from config import make_config
from networks import amortised_map, losses
from papers import amortised_map as amortised_page
from papers import amortised_pictures, amortised_srgan, swiss_roll
from papers.amortised_training import fit
from runs import store
from training import plan
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
        ("srresnet", ["MODEL.projection=bicubic", "DATA.degradation=photo"], "LR that is bicubic alone"),
        ("srresnet", ["MODEL.projection=cubic"], "MODEL.projection must be one of none, bicubic"),
    ],
)
def test_settings_that_contradict_each_other(mode, overrides, what):
    with pytest.raises(UserError, match=what):
        make_config(mode, overrides=overrides)


# ---------------------------------------------------------------------------------------------------------------------
# The paper's methods


def test_the_density_of_the_roll(rng):
    """It integrates to one, and a histogram of points agrees; what is best on a line is better than what is drawn."""
    corners = rng.uniform(-9, 9, (100_000, 2))
    assert 18**2 * np.exp(swiss_roll.log_density(corners)).mean() == pytest.approx(1, abs=0.03)
    y = swiss_roll.sample(100_000, rng)
    inside = np.all(np.abs(y - [-3.5, -2.0]) < 0.5, axis=1).mean()
    cell = np.stack(np.meshgrid(np.linspace(-4, -3, 101), np.linspace(-2.5, -1.5, 101)), axis=-1)
    assert np.exp(swiss_roll.log_density(cell)).mean() == pytest.approx(inside, rel=0.1)
    x = y[:50].mean(axis=1)
    best = swiss_roll.best_points(x)
    for points in best.values():
        np.testing.assert_allclose(points.mean(axis=1), x, atol=1e-9)
    drawn, highest, mean = (swiss_roll.measure(points, x)[0] for points in (y[:50], best["MAP"], best["MSE"]))
    assert highest < drawn < mean


def critic_of(name, sr):
    """What a critic's term says about SR [batch, 2] with D, f and p of a Gaussian around zero of deviation 0.5."""
    import tensorflow as tf

    models = {
        "judge": lambda y, training: tf.reduce_sum(1 - y**2, axis=1, keepdims=True),
        "denoiser": lambda y, training: y * 0.25 / (0.25 + 0.1**2),  # the best one for noise of 0.1
    }
    random = tf.random.Generator.from_seed(0)
    with tf.GradientTape() as tape:
        tape.watch(sr := tf.constant(sr, tf.float32))
        value = amortised_map.CRITICS[name].term(models[name], sr, {"judge": 0.0, "denoiser": 0.1}[name], random)
    return float(value), np.asarray(tape.gradient(value, sr))


def test_what_critics_teach(rng):
    """-logit D, and the gradient of -log p with the noise's spread: (y - f(y))/σ² of a Gaussian is y/(0.25 + σ²)."""
    sr = rng.normal(size=(5, 2))
    value, gradient = critic_of("judge", sr)
    assert value == pytest.approx(np.mean((sr**2).sum(axis=1)) - 2, rel=1e-4)
    np.testing.assert_allclose(gradient, 2 * sr / 5, rtol=1e-4)
    _, gradient = critic_of("denoiser", sr)
    np.testing.assert_allclose(gradient, sr / (0.25 + 0.01) / sr.size, rtol=1e-3)


def test_the_density_sees_what_came_before_and_sums_to_one(rng):
    import tensorflow as tf

    network = amortised_map.density_network(1, 8)
    image = rng.random((1, 6, 7, 1)).astype(np.float32)
    before = np.asarray(network(image))
    image[0, 3, 4] += 1
    changed = np.abs(np.asarray(network(image)) - before)[0].max(axis=-1) > 0
    later = np.arange(42).reshape(6, 7) > 3 * 7 + 4
    assert changed.any() and not changed[~later].any()
    values = np.linspace(-12, 12, 4801, dtype=np.float32)
    each = [np.asarray(network(image))[0, 0, 0]] * len(values)

    def flat(y, training):
        return tf.constant(np.array(each)[:, None, None])

    one = [
        np.exp(-float(amortised_map.log_loss(lambda y, training: flat(y, training)[:1], value[None, None, None, None])))
        for value in values[::40]
    ]
    assert np.sum(one) * (values[40] - values[0]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "at_once"), slow_but([("AffMSE", 1)], [("AffMSE", 1), ("AffGAN", 10), ("SoftDG", 10)])
)
def test_a_method_learns(name, at_once):
    """A few updates on the roll: A ŷ = x with the projection alone, and two runs of one seed are the same."""
    task = swiss_roll.problem(steps=20)._replace(at_once=at_once)
    task.train.batch = 16
    x = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    losses = []
    first = np.asarray(fit(task, name, 1, lambda step, loss: losses.append(loss))[0](x))
    assert len(losses) == 20 // at_once and np.all(np.isfinite(losses))
    off = np.abs(first.mean(axis=1) - x[:, 0]).max()
    assert off < 1e-5 if amortised_map.METHODS[name].projected else off > 1e-3
    if at_once > 1:
        np.testing.assert_array_equal(fit(task, name, 1)[0](x), first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AffLL", "SoftGAN", "AffDG"])
def test_methods_on_pictures(name, rng, monkeypatch):
    monkeypatch.setitem(amortised_pictures.TRAIN, "batch", 2)
    monkeypatch.setattr(amortised_pictures, "WIDTH", 4)
    pool = rng.integers(0, 256, (3, 64, 64, 1), np.uint8)
    task = amortised_pictures.problem(pool, steps=2)
    x = task.shrink(pool.astype(np.float32) / 255)
    reports = []
    sr = fit(task, name, 0, lambda step, loss: reports.append((step, np.isfinite(loss))))[0](x).numpy()
    assert sr.shape == pool.shape and reports == [(1, True), (2, True)]
    row = amortised_pictures.measure(sr, pool, task.shrink)
    assert (row["consistency"] < 1e-8) == amortised_map.METHODS[name].projected
    assert 0 < row["psnr"] < 20 and -1 < row["ssim"] < 1


# ---------------------------------------------------------------------------------------------------------------------
# The page


def test_the_page(tmp_path, monkeypatch, call, rng):
    """Of what is finished, with "not run" for the rest; nothing is trained or scored again."""
    folder, out = tmp_path / "amortised-map", tmp_path / "page"
    folder.mkdir()
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    assert_refused(call("reproduce.py", "amortised-map", "--report", "--out", out), "not run yet: bridge, swiss_roll")
    means = {"psnr_y": 30.123, "niqe_own": 4.567, "consistency": 58.9, "ssim_y": 0.5}
    scores = {"bicubic": means, "srgan_x4": means, "srgan_x4-projected": means | {"psnr_y": 30.2}}
    monkeypatch.setattr(amortised_page, "RUNS", ("srgan_x4",))
    store.write_json(folder / "bridge.json", {"Set5": scores})
    rows = {name: {"0": [4.0, 0.0], "1": [5.0, 0.0]} for name in swiss_roll.NAMES}
    best = {name: [3.0, 0.0] for name in ("MAP", "MSE", "MAE")}
    points = rng.normal(size=(9, 2)).tolist()
    study = {
        "steps": 7,
        "rows": rows,
        "best": best,
        "longer": {"AffGAN": {"0": [3.5, 0.0]}},
        "truth": points,
        "points": {"MAP": points, "AffGAN": points},
    }
    store.write_json(folder / "swiss_roll.json", study)
    row = {"ssim": 0.321, "psnr": 20.5, "consistency": 2e-9}
    store.write_json(folder / "grass.json", {"steps": 3, "rows": {"AffGAN": row}})
    for name in ("x", "y", "AffGAN"):
        amortised_pictures.write_strip(folder / f"grass_{name}.png", np.zeros((6, 64, 64, 1), np.uint8))
    result = call("reproduce.py", "amortised-map", "--report", "--out", out)
    assert result.returncode == 0, result.stderr
    page = (out / "amortised_map.md").read_text(encoding="utf-8")
    assert "H = 3.50 instead of 4.00" in page and "PSNR-Y of srgan_x4 changes by +0.08 to +0.08" in page
    assert (
        "| srgan_x4-projected | 30.20 | 4.57 | 58.9 |" in page
        and "| AffGAN | 4.50 ± 0.71 | 4.10 | 0.00e+00 ± 0.0e+00 | 0.00e+00 |" in page
    )
    assert "| AffGAN | 0.32 | 20.50 | 2.0e-09 | 0.81 / 23.02 / 9.1e-10 |" in page
    assert "| AffDG | not run | not run | not run |  |" in page and "Crops of photographs: not run here" in page
    assert "-logit D" in page and "Not run. Equal starts" in page
    assert utils.list_images(out) == [out / "amortised_map_grass.png", out / "amortised_map_roll.png"]


def test_how_a_gans_stability_is_told():
    """Medians of the second half; where D has won; the doctor's words, each once."""
    keys = ("mse_loss", "mse_loss_grad", "g_gan_loss", "g_gan_loss_grad", "colour_drift", "checkerboard", "g_grad")
    calm = dict.fromkeys(keys, 0.1) | {"d_real": 0.7, "d_fake": 0.4}
    won = calm | {"d_real": 1.0, "d_fake": 0.0, "g_grad": 0.3}
    found = amortised_srgan.stability([calm] * 10 + [won] * 10)
    assert found["won"] == 0.5 and found["g_grad"] == 0.3 and found["d_fake"] == 0 and found["swing"] == 0
    assert found["remarks"] == ["the discriminator has won"]
    swings = amortised_srgan.stability([calm, won] * 10)
    assert swings["swing"] == pytest.approx(0.35) and not swings["remarks"]


def test_the_four_trainings_differ_in_what_is_compared():
    names = ("TRAIN.adversarial", "TRAIN.instance_noise")
    plans = {
        name: plan.read_config(plan.parse_arguments(amortised_srgan.command_of(name, None)))[0]
        for name in amortised_srgan.ROWS
    }
    seen = {name: (config.TRAIN.adversarial, config.TRAIN.instance_noise) for name, config in plans.items()}
    assert seen == {"log": ("log", 0), "logit": ("logit", 0), "log-noise": ("log", 0.2), "logit-noise": ("logit", 0.2)}
    for config in plans.values():
        for name in names:
            config.TRAIN.pop(name.split(".")[1])
    assert all(config == plans["log"] for config in plans.values())
