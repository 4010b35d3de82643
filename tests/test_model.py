import numpy as np
import pytest
from conftest import slow_but

import utils
from config import make_config
from inference import compiled
from layers import blocks, upsampling
from networks import features, registry


def generator(*overrides):
    return registry.build_generator(make_config(overrides=overrides).MODEL)


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


def test_generator_has_the_papers_layers():
    """Figure 4, top; parameters counted by hand: convolutions have a bias, PReLU one slope a map."""
    network = generator("MODEL.skip=none")
    names = kinds(network)
    assert names.count("Conv2D") == 1 + 2 * 16 + 1 + 2 + 1
    assert names.count("BatchNormalization") == 2 * 16 + 1
    assert names.count("PReLU") == 1 + 16 + 2
    assert names.count("Add") == 16 + 1
    kernels = [layer.kernel.shape for layer in features.convolutions_of(network)]
    assert kernels[0] == (9, 9, 3, 64) and kernels[-1] == (9, 9, 64, 3)
    assert kernels[1:34] == [(3, 3, 64, 64)] * 33 and kernels[34:36] == [(3, 3, 64, 256)] * 2
    conv = 9 * 64 * 64 + 64
    expected = (81 * 3 * 64 + 64) + 64  # head
    expected += 16 * (2 * conv + 2 * 4 * 64 + 64) + conv + 4 * 64  # residual blocks and the convolution after them
    expected += 2 * (9 * 64 * 256 + 256 + 64) + 81 * 64 * 3 + 3  # upsampling and tail
    assert network.count_params() == expected == 1_554_883


def test_the_first_residual_block_in_order():
    """conv, BN, PReLU, conv, BN, sum; no activation after the sum."""
    network = generator()
    names = [layer.name for layer in network.layers]
    first = names.index("block1_conv1")
    block = ["block1_conv1", "block1_bn1", "block1_prelu", "block1_conv2", "block1_bn2", "block1_add", "block2_conv1"]
    assert names[first : first + 7] == block


def test_discriminator_has_the_papers_layers():
    """Figure 4, bottom, and the table of its sizes for a 96×96 crop."""
    network = registry.build_discriminator(make_config().MODEL, 96)
    convolutions = features.convolutions_of(network)
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.strides[0] for layer in convolutions] == [1, 2] * 4
    assert [layer.output.shape[1] for layer in convolutions] == [96, 48, 48, 24, 24, 12, 12, 6]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    names = kinds(network)
    assert names.count("BatchNormalization") == 7 and names[1:4] == ["Conv2D", "LeakyReLU", "Conv2D"]
    assert names.count("LeakyReLU") == 9
    widths = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    expected = sum(9 * a * b + b for a, b in zip(widths, widths[1:], strict=False)) + 4 * sum(widths[2:])
    expected += 6 * 6 * 512 * 1024 + 1024 + 1024 + 1
    assert network.count_params() == expected == 23_569_217


def test_discriminator_in_order():
    """Figure 4, bottom: convolution, batch norm, LeakyReLU; none of the norm in the first; two dense layers."""
    network = registry.build_discriminator(make_config().MODEL, 32)
    layers = ["Conv2D", "LeakyReLU"] + ["Conv2D", "BatchNormalization", "LeakyReLU"] * 7
    assert kinds(network) == ["InputLayer", *layers, "Flatten", "Dense", "LeakyReLU", "Dense"]
    for before, layer in zip(network.layers, network.layers[1:], strict=False):
        assert layer.input is before.output  # one after the other, without a branch


def test_patch_discriminator_sees_patches(rng):
    """One logit for each 4×4 pixels, of the 37×37 around them and of no others."""
    network = registry.build_discriminator(make_config(overrides=["MODEL.discriminator=patch"]).MODEL, 64)
    image = rng.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    other = image.copy()
    other[:, 32, 32] = 5
    logits, after = (np.asarray(network(x)).reshape(16, 16) for x in (image, other))
    seen = []
    for place in range(16):
        first, last = place - 1, place + 1  # of the convolution before: back through six of them
        for stride in (1, 1, 2, 1, 2, 1):
            first, last = (first - 1, last + 1) if stride == 1 else (2 * first, 2 * last + 2)
        assert last - first + 1 == 37
        seen.append(first <= 32 <= last)
    np.testing.assert_array_equal(logits != after, np.outer(seen, seen))


