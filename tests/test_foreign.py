"""Pictures of other programs: found under anybody's names, of any near size, and what is wrong with them is named."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import assert_refused, photo

import data
import utils
from images import pictures
from scoring import foreign, kept, metrics, testsets
from utils import UserError

NAMES = ("baby", "bird", "butterfly")


def image_of(rng, name="x", height=120, width=144, channels=3):
    hr = photo(rng, height, width)[..., :channels]
    return testsets.Image(name, hr, utils.imresize(hr, 1 / 4))


@pytest.fixture
def images(rng):
    return [image_of(rng, name) for name in NAMES]


# ---------------------------------------------------------------------------------------------------------------------
# Which file is which image


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("baby", ("baby.png", "baby_SRResNet.png", "babyx4.png", "baby_x4_SR.png", "Baby-4x-out.png", "sr_baby.png")),
        ("img_001", ("img_001_SRF_4_SR.png", "img_001.png", "img_001x4.png")),
        ("img_001_SRF_4_HR", ("img_001_SRF_4_SR.png", "img_001_SRF_4_bicubic.png")),
        ("0801", ("0801x4.png", "0801_rlt.png", "0801x4_EDSR.png")),
        ("101085", ("101085_srgan_x4.png",)),
    ],
)
def test_files_are_known_by_their_names(name, files):
    for file in files:
        assert foreign.named_after(file.removesuffix(".png"), name), file


@pytest.mark.parametrize(
    ("name", "stem"),
    [("img_1", "img_10_SR"), ("flower", "flowers"), ("man", "woman_x4"), ("0801", "10801"), ("face", "faces_SR")],
)
def test_a_part_of_a_word_is_no_name(name, stem):
    assert not foreign.named_after(stem, name)


def test_the_longer_name_has_the_file(tmp_path):
    """`a` and `a_b` are both in a_b_SR.png, which is a_b's."""
    paths = [tmp_path / name for name in ("a_SR.png", "a_b_SR.png")]
    assert foreign.match_names(paths, ["a", "a_b"]) == ({"a": paths[0], "a_b": paths[1]}, [])


def write(folder, images, name_of, change=lambda sr: sr):
    for i, image in enumerate(images):
        utils.write_image(folder / name_of(i, image.name), change(utils.imresize(image.lr, 4)))
    return folder


def test_other_names_are_matched_by_pixels(tmp_path, images):
    """In another order than the names would say; HR and LR beside them are not taken for SR."""
    folder = write(tmp_path, images[::-1], lambda i, name: f"img_{i:03}_SRF_4_SR.png")
    for image in images:
        utils.write_image(folder / f"{image.name}_HR.png", image.hr)
        utils.write_image(folder / f"{image.name}_LR.png", image.lr)
    found = foreign.find(folder, "mine", images, 4)
    assert {name: path.name for name, path in found.items()} == {
        name: f"img_{i:03}_SRF_4_SR.png" for i, name in enumerate(NAMES[::-1])
    }


def test_pictures_that_are_like_two_images_are_not_guessed(tmp_path, images):
    twins = [images[0], images[0]._replace(name="twin")]
    folder = write(tmp_path, images[:1], lambda i, name: "unknown.png")
    assert set(foreign.find(folder, "mine", twins, 4)) <= {"baby"}
    strange = write(tmp_path / "strange", [image_of(np.random.default_rng(9))], lambda i, name: "unknown.png")
    assert foreign.find(strange, "mine", images, 4) == {}


def test_a_pattern_says_which_file_is_which(tmp_path, images):
    for method in ("a", "b"):
        write(tmp_path / "Mine", images, lambda i, name, method=method: f"{name}_{method}.png")
    with pytest.raises(UserError, match="could both be baby: say which by --match"):
        foreign.find(tmp_path, "mine", images, 4)
    found = foreign.find(tmp_path, "Mine", images, 4, "{set}/{image}_b.*")
    assert [path.name for path in found.values()] == [f"{name}_b.png" for name in NAMES]
    with pytest.raises(UserError, match="both for baby"):
        foreign.find(tmp_path, "Mine", images, 4, "*/{image}_*.png")
    for wrong in ("{set}.png", "{image", "{image}{other}", "{image.x}"):
        with pytest.raises(UserError, match="takes a pattern"):
            foreign.check_pattern(wrong)


