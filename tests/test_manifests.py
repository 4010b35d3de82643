"""Sets of one's own: pairs of HR and LR, manifests that prove them, and the sets that are known by a published row."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import assert_refused, photo

import data
import utils
from images import download, pictures
from scoring import manifests, metrics, testsets
from utils import UserError


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def own(tmp_path, rng):
    """A folder with three photographs."""
    for i, size in enumerate([(60, 64), (61, 50), (72, 48)]):
        utils.write_image(tmp_path / "own" / f"p{i}.png", photo(rng, *size))
    return tmp_path / "own"


# ---------------------------------------------------------------------------------------------------------------------
# HR and LR in folders


@pytest.mark.parametrize("prefix", ["", "DIV2K_valid_"])
def test_hr_and_lr_folders_are_a_set(tmp_path, rng, pool, capsys, prefix):
    """LR is that of the files, HR alone is the set; another kernel's LR is told, MATLAB's is not."""
    folder = tmp_path / "set"
    hr = [photo(rng, 64, 72), photo(rng, 48, 80)]
    for i, image in enumerate(hr):
        utils.write_image(folder / f"{prefix}HR" / f"080{i}.png", image)
        utils.write_image(folder / f"{prefix}LR_bicubic" / "X4" / f"080{i}x4.png", utils.imresize(image, 1 / 4))
    assert list(data.find_test_sets(str(tmp_path), ("set",))) == ["set"]
    paths = data.set_images(folder)
    assert [path.name for path in paths] == ["0800.png", "0801.png"]
    right = testsets.read_set("set", paths, 4, pool)
    assert capsys.readouterr().out == ""
    other = 255 - utils.imresize(hr[0], 1 / 4)
    utils.write_image(folder / f"{prefix}LR_bicubic" / "X4" / "0800x4.png", other)
    members = testsets.read_set("set", paths, 4, pool)
    assert "LR of 1 of 2 images is another than MATLAB's" in capsys.readouterr().out
    np.testing.assert_array_equal(members.images[0].lr, other)
    np.testing.assert_array_equal(members.images[0].hr, hr[0])
    assert members.images[0].digest != right.images[0].digest and members.images[1].digest == right.images[1].digest
    testsets.read_set("set", paths, 2, pool)  # for which there is no LR
    utils.write_image(folder / f"{prefix}LR_bicubic" / "X4" / "0800x4.png", hr[0])
    assert len(testsets.read_set("set", paths, 4, pool).images) == 1
    assert "0800x4.png is 72×64 and not 18×16 pixels" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Manifests


def test_a_manifest_is_made_and_checked(own, call):
    assert_refused(call("data.py", "manifest"), "takes the folder")
    assert_refused(call("data.py", "manifest", own / "nowhere"), "is not a folder")
    assert "3 images" in call("data.py", "manifest", own).stdout
    result = call("data.py", "manifest", own)
    assert result.returncode == 0 and "all 3 images are those of the manifest" in result.stdout
    content = json.loads((own / "manifest.json").read_text())
    assert list(content["images"]) == ["p0", "p1", "p2"] and content["images"]["p1"]["size"] == [50, 61]
    rows = [metrics.measure(["psnr_y"], sr, hr, lr, 4) for sr, hr, lr in map(bicubic, utils.list_images(own))]
    assert content["bicubic"]["4"]["psnr_y"] == pytest.approx(np.mean([row["psnr_y"] for row in rows]), abs=1e-4)


def bicubic(path):
    hr = utils.mod_crop(pictures.read_image(path), 4)
    lr = utils.imresize(hr, 1 / 4)
    return utils.imresize(lr, 4), hr, lr


CHANGES = {
    "a pixel": (lambda folder: change(folder / "p1.png"), "p1.png has other pixels", "1 others differ"),
    "one less": (lambda folder: (folder / "p2.png").unlink(), "p2 is missing", "missing are p2"),
    "one more": (
        lambda folder: utils.write_image(folder / "x.png", 255 - pictures.read_image(folder / "p0.png")),
        "x.png does not belong to it",
        "1 more are with them",
    ),
    "one twice": (
        lambda folder: utils.write_image(folder / "x.png", pictures.read_image(folder / "p0.png")),
        "x.png is p0 once more",
        "1 more are with them",
    ),
}


def change(path):
    image = pictures.read_image(path)
    image[30, 30, 1] ^= 1
    utils.write_image(path, image)


@pytest.mark.parametrize("kind", CHANGES)
def test_changes_are_named_and_refused(own, call, kind):
    make, checked, refused = CHANGES[kind]
    call("data.py", "manifest", own)
    make(own)
    result = call("data.py", "manifest", own)
    assert result.returncode == 1 and checked in result.stdout
    result = call("evaluate.py", "--data", own.parent, "--sets=own", "--methods=bicubic", "--out=manifest")
    assert_refused(result, "this is not own as its manifest has it", refused, "python data.py manifest DIR")


def test_a_set_with_a_manifest_proves_itself(own, pool, capsys, monkeypatch):
    """Its pixels, LR and bicubic's figures; a planted kernel and a planted colour conversion are named."""
    manifests.make_or_check(own, pool)
    paths = utils.list_images(own)
    testsets.prove(testsets.read_sets({"own": paths}, 4, pool), 4, pool)
    assert "proven: the bicubic row of own ×4" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(utils, "rgb_to_y", lambda image: utils.round_u8(image.mean(axis=-1)))
        with pytest.raises(UserError, match="self-test on own: .*the colour conversion to Y"):
            testsets.prove(testsets.read_sets({"own": paths}, 4, pool), 4, pool)
    imresize = utils.imresize
    monkeypatch.setattr(utils, "imresize", lambda image, scale, *args: imresize(image, scale, "bilinear"))
    with pytest.raises(UserError, match="self-test on own: LR is not MATLAB's bicubic"):
        testsets.prove(testsets.read_sets({"own": paths}, 4, pool), 4, pool)


