"""The other networks of Table 2: sizes from their papers, what they start from, and that each of them learns."""

import numpy as np
import pytest
from conftest import photo, slow_but, tiny_vgg

import evaluate
import train
import utils
from config import make_config
from networks import counting, receptive, registry
from networks.baselines import RECONSTRUCTIONS
from networks.registry import NETWORKS
from runs import devices
from training.state import TrainState
from utils import LazyModule

keras = LazyModule("keras")


def build(name, *overrides):
    config = make_config(overrides=[f"MODEL.network={name}", *overrides]).MODEL
    return registry.build_generator(config), config


def weights_of(network):
    """The number of weights, without biases, as the papers count."""
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables if not v.path.endswith("bias"))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("srcnn", 81 * 64 + 25 * 64 * 32 + 25 * 32),
        ("espcn", 25 * 64 + 9 * 64 * 32 + 9 * 32 * 16),
        ("vdsr", 664_704),
        ("drcn", 9 * 256 + 9 * 256**2 + 9 * 256**2 + 9 * 256**2 + 9 * 256 + 16),
    ],
)
def test_as_many_weights_as_in_the_papers(name, weights):
    """SRCNN 9-5-5 has 57,184, VDSR "665K", DRCN 1,774,080 and the 16 of its mean."""
    network, _ = build(name)
    assert weights_of(network) == weights
    assert {"srcnn": 57_184, "drcn": 1_774_096}.get(name, weights) == weights


SUM_RATES = {
    "srcnn": 1e-4 * 17**2 / 2,
    "vdsr": 0.1 * 41**2 / 2,
}  # for half the sum over an output, as one of the mean


@pytest.mark.parametrize(
    ("name", "optimizer", "rate", "last_layer", "crop", "loss", "more"),
    [
        ("srcnn", "sgd", SUM_RATES["srcnn"], 0.1, 33, "luma", {"TRAIN.batch": 128}),
        ("espcn", "sgd", 0.01, 0.1, 17 * 4, "luma", {}),
        ("espcn-hr", "sgd", 0.01, 0.1, 17 * 4, "luma", {}),
        ("vdsr", "sgd", SUM_RATES["vdsr"], 1, 41, "luma", {"TRAIN.batch": 64, "TRAIN.beta1": 0.9, "MODEL.blocks": 18}),
        ("drcn", "sgd", 0.01, 1, 41, "luma", {"MODEL.blocks": 16, "MODEL.width": 256}),
        (
            "johnson",
            "adam",
            1e-3,
            1,
            288,
            "feature",
            {"TRAIN.batch": 4, "TRAIN.steps": 200_000, "TRAIN.weight_decay": 0, "VGG.layer": "conv2_2"}
            | {"MODEL.blocks": 4, "MODEL.output": "tanh"},
        ),
        ("tensorlayer", "adam", 1e-4, 1, 96, "mse", {"MODEL.output": "tanh", "MODEL.blocks": 16, "TRAIN.beta1": 0.9}),
    ],
)
def test_training_rules_are_the_papers(name, optimizer, rate, last_layer, crop, loss, more):
    """Crops are the multiple of 16 next to the paper's: 33 is 32, 41 is 48, 68 is 64 (docs/departures.md, 27)."""
    config = make_config(overrides=[f"MODEL.network={name}"])
    rule = config.TRAIN
    assert (rule.optimizer, rule.loss, rule.last_layer_rate) == (optimizer, loss, last_layer)
    assert rule.learning_rate == pytest.approx(rate, rel=0.01)
    assert abs(config.DATA.crop - crop) < 8 and config.DATA.crop % 16 == 0
    for setting, value in more.items():
        section, key = setting.split(".")
        assert config[section][key] == value, setting
    assert config.MODEL.skip == "none" and NETWORKS[name].matched == (name == "johnson")
    assert NETWORKS[name].gan == (name == "tensorlayer")
    if name == "vdsr":  # weight decay of 1e-4 at a rate of 0.1
        assert rule.learning_rate * rule.weight_decay == pytest.approx(0.1 * 1e-4, rel=0.01)
    else:
        assert rule.weight_decay == 0


