"""VESPCN: its networks against the paper's figures, resampler, fusions and losses; motion that is known."""

import numpy as np
import pytest
from conftest import photo
from scipy import ndimage
from test_films import moving, write_film

import utils
from images import clips, motion
from layers.warping import warp
from networks import vespcn
from papers import vespcn as paper
from papers import vespcn_page
from runs import film_runs, store
from scoring import films, metrics
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
    ("name", "scale", "paper"),
    [("ESPCN", 3, 9.92), ("5L-E3", 3, 7.96), ("9L-E3-MC", 3, 24.23)]
    + [("ESPCN", 4, 6.08), ("5L-E3", 4, 4.85), ("9L-E3-MC", 4, 14.00)],
)
def test_work_for_a_full_hd_frame_is_the_papers(name, scale, paper):
    """GOps, two for each multiply-add; the paper's own are some 5 % below the count of its layers."""
    assert vespcn_page.PAPER[name, scale]["GOps"] == paper
    assert 0 < vespcn_page.work(name, scale) / paper - 1 < 0.06


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
    network = vespcn.build("7L-3D5", 3, skip=False)
    for layer in network.layers:
        if layer.weights:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    x = tf.transpose(frames - 0.5, [0, 3, 1, 2])[..., None]  # [batch, time, h, w, maps]
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
        x, y = np.diff(flow, axis=1)[:-1], np.diff(flow, axis=0)[:, :-1]
        by_hand.append(np.mean([(vespcn.EPSILON + (x[i] ** 2 + y[i] ** 2).sum()) ** 0.5 for i in np.ndindex(5, 6)]))
    assert np.allclose(vespcn.huber(flows[:, :, :, 0]), by_hand)
    sr, hr, current = rng.random((2, 24, 28, 1)), rng.random((2, 24, 28, 1)), rng.random((2, 6, 7, 1))
    warped = rng.random((2, 6, 7, 2))
    losses = vespcn.joint_losses(sr, hr, current, warped, flows)
    assert np.isclose(losses["mse_loss"], ((sr - hr) ** 2).mean())
    assert np.isclose(losses["motion_loss"], 0.01 * 2 * ((warped - current) ** 2).mean())
    both = [np.mean(vespcn.huber(flows[:, :, :, i])) for i in range(2)]
    assert np.isclose(losses["smooth_loss"], 0.001 * sum(both))
    assert np.isclose(vespcn.huber(np.ones((1, 6, 7, 2)))[0], 0.1)  # a shift of all is smooth


@pytest.mark.parametrize("name", ["5L-E1", "5L-E3-MC"])
def test_training_starts_near_bicubic_and_without_motion(name, rng):
    """With the skip alone."""
    frames = rng.integers(0, 256, (1, 16, 20, vespcn.NETWORKS[name].frames), np.uint8)
    middle = frames.shape[-1] // 2
    coarse = utils.u8_to_01(utils.imresize(frames[0, ..., middle : middle + 1], 4))[..., 0]
    near, far = [], []
    for skip, errors in ((True, near), (False, far)):
        outputs = vespcn.build(name, 4, skip=skip)(utils.u8_to_01(frames))
        sr = outputs[0] if name.endswith("MC") else outputs
        errors.append(np.abs(sr[0, ..., 0] - coarse).mean())
    assert near[0] < 0.06 and far[0] > 0.2
    if name.endswith("MC"):
        assert np.abs(outputs[2]).max() < 0.5


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
# Training


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


def test_films_to_train_on_are_found(tmp_path, rng):
    """Files, and folders of numbered pictures; pictures in the folder itself, or without numbers, are photographs.

    So are numbered ones with gaps, of several sizes (as DIV2K's), that look different, or that are alone.
    """
    one, next_one = moving(2)
    for name in ("a/0009.png", "c/cat.png", "c/dog.png", "d/1.png", "d/3.png", "e/1.png", "f/1.png", "g/1.png"):
        utils.write_image(tmp_path / "films" / name, one)
    for name, pixels in {"a/0010": next_one, "e/2": next_one[:, :-4], "f/2": 255 - one}.items():
        utils.write_image(tmp_path / "films" / f"{name}.png", pixels)
    write_film(tmp_path / "films" / "b.mp4", frames=moving(10))
    names = [str(path.relative_to(tmp_path / "films")) for path in clips.find(tmp_path / "films")]
    assert names == ["b.mp4", "a/%04d.png"]
    assert paper.find_sources(tmp_path)[1] == clips.find(tmp_path)
    utils.write_image(tmp_path / "films" / "photo.png", photo(rng, 12, 12))
    assert clips.find(tmp_path / "films") == [] and len(paper.find_sources(tmp_path / "films")[1]) == 12


