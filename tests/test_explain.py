"""What each choice of the protocol moves, against figures that are known and scores computed here."""

import csv
import itertools
import json

import numpy as np
import pytest
from conftest import assert_refused, photo
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

import utils
from scoring import explain, metrics


def test_the_protocol_is_that_of_the_metrics(rng):
    for hr in (photo(rng, 60, 80), photo(rng, 60, 80)[..., :1]):
        sr = utils.imresize(utils.imresize(hr, 1 / 4), 4)
        ((psnr, ssim),) = explain.score(hr, 4, [explain.PROTOCOL])
        assert psnr == metrics.psnr_y(sr, hr, 4)
        assert ssim == pytest.approx(metrics.ssim_y(sr, hr, 4), abs=1e-9)


def test_each_single_choice_differs_in_one():
    rows = list(explain.singles())
    assert rows[0] == explain.PROTOCOL and len(set(rows)) == len(rows)
    assert len(rows) == 1 + sum(len(options) - 1 for options in explain.CHOICES.values())
    assert all(sum(a != b for a, b in zip(row, rows[0], strict=True)) == 1 for row in rows[1:])
    assert set(rows) < set(itertools.product(*explain.CHOICES.values()))


def test_choices_against_scikit_image(rng):
    hr = photo(rng, 60, 80)
    lr = utils.imresize(hr, 1 / 4)
    rounded = utils.imresize(lr, 4)
    lr_matlab, sr, y, border, ssim = explain.PROTOCOL
    values = explain.score(
        hr,
        4,
        [
            (lr_matlab, sr, "RGB", border, "paper"),
            (lr_matlab, sr, "luma of 0-255", "with", ssim),
            (lr_matlab, "truncated", "RGB", "with", ssim),
        ],
    )
    inside = slice(4, -4)
    expected = peak_signal_noise_ratio(rounded[inside, inside], hr[inside, inside], data_range=255)
    assert values[0, 0] == pytest.approx(expected, abs=1e-9)
    channels = [metrics.ssim_daala(rounded[inside, inside, i], hr[inside, inside, i]) for i in range(3)]
    assert values[0, 1] == pytest.approx(np.mean(channels), abs=1e-9)
    gray = (np.asarray(Image.fromarray(image).convert("L")) for image in (rounded, hr))  # the same luma, by Pillow
    assert values[1, 0] == pytest.approx(peak_signal_noise_ratio(*gray, data_range=255), abs=0.02)
    weights = utils.resize_matrix(15, 60, 4), utils.resize_matrix(20, 80, 4)
    planes = [weights[0] @ lr[..., i] @ weights[1].T for i in range(3)]
    truncated = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    assert values[2, 0] == pytest.approx(peak_signal_noise_ratio(truncated, hr, data_range=255), abs=0.01)


def test_enlarging_without_rounding_rounds_to_the_same(rng):
    lr = photo(rng, 20, 24) // 2 + 64  # nothing is clipped between the passes
    assert np.abs(explain.enlarge(lr, 4) - utils.imresize(lr, 4)).max() < 1.2  # of two roundings


@pytest.mark.slow
def test_table_of_set5(shared, capsys):
    """Y left unrounded reads 28.429 / 0.8111, SSIM-paper 0.8201, and kernels that alias lose some tenths."""
    explain.explain("set5", shared)
    rows = {}
    for line in capsys.readouterr().out.splitlines()[2:]:
        rows[line[:46].strip()] = [float(number) for number in line[46:].split()]
    assert rows["the protocol"] == pytest.approx([28.416, 0.8101], abs=0.002)
    psnr, change, ssim, _ = rows["channels: Y unrounded"]
    assert psnr == pytest.approx(28.429, abs=0.001) and ssim == pytest.approx(0.8111, abs=0.0001)
    assert change == pytest.approx(0.013, abs=0.001)
    assert rows["SSIM: paper"][2] == pytest.approx(0.8201, abs=0.0001)
    assert rows["channels: RGB"][0] == pytest.approx(26.692, abs=0.001)
    assert rows["LR: OpenCV INTER_CUBIC"][1] < -0.5 and rows["LR: tf.image.resize bicubic"][1] < -0.3
    assert abs(rows["LR: Pillow BICUBIC"][1]) < 0.005
    assert len(rows) == len(list(explain.singles()))


def test_all_combinations_are_written(call, clone, rng):
    utils.write_image(clone / "x.png", photo(rng, 30, 26))
    result = call("-m", "scoring.explain", "x.png", "--scale=2", "--csv", "all.csv", "--json", "all.json")
    assert result.returncode == 0, result.stderr
    assert "bicubic ×2 on x.png (1 image)" in result.stdout
    with open(clone / "all.csv") as file:
        lines = list(csv.DictReader(file))
    rows = json.loads((clone / "all.json").read_text())
    assert len(lines) == len(rows) == np.prod([len(options) for options in explain.CHOICES.values()])
    assert [float(line["psnr"]) for line in lines] == [row["psnr"] for row in rows]
    protocol = next(row for row in rows if tuple(row[name] for name in explain.CHOICES) == explain.PROTOCOL)
    assert f"{protocol['psnr']:.3f}" in result.stdout.split("the protocol")[1].split("\n")[0]


def test_the_flag_of_evaluate_shows_the_same(call, clone, rng):
    utils.write_image(clone / "y.png", photo(rng, 40, 36))
    results = [call("-m", "scoring.explain", "y.png"), call("evaluate.py", "--explain", "y.png")]
    assert results[0].returncode == 0, results[0].stderr
    assert results[0].stdout == results[1].stdout and "bicubic ×4 on y.png (1 image)" in results[0].stdout


def test_samples_are_what_is_explained_unless_another_is_named(call, monkeypatch):
    """Their scores, which take some seconds, are stood in for."""
    monkeypatch.setattr(explain, "score", lambda hr, scale, combinations: np.ones((len(combinations), 2)))
    result = call("-m", "scoring.explain")
    assert result.returncode == 0 and "bicubic ×4 on samples (3 images)" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["Set6"], "holds no images"), (["scoring/explain.py"], "none of the 1 images"), (["--scale=5"], "--scale")],
)
def test_mistakes_are_one_sentence_and_status_2(call, arguments, words):
    assert_refused(call("-m", "scoring.explain", *arguments), words)