def test_folders_of_the_sets_name_come_first(tmp_path, images):
    for name in ("Set5", "Set14"):
        write(tmp_path / "results" / name, images, lambda i, name: f"{name}.png")
    found = foreign.find(tmp_path, "set5", images, 4)
    assert {path.parent.name for path in found.values()} == {"Set5"}
    assert foreign.find(tmp_path, "BSD100", images, 4) == {}  # of which there is none


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def file_of(image, uncut):
    return testsets.ImageFile(
        image.name,
        None,
        lambda path: testsets.Decoded(uncut, image.hr, image.lr, 0),
        3,
        image.hr_size,
        image.lr_size,
        uncut.shape[:2],
        "",
    )


def test_pictures_of_the_uncut_size_are_cut_as_hr_is(rng):
    uncut = photo(rng, 123, 147)
    hr = utils.mod_crop(uncut, 4)
    image = file_of(testsets.Image("x", hr, utils.imresize(hr, 1 / 4)), uncut)
    sr, done = foreign.fit(uncut, image, 4)
    np.testing.assert_array_equal(sr, hr)
    assert "before it is cut to multiples" in done


@pytest.mark.parametrize(
    ("top", "left", "height", "width"), [(4, 4, -8, -8), (0, 1, 0, -1), (1, 0, -1, -2), (0, 0, -4, 0)]
)
def test_what_lacks_in_the_border_changes_no_score(rng, top, left, height, width):
    """The picture stands where it was taken from, and PSNR-Y and SSIM-Y are those of the whole one."""
    image = image_of(rng)
    whole = utils.imresize(image.lr, 4, "lanczos")
    part = whole[top : top + whole.shape[0] + height, left : left + whole.shape[1] + width]
    sr, done = foreign.fit(part, image, 4)
    assert sr.shape == whole.shape and "there bicubic's stand" in done
    assert metrics.psnr_y(sr, image.hr, 4) == metrics.psnr_y(whole, image.hr, 4)


