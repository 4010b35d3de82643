"""The self-test: planted errors are refused in words that say which, and sets that are not the known ones as well."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import assert_refused, photo
from PIL import Image

import utils
from images import hashes, pictures
from scoring import testsets
from utils import UserError


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def set5(shared, pool):
    """Set5 at ×4, as it is read."""
    return testsets.read_set("Set5", utils.list_images(shared / "Set5"), 4, pool)


imresize, rgb_to_y = utils.imresize, utils.rgb_to_y  # what is not planted


def pillow_shrink(image, scale, method="bicubic"):
    """imresize with Pillow's bicubic downwards, ours upwards."""
    if scale > 1:
        return imresize(image, scale, method)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = image[..., 0] if image.shape[-1] == 1 else image
    return np.atleast_3d(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", pytest.param("Set14", marks=pytest.mark.slow)])
def test_a_right_evaluation_passes(shared, pool, name, scale):
    members = testsets.read_set(name, utils.list_images(shared / name), scale, pool)
    assert members.doubt is None
    assert testsets.self_test(name, members.images, scale, pool) is None


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3])
def test_bsd100_at_other_scales_passes(shared, pool, scale):
    members = testsets.read_set("BSD100", utils.list_images(shared / "BSD100"), scale, pool)
    assert members.doubt is None and testsets.self_test("BSD100", members.images, scale, pool) is None


def bilinear_up(image, scale):
    return imresize(image, scale, "bilinear" if scale > 1 else "bicubic")


def test_set5s_lr_digests_are_those_of_matlabs_own_files(shared):
    for scale in (2, 3, 4):
        paths = utils.list_images(shared / "golden" / "Set5_LR_matlab" / f"x{scale}")
        images = [testsets.Image(path.stem, None, pictures.read_image(path)) for path in paths]
        assert testsets.lr_digest(images).startswith(testsets.LR_DIGESTS["Set5", scale])


PLANTED = {
    "Pillow's kernel": ("utils.imresize", pillow_shrink, "LR is not MATLAB's bicubic"),
    "truncation": ("utils.round_to", lambda image, dtype: np.clip(image, 0, 255).astype(dtype), "LR is not MATLAB's"),
    "bilinear SR": ("utils.imresize", bilinear_up, "bicubic row reads .*LR is right, so the kernel"),
    "swapped channels in Y": (
        "utils.rgb_to_y",
        lambda image: rgb_to_y(image[..., ::-1]),
        "row reads .*the colour conversion to Y",
    ),
    "mean as Y": (
        "utils.rgb_to_y",
        lambda image: utils.round_u8(image.mean(axis=-1)),
        "row reads .*the colour conversion to Y",
    ),
    "uniform SSIM": ("scoring.metrics.ssim", lambda a, b: uniform_ssim(a, b), "the SSIM is another one"),
}


def uniform_ssim(a, b):
    from skimage.metrics import structural_similarity

    return structural_similarity(a, b, data_range=255)


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_named(shared, pool, monkeypatch, error):
    place, wrong, reason = PLANTED[error]
    monkeypatch.setattr(place, wrong)
    sets = testsets.read_sets({"Set5": utils.list_images(shared / "Set5")}, 4, pool)
    with pytest.raises(UserError, match=f"self-test on Set5: .*{reason}.*--force"):
        testsets.prove(sets, 4, pool)


def test_a_lost_border_is_found(set5, pool, monkeypatch):
    measure = testsets.metrics.measure
    monkeypatch.setattr(testsets.metrics, "measure", lambda names, sr, hr, lr, border: measure(names, sr, hr, lr, 0))
    assert "the border" in testsets.self_test("Set5", set5.images, 4, pool)


def test_images_read_with_red_and_blue_swapped_are_refused(shared, pool, monkeypatch):
    read_image = pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda path: read_image(path)[..., ::-1])
    sets = testsets.read_sets({"Set5": utils.list_images(shared / "Set5")}, 4, pool)
    with pytest.raises(UserError, match="not Set5 .*5 would be if red and blue were not swapped"):
        testsets.prove(sets, 4, pool)


def test_force_goes_on_and_marks(set5, pool, capsys, monkeypatch):
    monkeypatch.setattr(utils, "rgb_to_y", PLANTED["mean as Y"][1])
    testsets.prove({"Set5": set5}, 4, pool, force=True)
    assert "colour conversion" in set5.doubt and "not comparable" in capsys.readouterr().out


@pytest.fixture
def copies(shared, tmp_path):
    """copies(name, change) → a data root with Set5 in it, each image as `change` writes it to a path without ending."""

    def copy(change, skip=()):
        (tmp_path / "Set5").mkdir()
        for path in utils.list_images(shared / "Set5"):
            if path.stem not in skip:
                change(tmp_path / "Set5" / path.stem, pictures.read_image(path))
        return tmp_path

    return copy


