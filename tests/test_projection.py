"""The projection onto the images that shrink to LR: a layer, in every network, at any size, and what it promises."""

import functools

import numpy as np
import pytest
from conftest import TINY_SETTINGS, photo, slow_but

import utils
from config import make_config
from inference import compiled, formats, tiles
from layers import borders, projection
from networks import receptive, registry
from runs import store
from scoring import metrics
from utils import UserError

PROJECTED = "MODEL.projection=bicubic"
SIZES = ((9, 12), (3, 5), (1, 2))


def tensor(array):
    import tensorflow as tf

    return tf.constant(array, tf.float32)


def random_network(rng, *overrides, amount=0.1):
    """(generator, MODEL section) of a tiny SRResNet whose SR is far from LR."""
    import keras

    config = make_config(overrides=[*TINY_SETTINGS, *overrides]).MODEL
    keras.utils.set_random_seed(6)  # else the weights, and what rounding leaves, differ from run to run
    network = registry.build_generator(config)
    network.set_weights([w + rng.normal(0, amount, w.shape) for w in network.get_weights()])
    return network, config


def write_run(directory, network, *overrides):
    """The store.Run of a random network, with its weights."""
    run = store.Run(directory, "srresnet", "default", make_config(overrides=[*TINY_SETTINGS, *overrides]))
    store.create(run, {})
    store.save_weights(network, directory / store.WEIGHTS)
    return run


def contradiction(degradation, sr_m11, lr_01):
    """The largest |A SR - LR|, in grey levels."""
    return 127.5 * np.abs(np.asarray(projection.shrink(tensor(sr_m11), degradation)) - (2 * lr_01 - 1)).max()


@pytest.mark.parametrize("scale", slow_but([4], [2, 4, 8]))
def test_the_map_is_matlabs_and_its_pseudo_inverse_undoes_it(scale, rng):
    """Against dense matrices, with borders, down to a single pixel."""
    degradation = projection.bicubic(scale)
    for height, width in SIZES:
        hr, lr = rng.random((2, scale * height, scale * width, 2)), rng.random((2, height, width, 2))
        rows, columns = (utils.resize_matrix(scale * n, n, 1 / scale) for n in (height, width))
        shrunk = np.einsum("ih,bhwc,jw->bijc", rows, hr, columns)
        np.testing.assert_allclose(projection.shrink(tensor(hr), degradation), shrunk, atol=2e-6)
        pseudo = np.einsum("ih,bhwc,jw->bijc", np.linalg.pinv(rows), lr, np.linalg.pinv(columns))
        enlarged = projection.enlarge(tensor(lr), degradation)
        np.testing.assert_allclose(enlarged, pseudo, atol=2e-4)
        np.testing.assert_allclose(projection.shrink(enlarged, degradation), lr, atol=1e-4)


def test_borders_are_utils_mirror(rng):
    image = rng.random((1, 3, 2, 1)).astype(np.float32)
    rows, columns = (utils.mirror(np.arange(-7, n + 5), n) for n in (3, 2))
    np.testing.assert_array_equal(borders.extended(image, 7, 5), image[:, rows][:, :, columns])
    np.testing.assert_array_equal(
        borders.extended(image, 7, 5, borders.wrap)[0, :, 7, 0], image[0, np.arange(-7, 8) % 3, 0, 0]
    )


def test_sr_of_a_projected_generator_shrinks_to_lr(rng):
    """But for what A⁺ lacks beyond its reach; of twelve random networks 3e-5 to 8e-5 was left."""
    lr = rng.random((1, 9, 13, 3), np.float32)
    plain, _ = random_network(rng)
    network, _ = random_network(rng, PROJECTED)
    plain.set_weights(network.get_weights())
    before, after = (contradiction(projection.bicubic(4), each(lr), lr) for each in (plain, network))
    assert before > 50 and after < min(0.02, 1e-4 * before)


@pytest.mark.parametrize(
    "fault",
    [
        lambda inverse: 1.01 * inverse,
        lambda inverse: np.roll(inverse, 1, axis=0),
        lambda inverse: inverse.reshape(*inverse.shape[:2], 4, 4).swapaxes(2, 3)[..., ::-1].reshape(inverse.shape),
        lambda inverse: inverse[4:-4, 4:-4],
    ],
    ids=["too strong", "a pixel off", "shuffled", "cut too short"],
)
def test_a_wrong_pseudo_inverse_is_caught(fault, rng, monkeypatch):
    degradation = projection.bicubic(4)
    wrong = degradation._replace(inverse=fault(degradation.inverse))
    monkeypatch.setitem(registry.DEGRADATIONS, "bicubic", lambda scale: wrong)
    lr = rng.random((1, 9, 13, 3), np.float32)
    network, _ = random_network(rng, PROJECTED)
    assert contradiction(degradation, network(lr), lr) > 0.1