def test_leaky_slope_is_a_fifth():
    network = registry.build_discriminator(make_config().MODEL, 32)
    assert {layer.negative_slope for layer in network.layers if type(layer).__name__ == "LeakyReLU"} == {0.2}


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_generator_is_fully_convolutional(scale, rng):
    network = generator(f"MODEL.scale={scale}", "MODEL.blocks=1", "MODEL.width=8")
    for height, width in ((5, 9), (8, 3)):
        assert network(rng.random((2, height, width, 3), np.float32)).shape == (2, scale * height, scale * width, 3)


def test_output_is_linear_or_tanh(rng):
    lr = 50 * rng.random((1, 6, 6, 3), np.float32)
    assert np.abs(generator("MODEL.blocks=1", "MODEL.skip=none")(lr)).max() > 1
    assert np.abs(generator("MODEL.blocks=1", "MODEL.skip=none", "MODEL.output=tanh")(lr)).max() <= 1


@pytest.mark.slow
def test_generator_starts_as_the_papers_trick_asks(rng):
    """A residual block is the identity, PReLU's slope 0.25, and the sub-pixel convolutions make no checkerboard."""
    import keras

    network = generator()
    lr = rng.random((1, 8, 8, 3), np.float32)

    def at(layer):
        return np.asarray(keras.Model(network.input, network.get_layer(layer).output)(lr))

    np.testing.assert_array_equal(at("block16_add"), at("head_prelu"))
    np.testing.assert_array_equal(at("body_add"), at("head_prelu"))
    assert np.all(network.get_layer("block3_prelu").alpha == 0.25)
    shuffled = at("upsample1_prelu")
    blocks = shuffled.reshape(1, 8, 2, 8, 2, 64)
    np.testing.assert_allclose(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape), atol=1e-5)
    assert shuffled.std() > 0


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_with_the_bicubic_skip_it_starts_as_matlabs_imresize(scale, rng):
    """Against utils.imresize, which rounds to whole levels after each of its two passes; borders too."""
    small = ("MODEL.blocks=1", "MODEL.width=8", f"MODEL.scale={scale}")
    network = generator("MODEL.skip=bicubic", *small)
    lr = rng.integers(60, 200, (12, 14, 3)).astype(np.uint8)  # imresize clips between its passes; here nothing is to be
    for training in (False, True):
        sr_m11 = np.asarray(network(lr[None].astype(np.float32) / 255, training=training))[0]
        departure = np.abs((sr_m11 + 1) * 127.5 - utils.imresize(lr, scale))
        assert departure.max() < 1.3 and departure.mean() < 0.4  # two roundings
    assert [weights.shape for weights in network.get_weights()] == [
        weights.shape for weights in generator("MODEL.skip=none", *small).get_weights()
    ]