def anatomy(network):
    """[(kernel, maps, stride, activation, bias)] of the convolutions in order; transposed ones have stride 1/2."""
    return [
        (
            layer.kernel_size[0],
            layer.filters,
            1 / layer.strides[0] if isinstance(layer, keras.layers.Conv2DTranspose) else layer.strides[0],
            layer.activation.__name__,
            layer.use_bias,
        )
        for layer in network.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose))
    ]


def count(network, kind):
    return sum(isinstance(layer, kind) for layer in network.layers)


VDSR = [(3, 64, 1, "relu", False)] * 19 + [(3, 1, 1, "linear", False)]
DRCN = [(3, 256, 1, "relu", True)] * 4 + [(3, 1, 1, "linear", True), (1, 1, 1, "linear", False)]
JOHNSON = [(9, 64, 1, "linear", True)] + [(3, 64, 1, "linear", True)] * 8 + [(3, 64, 0.5, "linear", True)] * 2
TENSORLAYER = [(3, 64, 1, "linear", True)] + [(3, 64, 1, "linear", False)] * 33 + [(3, 256, 1, "linear", True)] * 2
TENSORLAYER_D = [(4, 64, 2, "linear", True)] + [(4, 64 * 2**i, 2, "linear", False) for i in range(1, 6)]
TENSORLAYER_D += [(k, n, 1, "linear", False) for k, n in ((1, 1024), (1, 512), (1, 128), (3, 128), (3, 512))]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("srcnn", [(9, 64, 1, "relu", True), (5, 32, 1, "relu", True), (5, 1, 1, "linear", True)]),
        ("espcn", [(5, 64, 1, "tanh", True), (3, 32, 1, "tanh", True), (3, 16, 1, "linear", True)]),
        ("espcn-hr", [(5, 16, 1, "tanh", True), (3, 8, 1, "tanh", True), (3, 1, 1, "linear", True)]),
        ("vdsr", VDSR),
        ("drcn", DRCN),
        ("johnson", [*JOHNSON, (9, 3, 1, "tanh", True)]),
        ("tensorlayer", [*TENSORLAYER, (1, 3, 1, "tanh", True)]),
    ],
)
def test_layers_are_the_papers(name, layers):
    assert anatomy(build(name)[0]) == layers


def test_johnsons_norms_and_activations():
    """Batch norm after all convolutions but the last; ReLU after them but for the second one of a block."""
    network, _ = build("johnson")
    assert count(network, keras.layers.BatchNormalization) == 1 + 8 + 2
    assert count(network, keras.layers.ReLU) == 1 + 4 + 2


@pytest.mark.slow
def test_tensorlayers_networks():
    """Batch norms and activations, LR in [-1, 1], and initial weights of both networks; the discriminator's layers."""
    keras.utils.set_random_seed(0)
    network, config = build("tensorlayer")
    assert (count(network, keras.layers.BatchNormalization), count(network, keras.layers.ReLU)) == (33, 1 + 16 + 2)
    head = keras.Model(network.input, network.get_layer("head_conv").output)
    assert np.abs(head(np.full((1, 4, 4, 3), 0.5, np.float32))).max() == 0  # the middle of LR's range is its zero
    config.discriminator = "tensorlayer"
    judge = registry.build_discriminator(config, 64)
    assert anatomy(judge) == TENSORLAYER_D
    assert count(judge, keras.layers.BatchNormalization) == 10 and count(judge, keras.layers.LeakyReLU) == 10
    assert judge.get_layer("flatten").output.shape[1:] == (512,)  # six halvings: 384 would leave 6×6
    for gamma in (network.get_layer("body_bn").gamma, judge.get_layer("conv3_bn").gamma):
        assert 0.01 < np.std(gamma) < 0.03 and abs(np.mean(gamma) - 1) < 0.02
    pairs = ((network, "block1_conv1", "block2_conv1"), (judge, "conv6", "conv7"), (judge, "residual1", "residual2"))
    for of, one, other in pairs:  # each has numbers of its own
        first, second = (np.ravel(of.get_layer(name).kernel)[:1000] for name in (one, other))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert np.abs(network.get_layer("block1_bn1").gamma - network.get_layer("block2_bn1").gamma).max() > 0.01
    for layer in (network.get_layer("body_conv"), judge.get_layer("conv6"), judge.get_layer("dense2")):
        assert 0.018 < np.std(layer.kernel) < 0.022