def as_png(path, image):
    utils.write_image(path.with_suffix(".png"), image)


def as_jpeg(path, image):
    iio.imwrite(path.with_suffix(".jpg"), image, plugin="pillow", quality=95)


def test_a_jpeg_copy_is_refused_and_forced_marked(copies, call, clone):
    root = copies(as_jpeg)
    arguments = ("--data", root, "--methods=bicubic", "--metrics=psnr_y", "--out=out", "--json=scores.json")
    assert_refused(
        call("evaluate.py", *arguments), "of its 5 images 0 are known", "JPEG copy", "data.py set5", "--force"
    )
    assert not (clone / "scores.json").exists()
    result = call("evaluate.py", *arguments, "--force")
    assert result.returncode == 0, result.stderr
    assert "NOT COMPARABLE with published figures: of its 5 images 0 are known" in result.stdout
    row = json.loads((clone / "scores.json").read_text())["Set5"]["bicubic"]
    assert "JPEG copy" in row["not_comparable"] and row["psnr_y"] > 28
    assert (clone / "out" / "results.csv").read_text().count("JPEG copy") == 6


def test_another_file_format_is_the_same_set(copies, pool):
    root = copies(as_png)
    assert testsets.read_set("Set5", utils.list_images(root / "Set5"), 4, pool).doubt is None


def test_an_incomplete_set_is_refused(copies, pool):
    root = copies(as_png, skip=("baby", "head"))
    doubt = testsets.read_set("Set5", utils.list_images(root / "Set5"), 4, pool).doubt
    assert doubt == "of its 5 images 3 are known by their pixels, missing are baby, head"


def test_more_than_the_set_is_refused(copies, pool, rng):
    root = copies(as_png)
    as_png(root / "Set5" / "mine", photo(rng, 60, 60))
    assert "1 more are with them" in testsets.read_set("Set5", utils.list_images(root / "Set5"), 4, pool).doubt


def test_sets_that_are_nobodys_need_no_proof(tmp_path, pool, rng, capsys):
    """Also two images of one stem are two images."""
    for folder in ("a", "b"):
        as_png(tmp_path / folder / "x", photo(rng, 60, 60))
    sets = testsets.read_sets({"mine": utils.list_images(tmp_path)}, 4, pool)
    assert [image.name for image in sets["mine"].images] == ["x", "x_"] and sets["mine"].doubt is None
    testsets.prove(sets, 4, pool)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("scale", "least"), [(2, 16), (3, 18), (4, 20), (8, 32)])
def test_the_smallest_image_is_the_smallest_that_can_be_scored(tmp_path, pool, rng, scale, least):
    """What is cut off to a multiple of the factor does not count."""
    from scoring import metrics

    as_png(tmp_path / "x", photo(rng, least, least))
    (image,) = testsets.read_set("mine", utils.list_images(tmp_path), scale, pool).images
    assert metrics.measure(["psnr_y", "ssim_y"], image.hr, image.hr, image.lr, scale)["ssim_y"] == pytest.approx(1)
    as_png(tmp_path / "x", photo(rng, least - 1, least))
    with pytest.raises(UserError, match="can be used"):
        testsets.read_set("mine", utils.list_images(tmp_path), scale, pool)


def test_a_gray_original_kept_as_rgb_is_still_gray(monkeypatch, tmp_path, pool, rng):
    """A mirror that stores Set14's one-channel image with three equal channels must give the same score."""
    gray = photo(rng, 40, 40)[..., :1]
    manifest = {"Set14": {"bridge": {"channels": 1, "sha256": {"1": hashes.pixel_hash(gray)}}}}
    monkeypatch.setattr(hashes, "read_manifest", lambda: manifest)
    for name, image in (("gray", gray), ("rgb", utils.to_rgb(gray))):
        as_png(tmp_path / name / "x", image)
        members = testsets.read_set("Set14", utils.list_images(tmp_path / name), 4, pool)
        np.testing.assert_array_equal(members.images[0].hr, gray)
        assert members.images[0].lr.shape == (10, 10, 1) and members.doubt is None


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_name_of_any_bytes_becomes_a_text(tmp_path, pool, rng):
    utils.write_image(tmp_path / "good.png", photo(rng, 40, 40))
    (tmp_path / "good.png").rename(tmp_path / os.fsdecode(b"caf\xe9 1.png"))
    assert [image.name for image in testsets.read_set("mine", utils.list_images(tmp_path), 4, pool).images] == [
        "caf� 1"
    ]