def test_projecting_is_a_projection(rng):
    """Twice is as once, and what moves is only what LR says: A⁺A is symmetric and idempotent."""
    degradation = projection.bicubic(4)
    hr = tensor(rng.random((2, 24, 20, 1)))
    low = projection.enlarge(projection.shrink(hr, degradation), degradation)
    again = projection.enlarge(projection.shrink(low, degradation), degradation)
    np.testing.assert_allclose(again, low, atol=2e-4)
    inner = [float(np.sum(low[i] * hr[1 - i])) for i in (0, 1)]
    assert inner[0] == pytest.approx(inner[1], rel=1e-4)


def test_gradients(rng):
    """Of g = f + A⁺(x - A f): those of f are (I - A⁺A)ᵀ times those of g, which has no part that A sees."""
    import keras
    import tensorflow as tf

    degradation = projection.bicubic(4)
    sr, lr = keras.Input((None, None, 1)), keras.Input((None, None, 1))
    network = keras.Model([sr, lr], projection.projected(sr, lr, degradation))
    f, x = (tensor(rng.random((1, 4 * n, 4 * m, 1))[:, :: 4 // s, :: 4 // s]) for n, m, s in ((4, 5, 4), (4, 5, 1)))
    weight = tensor(rng.normal(size=f.shape))
    with tf.GradientTape() as tape:
        tape.watch([f, x])
        value = tf.reduce_sum(weight * network([f, x]))
    of_f, of_x = tape.gradient(value, [f, x])
    step = 1e-2
    for gradient, inputs in ((of_f, [f, x]), (of_x, [x, f])):
        direction = tensor(rng.normal(size=inputs[0].shape))
        ends = [inputs[0] + sign * step * direction for sign in (1, -1)]
        pairs = [[end, x] if inputs[0] is f else [f, end] for end in ends]
        slope = np.subtract(*(np.sum(np.float64(weight * network(pair))) for pair in pairs)) / (2 * step)
        assert float(np.sum(gradient * direction)) == pytest.approx(slope, rel=1e-3, abs=1e-2)
    np.testing.assert_allclose(projection.shrink(of_f, degradation), np.zeros(x.shape), atol=1e-3)


def test_weights_fit_with_and_without(rng, tmp_path):
    network, config = random_network(rng)
    store.save_weights(network, path := tmp_path / "some.weights.h5")
    projected, other = random_network(rng, PROJECTED)
    store.load_weights(projected, path)
    for ours, theirs in zip(projected.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not store.differences(config, other)
    store.save_weights(projected, path)
    store.load_weights(network, path)


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_folded_split_and_in_tiles(rng, tmp_path, monkeypatch, skip):
    """Any tile is as the whole picture inside its halo, and an engine's parts are as the network."""
    settings = PROJECTED, f"MODEL.skip={skip}"
    network, config = random_network(rng, *settings)
    folded = compiled.fold_batch_norm(network, config)
    parts = compiled.split(folded)
    lr = rng.random((2, 40, 50, 3), np.float32)
    whole = np.asarray(network(lr, training=False))
    np.testing.assert_allclose(functools.reduce(lambda x, part: part(x), parts, lr), whole, atol=1e-4)
    radii, radius = [receptive.radius_of(part) for part in parts], receptive.radius_of(folded)
    # A⁺ and A together see 10 LR pixels; 11 since each step is rounded up.
    assert radii[1:] == [4, 11] and sum(radii) >= radius == receptive.receptive_radius(config)
    changed = lr.copy()
    changed[:, 13 + radius :] = 0
    moved = np.abs(np.asarray(folded(changed)) - whole)[0].max(axis=(1, 2)) > 1e-5
    assert not moved[: 4 * 13].any() and moved[4 * 15 :].any()

    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    write_run(tmp_path / "mine", network, *settings)
    monkeypatch.setattr(tiles, "STRIP", 400)
    lr_u8 = photo(rng, 90, 70)
    tiled = tiles.Upscaler("mine", tile=24, engine="tensorflow")
    assert tiled.count(90, 70) == 6 and tiled.halo == 16
    sr = tiled.upscale(lr_u8).astype(int)
    whole = utils.m11_to_u8(network(utils.u8_to_01(lr_u8)[None], training=False))[0].astype(int)
    assert np.abs(sr - whole).max() <= 1 and np.mean(sr != whole) < 1e-3


def test_eight_bits_and_lr(rng):
    """After rounding, where nothing is cut off at black or white, MATLAB's bicubic gives LR back."""
    lr_u8 = utils.round_u8(64 + 0.5 * photo(rng, 48, 40))
    network, _ = random_network(rng, PROJECTED, "MODEL.skip=bicubic", amount=0.01)
    sr = np.asarray(network(utils.u8_to_01(lr_u8)[None]))
    assert np.abs(sr).max() < 1
    assert metrics.consistency(utils.m11_to_u8(sr[0]), lr_u8) > 60


@pytest.mark.slow
def test_int8_is_made_of_the_projected_network(rng):
    network, config = random_network(rng, PROJECTED)
    folded = compiled.fold_batch_norm(network, config)
    lr = rng.random((1, 9, 8, 3), np.float32)
    ours = formats.to_be_quantised(folded, np.zeros(3, np.float32))(lr)["sr"]
    np.testing.assert_allclose(ours, np.clip((np.asarray(folded(lr)) + 1) / 2, 0, 1), atol=1e-4)


def test_a_run_is_made_of_anothers_weights(rng, tmp_path, monkeypatch, call):
    """Its SR shrinks to LR; it is made once; blended with a run that has no projection it keeps its own."""
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    network, _ = random_network(rng)
    run = write_run(tmp_path / "mine", network)
    for _ in range(2):
        result = call("-m", "papers.projection", "mine")
        assert result.returncode == 0, result.stderr
    generator, about = store.load_generator("mine-projected")
    lr = rng.random((1, 5, 6, 3), np.float32)
    before, after = (contradiction(projection.bicubic(4), each(lr), lr) for each in (network, generator))
    assert about["weights_of"] == "mine" and after < min(0.02, 1e-4 * before)
    for pair in (("mine", "mine-projected"), ("mine-projected", "mine")):
        ((mixed, its),) = store.blends(*pair, [0.3])
        assert its["config"].MODEL.projection == "bicubic"
        np.testing.assert_allclose(mixed(lr), generator(lr), atol=1e-5)
    assert call("-m", "papers.projection", "mine-projected").returncode == 0
    np.testing.assert_array_equal(store.load_generator("mine-projected-free")[0](lr), network(lr))
    (run.directory / store.WEIGHTS).write_bytes(b"others")
    assert "has other weights" in call("-m", "papers.projection", "mine").stderr


def test_the_papers_gaussian_and_its_fitted_pseudo_inverse(rng, monkeypatch):
    """A against SciPy; AA⁺ is near the identity up to the borders; another Gaussian's A⁺ is refused."""
    from scipy import ndimage

    degradation = projection.gaussian()
    image = rng.random((16, 24))
    blurred = ndimage.correlate(image, degradation.kernel, mode="wrap")[2::4, 2::4]
    np.testing.assert_allclose(
        projection.shrink(tensor(image[None, ..., None]), degradation)[0, ..., 0], blurred, atol=1e-6
    )
    x, y = (tensor(rng.normal(size=(4, side, side, 1))) for side in (16, 64))

    def down(hr):
        return projection.shrink(hr, degradation)

    def up(lr):
        return projection.enlarge(lr, degradation)

    loss = sum(np.mean((a - b) ** 2) for a, b in ((down(y), down(up(down(y)))), (up(x), up(down(up(x))))))
    assert loss < 1e-8
    monkeypatch.setattr(projection, "gaussian_kernel", lambda deviation=1.0: degradation.kernel * 1.001)
    projection.gaussian.cache_clear()
    with pytest.raises(UserError, match="is not of this Gaussian"):
        projection.gaussian()
    projection.gaussian.cache_clear()


@pytest.mark.slow
def test_the_fit(monkeypatch):
    from papers import projection as commands

    inverse, loss = commands.fit(projection.gaussian()._replace(inverse=None), steps=400)
    assert loss < 1e-3
    np.testing.assert_allclose(inverse, projection.gaussian().inverse, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["savedmodel", "tflite", "onnx"])
def test_exports_shrink_to_lr(name, rng, tmp_path):
    """At sizes of which borders are most, as the network itself."""
    form = formats.FORMATS[name]
    for package in form.packages:
        pytest.importorskip(package)
    network, config = random_network(rng, PROJECTED, "MODEL.skip=bicubic", amount=0.01)
    folded = compiled.fold_batch_norm(network, config)
    form.write(formats.Source(folded, {"scale": "4"}), tmp_path / f"net{form.ending}")
    upscale = form.load(tmp_path / f"net{form.ending}")
    for height, width in ((9, 13), (3, 5)):
        lr = rng.integers(60, 190, (1, height, width, 3), np.uint8)
        sr = upscale(lr)
        wanted = utils.m11_to_u8(network(utils.u8_to_01(lr)))
        assert np.abs(sr.astype(int) - wanted).max() <= 1


@pytest.mark.slow
def test_exact_tiles_equal_the_whole_picture(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    network, _ = random_network(rng, PROJECTED)
    write_run(tmp_path / "mine", network, PROJECTED)
    lr = photo(rng, 96, 120)
    small, large = (tiles.Upscaler("mine", tile=side, exact=True) for side in (24, 256))
    assert small.count(96, 120) > 1 == large.count(96, 120)
    np.testing.assert_array_equal(small.upscale(lr), large.upscale(lr))
