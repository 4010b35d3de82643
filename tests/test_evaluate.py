import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_refused, content_of, make_run, photo
from PIL import Image

import data
import evaluate
import utils
from images import pictures
from scoring import metrics, tables, testsets, work


@pytest.fixture(scope="module")
def trained(clone):
    """Three runs; only tiny is found by itself, the others are there to be named."""
    make_run(clone / "checkpoint" / "tiny", "srresnet")
    make_run(clone / "other", "srresnet", seed=1)
    make_run(clone / "wide", "srresnet", "MODEL.width=16")


@pytest.mark.slow
def test_samples_are_scored_where_there_is_no_set(trained, call, clone):
    result = call("evaluate.py", "--json", "scores.json")
    assert result.returncode == 0, result.stderr
    assert "found: tiny (srresnet" in result.stdout
    assert "no test set was found" in result.stdout and "Protocol: ×4; LR by MATLAB" in result.stdout
    scores = json.loads((clone / "scores.json").read_text())
    rows = ["nearest", "bilinear", "bicubic", "lanczos", "tiny"]
    assert {name: list(rows) for name, rows in scores.items()} == {"samples": rows}
    for row in scores["samples"].values():
        assert set(row) == {*metrics.USUAL, "p_psnr_y", "images"}
        assert list(row["images"]) == ["chelsea", "coffee", "astronaut"]
        for name in metrics.USUAL:
            assert row[name] == pytest.approx(np.mean([values[name] for values in row["images"].values()]))
    assert scores["samples"]["bicubic"]["psnr_y"] > scores["samples"]["nearest"]["psnr_y"]
    folder = clone / "samples" / "evaluate"
    assert pictures.read_image(folder / "samples" / "chelsea_tiny.png").shape == (300, 448, 3)
    for name in ("samples/figure.png", "samples/original/chelsea.png", "samples/departure/chelsea_tiny.png"):
        assert (folder / name).is_file()
    assert "tiny" in (folder / "index.html").read_text() and "| tiny |" in (folder / "table.md").read_text()
    assert (folder / "results.json").read_bytes() == (clone / "scores.json").read_bytes()
    with open(folder / "results.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * (3 + 1)
    mean = next(line for line in lines if line["method"] == "tiny" and line["image"] == "mean")
    assert all(float(mean[name]) == pytest.approx(scores["samples"]["tiny"][name]) for name in metrics.USUAL)


@pytest.mark.slow
def test_scores_are_those_of_the_pictures(trained, call, clone, rng):
    """Computed again from the PNGs, by scikit-image and with the shave and colour conversion written out here."""
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio

    folder = clone / "sets" / "mine"
    utils.write_image(folder / "x.png", photo(rng, 61, 50))
    arguments = ["--data", "sets", "--sets", "mine", "--methods", "tiny,bicubic", "--json", "s.json", "--out", "out"]
    result = call("evaluate.py", *arguments)
    assert result.returncode == 0, result.stderr
    scores = json.loads((clone / "s.json").read_text())["mine"]
    assert list(scores) == ["tiny", "bicubic"]  # as they were asked for
    assert "not_comparable" not in scores["tiny"] and scores["tiny"]["niqe_own"] is None  # smaller than a patch
    hr = pictures.read_image(folder / "x.png")[:60, :48]
    for name in ("bicubic", "tiny"):
        sr = pictures.read_image(clone / "out" / "mine" / f"x_{name}.png")
        a, b = (np.floor(rgb2ycbcr(image)[4:-4, 4:-4, 0] + 0.5) for image in (sr, hr))
        assert scores[name]["psnr_y"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=nowhere"], "nowhere"),
        (["--data=checkpoint"], "holds none of the folders"),
        (["--sets=Set6"], "there is no set called 'Set6'"),
        (["--sets=Set5"], "python data.py set5"),
        (["--sets=.."], "there is no set called '..'"),
        (["--methods=lanczos7"], "run called 'lanczos7'"),
        (["--metrics=lpipz"], "there is no measure called 'lpipz'; there are psnr_y"),
        (["--metrics=niqe"], "--niqe-model FILE.mat"),
        (["--niqe-model=evaluate.py"], "is not NIQE's model"),
        (["--metrics=ssim_y", "--significance"], "needs psnr_y"),
        (["--methods=nearest", "--significance"], "there is only one"),
        (["--blend-sweep", "tiny", "tiny", "0:2:1"], "within 0 and 1"),
        (["--blend-sweep", "tiny", "tiny", "a"], "within 0 and 1"),
        (["--blend-sweep", "tiny", "nowhere", "0:1:1"], "there are no weights at 'nowhere'"),
        (
            ["--blend-sweep", "tiny", "./wide", "0:1:1"],
            "different networks and cannot be blended (MODEL.width 16, not 8)",
        ),
        (["--blend-sweep", "tiny", "tiny", "0:1:1", "--scale=2"], "×4 model"),
        (["--weights=nowhere"], "there are no weights at 'nowhere'"),
        (["--weights=tiny", "--scale=2"], "×4 model"),
        (["--scale=5"], "--scale"),
        (["--methods="], "--methods"),
        (["--json=checkpoint"], "is a folder"),
        (["--out="], "--out"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(trained, call, arguments, words):
    assert_refused(call("evaluate.py", *arguments), words)


def test_broken_test_images_are_named_and_left_out(call, clone, rng):
    folder = clone / "broken" / "Set14"
    utils.write_image(folder / "good.png", photo(rng, 40, 40))
    utils.write_image(folder / "tiny.png", photo(rng, 12, 40))
    (folder / "bad.bmp").write_bytes(b"BM")
    result = call("evaluate.py", "--data=broken", "--methods=nearest", "--out=o", "--force")
    assert result.returncode == 0, result.stderr
    assert "bad.bmp is not a picture" in result.stdout and "tiny.png is smaller than 20×20" in result.stdout
    assert "Set14 (1 images)" in result.stdout
    (folder / "good.png").unlink()
    assert_refused(call("evaluate.py", "--data=broken", "--methods=nearest"), "none of the 2 images of Set14")


@pytest.mark.slow
def test_rows_of_mixed_weights(trained, call, clone):
    """The ends of a sweep are the two runs, and its middle is the network with the mean of their weights."""
    from runs import store

    arguments = ["--sets=samples", "--metrics=psnr_y", "--methods=tiny", "--json=blend.json", "--out=blend"]
    result = call("evaluate.py", *arguments, "--blend-sweep", "tiny", "./other", "0:1:0.5")
    assert result.returncode == 0, result.stderr
    scores = json.loads((clone / "blend.json").read_text())["samples"]
    assert list(scores) == ["tiny", "blend_0", "blend_0.5", "blend_1"]
    assert scores["blend_0"]["psnr_y"] == pytest.approx(scores["tiny"]["psnr_y"], abs=1e-9)
    assert scores["blend_1"]["psnr_y"] != pytest.approx(scores["tiny"]["psnr_y"], abs=1e-3)

    (generator, _), (other, _) = (store.load_generator(clone / name) for name in ("checkpoint/tiny", "other"))
    for mine, theirs in zip(generator.weights, other.weights, strict=True):
        mine.assign((mine + theirs) / 2)
    path = data.package_files(data.SAMPLE_TEST)[0]
    lr = utils.imresize(utils.mod_crop(pictures.read_image(path), 4), 1 / 4)
    expected = utils.m11_to_u8(generator(utils.u8_to_01(lr)[None], training=False)[0])
    picture = pictures.read_image(clone / "blend" / "samples" / f"{path.stem}_blend_0.5.png")
    assert np.abs(picture.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_lr_that_was_saved_as_jpeg(call, clone):
    """The rows beside the clean ones are those of a JPEG made here, and its quality counts."""
    arguments = ["--sets=samples", "--methods=bicubic", "--metrics=psnr_y,consistency", "--out=jpeg"]
    result = call("evaluate.py", *arguments, "--jpeg=90,30")
    assert result.returncode == 0, result.stderr
    scores = json.loads((clone / "jpeg" / "results.json").read_text())
    assert list(scores) == ["samples", "samples-jpeg90", "samples-jpeg30"]
    means = [rows["bicubic"]["psnr_y"] for rows in scores.values()]
    assert means == sorted(means, reverse=True) and means[0] - means[2] > 0.5
    path = data.package_files(data.SAMPLE_TEST)[0]
    hr = utils.mod_crop(pictures.read_image(path), 4)
    (buffer := io.BytesIO()).write(content_of(utils.imresize(hr, 1 / 4), "jpeg", quality=30, subsampling=2))
    sr = utils.imresize(np.asarray(Image.open(buffer)), 4)
    row = scores["samples-jpeg30"]["bicubic"]["images"][path.stem]
    assert row["psnr_y"] == pytest.approx(metrics.psnr_y(sr, hr, 4), abs=1e-9)
    assert row["consistency"] == pytest.approx(metrics.consistency(sr, np.asarray(Image.open(buffer))), abs=1e-9)
    assert_refused(call("evaluate.py", "--jpeg=0"), "--jpeg: takes whole numbers from 1 to 100")


def test_batches_are_of_one_size_and_change_nothing(trained, clone, rng):
    """Every image once, at most BATCH of one size together, each upscaled as it would be alone."""
    from runs import store

    sizes = [(5, 7), (6, 7), (5, 7), (5, 7), (5, 7), (5, 7), (6, 7)]
    images = [testsets.Image(str(i), None, photo(rng, *size)) for i, size in enumerate(sizes)]
    together = [[image.name for image in batch] for batch in work.batches_of(images)]
    assert together == [["0", "2", "3", "4"], ["5"], ["1", "6"]]

    generator, about = store.load_generator(clone / "checkpoint" / "tiny")
    row = evaluate.Model("tiny", generator, about["config"].MODEL)
    lrs = [images[i].lr for i in (0, 2, 3, 4)]
    for together, alone in zip(row.upscale(lrs), (row.upscale([lr])[0] for lr in lrs), strict=True):
        np.testing.assert_array_equal(together, alone)


def test_scores_are_recorded_and_compared(tmp_path, capsys):
    """Only those on proven sets; what is recorded stays, and other figures for the same weights are pointed out."""
    from runs import store

    weights = tmp_path / store.WEIGHTS
    weights.write_bytes(b"x")
    rows = [SimpleNamespace(name="mine", weights=weights)]

    def results(psnr, doubt=None, **more):
        row = tables.Row({"psnr_y": psnr, "niqe_own": np.nan, **more}, images={}, doubt=doubt)
        return {name: {"mine": row} for name in ("Set5", "own")}

    evaluate.record(rows, results(30.0, doubt="other pixels"), 4)
    assert not (tmp_path / store.SCORES).exists()
    evaluate.record(rows, results(30.0), 4)
    evaluate.record(rows, results(30.001), 4)
    assert store.read_scores(weights) == {"Set5 ×4": {"psnr_y": 30.0}}
    assert capsys.readouterr().out == ""
    evaluate.record(rows, results(30.1, ssim_y=0.9), 4)
    assert store.read_scores(weights) == {"Set5 ×4": {"psnr_y": 30.0, "ssim_y": 0.9}}
    assert "mine has PSNR-Y 30.10 on Set5, but 30.00 in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"x": 1}', '{"generator.weights.h5": {"sha256": "", "scores": {"a": {"b": "c"}}}}']
)
def test_a_damaged_scores_file_does_not_end_an_evaluation(tmp_path, capsys, content):
    """It is named and left as it is."""
    from runs import store

    weights = tmp_path / store.WEIGHTS
    weights.write_bytes(b"x")
    (tmp_path / store.SCORES).write_text(content)
    rows = {"mine": tables.Row({"psnr_y": 30.0}, images={}, doubt=None)}
    evaluate.record([SimpleNamespace(name="mine", weights=weights)], {"Set5": rows}, 4)
    assert "the scores of mine are not recorded" in capsys.readouterr().out
    assert (tmp_path / store.SCORES).read_text() == content


# PSNR-Y and both SSIMs of MATLAB's bicubic, ×4, as they are published and measured; and Table 2 for nearest.
KNOWN = {
    "Set5": (28.416, 0.8101, 0.8201, 26.26),
    "Set14": (25.990, 0.7023, 0.7480, 24.64),
    "BSD100": (25.956, 0.6672, 0.6933, 25.02),
}


@pytest.mark.slow
def test_known_rows_on_the_real_sets(shared, run, clone):
    result = run("evaluate.py", "--data", shared, "--methods=nearest,bicubic", "--metrics=psnr_y,ssim_y,ssim_paper",
                 "--json=real.json", "--out=real")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "NOT COMPARABLE" not in result.stdout
    scores = json.loads((clone / "real.json").read_text())
    for name, (psnr, ssim, papers, nearest) in KNOWN.items():
        assert f"proven: the bicubic row of {name} ×4" in result.stdout
        assert scores[name]["bicubic"]["psnr_y"] == pytest.approx(psnr, abs=0.002)
        assert scores[name]["bicubic"]["ssim_y"] == pytest.approx(ssim, abs=0.0002)
        assert scores[name]["bicubic"]["ssim_paper"] == pytest.approx(papers, abs=0.0002)
        assert scores[name]["nearest"]["psnr_y"] == pytest.approx(nearest, abs=0.05)