@pytest.mark.slow
def test_the_tensorlayer_preset_trains_a_gan(rng):
    """One update by its networks and loss, and VGG's input resized."""
    small = ["MODEL.width=8", "MODEL.blocks=2", "DATA.crop=64", "TRAIN.batch=2", "VGG.resize=32", "VGG.layer=conv2_2"]
    config = make_config("srgan", "tensorlayer", small)
    state = TrainState(config, "srgan", vgg=tiny_vgg(config.VGG.resize))
    batch = np.stack([photo(rng, 80, 80) for _ in range(2)]), np.zeros((2, 3), bool)
    values = {name: float(value) for name, value in train.make_step(config, state, xla=False)(*batch).items()}
    assert {"mse_loss", "vgg_loss", "g_gan_loss", "d_loss"} <= set(values) and np.isfinite(list(values.values())).all()
    assert values["vgg_loss_grad"] > 0


def test_johnsons_colours_are_matched_to_lr(rng):
    """Whatever its weights make of the colours, an evaluation sees LR's: means and spreads, channel by channel."""
    keras.utils.set_random_seed(0)
    network, config = build("johnson", "MODEL.width=8", "MODEL.blocks=1")
    tail = network.get_layer("tail_conv")
    tail.set_weights([10 * weights for weights in tail.get_weights()])  # so that it has many grey levels
    lr = photo(rng, 24, 20)
    own = evaluate.Model("j", network, config)
    [sr] = own.upscale([lr])
    assert own.matched and np.abs(sr.mean((0, 1)) - lr.mean((0, 1))).max() > 10
    matched = evaluate.match_colours(sr, lr)
    assert matched.dtype == np.uint8 and matched.shape == sr.shape
    np.testing.assert_allclose(matched.mean((0, 1)), lr.mean((0, 1)), atol=5)
    np.testing.assert_allclose(matched.std((0, 1)), lr.std((0, 1)), atol=5)
    large = photo(rng, 120, 100)  # of many levels: little but rounding is left
    matched = evaluate.match_colours(utils.imresize(255 - large, 4), large)
    np.testing.assert_allclose(matched.mean((0, 1)), large.mean((0, 1)), atol=0.2)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].colour == "Y"])
def test_luma_networks_leave_the_colour_to_bicubic(name, rng):
    """Cb and Cr of SR are those of the bicubic image, whatever the weights; Y comes from the network."""
    network, _ = build(name, "MODEL.width=8", "MODEL.blocks=2")
    lr = photo(rng, 8, 10)
    sr = (np.asarray(network(utils.u8_to_01(lr)[None]))[0] + 1) / 2
    from skimage.color import rgb2ycbcr

    rows, columns = (utils.resize_matrix(n, 4 * n, 4) for n in (8, 10))
    coarse = np.einsum("ih,hwc,jw->ijc", rows, lr / 255, columns)
    np.testing.assert_allclose(rgb2ycbcr(sr)[..., 1:], rgb2ycbcr(coarse)[..., 1:], atol=0.01)
    assert np.abs(rgb2ycbcr(sr)[..., 0] - rgb2ycbcr(coarse)[..., 0]).max() > 0.1