def test_larger_pictures_are_cut_where_they_agree(rng):
    """SR of an LR that was rounded up has more at the right and below; one that was centred has it all round."""
    image = image_of(rng)
    more = np.pad(image.hr, ((0, 3), (0, 2), (0, 0)), mode="edge")
    sr, done = foreign.fit(more, image, 4)
    np.testing.assert_array_equal(sr, image.hr)
    assert "cut at the right and below" in done
    sr, done = foreign.fit(np.pad(image.hr, ((2, 1), (1, 3), (0, 0)), mode="edge"), image, 4)
    np.testing.assert_array_equal(sr, image.hr)
    assert "2 rows above and 1 columns at the left" in done


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda image: image.lr, "30×36|36×30.*LR's size: it was not upscaled"),
        (lambda image: utils.imresize(image.lr, 2), "which is ×2 of its LR"),
        (lambda image: image.hr[:-30], "is 144×90 pixels and not 144×120"),
        (lambda image: image.hr[6:], "more is missing at one side than the 4"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(rng, cut, words):
    image = image_of(rng)
    with pytest.raises(UserError, match=words):
        foreign.fit(cut(image), image, 4)


def test_gray_pictures_are_y_or_luma(rng):
    image = image_of(rng)
    y = metrics.luma(image.hr)[..., None]
    sr, words = foreign.as_y(y, image.hr)
    assert sr is y and words == "gray, and taken as Y"
    sr, words = foreign.as_y(utils.round_u8((y - 16.0) * 255 / 219), image.hr)
    assert np.abs(sr.astype(int) - y).max() <= 1 and "becomes Y" in words


# ---------------------------------------------------------------------------------------------------------------------
# Signs


@pytest.fixture(scope="module")
def photos():
    """Parts of the photographs that come with the libraries."""
    paths = data.package_files(data.SAMPLE_TEST)
    hrs = [pictures.read_image(path)[40:200, 100:292] for path in paths]
    return [testsets.Image(path.stem, hr, utils.imresize(hr, 1 / 4)) for path, hr in zip(paths, hrs, strict=True)]


def say(photos, sr_of):
    return foreign.findings([foreign.signs(sr_of(image), image, 4) for image in photos])


def bicubic(image):
    return utils.imresize(image.lr, 4)


@pytest.mark.parametrize("method", ["bicubic", "lanczos", "nearest"])
def test_nothing_is_said_of_right_pictures(photos, method):
    assert say(photos, lambda image: utils.imresize(image.lr, 4, method)) == []


@pytest.mark.parametrize(
    ("shift", "words"),
    [((1, 0), "1 pixel down"), ((0, -2), "2 pixels left"), ((-3, 1), "3 pixels up and 1 pixel right")],
)
def test_a_shift_is_named(photos, shift, words):
    (sentence,) = say(photos, lambda image: np.roll(bicubic(image), shift, (0, 1)))
    assert f"shifted by {words} against HR: without that, PSNR-Y would be" in sentence


@pytest.mark.parametrize("kernel", ["cubic", "nearest"])
def test_another_kernel_is_named(photos, kernel):
    """LR shrunk by it, enlarged as LR of MATLAB's would be."""
    (sentence,) = say(photos, lambda image: utils.imresize(foreign.shrink_by(kernel, image.hr, 4), 4))
    assert "made of another LR, or does not keep to it" in sentence
    assert next(name for name, value in foreign.KERNELS.items() if value == kernel) in sentence


def test_truncated_values_are_named(photos):
    from scoring import explain

    (sentence,) = say(photos, lambda image: np.floor(explain.enlarge(image.lr, 4)).astype(np.uint8))
    assert "grey levels, as where values are cut off and not rounded" in sentence


def test_swapped_channels_are_named(photos):
    (sentence,) = say(photos, lambda image: bicubic(image)[..., ::-1])
    assert "red and blue are swapped" in sentence


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def sets(clone, rng, photos):
    """A set of photographs below the clone, and a folder of SR under BasicSR's names."""
    for name in ("foreign", "there"):
        shutil.rmtree(clone / name, ignore_errors=True)
    for image in photos:
        utils.write_image(clone / "foreign" / "mine" / f"{image.name}.png", image.hr)
    write(clone / "there" / "basic", photos, lambda i, name: f"{name}_SRResNet.png")
    write(clone / "there" / "moved", photos, lambda i, name: f"{name}x4.png", lambda sr: np.roll(sr, 1, 0))
    return clone


@pytest.mark.slow
def test_foreign_pictures_are_rows_like_the_others(sets, call):
    """The same pictures under other names score as ours do; what was planted is printed, in the JSON and the page."""
    arguments = ["--data=foreign", "--sets=mine", "--methods=bicubic,lanczos", "--out=f", "--significance"]
    result = call("evaluate.py", *arguments, "--pictures", "basic=there/basic", "moved=there/moved")
    assert result.returncode == 0, result.stderr
    rows = json.loads((sets / "f" / "results.json").read_text())["mine"]
    assert list(rows) == ["bicubic", "lanczos", "basic", "moved"]
    for name in metrics.USUAL:
        assert rows["basic"][name] == pytest.approx(rows["bicubic"][name], nan_ok=True)
    assert rows["basic"]["p_psnr_y"]["bicubic"] == 1 and "notes" not in rows["basic"]
    assert "moved on mine: shifted by 1 pixel down" in result.stdout
    assert "shifted by 1 pixel down" in rows["moved"]["notes"][0]
    assert "moved: shifted by 1 pixel down" in (sets / "f" / "index.html").read_text()
    assert "- moved: shifted by 1 pixel down" in (sets / "f" / "table.md").read_text()
    assert (sets / "f" / "mine" / "departure" / "coffee_moved.png").is_file()


def test_a_study_is_made_of_foreign_pictures_too(sets, call):
    from web.study import stimuli

    call("evaluate.py", "--data=foreign", "--sets=mine", "--methods=bicubic", "--out=f", "--pictures=basic=there/basic")
    rated, _ = stimuli.choose(sets / "f", None, ["basic"], None, random.Random(0))
    assert [method for _, _, method in rated] == ["basic"] * 3


def test_pairs_need_no_set(sets, call):
    result = call("evaluate.py", "--pairs", "there/basic", "foreign/mine", "--out=p", "--metrics=psnr_y,ssim_y")
    assert result.returncode == 0, result.stderr
    rows = json.loads((sets / "p" / "results.json").read_text())["mine"]
    assert list(rows) == ["bicubic", "basic"] and rows["basic"]["psnr_y"] == rows["bicubic"]["psnr_y"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pictures=basic"], "takes NAME=DIR"),
        (["--pictures=a/b=there/basic"], "takes NAME=DIR"),
        (["--pictures=a=nowhere"], "there is no such folder"),
        (["--pictures=a=checkpoint"], "holds no pictures"),
        (["--pictures=bicubic=there/basic"], "two rows would be called bicubic"),
        (["--pictures=a=there/basic", "--match=x.png"], "takes a pattern"),
        (["--match={image}.png"], "goes with --pictures"),
        (["--pairs", "there/basic", "nowhere"], "not a folder of pictures"),
        (["--pairs", "there/basic", "foreign/mine", "--sets=mine"], "needs no --sets"),
        (["--pictures=a=there/basic", "--data=foreign", "--sets=mine", "--match={image}_out.png"], "has no picture"),
    ],
)
def test_mistakes_are_one_sentence(sets, call, arguments, words):
    assert_refused(call("evaluate.py", *arguments), words)


