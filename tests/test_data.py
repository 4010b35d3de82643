import os

import numpy as np
import pytest
from conftest import photo, read_photographs

import data
import utils
from images import pictures
from utils import UserError


def batches(photos, batch=4, crop=32, scale=4, seed=0, detail=0.0):
    return data.Batches(photos, range(len(photos)), batch, crop, scale, seed, detail)


def crop_by_definition(random, image, crop, scale):
    """A crop drawn in an image, read by index and mirrored at the borders."""
    margin = 2 * scale
    top, left = (scale * random.integers(0, (n - crop) // scale + 1) for n in image.shape[:2])
    rows, columns = (
        utils.mirror(np.arange(start - margin, start + crop + margin), n)
        for start, n in zip((top, left), image.shape[:2], strict=True)
    )
    return image[rows[:, None], columns]


def detail_by_definition(crop):
    """Neighbours in green, one under and one beside the other: the mean square of their difference."""
    green = crop[..., 1].astype(np.float32)
    return np.mean((green[1:] - green[:-1]) ** 2) + np.mean((green[:, 1:] - green[:, :-1]) ** 2)


def batch_by_definition(images, batch, crop, scale, seed, step, detail=0.0):
    """What checkpoints rely on: the order of the draws."""
    random, crops = np.random.default_rng([seed, step]), []
    rounds = -(-batch // len(images))
    chosen = np.concatenate([random.permutation(np.arange(len(images))) for _ in range(rounds)])[:batch]
    counts = [1 if random.random() >= detail else 4 for _ in chosen] if detail else [1] * batch
    for i, count in zip(chosen, counts, strict=True):
        image = utils.mod_crop(images[i], scale)
        drawn = [crop_by_definition(random, image, crop, scale) for _ in range(count)]
        crops.append(max(drawn, key=detail_by_definition))
    return np.stack(crops), random.integers(0, 2, (batch, 3)).astype(bool)


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
@pytest.mark.parametrize(("batch", "crop", "scale"), [(4, 32, 4), (9, 32, 2), (3, 16, 8)])
def test_a_batch_depends_on_seed_and_step_alone(folder, packs, rng, cache, batch, crop, scale):
    """To the bit, whatever the cache; inside the photographs and at their borders."""
    utils.write_image(folder / "large.png", photo(rng, 151, 138))
    images = [pictures.read_image(path) for path in utils.list_images(folder)]
    make = batches(read_photographs(folder, cache=cache), batch, crop, scale, seed=5)
    for step in range(1, 101):
        for ours, expected in zip(make(step), batch_by_definition(images, batch, crop, scale, 5, step), strict=True):
            np.testing.assert_array_equal(ours, expected)
            assert ours.dtype == expected.dtype


@pytest.mark.parametrize("detail", [0.4, 1.0])
def test_crops_are_taken_where_there_is_most_detail(folder, detail):
    """Of so large a share of them, to the bit, in single shares as well."""
    images = [pictures.read_image(path) for path in utils.list_images(folder)]
    make = batches(read_photographs(folder), batch=6, seed=5, detail=detail)
    for step in range(1, 51):
        whole = make(step)
        for ours, expected in zip(whole, batch_by_definition(images, 6, 32, 4, 5, step, detail), strict=True):
            np.testing.assert_array_equal(ours, expected)
        shares = [make(step, share=(i, 3)) for i in range(3)]
        for k in range(2):
            np.testing.assert_array_equal(np.concatenate([share[k] for share in shares]), whole[k])


def test_more_detail_on_average(tmp_path, rng):
    """A photograph that is flat but for a corner of noise: how often the corner is met, as the four draws have it."""
    image = np.full((160, 160, 3), 128, np.uint8)
    image[80:, 80:] = rng.integers(0, 256, (80, 80, 3))
    utils.write_image(tmp_path / "corner.png", image)
    photos = read_photographs(tmp_path)

    def share_with_noise(detail):
        crops = np.concatenate([batches(photos, batch=50, detail=detail)(step)[0] for step in range(1, 21)])
        return np.mean([crop.std() > 0 for crop in crops])

    plain, half, full = (share_with_noise(detail) for detail in (0.0, 0.5, 1.0))
    assert full == pytest.approx(1 - (1 - plain) ** 4, abs=0.06)
    assert half == pytest.approx((plain + full) / 2, abs=0.06)
    assert full - plain > 0.25


def test_detail_is_seen_along_both_axes_without_overflow():
    """Stripes of 0 and 255 in green: 255², where differences of uint8 would be 1; none in red and blue."""
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[::2, :, 1] = 255
    assert data.detail_of(stripes) == data.detail_of(stripes.swapaxes(0, 1)) == 255**2
    assert data.detail_of(stripes[..., [1, 0, 2]]) == 0


def test_shares_in_a_row_are_the_batch(folder, monkeypatch):
    make = batches(read_photographs(folder, cache="none"), batch=12)
    read, read_image = [], pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda path: read.append(path) or read_image(path))
    for n in (1, 2, 3, 12):
        whole, shares = make(7), [make(7, share=(i, n)) for i in range(n)]
        for k in range(2):
            np.testing.assert_array_equal(np.concatenate([share[k] for share in shares]), whole[k])
    read.clear()
    make(7, share=(1, 3))
    assert len(read) == 4
    streamed = [crops for _, crops, _ in make.stream(7, 9, share=(2, 3))]
    np.testing.assert_array_equal(np.stack(streamed), [make(step)[0][8:] for step in (7, 8, 9)])
    with pytest.raises(UserError, match="a batch of 12 cannot be shared equally by 5"):
        make(1, share=(0, 5))


def test_crops_inside_a_photograph_are_slices():
    """Which is what makes batches fast; only at the borders they are gathered pixel by pixel."""
    image = np.zeros((60, 70, 3), np.uint8)
    for top, left, inside in [(8, 8, True), (20, 30, True), (7, 8, False), (8, 31, False), (21, 30, False)]:
        crop = data.crop_with_margin(image, top, left, 32, 8)
        assert crop.shape == (48, 48, 3) and np.shares_memory(crop, image) == inside


def test_stream_gives_the_same_batches_in_order(folder):
    make = batches(read_photographs(folder))
    for (step, crops, turns), expected in zip(make.stream(3, 7), range(3, 8), strict=True):
        assert step == expected
        np.testing.assert_array_equal(crops, make(step)[0])
        np.testing.assert_array_equal(turns, make(step)[1])


def test_images_of_a_batch_are_distinct_while_the_set_lasts(tmp_path):
    for i in range(5):
        utils.write_image(tmp_path / f"{i}.png", np.full((40, 40, 3), 10 * i, np.uint8))
    make = batches(read_photographs(tmp_path), batch=12)
    for step in range(1, 20):
        levels = [crop.flat[0] for crop in make(step)[0]]
        assert len(set(levels[:5])) == len(set(levels[5:10])) == 5
        assert len(set(levels[10:])) == 2


def test_all_positions_are_reached(tmp_path):
    """Crops lie on multiples of the scale, the last possible one included."""
    image = np.zeros((41, 46, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(41)[:, None], np.arange(46)[None]
    utils.write_image(tmp_path / "ramp.png", image)
    make = batches(read_photographs(tmp_path), batch=8)
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
    monkeypatch.setattr(data, "PROJECT", data.PROJECT / "no such folder")
    name, paths = data.find_training()
    assert name == data.SAMPLES and len(paths) == len(data.SAMPLE_TRAIN)
    test = data.find_test_sets()[data.SAMPLES]
    assert {path.stem for path in test} == {"chelsea", "coffee", "astronaut"}
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
