"""What is printed and written: means, p-values against an enumeration, the paper's figures, JSON and CSV."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from scoring import metrics, tables


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
    assert lines[""] == ["PSNR-Y", "SSIM-paper", "NIQE-own", "MOS"]
    assert lines["mine"] == ["26.00", "0.5000", "5.00", "-"] and lines["bicubic"] == ["25.00", "0.5000", "-", "-"]
    assert lines["paper: SRGAN"] == ["29.40", "0.8472", "-", "3.58"]
    assert sum(name.startswith("paper:") for name in lines) == 11 and "paper:" not in own
    tables.print_tables(results, 2)
    assert "paper: " not in capsys.readouterr().out


def test_significance_says_what_few_images_can_give(results, capsys):
    tables.print_tables({"Set5": results["Set5"]}, 4, significance=True)
    printed = capsys.readouterr().out.split("\nSet5: p of")[1]
    assert "over 2 images" in printed and "the least p that 2 images can give is 0.5" in printed
    assert printed.splitlines()[-1].split() == ["mine", "0.5"]


def test_best_is_as_it_reads():
    """Ours only, equal ones share it, the lower where lower is better, none where nothing can be compared."""

    def best(values, name):
        return [cell.best for cell in tables.make_cells(values, metrics.COLUMNS[name])]

    assert best([26.251, 26.254, 26.2], "psnr_y") == [True, True, False]
    assert best([5.0, math.nan, 4.0], "niqe_own") == [False, False, True]
    assert best([math.inf, 30.0], "psnr_y") == [True, False]
    assert best([30.0], "psnr_y") == [False] and best([math.nan, 3.0], "niqe_own") == [False, False]
    assert best([math.nan, math.nan], "niqe_own") == [False, False]


def test_markdown_has_the_printed_figures(results, tmp_path, capsys):
    results = {"Set5": results["Set5"]}
    tables.write_markdown(tmp_path / "table.md", results, 4, significance=True)
    lines = (tmp_path / "table.md").read_text().splitlines()
    tables.print_tables(results, 4, significance=True)
    printed = capsys.readouterr().out.splitlines()
    assert lines[0] in printed and "**NOT COMPARABLE with published figures: because**" in lines
    rows = [line.replace("|", " ").replace("*", "").split() for line in lines if line.startswith("| ")]
    assert len(rows) == 1 + 2 + 11 + 1 + 1 and all(row in [line.split() for line in printed] for row in rows)
    assert "| mine | **26.00** | **0.5000** | 5.00 | - |" in lines
    assert "| *paper: SRGAN* | *29.40* | *0.8472* | *-* | *3.58* |" in lines


def test_names_stay_names_in_markdown():
    assert tables.markdown("srresnet_x4") == "srresnet_x4"
    assert tables.markdown("a|b *c* <d> _e_\n`f`") == r"a\|b \*c\* \<d\> \_e\_ \`f\`"


def test_the_papers_figures_hang_together():
    """As Table 2 has them: SRResNet's PSNR is the best everywhere, SRGAN's opinion but for Table 1's variants."""
    for name, rows in tables.PAPER.items():
        assert all(10 < psnr < 40 and 0 < ssim < 1 and 1 <= opinion <= 5 for psnr, ssim, opinion in rows.values())
        assert max(rows, key=lambda method: rows[method][0]) == "SRResNet"
        table2 = list(rows)[:8]
        assert max(table2, key=lambda method: rows[method][2]) == "SRGAN"
        assert len(rows) == (8 if name == "BSD100" else 11)