def test_a_lacking_picture_is_named(sets, call):
    (sets / "there" / "basic" / "coffee_SRResNet.png").unlink()
    result = call("evaluate.py", "--data=foreign", "--sets=mine", "--pictures=basic=there/basic", "--out=f")
    assert_refused(result, "lacks 1 of the 3 images of mine (coffee)")


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.mark.slow
def test_only_what_is_new_is_done_again(sets, call, monkeypatch):
    """The same results, and no measure is computed and no picture written but those of the added row."""
    from scoring import figures

    command = ["evaluate.py", "--data=foreign", "--sets=mine", "--out=kept", "--methods=bicubic,nearest"]
    assert call(*command).returncode == 0
    before = json.loads((sets / "kept" / "results.json").read_text())
    measured, written = [], []
    measure, write_method = metrics.measure, figures.write_method
    monkeypatch.setattr(metrics, "measure", lambda *args: measured.append(args) or measure(*args))
    monkeypatch.setattr(figures, "write_method", lambda *args: written.append(args[2]) or write_method(*args))
    assert call(*command, "--pictures=moved=there/moved").returncode == 0
    after = json.loads((sets / "kept" / "results.json").read_text())
    assert written == ["moved"] * 3 and len(measured) == 3
    for method in ("bicubic", "nearest"):
        assert after["mine"][method]["images"] == before["mine"][method]["images"]


def test_changed_pictures_and_originals_are_done_again(sets, call, rng):
    command = ["evaluate.py", "--data=foreign", "--sets=mine", "--out=kept2", "--methods=bicubic", "--metrics=psnr_y"]
    read = lambda: json.loads((sets / "kept2" / "results.json").read_text())["mine"]["bicubic"]["images"]  # noqa: E731
    assert call(*command).returncode == 0
    first = read()
    path = sets / "kept2" / "mine" / "chelsea_bicubic.png"
    right = pictures.read_image(path)
    utils.write_image(path, 255 - right)  # somebody has painted in the report
    assert call(*command).returncode == 0 and read() == first
    np.testing.assert_array_equal(pictures.read_image(path), right)
    utils.write_image(sets / "foreign" / "mine" / "chelsea.png", photo(rng, 160, 192))
    assert call(*command).returncode == 0
    assert read()["chelsea"] != first["chelsea"] and read()["coffee"] == first["coffee"]


def test_other_code_keeps_nothing_and_a_cut_line_costs_one(tmp_path, rng, monkeypatch):
    image, folder = image_of(rng), tmp_path
    known = kept.Kept(folder)
    names = ["psnr_y", "ssim_y"]
    values = known.measure(names, image, 4, "a", lambda: image.hr)
    known.measure(names, image, 4, "b", lambda: image.hr)
    with open(folder / kept.FILE, "r+") as file:
        file.truncate(len(file.read()) - 10)
    again = kept.Kept(folder)
    assert again.measure(names, image, 4, "a", None) == values  # nothing is computed
    with pytest.raises(TypeError):
        again.measure(names, image, 4, "b", None)
    again.measure(names, image, 4, "b", lambda: image.hr)
    assert kept.Kept(folder).measure(names, image, 4, "b", None) == values
    monkeypatch.setattr(kept, "code_digest", lambda: "other")
    with pytest.raises(TypeError):
        kept.Kept(folder).measure(names, image, 4, "a", None)


def test_a_set_takes_no_memory(tmp_path, rng, monkeypatch):
    """Of forty images no more are kept decoded than KEPT bytes have room for, and those used last."""
    each = 24 * 24 * 3 + 6 * 6 * 3
    monkeypatch.setattr(testsets, "KEPT", 5 * each + 10)
    for i in range(40):
        utils.write_image(tmp_path / f"{i}.png", photo(rng, 24, 24))
    with ThreadPoolExecutor(2) as pool:
        members = testsets.read_set("mine", utils.list_images(tmp_path), 4, pool)
    for image in members.images:
        assert image.hr.shape == (24, 24, 3) and image.lr.shape == (6, 6, 3)
    decode = members.images[0].decode
    assert list(decode.kept) == [image.path for image in members.images[-5:]] and decode.bytes == 5 * each
