"""What is printed and written: means, p-values against an enumeration, the paper's figures, JSON and CSV."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from scoring import metrics, tables
from utils import UserError


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
    assert row.means["psnr_y"] == 26 and row.p_psnr_y == {"bicubic": 0.5} and row.doubt == "because"
    assert math.isnan(results["Set5"]["bicubic"].means["niqe_own"])
    assert list(results["Set5"]["bicubic"].finite_means()) == ["psnr_y", "ssim_paper"]
    assert results["x"]["mine"].doubt is None and results["x"]["mine"].p_psnr_y == {}


def test_json_and_csv(results, tmp_path):
    tables.write_json(tmp_path / "r.json", results)
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert list(content["Set5"]["mine"]) == [*tables.measures_of(results), "p_psnr_y", "not_comparable", "images"]
    assert content["Set5"]["bicubic"]["niqe_own"] is None and content["Set5"]["mine"]["psnr_y"] == 26
    assert content["Set5"]["mine"]["not_comparable"] == "because" and "not_comparable" not in content["x"]["mine"]
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


def test_second_best_is_the_next_figure_that_differs():
    def second(values, name="psnr_y"):
        return [cell.second for cell in tables.make_cells(values, metrics.COLUMNS[name])]

    assert second([26.25, 26.25, 26.1, 26.0]) == [False, False, True, False]
    assert second([26.25, 26.1]) == [False, False]  # of two, the other one says nothing
    assert second([7.0, 5.0, math.nan, 6.0], "niqe_own") == [False, False, False, True]


def three_rows():
    """Three rows of which the first has the second best PSNR-Y."""
    scores = {
        name: {f"i{i}": {"psnr_y": psnr, "niqe_own": niqe} for i in range(2)}
        for name, psnr, niqe in (("a_b", 29.0, 5.0), ("100%", 30.0, 6.0), ("c", 28.0, 4.0))
    }
    return tables.summarise({"Set5": scores}, {"Set5": None}, {"Set5": {"c": ["4 × too dark & shifted"]}})


def test_latex_marks_best_and_second_best_and_names_stay_names(tmp_path):
    tables.write_latex(tmp_path / "t.tex", three_rows(), 4)
    lines = (tmp_path / "t.tex").read_text().splitlines()
    assert r"a\_b & \underline{29.00} & \underline{5.00} & - \\" in lines
    assert r"100\% & \textbf{30.00} & 6.00 & - \\" in lines
    assert r"paper: SRGAN & \textit{29.40} & \textit{-} & \textit{3.58} \\" in lines
    assert any(r"c: 4 $\times$ too dark \& shifted" in line for line in lines)
    assert lines.count(r"\begin{table}") == lines.count(r"\end{table}") == 1
    assert lines[lines.index(r"\begin{tabular}{lrrr}") + 2].count("&") == 3
    body = "\n".join(line for line in lines if not line.startswith("%"))
    assert body.count("{") == body.count("}")


def test_results_are_read_as_they_were_written(tmp_path):
    results = three_rows()
    tables.write_json(tmp_path / "r.json", results)
    assert tables.read_json(tmp_path / "r.json") == results
    (tmp_path / "r.json").write_text('{"Set5": {"a": 3}}')
    with pytest.raises(UserError, match="not what evaluate.py wrote"):
        tables.read_json(tmp_path / "r.json")


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


# The paper's Tables 1 (Set5, Set14) and 2 (PSNR, SSIM and MOS of Set5, Set14, BSD100), row by row as they are printed;
# tables.PAPER has them method by method.
TABLE_1 = """
SRResNet-MSE   SRResNet-VGG22 SRGAN-MSE      SRGAN-VGG22    SRGAN-VGG54
32.05/.9019/3.37 30.51/.8803/3.46 30.64/.8701/3.77 29.84/.8468/3.78 29.40/.8472/3.58
28.49/.8184/2.98 27.19/.7807/3.15 26.92/.7611/3.43 26.44/.7518/3.57 26.02/.7397/3.72
"""
TABLE_2 = """
NN    bicubic SRCNN SelfExSR DRCN  ESPCN SRResNet SRGAN HR
26.26 28.43   30.07 30.33    31.52 30.76 32.05    29.40 inf
.7552 .8211   .8627 .872     .8938 .8784 .9019    .8472 1
1.28  1.97    2.57  2.65     3.26  2.89  3.37     3.58  4.32
24.64 25.99   27.18 27.45    28.02 27.66 28.49    26.02 inf
.7100 .7486   .7861 .7972    .8074 .8004 .8184    .7397 1
1.20  1.80    2.26  2.34     2.84  2.52  2.98     3.72  4.32
25.02 25.94   26.68 26.83    27.21 27.02 27.58    25.16 inf
.6606 .6935   .7291 .7387    .7493 .7442 .7620    .6688 1
1.11  1.47    1.87  1.89     2.12  2.01  2.29     3.56  4.46
"""


def test_the_papers_figures_are_the_papers():
    names, *lines = [line.split() for line in TABLE_2.strip().splitlines()]
    expected, originals = {}, {}
    for i, set_name in enumerate(("Set5", "Set14", "BSD100")):
        columns = zip(*(map(float, line) for line in lines[3 * i : 3 * i + 3]), strict=True)
        expected[set_name] = dict(zip(names, columns, strict=True))
        originals[set_name] = expected[set_name].pop("HR")[2]
    names, *lines = [line.split() for line in TABLE_1.strip().splitlines()]
    of_table_2 = {"SRResNet-MSE": "SRResNet", "SRGAN-VGG54": "SRGAN"}
    for set_name, cells in zip(("Set5", "Set14"), lines, strict=True):
        for name, cell in zip(names, cells, strict=True):
            figures = tuple(map(float, cell.split("/")))
            assert expected[set_name].setdefault(of_table_2.get(name, name), figures) == figures
    assert tables.PAPER == expected and tables.PAPER_ORIGINALS == originals
