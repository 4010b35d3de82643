"""VESPCN: its networks against the paper's figures, resampler, fusions and losses; motion that is known."""

import numpy as np
import pytest
from conftest import photo, slow_but
from scipy import ndimage

import utils
from images import motion
from layers.warping import warp
from networks import counting, vespcn
from papers import vespcn as paper
from scoring import metrics
from utils import UserError, rgb_to_y

# ---------------------------------------------------------------------------------------------------------------------
# The resampler


def warped_by_scipy(image, flow):
    """image [h, w, c], flow [h, w, 2] → [h, w, c], by another library."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    places = (y + flow[..., 1], x + flow[..., 0])
    return np.stack(
        [ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in image.T.swapaxes(1, 2)], -1
    )


def test_warping_is_bilinear(rng):
    images, flows = rng.random((2, 9, 12, 3)), rng.normal(0, 4, (2, 9, 12, 2))
    ours = warp(images, flows).numpy()
    for image, flow, result in zip(images, flows, ours, strict=True):
        assert np.allclose(result, warped_by_scipy(image, flow), atol=1e-12)
    shifted = warp(images, np.broadcast_to([1.0, -2.0], (2, 9, 12, 2))).numpy()
    assert np.allclose(shifted[:, 2:, :-1], images[:, :-2, 1:])


@pytest.mark.slow
def test_gradients_of_warping(rng):
    """Of both inputs, against differences of two values; away from whole numbers, where the gradient jumps."""
    import tensorflow as tf

    image, weights = rng.random((1, 5, 6, 2)), rng.random((1, 5, 6, 2))
    flow = rng.integers(-2, 3, (1, 5, 6, 2)) + rng.uniform(0.2, 0.8, (1, 5, 6, 2))

    def loss(image, flow):
        return tf.reduce_sum(warp(image, flow) * weights)

    values = [tf.constant(image), tf.constant(flow)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = loss(*values)
    for k, gradient in enumerate(tape.gradient(total, values)):
        numeric = np.zeros(values[k].shape)
        for index in np.ndindex(numeric.shape):
            ends = []
            for step in (1e-4, -1e-4):
                moved = [image.copy(), flow.copy()]
                moved[k][index] += step
                ends.append(float(loss(*moved)))
            numeric[index] = (ends[0] - ends[1]) / 2e-4
        assert np.abs(numeric).max() > 0.1 and np.allclose(gradient, numeric, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@pytest.mark.parametrize(
    ("name", "scale", "paper"), [("5L-E3", 3, 7.96), ("9L-E3-MC", 3, 24.23), ("5L-E3", 4, 4.85), ("9L-E3-MC", 4, 14.00)]
)
def test_work_for_a_full_hd_frame_is_the_papers(name, scale, paper):
    """GOps, two for each multiply-add; the paper's own are some 5 % below the count of its layers."""
    work = 2 * counting.multiply_adds(vespcn.build(name, scale), (1, 1080 // scale, 1920 // scale, 3)) / 1e9
    assert 0 < work / paper - 1 < 0.06


def test_sizes_and_parameters():
    """Weights counted by hand: E3 is k3 of 3 to 24 maps, seven of 24 to 24, 24 to 16; and flows at any size."""
    motion_weights = 25 * 2 * 24 + 9 * 24 * 24 + 25 * 24 * 24 + 9 * 24 * 24 + 9 * 24 * 32 + 4 * 24 + 32
    motion_weights += 25 * 5 * 24 + 3 * 9 * 24 * 24 + 9 * 24 * 8 + 4 * 24 + 8
    e3 = 9 * 3 * 24 + 7 * 9 * 24 * 24 + 9 * 24 * 16 + 8 * 24 + 16
    assert vespcn.build("9L-E3", 4).count_params() == e3
    network = vespcn.build("9L-E3-MC", 4)
    assert network.count_params() == e3 + motion_weights
    for h, w in ((21, 30), (1, 1)):
        sr, warped, flows = network(np.zeros((2, h, w, 3), np.float32))
        assert sr.shape == (2, 4 * h, 4 * w, 1) and warped.shape == (2, h, w, 2) and flows.shape == (2, h, w, 2, 2)


def test_slow_fusion_with_shared_weights_is_a_3d_convolution(rng):
    """Layer by layer with kernels [2, 3, 3, …] over time, height and width; with weights of their own it is not."""
    import tensorflow as tf

    frames = rng.random((1, 8, 9, 5)).astype(np.float32)
    network = vespcn.build("7L-3D5", 3)
    for layer in network.layers:
        if layer.weights:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    x = tf.transpose(frames, [0, 3, 1, 2])[..., None]  # [batch, time, h, w, maps]
    for i in range(1, 8):
        kernel, bias = network.get_layer(f"conv{i}").get_weights()
        depth = 2 if x.shape[1] > 1 else 1
        kernel = kernel.reshape(3, 3, depth, -1, kernel.shape[-1]).transpose(2, 0, 1, 3, 4)
        x = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
        x = tf.nn.conv3d(x, kernel, [1] * 5, "VALID") + bias
        x = tf.nn.relu(x) if i < 7 else x
    assert x.shape[1] == 1
    assert np.allclose(network(frames), tf.nn.depth_to_space(x[:, 0], 3), atol=1e-5)
    assert sum("conv1" in layer.name for layer in vespcn.build("7L-S5", 3).layers) == 4


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def test_losses_are_the_papers(rng):
    flows = rng.normal(0, 3, (2, 6, 7, 2, 2))
    by_hand = []
    for flow in flows[:, :, :, 0] / vespcn.REACH:
        total = vespcn.EPSILON
        for axis in (0, 1):
            total += (np.diff(flow, axis=axis) ** 2).sum()
        by_hand.append(total**0.5)
    assert np.allclose(vespcn.huber(flows[:, :, :, 0]), by_hand)
    sr, hr, current = rng.random((2, 24, 28, 1)), rng.random((2, 24, 28, 1)), rng.random((2, 6, 7, 1))
    warped = rng.random((2, 6, 7, 2))
    losses = vespcn.joint_losses(sr, hr, current, warped, flows)
    assert np.isclose(losses["mse_loss"], ((sr - hr) ** 2).mean())
    assert np.isclose(losses["motion_loss"], 0.01 * 2 * ((warped - current) ** 2).mean())
    both = [np.mean(vespcn.huber(flows[:, :, :, i])) for i in range(2)]
    assert np.isclose(losses["smooth_loss"], 0.001 * sum(both))
    assert np.isclose(vespcn.huber(np.ones((1, 6, 7, 2)))[0], 0.1)  # a shift of all is smooth


@pytest.mark.slow
def test_motion_compensation_learns_a_shift(rng):
    """From the losses alone, without a flow to learn from: pictures shifted by two pixels."""
    import keras

    keras.utils.set_random_seed(0)
    import tensorflow as tf

    network, optimizer = vespcn.motion_compensation(), keras.optimizers.Adam(1e-3)
    base = np.stack([rgb_to_y(photo(rng, 32, 36))[..., None] for _ in range(8)]).astype(np.float32) / 255
    current, neighbour = base[:, :, 2:-2], base[:, :, :-4]

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            warped, flow = network([current, neighbour])
            losses = vespcn.motion_losses(current, warped, flow[:, :, :, None])
            total = tf.add_n(list(losses.values()))
        optimizer.apply_gradients(
            zip(tape.gradient(total, network.trainable_weights), network.trainable_weights, strict=True)
        )
        return losses["motion_loss"], flow

    first, _ = update()
    for _ in range(300):
        last, flow = update()
    assert float(last) < 0.25 * float(first)
    assert abs(float(np.median(flow[..., 0])) - 2) < 0.5 and abs(float(np.median(flow[..., 1]))) < 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Motion that is known


def psnr(a, b, where):
    return 10 * np.log10(255**2 / ((a.astype(float) - b)[where] ** 2).mean())


@pytest.mark.parametrize("layer", [False, True])
def test_flows_lead_from_a_frame_to_the_next(layer):
    """What a frame shows is in the next one where its flow leads, and not where the opposite one does."""
    photograph = photo(np.random.default_rng(3), 160, 200).astype(float)
    photograph = ndimage.gaussian_filter(photograph, (2, 2, 0)).astype(np.uint8)
    film = motion.film_of(photograph, 6, 64, 80, np.random.default_rng(5), layer)
    assert film.frames.shape == (6, 64, 80, 3) and film.flows.shape == (5, 64, 80, 2)
    assert 0.8 < film.seen.mean() and np.abs(film.flows).max() > 0.5
    if layer:
        assert film.flows.std(axis=(1, 2)).max() > 0.3
    for i in range(5):
        back = warped_by_scipy(film.frames[i + 1].astype(float), film.flows[i])
        where = film.seen[i] & ~edges(film.flows[i])
        assert psnr(film.frames[i], back, where) > 38
        wrong = warped_by_scipy(film.frames[i + 1].astype(float), -film.flows[i])
        assert psnr(film.frames[i], wrong, where) < psnr(film.frames[i], back, where) - 6


def edges(flow):
    """Where two layers meet: pixels there are of both."""
    jump = np.abs(np.gradient(flow[..., 0])).max(axis=0) + np.abs(np.gradient(flow[..., 1])).max(axis=0) > 0.1
    return ndimage.binary_dilation(jump, iterations=2)


def test_films_are_determined_by_their_seed_and_small_photographs_refused(rng):
    photograph = photo(rng, 100, 120)
    one, same, other = (motion.film_of(photograph, 3, 32, 40, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.frames, same.frames) and not np.array_equal(one.frames, other.frames)
    with pytest.raises(UserError, match="a photograph of 51×41 pixels or more is needed for 40×32"):
        motion.film_of(photograph[:30], 3, 32, 40, rng)


# ---------------------------------------------------------------------------------------------------------------------
# Training and scoring


@pytest.fixture
def photographs(tmp_path, rng):
    """Paths of two photographs, and of one that is too small."""
    for i, (height, width) in enumerate(((90, 120), (100, 100), (20, 20))):
        utils.write_image(tmp_path / f"{i}.png", photo(rng, height, width))
    return utils.list_images(tmp_path)


def test_batches_are_of_films_and_their_bicubic(photographs, rng):
    """LR of the middle frame is bicubic of HR, however both are turned; frames are neighbours in time, or backwards."""
    pool = paper.make_pool(photographs, 3, 12, 4, rng)
    assert pool[0].shape == (3, 7, 48, 48) and pool[1].shape == (3, 7, 12, 12)
    lr, hr = paper.batch_of(pool, 3, 8, rng)
    assert lr.shape == (8, 12, 12, 3) and hr.shape == (8, 48, 48, 1) and 0 <= lr.min() < lr.max() <= 1
    for frames, large in zip(lr, hr, strict=True):
        small = utils.imresize(np.round(255 * large).astype(np.uint8), 1 / 4)
        assert np.abs(small[..., 0] - 255 * frames[..., 1]).max() < 1.5  # rows and columns are rounded one by one
        assert not np.array_equal(frames[..., 0], frames[..., 2])
    with pytest.raises(UserError, match="a photograph of"):
        paper.make_pool(photographs[2:], 1, 12, 4, rng)


def test_scores(rng):
    """Bicubic's by hand for one film, and perfect SR; what is cut off at the border does not count."""
    hr = np.stack([rgb_to_y(photo(rng, 50, 61)) for _ in range(2)])
    scores = paper.score(lambda lr: paper.bicubic(lr, 4), {"a": hr, "b": hr}, 4)
    by_hand = []
    for frame in hr[:, :48, :60]:
        sr = utils.imresize(utils.imresize(frame[..., None], 1 / 4), 4)[..., 0]
        by_hand.append(metrics.psnr(sr[8:-8, 8:-8], frame[8:-8, 8:-8]))
    assert scores["a"][0] == pytest.approx(np.mean(by_hand)) and scores["mean"] == pytest.approx(scores["a"])
    wrong = hr[:, :48, :60].copy()
    wrong[:, :8] = 0
    assert paper.score(lambda lr: wrong, {"a": hr}, 4)["a"][0] == np.inf


@pytest.mark.parametrize("name", slow_but(["5L-E3"], ["5L-E3", "9L-E3-MC"]))
def test_a_network_is_trained_and_scored(name, photographs, tmp_path, monkeypatch, capsys, rng):
    """A few updates of the whole command; the losses that are logged are finite, and the weights are read again."""
    import sys

    from cli import terminal

    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    folder = paper.train(name, 3, 3, 0, photographs, films=2, crop=12, batch=2)
    line = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert '"step": 3' in line and "NaN" not in line and ("motion_loss" in line) == name.endswith("MC")
    vid4 = tmp_path / "vid4" / "one"
    vid4.mkdir(parents=True)
    for i in range(3):
        utils.write_image(vid4 / f"{i}.png", photo(rng, 48, 60))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vespcn.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            terminal.run_command(paper.main)
        return end.value.code or 0, capsys.readouterr()

    status, printed = run(name, "--scale", 3, "--vid4", vid4.parent)
    assert status == 0 and "bicubic    mean" in printed.out and f"{name:10} one" in printed.out
    status, printed = run(name, "--scale", 4, "--vid4", vid4.parent)
    assert status == 2 and "train the network first" in printed.err
    assert run()[0] == 2
