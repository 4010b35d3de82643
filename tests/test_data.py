import os

import numpy as np
import pytest
from conftest import photo

import data
import download
import utils
from utils import UserError


@pytest.fixture
def folder(tmp_path, rng):
    """Seven photographs of odd sizes, in two folders."""
    for i in range(7):
        utils.write_image(tmp_path / ("a" if i % 2 else "b") / f"photo{i}.png", photo(rng, 50 + i, 61 + 2 * i))
    return tmp_path


def photographs(folder, **settings):
    return data.Photographs(
        utils.list_images(folder), **{"minimum": 32, "cache_gib": 1.0, "progress": False} | settings
    )


def batches(photos, batch=4, crop=32, scale=4, seed=0):
    return data.Batches(photos, range(len(photos)), batch, crop, scale, seed)


def test_a_batch_depends_on_seed_and_step_alone(folder):
    photos = photographs(folder)
    first, second = batches(photos), batches(photographs(folder, cache_gib=0.0))
    for step in (1, 2, 100):
        for a, b in zip(first(step), second(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first(1)[0], first(2)[0])
    assert not np.array_equal(first(1)[0], batches(photos, seed=1)(1)[0])


def test_stream_gives_the_same_batches_in_order(folder):
    make = batches(photographs(folder))
    for (step, crops, turns), expected in zip(make.stream(3, 7), range(3, 8), strict=True):
        assert step == expected
        np.testing.assert_array_equal(crops, make(step)[0])
        np.testing.assert_array_equal(turns, make(step)[1])


def test_images_of_a_batch_are_distinct_while_the_set_lasts(tmp_path):
    for i in range(5):
        utils.write_image(tmp_path / f"{i}.png", np.full((40, 40, 3), 10 * i, np.uint8))
    make = batches(photographs(tmp_path), batch=12)
    for step in range(1, 20):
        levels = [crop.flat[0] for crop in make(step)[0]]
        assert len(set(levels[:5])) == len(set(levels[5:10])) == 5
        assert len(set(levels[10:])) == 2


def test_all_positions_are_reached(tmp_path):
    """Crops lie on multiples of the scale, the last possible one included."""
    image = np.zeros((41, 46, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(41)[:, None], np.arange(46)[None]
    utils.write_image(tmp_path / "ramp.png", image)
    make = batches(photographs(tmp_path), batch=8)
    corners = {tuple(crop[8, 8, :2]) for step in range(60) for crop in make(step)[0]}
    assert corners == {(y, x) for y in (0, 4, 8) for x in (0, 4, 8, 12)}


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_degrade_equals_the_crop_of_the_downscaled_photograph(tmp_path, rng, scale):
    """Also at the photograph's borders, where imresize mirrors; and turned after the degradation, not before."""
    import tensorflow as tf

    image = rng.integers(0, 256, (6 * scale + 3, 7 * scale + 1, 3), dtype=np.uint8)
    whole = utils.mod_crop(image, scale)
    lr_whole = utils.imresize(whole, 1 / scale)
    n, crops, expected, turns = 4 * scale, [], [], []
    for top in range(0, 3):
        for left in range(0, 4):
            crops.append(data.crop_with_margin(whole, top * scale, left * scale, n, 2 * scale))
            turn = rng.integers(0, 2, 3).astype(bool)
            lr, hr = (
                lr_whole[top : top + 4, left : left + 4],
                whole[top * scale : top * scale + n, left * scale : left * scale + n],
            )
            for flag, change in zip(turn, (np.fliplr, np.flipud, lambda x: x.swapaxes(0, 1)), strict=True):
                lr, hr = (change(lr), change(hr)) if flag else (lr, hr)
            expected.append((lr, hr))
            turns.append(turn)
    degrade = tf.function(lambda crops, turns: data.degrade(crops, turns, scale), jit_compile=True)
    lr_01, hr_m11 = degrade(tf.constant(np.stack(crops)), tf.constant(np.stack(turns)))
    np.testing.assert_array_equal(np.round(lr_01 * 255).astype(np.uint8), np.stack([lr for lr, _ in expected]))
    np.testing.assert_array_equal(utils.m11_to_u8(hr_m11), np.stack([hr for _, hr in expected]))
    assert np.abs(hr_m11).max() < 1 + 1e-6 and np.max(lr_01) < 1 + 1e-6 and np.min(lr_01) >= 0


def test_unusable_images_are_named_and_skipped(folder, rng, monkeypatch):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    utils.write_image(folder / "small.png", photo(rng, 31, 64))
    test_image = photo(rng, 64, 64)
    utils.write_image(folder / "leak.png", test_image)
    manifest = {download.pixel_hash(test_image): ("Set5", "baby", 1)}
    monkeypatch.setattr(data, "load_manifest", lambda: manifest)
    photos = photographs(folder)
    assert len(photos) == 7
    reasons = {path.name: reason for path, reason in photos.skipped}
    assert "not a readable image" in reasons["broken.jpg"]
    assert "is too small: 64×31" in reasons["small.png"]
    assert "is refused: it is the test image baby of Set5" in reasons["leak.png"]


def test_real_test_images_are_refused(shared, tmp_path):
    """Set5's woman, also cropped and in another file format."""
    woman = utils.read_image(shared / "Set5" / "woman.bmp")
    utils.write_image(tmp_path / "a.png", woman)
    utils.write_image(tmp_path / "b.tif", utils.mod_crop(woman, 8))
    with pytest.raises(UserError, match="none of the 2 images can be used.*woman of Set5"):
        photographs(tmp_path)


def test_memory_stays_within_its_bound(folder):
    sizes = [image.nbytes for image in photographs(folder).cache.values()]
    assert len(sizes) == 7
    bound = sum(sizes[:3]) + 1
    photos = photographs(folder, cache_gib=bound / 2**30)
    assert 0 < sum(image.nbytes for image in photos.cache.values()) <= bound
    assert len([photos[i] for i in range(7)]) == 7


def test_validation_is_held_out_by_name(folder, rng):
    photos = photographs(folder)
    training, held_out = photos.split(8)
    assert sorted(training + held_out) == list(range(7)) and len(held_out) == 1
    assert photos.split(0) == (list(range(7)), [])
    (folder / "a").rename(folder / "z")  # other paths, in another order
    again = photographs(folder)
    assert [p.name for p in again.paths] != [p.name for p in photos.paths]
    assert [again.paths[i].name for i in again.split(8)[1]] == [photos.paths[i].name for i in held_out]


def test_finding_training_photographs(folder, monkeypatch, tmp_path):
    name, paths = data.find_training(str(folder))
    assert (name, len(paths)) == (str(folder), 7)
    (folder / "train").mkdir()
    utils.write_image(folder / "train" / "x.png", np.zeros((40, 40, 3), np.uint8))
    assert len(data.find_training(str(folder))[1]) == 1
    monkeypatch.setenv("SRGAN_DATA", str(folder / "train"))
    assert len(data.find_training()[1]) == 1
    with pytest.raises(UserError, match="not a folder"):
        data.find_training(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images.*--data"):
        data.find_training(str(tmp_path / "empty"))


def test_files_that_are_no_images_are_named(folder, capsys):
    (folder / "notes.txt").touch()
    assert len(data.find_training(str(folder))[1]) == 7
    assert "notes.txt is not an image by its name" in capsys.readouterr().err


def test_samples_are_photographs_of_the_wheels(monkeypatch):
    """They are there without a download, usable, and the test ones are not trained on."""
    monkeypatch.setattr(data, "HERE", data.HERE / "no such folder")
    name, paths = data.find_training()
    assert name == data.SAMPLES and len(paths) == len(data.SAMPLE_TRAIN)
    test = data.find_test_sets()[data.SAMPLES]
    assert {path.stem for path in test} == {"chelsea", "coffee", "china"}
    assert not set(paths) & set(test)
    photos = data.Photographs(paths, 96, 1.0, progress=False)
    assert not photos.skipped


def test_finding_test_sets(tmp_path, rng):
    utils.write_image(tmp_path / "Set5" / "a.png", photo(rng, 40, 40))
    assert list(data.find_test_sets(str(tmp_path))) == ["Set5"]
    with pytest.raises(UserError, match="Set14 holds no images; `python data.py set14`"):
        data.find_test_sets(str(tmp_path), ("Set5", "Set14"))
    os.remove(tmp_path / "Set5" / "a.png")
    with pytest.raises(UserError, match="holds none of the folders"):
        data.find_test_sets(str(tmp_path))
