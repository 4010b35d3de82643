"""What is printed and written: means, p-values against an enumeration, the paper's figures, JSON and CSV."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import rankdata

import tables


def enumerated_p(differences):
    """Two-sided p of the signed-rank test: the share of all signs that give a rank sum as far from its mean."""
    ranks = rankdata(np.abs(differences))
    centre = ranks.sum() / 2
    observed = abs(ranks[np.array(differences) > 0].sum() - centre)
    sums = (ranks[list(signs)].sum() for signs in itertools.product((False, True), repeat=len(ranks)))
    return np.mean([abs(total - centre) >= observed - 1e-9 for total in sums])


def rows_of(values):
    return {f"image{i}": {"psnr_y": float(value)} for i, value in enumerate(values)}


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("count", [5, 9])
def test_p_against_an_enumeration_of_all_signs(rng, shift, count):
    ours = rng.normal(28, 3, count)
    theirs = ours + shift + rng.normal(0, 0.5, count)
    p = tables.p_value(rows_of(ours), rows_of(theirs))
    assert p == pytest.approx(enumerated_p(ours - theirs), abs=1e-12)
    assert p == tables.p_value(rows_of(theirs), rows_of(ours))


def test_p_of_equal_methods_is_one():
    assert tables.p_value(rows_of([20, 30]), rows_of([20, 30])) == 1
    assert tables.p_value(rows_of([math.inf, math.inf]), rows_of([math.inf, math.inf])) == 1


@pytest.fixture
def results():
    def images(shift, niqe):
        return {
            name: {"psnr_y": value + shift, "ssim_paper": 0.5, "niqe_own": niqe}
            for name, value in (("a", 20.0), ("b", 30.0))
        }

    scores = {"Set5": {"bicubic": images(0, math.nan), "mine": images(1, 5.0)}, "x": {"mine": images(2, 5.0)}}
    return tables.summarise(scores, {"Set5": "because", "x": None})


def test_means_doubts_and_p(results):
    row = results["Set5"]["mine"]
    assert row["psnr_y"] == 26 and row["p_psnr_y"] == {"bicubic": 0.5} and row["not_comparable"] == "because"
    assert math.isnan(results["Set5"]["bicubic"]["niqe_own"])
    assert "not_comparable" not in results["x"]["mine"] and results["x"]["mine"]["p_psnr_y"] == {}


def test_json_and_csv(results, tmp_path):
    tables.write_json(tmp_path / "r.json", results)
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert content["Set5"]["bicubic"]["niqe_own"] is None
    assert content["x"]["mine"]["images"]["b"] == {"psnr_y": 32, "ssim_paper": 0.5, "niqe_own": 5}
    tables.write_csv(tmp_path / "r.csv", results)
    with open(tmp_path / "r.csv") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["set", "method", "image", "psnr_y", "ssim_paper", "niqe_own", "not_comparable"]
    assert ["x", "mine", "mean", "27.0", "0.5", "5.0", ""] in lines and len(lines) == 1 + 3 * 3


def test_tables_show_the_papers_figures(results, capsys):
    tables.print_tables(results, 4)
    set5, own = capsys.readouterr().out.split("\nSet5 (2 images)")[1].split("\nx (2 images)")
    assert "NOT COMPARABLE with published figures: because" in set5 and "NOT COMPARABLE" not in own
    lines = {line[:21].strip(): line[21:].split() for line in set5.splitlines()}
    assert lines["mine"] == ["26.00", "0.5000", "5.00"] and lines["bicubic"] == ["25.00", "0.5000", "-"]
    assert lines["paper: SRGAN"] == ["29.40", "0.8472", "-", "MOS", "3.58"]
    assert sum(name.startswith("paper:") for name in lines) == 11 and "paper:" not in own
    tables.print_tables(results, 2)
    assert "paper: " not in capsys.readouterr().out


def test_significance_says_what_few_images_can_give(results, capsys):
    tables.print_significance({"Set5": results["Set5"]})
    printed = capsys.readouterr().out
    assert "over 2 images" in printed and "the least p that 2 images can give is 0.5" in printed


def test_the_papers_figures_hang_together():
    """As Table 2 has them: SRResNet's PSNR is the best everywhere, SRGAN's opinion but for Table 1's variants."""
    for name, rows in tables.PAPER.items():
        assert all(10 < psnr < 40 and 0 < ssim < 1 and 1 <= opinion <= 5 for psnr, ssim, opinion in rows.values())
        assert max(rows, key=lambda method: rows[method][0]) == "SRResNet"
        table2 = list(rows)[:8]
        assert max(table2, key=lambda method: rows[method][2]) == "SRGAN"
        assert len(rows) == (8 if name == "BSD100" else 11)
