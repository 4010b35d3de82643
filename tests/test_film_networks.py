"""Networks that see several frames, by Upscaler and upscale.py: which frames they get, colours, tiles, refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photo
from test_films import write_film

import utils
from images import film_reading, motion, pictures, scenes
from networks import vespcn
from runs import film_runs
from upscale import Upscaler
from utils import UserError


@pytest.fixture(scope="module")
def film_run(tmp_path_factory):
    """The directory of a tiny VESPCN that has not been trained; its flows are of some pixels."""
    import keras

    keras.utils.set_random_seed(3)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = {"MODEL": {"network": "5L-E3-MC", "scale": 4, "width": 8, "skip": True}, "TRAIN": {}}
    network = vespcn.build("5L-E3-MC", 4, 8)
    for layer in ("coarse5", "fine5"):
        kernel = network.get_layer("motion").get_layer(layer).kernel
        kernel.assign(0.2 * kernel)
    film_runs.write(folder, network, config, {})
    return folder


@pytest.fixture(scope="module")
def upscaler(film_run):
    return Upscaler(film_run)


@pytest.fixture
def frames(rng):
    """uint8 [5, 40, 52, 3] of a film."""
    return motion.film_of(photo(rng, 120, 140), 5, 40, 52, rng).frames


def stacked(frames, i):
    """What an Upscaler takes for frame i of a film."""
    return np.concatenate(frames[i - 1 : i + 2], axis=-1)


def test_frames_and_their_neighbours_of_the_scene_are_upscaled(rng):
    """Those that are done are not; the network gets them in order of time, beside each other as channels."""
    levels = [10, 12, 14, 200, 202]
    film = [SimpleNamespace(pixels=np.full((18, 32, 3), level, np.uint8)) for level in levels]
    seen = []

    def upscale(pixels, progress):
        seen.append(pixels[0, 0, ::3].tolist())
        return pixels

    fake = SimpleNamespace(frames=3, upscale=upscale)
    result = list(scenes.upscaled(iter(film), lambda i: i == 1, fake, None))
    assert [frame is other for (frame, _), other in zip(result, film, strict=True)] == [True] * 5
    assert [sr is None for _, sr in result] == [False, True, False, False, False]
    assert seen == [[10, 10, 12], [12, 14, 14], [200, 200, 202], [200, 202, 202]]
    fake.frames, seen[:] = 1, []
    list(scenes.upscaled(iter(film), lambda i: False, fake, None))
    assert seen == [[level] for level in levels]


@pytest.mark.slow
def test_y_is_the_networks_and_colour_is_bicubic(upscaler, film_run, frames):
    """Y against the network by itself, and Cb and Cr against another implementation of bicubic."""
    lr = stacked(frames, 2)
    sr = upscaler.upscale(lr)
    assert sr.shape == (160, 208, 3) and sr.dtype == np.uint8
    weights, about = film_runs.describe(film_run)
    ys = np.stack([utils.unrounded_y(frame.astype(np.float64)) for frame in frames[1:4]], axis=-1)
    y = 255 * film_runs.load(weights, about["config"].MODEL)((ys[None] / 255).astype(np.float32))[0].numpy()[0, ..., 0]
    to_ycbcr = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    chroma = np.round(65535 * (frames[2] / 255 @ to_ycbcr.T[:, 1:] + 0.5)).astype(np.uint16)
    chroma = utils.imresize(chroma, 4) / 65535 - 0.5
    rgb = np.concatenate([(y[..., None] - 16) / 255, chroma], axis=-1) @ np.linalg.inv(to_ycbcr).T
    inside = (rgb > 0.01).all(axis=-1) & (rgb < 0.99).all(axis=-1)
    assert inside.mean() > 0.05
    assert np.abs(255 * rgb - sr)[inside].max() <= 1


def test_neighbours_and_depth_count(upscaler, frames):
    """Another neighbour makes another result; sixteen bits are as good as eight; a picture is its own neighbour."""
    lr = stacked(frames, 2)
    sr = upscaler.upscale(lr)
    other = lr.copy()
    other[..., :3] = 255 - other[..., :3]
    assert np.abs(upscaler.upscale(other).astype(int) - sr).max() > 1
    deep = upscaler.upscale(lr.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - sr).max() < 0.51
    still = upscaler.upscale(frames[2])
    assert np.array_equal(still, upscaler.upscale(np.tile(frames[2], 3)))
    assert upscaler.upscale(frames[2, ..., :1]).shape == (160, 208, 1)
    with pytest.raises(UserError, match="takes uint8 or uint16"):
        upscaler.upscale(lr[..., :6])


def test_tiles_show_no_seams(upscaler, rng, monkeypatch):
    frames = motion.film_of(photo(rng, 300, 400), 3, 150, 200, rng).frames
    whole = upscaler.upscale(stacked(frames, 1))
    monkeypatch.setattr(upscaler, "tile", 40)
    assert upscaler.count(150, 200) > 1
    assert np.abs(whole.astype(int) - upscaler.upscale(stacked(frames, 1))).max() <= 1


@pytest.mark.slow
def test_films_by_the_command(call, film_run, tmp_path, frames):
    """The frames of the result are those of the network with their neighbours; smaller factors are shrunk."""
    film = write_film(tmp_path / "film.mp4", (0, 40, 80, 120, 160), frames)
    result = call("upscale.py", "--weights", film_run, film, "-o", tmp_path / "out.mp4", "--crf", "0")
    assert result.returncode == 0, result.stderr
    assert "52×40 → 208×160, 5 frames" in result.stdout and "engine: tensorflow" in result.stdout
    before, after = (film_reading.look(path) for path in (film, tmp_path / "out.mp4"))
    assert after.size == (208, 160) and len(after.times) == 5
    lr = [frame.pixels for frame in before.frames(False, 0, before.end)]
    sr = [frame.pixels for frame in after.frames(False, 0, after.end)]
    expected = Upscaler(film_run).upscale(stacked(lr, 2))
    assert np.abs(utils.rgb_to_y(sr[2]).astype(int) - utils.rgb_to_y(expected)).mean() < 2
    result = call("upscale.py", "--weights", film_run, film, "-o", tmp_path / "%d.png", "--scale", "2")
    assert result.returncode == 0, result.stderr
    assert pictures.read_image(tmp_path / "5.png").shape == (80, 104, 3)


def test_what_it_cannot_do_is_said(call, film_run, tmp_path, rng):
    utils.write_image(tmp_path / "a.png", photo(rng, 20, 20))
    for flags, words in {
        ("--exact",): "leave out --exact, --half and --engine",
        ("--engine", "litert"): "leave out --exact, --half and --engine",
        ("--blend", "0.5"): "is no SRGAN",
    }.items():
        result = call("upscale.py", "--weights", film_run, tmp_path / "a.png", *flags)
        assert result.returncode == 2 and words in result.stderr