@pytest.mark.parametrize("name", ["vdsr", "drcn"])
def test_residual_networks_start_at_the_bicubic_image(name, rng):
    network, _ = build(name, "MODEL.width=8", "MODEL.blocks=2")
    for layer in network.layers:
        if layer.name in ("conv4", "reconstruct2"):
            layer.set_weights([0 * weights for weights in layer.get_weights()])
    lr = photo(rng, 9, 7)
    difference = utils.m11_to_u8(network(utils.u8_to_01(lr)[None])[0]).astype(int) - utils.imresize(lr, 4)
    assert np.abs(difference).max() <= 1  # imresize rounds between rows and columns


def test_as_much_work_in_hr_space(rng):
    """ESPCN's inner convolution and its twin's in HR space: equal multiply-adds, scale² times fewer weights."""
    (low, _), (high, _) = build("espcn"), build("espcn-hr")
    inner = {name: network.get_layer("conv2").kernel for name, network in (("low", low), ("high", high))}
    pixels = {"low": 1, "high": 16}
    work = {name: pixels[name] * int(np.prod(kernel.shape)) for name, kernel in inner.items()}
    assert work["low"] == work["high"]
    assert counting.multiply_adds(low, (1, 10, 10, 3)) == 100 * weights_of(low)
    assert counting.multiply_adds(high, (1, 10, 10, 3)) == 1600 * weights_of(high)


@pytest.mark.parametrize(
    ("name", "a_pixel"), slow_but([("johnson", 46_476)], [("srresnet", 138_636), ("johnson", 46_476)])
)
def test_work_of_an_sr_pixel(name, a_pixel):
    """By hand: weights over 16 in LR space, over 4 and 1 above; a transposed convolution's count at its input."""
    inner = 9 * 64 * 64
    by_hand = {
        "srresnet": (243 * 64 + 33 * inner + 4 * inner) / 16 + 4 * inner / 4 + 243 * 64,
        "johnson": (243 * 64 + 8 * inner + inner) / 16 + inner / 4 + 243 * 64,
    }
    assert by_hand[name] == a_pixel
    assert counting.multiply_adds(build(name)[0], (1, 6, 5, 3)) == 6 * 5 * 16 * a_pixel


def test_work_of_a_layer_used_many_times():
    network, config = build("drcn", "MODEL.width=8", "MODEL.blocks=3")
    a_pixel = 9 * 8 + 9 * 64 + 3 * (9 * 64 + 9 * 64 + 9 * 8) + 3
    assert counting.multiply_adds(network, (1, 5, 6, 3)) == 5 * 6 * 16 * a_pixel


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "srresnet"])
def test_each_learns(name, rng):
    """Some updates by its own loss, at a rate that fits so small a network, and the loss has come down."""
    small = ["MODEL.width=8", "MODEL.blocks=2", "DATA.crop=32", "TRAIN.batch=2", "TRAIN.steps=40", "TRAIN.xla=false"]
    small += ["VGG.layer=conv2_2", "TRAIN.learning_rate=0.003", "TRAIN.optimizer=adam", "TRAIN.last_layer_rate=1"]
    config = make_config(overrides=[f"MODEL.network={name}", *small])
    vgg = tiny_vgg() if config.TRAIN.loss == "feature" else None
    state = TrainState(config, "srresnet", vgg=vgg)
    step = train.make_step(config, state, xla=False)
    crops = np.stack([photo(rng, 48, 48) for _ in range(2)])
    turns = np.zeros((2, 3), bool)
    values = [{key: float(value) for key, value in step(crops, turns).items()} for _ in range(30)]
    assert values[-1]["g_loss"] < 0.85 * values[0]["g_loss"], values
    assert ("recursion_loss" in values[0]) == (name == "drcn")


