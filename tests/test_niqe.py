"""NIQE with our own model: its statistics against loops and known distributions, and what it says of bad images."""

import json

import numpy as np
import pytest
from conftest import PROJECT, assert_refused, photo
from scipy.ndimage import gaussian_filter
from scipy.stats import gennorm

import data
import utils
from images import pictures
from scoring import niqe


def test_mscn_against_a_loop(rng):
    plane = rng.integers(0, 256, (12, 14)).astype(float)
    x = np.arange(-3, 4)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    wide = np.pad(plane, 3, mode="edge")
    coefficients, deviation = niqe.mscn(plane)
    for i, j in np.ndindex(plane.shape):
        part = wide[i : i + 7, j : j + 7]
        mean = (window * part).sum()
        sigma = np.sqrt((window * (part - mean) ** 2).sum())
        assert deviation[i, j] == pytest.approx(sigma, abs=1e-9)
        assert coefficients[i, j] == pytest.approx((plane[i, j] - mean) / (sigma + 1), abs=1e-9)


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0, 4.0])
def test_shapes_of_known_distributions_are_found(rng, shape):
    """2 is a Gaussian, 1 a Laplacian; the asymmetric one has other scales on its two sides."""
    x = gennorm.rvs(shape, size=(2, 200_000), random_state=rng)
    fitted = niqe.fit_ggd(x)
    np.testing.assert_allclose(fitted[:, 0], shape, rtol=0.03)
    np.testing.assert_allclose(fitted[:, 1], gennorm.var(shape), rtol=0.03)

    # A side's share of the samples is as its scale, so that the density has no step at zero.
    left, right = 0.5, 1.5
    size = np.abs(x)
    skewed = np.where(rng.random(x.shape) < left / (left + right), -left * size, right * size)
    fitted = niqe.fit_aggd(skewed)
    np.testing.assert_allclose(fitted[:, 0], shape, rtol=0.05)
    np.testing.assert_allclose(fitted[:, 1], skewed.mean(axis=1), atol=0.02)
    np.testing.assert_allclose(fitted[:, 2:], [[left, right]] * 2, rtol=0.05)


def test_patches_are_cut_row_by_row():
    plane = np.arange(96 * 192).reshape(96, 192)
    np.testing.assert_array_equal(niqe.cut(plane, 48)[5], plane[48:96, 48:96])


def test_images_without_a_usable_patch_have_no_niqe(rng):
    assert np.isnan(niqe.niqe(photo(rng, 95, 200)))
    assert np.isnan(niqe.niqe(np.full((200, 200, 3), 128, np.uint8)))
    half = np.concatenate([np.full((96, 96, 3), 128, np.uint8), photo(rng, 96, 96)], axis=1)
    assert len(niqe.features(half)[0]) == 1 and np.isfinite(niqe.niqe(half))


def damages(hr, rng):
    """An image's usual ills: {name: uint8 image of its size}."""
    lr = utils.imresize(hr, 1 / 4)
    return {
        "blur": utils.round_u8(gaussian_filter(hr.astype(float), (1.5, 1.5, 0))),
        "noise": utils.round_u8(hr + rng.normal(0, 15, (*hr.shape[:2], 1))),
        "nearest": utils.imresize(lr, 4, "nearest"),
        "bicubic": utils.imresize(lr, 4),
    }


@pytest.mark.parametrize("path", data.package_files(data.SAMPLE_TEST), ids=lambda path: path.stem)
def test_damage_raises_it(path, rng):
    hr = utils.mod_crop(pictures.read_image(path), 4)
    scores = {name: niqe.niqe(image) for name, image in damages(hr, rng).items()}
    assert niqe.niqe(hr) + 1 < min(scores.values()), scores
    assert scores["bicubic"] < scores["nearest"]


@pytest.mark.slow
@pytest.mark.parametrize("name", data.TEST_SETS)
def test_originals_are_better_than_bicubic(shared, rng, name):
    scores = {"original": []}
    for path in utils.list_images(shared / name)[:20]:
        hr = utils.mod_crop(pictures.read_image(path), 4)
        scores["original"].append(niqe.niqe(hr))
        for damage, image in damages(hr, rng).items():
            scores.setdefault(damage, []).append(niqe.niqe(image))
    means = {damage: np.mean(values) for damage, values in scores.items()}
    assert means["original"] + 2 < min(means[damage] for damage in means if damage != "original"), means


def test_the_model_tells_where_it_comes_from():
    content = json.loads((PROJECT / "scoring" / "niqe_model.json").read_text())
    assert content["patches"] > 5000 and len(content["fingerprint"]) == 64 and "96x96" in content["recipe"]
    mean, covariance = niqe.load_model()
    assert np.all(np.linalg.eigvalsh(covariance) > 0) and 2 < mean[0] < 3.5


@pytest.mark.slow
def test_fit_and_score(call, clone, rng):
    """Fitted twice, the same bytes; test images stay out; what is fitted can be loaded."""
    folder = clone / "pristine"
    for i in range(3):
        utils.write_image(folder / f"{i}.png", rng.integers(0, 256, (480, 480, 3), dtype=np.uint8))
    (folder / "bad.png").write_bytes(b"no image")
    results = [call("-m", "scoring.niqe", "fit", "--data", folder, "--out", f"model{i}.json") for i in range(2)]
    assert results[0].returncode == 0, results[0].stderr
    assert "bad.png is not a picture" in results[0].stdout and "patches of 3 images" in results[0].stdout
    assert (clone / "model0.json").read_bytes() == (clone / "model1.json").read_bytes()
    assert niqe.load_model(clone / "model0.json")[0].shape == (36,)
    result = call("-m", "scoring.niqe", "score", folder / "0.png", folder / "1.png")
    assert result.returncode == 0, result.stderr
    expected = [niqe.niqe(pictures.read_image(folder / f"{i}.png")) for i in range(2)]
    printed = [float(line.split()[0]) for line in result.stdout.splitlines()]
    assert printed == pytest.approx([*expected, np.mean(expected)], abs=0.0006)


def test_images_of_the_test_sets_are_not_fitted_to(shared):
    assert "is the test image baby of Set5" in niqe.sharp_features(shared / "Set5" / "baby.bmp")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["fit", "--data=nowhere"], "'nowhere' is neither an image nor a folder"),
        (["fit", "--data=vgg19"], "'vgg19' is neither an image nor a folder"),
        (["score", "nowhere"], "'nowhere' is neither an image nor a folder"),
        (["score", "scoring/niqe.py"], "niqe.py is not a picture"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(call, arguments, words):
    assert_refused(call("-m", "scoring.niqe", *arguments), words)


def test_too_few_patches_are_refused(call, clone, rng):
    utils.write_image(clone / "few" / "one.png", photo(rng, 200, 200))
    assert_refused(call("-m", "scoring.niqe", "fit", "--data", "few", "--out", "x.json"), "too few for a model")


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "model.json").write_text('{"mean": [1], "covariance": [[1]]}')
    with pytest.raises(utils.UserError, match="is not a model of scoring.niqe"):
        niqe.load_model(tmp_path / "model.json")