def test_icnr_is_nearest_neighbour_resizing_of_a_small_convolution(rng):
    """P(W * f) = NN(W0 * f) (Aitken et al.), with the shuffle done in NumPy; np.repeat in place of tile would fail."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    kernel = np.asarray(upsampling.icnr(2)((3, 3, 5, 12)))
    image = rng.random((1, 6, 6, 5), np.float32)
    wide = tf.nn.conv2d(image, kernel, 1, "SAME").numpy()
    shuffled = wide.reshape(6, 6, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(12, 12, 3)
    small = tf.nn.conv2d(image, kernel[..., :3], 1, "SAME").numpy()[0]
    np.testing.assert_allclose(shuffled, small.repeat(2, axis=0).repeat(2, axis=1), atol=1e-6)
    limit = np.sqrt(6 / (9 * 5 + 9 * 3))  # Glorot's, of the small kernel and not of the whole
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_array_equal(keras.ops.depth_to_space(wide, 2)[0], shuffled)


def test_row_convolution_is_a_convolution(rng):
    """Output and gradients, at sizes down to below the kernel's."""
    import tensorflow as tf

    layer = blocks.row_convolution()(3, 9, padding="same")
    layer.build((None, None, None, 8))
    layer.bias.assign([0.5, -1, 2])
    for height, width in ((20, 13), (3, 5), (1, 1)):
        image = tf.constant(rng.normal(0, 1, (2, height, width, 8)), tf.float32)
        weigh = tf.constant(rng.normal(0, 1, (2, height, width, 3)), tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(image)
            ours = layer(image)
            theirs = tf.nn.conv2d(image, layer.kernel, 1, "SAME") + layer.bias
            loss, expected = (tf.reduce_sum(weigh * y) for y in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for source in (image, layer.kernel.value, layer.bias.value):
            np.testing.assert_allclose(tape.gradient(loss, source), tape.gradient(expected, source), atol=1e-4)


def with_random_weights(network, rng):
    """Convolutions as they are; biases, slopes, batch-norm scales, shifts, means and variances all at random."""
    for layer in network.layers:
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            gamma, beta, mean = (rng.normal(m, 0.5, layer.gamma.shape) for m in (1, 0, 0))
            layer.set_weights([gamma, beta, mean, rng.uniform(1e-5, 2, gamma.shape)])
        elif kind == "PReLU":
            layer.set_weights([rng.uniform(-0.2, 0.5, layer.alpha.shape)])
        elif kind == "Conv2D":
            kernel = layer.kernel if np.any(layer.kernel) else rng.normal(0, 0.05, layer.kernel.shape)
            layer.set_weights([kernel, rng.normal(0, 0.2, layer.bias.shape)])
    return network


FOLDED = [(2, "none"), (4, "none"), (8, "none"), (4, "bicubic")]


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "skip"), FOLDED)
def test_folded_generator_equals_the_unfolded(scale, skip, rng):
    """With an epsilon that counts, at odd sizes, up to the borders; also through the compiled function."""
    import tensorflow as tf

    overrides = (f"MODEL.scale={scale}", "MODEL.blocks=2", "MODEL.width=8", "MODEL.bn_epsilon=0.01")
    overrides = (f"MODEL.skip={skip}", *overrides)
    config = make_config(overrides=overrides).MODEL
    network = with_random_weights(registry.build_generator(config), rng)
    lr = rng.random((2, 7, 10, 3), np.float32)
    expected = np.asarray(network(lr, training=False))
    tolerance = {"rtol": 0, "atol": 3e-6 * np.abs(expected).max()}
    folded = compiled.fold_batch_norm(network, config)
    assert "BatchNormalization" not in kinds(folded)
    np.testing.assert_allclose(folded(lr), expected, **tolerance)
    for xla in (False, True):
        infer = compiled.inference(network, config, xla=xla)
        np.testing.assert_allclose(infer(tf.constant(lr)), expected, **tolerance)
        assert infer(tf.constant(lr[:1, :5])).shape == (1, 5 * scale, 10 * scale, 3)

    # The tolerance is tight enough to see what could be forgotten.
    other = make_config(overrides=(*overrides[:4], "MODEL.bn_epsilon=0.0101")).MODEL
    assert np.abs(compiled.fold_batch_norm(network, other)(lr) - expected).max() > 10 * tolerance["atol"]
    gamma, beta, mean, variance = network.get_layer("block2_bn2").get_weights()
    network.get_layer("block2_bn2").set_weights([gamma, 0 * beta, mean, variance])
    assert np.abs(compiled.fold_batch_norm(network, config)(lr) - expected).max() > 10 * tolerance["atol"]


@pytest.mark.parametrize("name", slow_but(["srresnet", "espcn"], registry.NETWORKS))
def test_every_network_can_be_folded(name, rng):
    """As the first network of a program, whose names must not be those that Keras gives, and as a later one."""
    import keras

    keras.utils.clear_session()
    config = make_config(overrides=[f"MODEL.network={name}", "MODEL.blocks=2", "MODEL.width=8"]).MODEL
    registry.build_generator(config)
    network = registry.build_generator(config)
    for layer in network.layers:
        layer.set_weights([w + rng.uniform(0, 0.3, w.shape) for w in layer.get_weights()])
    lr = rng.random((1, 6, 5, 3), np.float32)
    expected = np.asarray(network(lr, training=False))
    np.testing.assert_allclose(
        compiled.fold_batch_norm(network, config)(lr), expected, atol=1e-5 * max(np.abs(expected).max(), 1)
    )


def test_folding_keeps_tanh(rng):
    config = make_config(overrides=("MODEL.blocks=1", "MODEL.width=8", "MODEL.output=tanh")).MODEL
    network = with_random_weights(registry.build_generator(config), rng)
    lr = rng.random((1, 6, 5, 3), np.float32)
    np.testing.assert_allclose(compiled.fold_batch_norm(network, config)(lr), network(lr, training=False), atol=1e-5)


@pytest.mark.slow
def test_the_list_of_networks(call):
    """`python model.py`: each with colours, loss, parameters and work; SRCNN's counted by hand."""
    result = call("model.py")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line and not line.startswith((" ", "-"))}
    assert set(rows) == set(registry.NETWORKS)
    weights = 81 * 64 + 25 * 64 * 32 + 25 * 32
    assert rows["srcnn"].split()[:6] == [
        "srcnn",
        "Y",
        "luma",
        f"{weights + 64 + 32 + 1:,}",
        f"{weights / 1e3:.3g}",
        "e9",
    ]
    assert "RGB      mse       1,554,883" in rows["srresnet"]