@pytest.mark.slow
def test_supervision_of_recursions_fades(rng):
    """DRCN's recursions have the whole loss at first, and less with every update: α goes from one to zero."""
    small = ["MODEL.width=8", "MODEL.blocks=2", "DATA.crop=32", "TRAIN.batch=2", "TRAIN.steps=2", "TRAIN.xla=false"]
    config = make_config(overrides=["MODEL.network=drcn", *small, "TRAIN.learning_rate=1e-9"])
    state = TrainState(config, "srresnet")
    assert state.generator.get_layer(RECONSTRUCTIONS).output.shape[-1] == 2
    step = train.make_step(config, state, xla=False)
    batch = np.stack([photo(rng, 48, 48) for _ in range(2)]), np.zeros((2, 3), bool)
    first, second = (step(*batch) for _ in range(2))
    assert float(first["mse_loss"]) == 0 and float(second["mse_loss"]) > 0
    assert float(second["recursion_loss"]) == pytest.approx(float(first["recursion_loss"]) / 2, rel=1e-3)


@pytest.mark.slow
def test_last_layers_rate_and_adjustable_clipping(rng):
    """SGD without momentum, by hand: the last layer moves a tenth as far; gradients are cut to ±θ/rate."""
    import tensorflow as tf

    base = ["MODEL.network=espcn", "MODEL.width=8", "DATA.crop=32", "TRAIN.batch=2", "TRAIN.beta1=0"]
    crops, turns = np.stack([photo(rng, 48, 48) for _ in range(2)]), np.zeros((2, 3), bool)

    def one_step(*overrides):
        config = make_config(overrides=[*base, "TRAIN.learning_rate=0.5", *overrides])
        state = TrainState(config, "srresnet")
        before = [np.asarray(v) for v in state.generator.trainable_variables]
        lr_01, real = train.data.degrade(crops, turns, 4)
        with tf.GradientTape() as tape:
            loss = train.losses.luma_losses(state.generator(lr_01), real)["mse_loss"]
        gradients = [np.asarray(g) for g in tape.gradient(loss, state.generator.trainable_variables)]
        train.make_step(config, state, xla=False)(crops, turns)
        return gradients, [np.asarray(v) - b for v, b in zip(state.generator.trainable_variables, before, strict=True)]

    gradients, moves = one_step()
    rates = [0.5] * 4 + [0.05] * 2
    for gradient, move, rate in zip(gradients, moves, rates, strict=True):
        np.testing.assert_allclose(move, -rate * gradient, atol=1e-6)
    gradients, moves = one_step("TRAIN.clip_value=1e-4", "TRAIN.last_layer_rate=1")
    for gradient, move in zip(gradients, moves, strict=True):
        np.testing.assert_allclose(move, -0.5 * np.clip(gradient, -2e-4, 2e-4), atol=1e-7)
        assert np.abs(gradient).max() > 2e-4


