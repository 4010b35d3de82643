import json

import numpy as np
import pytest
from conftest import TINY, assert_refused, photo

import utils


@pytest.fixture(scope="module")
def trained(run):
    result = run("train.py", "--steps", 1, "--name", "tiny", *TINY)
    assert result.returncode == 0, result.stderr


def test_samples_are_scored_where_there_is_no_set(trained, run, clone):
    result = run("evaluate.py", "--json", "scores.json")
    assert result.returncode == 0, result.stderr
    assert "found: tiny (srresnet" in result.stdout
    assert "no test set was found" in result.stdout and "Protocol: ×4; LR by MATLAB" in result.stdout
    scores = json.loads((clone / "scores.json").read_text())
    assert {name: list(rows) for name, rows in scores.items()} == {"samples": ["nearest", "bicubic", "tiny"]}
    assert all(set(row) == {"psnr_y", "ssim_y"} for row in scores["samples"].values())
    assert scores["samples"]["bicubic"]["psnr_y"] > scores["samples"]["nearest"]["psnr_y"]
    pictures = clone / "samples" / "evaluate"
    assert utils.read_image(pictures / "samples" / "chelsea_tiny.png").shape == (300, 448, 3)
    assert utils.read_image(pictures / "samples_crops.png").shape == (3 * 160 + 8, 4 * 160 + 12, 3)


def test_scores_are_those_of_the_pictures(trained, run, clone, rng):
    """Computed again from the PNGs, by scikit-image and with the shave and colour conversion written out here."""
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio

    folder = clone / "sets" / "Set5"
    utils.write_image(folder / "x.png", photo(rng, 61, 50))
    arguments = ["--data", "sets", "--methods", "bicubic,tiny", "--json", "s.json", "--out", "out"]
    result = run("evaluate.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "of which 0 are among the 5 of the known set" in result.stdout
    scores = json.loads((clone / "s.json").read_text())["Set5"]
    hr = utils.read_image(folder / "x.png")[:60, :48]
    for name in ("bicubic", "tiny"):
        sr = utils.read_image(clone / "out" / "Set5" / f"x_{name}.png")
        a, b = (np.floor(rgb2ycbcr(image)[4:-4, 4:-4, 0] + 0.5) for image in (sr, hr))
        assert scores[name]["psnr_y"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=nowhere"], "nowhere"),
        (["--data=checkpoint"], "holds none of the folders"),
        (["--sets=Set6"], "there is no set called 'Set6'"),
        (["--sets=Set5"], "python data.py set5"),
        (["--methods=lanczos7"], "run called 'lanczos7'"),
        (["--weights=nowhere"], "there are no weights at 'nowhere'"),
        (["--weights=tiny", "--scale=2"], "×4 model"),
        (["--scale=5"], "--scale"),
        (["--methods="], "--methods"),
        (["--json=checkpoint"], "is a folder"),
        (["--out="], "--out"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(trained, run, arguments, words):
    assert_refused(run("evaluate.py", *arguments), words)


def test_broken_test_images_are_named_and_left_out(run, clone, rng):
    folder = clone / "broken" / "Set14"
    utils.write_image(folder / "good.png", photo(rng, 40, 40))
    utils.write_image(folder / "tiny.png", photo(rng, 12, 40))
    (folder / "bad.bmp").write_bytes(b"BM")
    result = run("evaluate.py", "--data=broken", "--methods=nearest", "--out=o")
    assert result.returncode == 0, result.stderr
    assert "bad.bmp is not a readable image" in result.stdout and "tiny.png is smaller than 19×19" in result.stdout
    assert "Set14 (1 images)" in result.stdout
    (folder / "good.png").unlink()
    assert_refused(run("evaluate.py", "--data=broken", "--methods=nearest"), "none of the 2 images of Set14")


def test_a_gray_original_kept_as_rgb_is_still_gray(monkeypatch, tmp_path, rng):
    """A mirror that stores Set14's one-channel image with three equal channels must give the same score."""
    import download
    import evaluate

    gray = photo(rng, 40, 40)[..., :1]
    manifest = {"Set14": {"bridge": {"channels": 1, "sha256": {"1": download.pixel_hash(gray)}}}}
    monkeypatch.setattr(download, "read_manifest", lambda: manifest)
    for name, image in (("gray", gray), ("rgb", utils.to_rgb(gray))):
        utils.write_image(tmp_path / name / "x.png", image)
        images = evaluate.read_sets({"Set14": utils.list_images(tmp_path / name)}, 4)
        np.testing.assert_array_equal(images["Set14"][0][1], gray)


# PSNR and SSIM of MATLAB's bicubic, ×4, as they are published and measured; and the paper's Table 2 for nearest.
KNOWN = {"Set5": (28.416, 0.8101, 26.26), "Set14": (25.990, 0.7023, 24.64), "BSD100": (25.956, 0.6672, 25.02)}


@pytest.mark.slow
def test_known_rows_on_the_real_sets(shared, run, clone):
    result = run("evaluate.py", "--data", shared, "--methods=nearest,bicubic", "--json=real.json", "--out=real")
    assert result.returncode == 0, result.stderr
    assert "not comparable with published ones" not in result.stdout
    scores = json.loads((clone / "real.json").read_text())
    for name, (psnr, ssim, nearest) in KNOWN.items():
        assert scores[name]["bicubic"]["psnr_y"] == pytest.approx(psnr, abs=0.002)
        assert scores[name]["bicubic"]["ssim_y"] == pytest.approx(ssim, abs=0.0002)
        assert scores[name]["nearest"]["psnr_y"] == pytest.approx(nearest, abs=0.05)