def test_pools_of_films(tmp_path, rng):
    """Numbered pictures are taken as they are, a file's frames are halved; none has a cut, or frames out of order."""
    frames = moving(20, 40, 60)
    frames[8:] = 255 - frames[8:]  # a cut: frames 0 to 7, 8 to 19
    for i, frame in enumerate(frames):
        utils.write_image(tmp_path / "row" / f"{i:03d}.png", frame)
    hr, lr = paper.make_pool([tmp_path / "row" / "%03d.png"], 6, 8, 4, rng)
    assert hr.shape == (6, 7, 32, 32) and lr.shape == (6, 7, 8, 8)
    luma = np.stack([rgb_to_y(frame) for frame in frames])
    windows = np.lib.stride_tricks.sliding_window_view(luma, (7, 32, 32)).reshape(-1, 7, 32, 32)
    for film in hr:
        assert (windows == film).all(axis=(1, 2, 3)).any()
        assert np.abs(np.diff(film.astype(float), axis=0)).mean() < 10
    write_film(tmp_path / "film.mp4", times=range(0, 800, 40), frames=frames)
    small = np.stack([rgb_to_y(utils.imresize(frame, 1 / 2)) for frame in frames]).astype(float)
    clip = clips.clip_of(clips.opened(tmp_path / "film.mp4"), 3, np.random.default_rng(0))
    assert min(np.abs(small[i : i + 3] - clip).mean() for i in range(18)) < 1.5
    with pytest.raises(UserError, match="no film has 7 frames without a cut that are large enough"):
        paper.make_pool([tmp_path / "film.mp4"], 1, 8, 4, rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["5L-E3", "9L-E3-MC"])