@pytest.mark.parametrize("name", slow_but(["espcn"], NETWORKS))
def test_receptive_radius(name, rng):
    """LR beyond it does not move a bit of SR, and LR at two thirds of it does."""
    import tensorflow as tf

    network, config = build(name, "MODEL.width=8", "MODEL.blocks=2")
    for layer in network.layers:  # zero scales would make identities of the blocks
        layer.set_weights([w + rng.normal(0, 0.1, w.shape) for w in layer.get_weights()])
    radius = receptive.receptive_radius(config)
    side = 2 * radius + 5
    lr = rng.random((1, side, side, 3), np.float32)
    infer = tf.function(lambda x: network(x, training=False))
    before = np.asarray(infer(lr))[:, 4 * (radius + 2) : 4 * (radius + 3)]
    changes = {}
    for distance in (radius + 1, 2 * radius // 3):
        changed = lr.copy()
        changed[:, radius + 2 + distance :] = rng.random(changed[:, radius + 2 + distance :].shape)
        changes[distance] = np.abs(np.asarray(infer(changed))[:, 4 * (radius + 2) : 4 * (radius + 3)] - before).max()
    assert changes[radius + 1] == 0 < changes[2 * radius // 3], changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "radii"),
    [
        ("srresnet", (40, 40, 40)),
        ("tensorlayer", (35, 36, 36)),
        ("srcnn", (6, 4, 3)),
        ("espcn", (4, 4, 4)),
        ("espcn-hr", (4, 3, 3)),
        ("vdsr", (12, 7, 5)),
        ("drcn", (12, 7, 5)),
        ("johnson", (15, 15, 15)),
    ],
)
def test_receptive_radius_by_hand(name, radii):
    """At scale 2, 4 and 8. Of the paper's network, 4 + 32 + 1 in LR space and 3, once or more, of the upsampling."""
    for scale, radius in zip((2, 4, 8), radii, strict=True):
        config = make_config(overrides=[f"MODEL.network={name}", f"MODEL.scale={scale}"]).MODEL
        config.width = 4  # does not count
        assert receptive.receptive_radius(config) == radius


@pytest.mark.parametrize(
    ("upsampler", "radius", "measured"), [("subpixel", 12, 12), ("deconv", 12, 11), ("resize", 11, 11)]
)
def test_receptive_radius_of_upsamplers(upsampler, radius, measured):
    """Two blocks, ×4, by hand and by one lit pixel on black under positive weights.

    4 + 4 + 1 in LR space, the rest above: a sub-pixel convolution works before its shuffle, "resize" after it. A
    transposed one reaches to one side only, which the radius leaves out.
    """
    small = ["MODEL.skip=none", "MODEL.blocks=2", "MODEL.width=4", f"MODEL.upsampler={upsampler}"]
    network, config = build("srresnet", *small)
    assert receptive.receptive_radius(config) == radius
    for layer in network.layers:
        arrays = [np.full_like(array, 0.1 if array.ndim == 4 else 0) for array in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            arrays = [arrays[0] + 1, *arrays[1:3], arrays[3] + 1]
        layer.set_weights(arrays)
    lr = np.zeros((1, 2 * radius + 5, 2 * radius + 5, 3), np.float32)
    lr[0, radius + 2, radius + 2] = 1
    lit = (network(lr, training=False).numpy()[0] > 0).any(axis=(1, 2))
    distances = np.abs(np.flatnonzero(lit) // 4 - (radius + 2))
    assert distances.max() == measured


@pytest.mark.parametrize("kind", ["MaxPooling2D", "LayerNormalization", "strided"])
def test_layers_of_unknown_reach_are_refused(kind):
    image = keras.Input((None, None, 3))
    layer = keras.layers.Conv2D(3, 3, strides=2) if kind == "strided" else getattr(keras.layers, kind)()
    with pytest.raises(ValueError, match="receptive field of .* is not known"):
        receptive.radius_of(keras.Model(image, layer(image)))
    part = keras.Model(image, image[:, 1:])  # rows are cut off: pixels no longer lie where they lay
    with pytest.raises(ValueError, match="receptive field of .* is not known"):
        receptive.radius_of(part)


@pytest.mark.parametrize("name", slow_but(["espcn"], ["espcn", "drcn", "johnson"]))
def test_last_layers_compute_in_float32(name, rng):
    """Under mixed precision an update goes through, and SR has more levels than bfloat16's eight bits tell apart."""
    small = ["MODEL.width=8", "MODEL.blocks=2", "DATA.crop=32", "TRAIN.batch=2", "VGG.layer=conv2_2"]
    config = make_config(overrides=[f"MODEL.network={name}", *small, "TRAIN.precision=mixed_bfloat16"])
    before = devices.choose_precision("float32")
    try:
        devices.choose_precision(config.TRAIN.precision)
        vgg = tiny_vgg() if config.TRAIN.loss == "feature" else None
        state = TrainState(config, "srresnet", vgg=vgg)
        batch = np.stack([photo(rng, 48, 48) for _ in range(2)]), np.zeros((2, 3), bool)
        assert np.isfinite(float(train.make_step(config, state, xla=False)(*batch)["g_loss"]))
        sr = state.generator(rng.random((1, 16, 16, 3), np.float32))
        assert sr.dtype == "float32" and len(np.unique(sr)) > 2000
    finally:
        devices.choose_precision(before)