@pytest.mark.parametrize("content", ["[]", '{"images": {}}', '{"images": {"a": {}}, "bicubic": {}}', "{"])
def test_a_damaged_manifest_is_named(own, call, content):
    (own / "manifest.json").write_text(content)
    assert_refused(call("data.py", "manifest", own), "manifest.json")


# ---------------------------------------------------------------------------------------------------------------------
# Sets that are known by name, number and a published row


@pytest.fixture
def urban(tmp_path, rng, monkeypatch):
    """An archive's folder as SelfExSR's is, of a set that is said to have four images."""
    monkeypatch.setitem(download.COUNTS, "Urban100", 4)
    for factor in (2, 4):
        for i in range(4):
            hr = photo(rng, 48 * factor, 60)
            for kind in ("HR", "LR", "bicubic"):
                picture = hr if kind == "HR" else hr // 2
                utils.write_image(
                    tmp_path / "zip" / f"image_SRF_{factor}" / f"img_{i:03}_SRF_{factor}_{kind}.png", picture
                )
    return tmp_path / "zip"


def test_originals_are_taken_from_among_lr_and_sr(urban, call, tmp_path):
    root = tmp_path / "root"
    result = call("data.py", "urban100", "--data", root, "--from", urban)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in utils.list_images(root / "Urban100")] == [f"img_{i:03}.png" for i in range(4)]
    assert pictures.read_image(root / "Urban100" / "img_000.png").shape[0] == 48 * 4
    assert "is there already" in call("data.py", "urban100", "--data", root).stdout


def test_too_few_are_refused(urban, call, tmp_path):
    for path in utils.list_images(urban):
        if "_000_" in path.name:
            path.unlink()
    result = call("data.py", "urban100", "--data", tmp_path / "root", "--from", urban)
    assert_refused(result, "has no folder of 4 images", "--from FOLDER")
    assert_refused(call("data.py", "manga109", "--data", tmp_path / "root"), "manga109.org gives it")


def test_the_published_row_is_the_self_test(urban, call, tmp_path, monkeypatch, pool):
    root = tmp_path / "root"
    call("data.py", "urban100", "--data", root, "--from", urban)
    paths = data.set_images(root / "Urban100")
    scores = [metrics.measure(["psnr_y", "ssim_y"], *bicubic(path), 4) for path in paths]
    means = {name: np.mean([row[name] for row in scores]) for name in ("psnr_y", "ssim_y")}
    command = ["evaluate.py", "--data", root, "--sets=urban100", "--methods=bicubic", "--out=urban"]
    assert_refused(call(*command), "self-test on Urban100", "and not 23.14")
    monkeypatch.setitem(testsets.PUBLISHED, ("Urban100", 4), means | {"psnr_y": means["psnr_y"] + 0.01})
    result = call(*command)
    assert result.returncode == 0 and "proven: the bicubic row of Urban100 ×4" in result.stdout
    (root / "Urban100" / "img_003.png").unlink()
    assert_refused(call(*command), "it has 4 images, and these are 3")
    assert math.isclose(testsets.LOOSE["psnr_y"], 0.02)