def test_a_network_is_trained(name, photographs, tmp_path, monkeypatch, rng):
    """A few updates; the losses that are logged are finite, and the weights are read again."""
    monkeypatch.setattr(paper, "CROP", 12)
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    pool = paper.make_pool(photographs, 2, 12, 3, rng)
    folder = paper.directory_of(name, 3, 0)
    settings = {"steps": 3, "motion_steps": 2, "batch": 2, "seed": 0, "skip": True}
    paper.train(name, 3, pool, folder, {"data": {}}, settings)
    *before, line = (folder / "metrics.jsonl").read_text().splitlines()
    assert '"step": 3, "seconds": ' in line and "NaN" not in line and ("motion_loss" in line) == name.endswith("MC")
    assert ['"phase": "motion", "step": 2' in line for line in before] == [True] * name.endswith("MC")
    weights, about = film_runs.describe(folder.name)
    assert (
        about["config"].MODEL == {"network": name, "scale": 3, "width": 24, "skip": True}
        and about["config"].TRAIN.films == 2
    )
    network = film_runs.load(weights, about["config"].MODEL)
    first = vespcn.build(name, 3)
    assert not np.allclose(network.get_weights()[0], first.get_weights()[0])
    about["config"].MODEL.network = "10L"
    store.write_json(folder / "config.json", about)
    with pytest.raises(UserError, match=r"does not describe a run of VESPCN \(MODEL.network\)"):
        film_runs.describe(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Scores, and the page


def test_scores(rng):
    """Bicubic's by hand, and perfect SR; what is cut off at the border does not count."""
    hr = np.stack([rgb_to_y(photo(rng, 50, 61)) for _ in range(2)])
    hr, lr = films.shrink(hr, 4)
    flows = films.flows_of(hr)
    psnr, ssim, _ = films.score(films.bicubic(lr, 4), hr, flows)
    by_hand = [utils.imresize(utils.imresize(frame[..., None], 1 / 4), 4)[..., 0] for frame in hr]
    pairs = [(sr[8:-8, 8:-8], frame[8:-8, 8:-8]) for sr, frame in zip(by_hand, hr, strict=True)]
    assert psnr == pytest.approx(np.mean([metrics.psnr(*pair) for pair in pairs]))
    assert ssim == pytest.approx(np.mean([metrics.ssim(*pair) for pair in pairs]))
    wrong = hr.copy()
    wrong[:, :8] = 0
    assert films.score(wrong, hr, flows)[0] == np.inf


def test_temporal_psnr_sees_what_flickers(rng):
    """A blur that moves with the film costs less than noise of the same PSNR, which comes and goes."""
    photograph = ndimage.gaussian_filter(photo(rng, 160, 200).astype(float), (1, 1, 0)).astype(np.uint8)
    hr = np.stack([rgb_to_y(frame) for frame in motion.film_of(photograph, 4, 72, 96, rng, layer=False).frames])
    flows = films.flows_of(hr)
    blurred = np.stack([ndimage.gaussian_filter(frame, 1.5) for frame in hr])
    error = np.sqrt(np.mean((blurred.astype(float) - hr) ** 2, axis=(1, 2), keepdims=True))
    noisy = np.clip(np.round(hr + error * rng.normal(size=hr.shape)), 0, 255).astype(np.uint8)
    (psnr, _, steady), (other, _, flickers) = (films.score(sr, hr, flows) for sr in (blurred, noisy))
    assert abs(psnr - other) < 1.5 and steady > flickers + 3
    assert films.score(hr, hr, flows)[2] == np.inf
    moved = films.changes(hr, flows)[:, 10:-10, 10:-10]
    assert np.abs(moved).mean() < 0.5 * np.abs(np.diff(hr.astype(float), axis=0)[:, 10:-10, 10:-10]).mean()


@pytest.mark.slow
def test_the_page(tmp_path, monkeypatch, capsys, rng):
    """Tables of what is trained for each factor, claims by seed; what was scored is not scored again."""
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(vespcn_page.store, "find_runs", dict)
    runs = ("5L-E1", 0, 3), ("5L-E3", 0, 3), ("5L-E3", 1, 3), ("9L-E3-MC", 0, 3), ("5L-E1", 0, 4)
    for name, seed, scale in runs:
        config = {"MODEL": {"network": name, "scale": scale, "width": 4, "skip": True}}
        config["TRAIN"] = {"steps": 5, "batch": 2, "crop": 12, "films": 3, "seed": seed, "learning_rate": 1e-3}
        film_runs.write(paper.directory_of(name, scale, seed), vespcn.build(name, scale, 4), config, {"data": {}})
    for i in range(2):
        utils.write_image(tmp_path / "vid4" / "one" / f"{i}.png", photo(rng, 48, 60))
    for _ in range(2):
        vespcn_page.write(films.find(tmp_path / "vid4"), 3, tmp_path / "out")
        monkeypatch.setattr(films, "score", lambda *arguments: pytest.fail("scored again"))
    text = (tmp_path / "out" / "vespcn.md").read_text(encoding="utf-8")
    assert "| 27.05 | 0.8388 | 7.96 |" in text and text.index("### ×3") < text.index("| 5L-E3 |") < text.index("### ×4")
    assert "- ×3: 5L-E3 over 5L-E1 (+" in text and "×4: 5L-E3 over" not in text
    files = {"vespcn_x3.json", "vespcn_x4.json", *vespcn_page.FILES}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert "9L-E3-MC" in capsys.readouterr().out


def test_claims_are_seen_where_the_mean_gain_is_clear(monkeypatch):
    """By runs of one seed; a loss that is no difference is as good."""
    monkeypatch.setattr(vespcn_page, "work", lambda name, scale: 1.0)

    def claims(psnr, more=()):
        runs = dict(more) | {
            f"{name}-{seed}": {"network": name, "seed": seed, "scores": {"city": [value, 0.5, 30.0]}}
            for name, values in psnr.items()
            for seed, value in values.items()
        }
        return vespcn_page.claims_of([{"scale": 4, "frames": {"city": 2}, "runs": runs}])

    text = claims({"5L-E3": {0: 25.06, 2: 25.05, 3: 9.0}, "5L-E1": {0: 25.0, 2: 25.0}, "7L-E1": {0: 25.1}})
    assert "at equal work: seen here.**" in text and "+0.060 +0.050 dB, higher with 2 of 2 seeds" in text
    assert "less work: seen here.**" in text and "5L-E3 over 7L-E1 (+0% of GOps): −0.040 dB, higher with 0 of 1" in text
    text = claims({"5L-E3": {0: 25.04}, "5L-E1": {0: 25.0}, "7L-E1": {0: 25.1}})
    assert text.count("not seen here.**") == 2 and "fewer than three seeds" in text
    assert "higher with 1 of 1 seed;" in text
    longer = {"seed": 3, "steps": 9000, "films": 5, "scores": {"city": [26.0, 0.5, 30.0]}}
    more = {"vespcn_x4": {"network": "5L-E3"} | longer, "vespcn_x4_e1": {"network": "5L-E1"} | longer}
    text = claims({"5L-E3": {0: 25.04}, "5L-E1": {0: 25.0}}, more)
    assert "not seen here.**" in text and "×4, 9,000 updates: 5L-E3 over 5L-E1 (+0% of GOps): +0.000 dB" in text


def test_the_command_line(call, tmp_path):
    for arguments, words in {
        ("10L",): "there is no network called '10L'",
        (): "name a network to train",
        ("--score", tmp_path / "none"): "is not a folder",
        ("--score", tmp_path): "holds no films",
        ("5L-E1", "--seeds", "2", "--name", "x"): "--name is for one network and one seed",
        ("5L-E1", "--name", "a/b"): "must be a plain file name",
        ("5L-E1", "--no-skip"): "--no-skip needs --name",
    }.items():
        result = call("-m", "papers.vespcn", *arguments)
        assert result.returncode == 2 and words in result.stderr
