"""The report of a rating study: statistics against published and hand-computed figures, and planted raters."""

import csv
import json
import math
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import scipy.stats

from scoring import tables
from utils import UserError
from web.study import opinions, stimuli
from web.study.plans import Picture, Rating, Study

pytest.importorskip("pandas")  # of requirements-demo.txt

NAN = math.nan
# Krippendorff, Computing Krippendorff's alpha-reliability (2011), section C: four observers, twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def test_alpha():
    assert opinions.alpha(KRIPPENDORFF) == pytest.approx(0.815, abs=0.0005)
    assert opinions.alpha(KRIPPENDORFF[::-1, ::-1]) == pytest.approx(opinions.alpha(KRIPPENDORFF))
    assert opinions.alpha(np.array([[1.0, 3, 5], [1, 3, 5]])) == 1
    noise = np.random.default_rng(0).integers(1, 6, (3, 4000)).astype(float)
    assert opinions.alpha(noise) == pytest.approx(0, abs=0.03)
    # By hand, two raters, ratings 1 and 2 only: one agrees on 1, one on 2, one pair differs; n = 3 and 3 of 6,
    # all distances are 3², observed 2 of 6, expected 2·9/(6·5).
    assert opinions.alpha(np.array([[1.0, 2, 1], [1, 2, 2]])) == pytest.approx(1 - (2 / 6) / (18 / 30))
    for grid in ([[2.0, 2], [2, 2]], [[1.0, NAN], [NAN, 2]], [[3.0, 4]]):
        assert math.isnan(opinions.alpha(np.array(grid)))


def test_interval_knows_both_kinds_of_chance():
    """Ratings that are a rater's severity plus an image's quality: the variance of their mean is known."""
    draw = np.random.default_rng(1)
    raters, images = draw.normal(0, 0.5, 40), draw.normal(4, 0.8, 60)
    grid = raters[:, None] + images
    expected = math.sqrt(raters.var() / 40 + images.var() / 60)
    low, high = opinions.interval(grid)
    assert low < grid.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * expected, rel=0.05)
    assert opinions.interval(grid) == (low, high)
    # What is missing altogether counts for nothing.
    wider = np.pad(grid, 1, constant_values=NAN)
    np.testing.assert_allclose(opinions.interval(wider), (low, high))
    grid[draw.random(grid.shape) < 0.3] = NAN
    assert opinions.interval(grid)[0] == pytest.approx(low, abs=0.1)
    assert opinions.interval(np.full((3, 4), 2.0)) == (2, 2)
    for few in (np.ones((1, 9)), np.ones((9, 1)), np.full((3, 3), NAN)):
        assert all(map(math.isnan, opinions.interval(few)))


def test_interval_is_scipys_but_for_the_draws():
    draw = np.random.default_rng(5)
    grid = draw.integers(1, 6, (26, 100)).astype(float)
    grid[draw.random(grid.shape) < 0.1] = NAN

    def mean_of_drawn(raters, pictures):
        return np.nanmean(grid[np.ix_(raters, pictures)])

    numbers = (np.arange(26), np.arange(100))
    settings = {"n_resamples": 2000, "method": "percentile", "vectorized": False, "rng": 0}
    expected = scipy.stats.bootstrap(numbers, mean_of_drawn, **settings).confidence_interval
    np.testing.assert_allclose(opinions.interval(grid), expected, atol=0.01)


def test_p_values():
    draw = np.random.default_rng(2)
    ours, theirs = draw.integers(1, 6, (2, 4, 10)).astype(float)
    ours[0, :3] = theirs[1, 5] = NAN
    pairs = [(a, b) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True) if not math.isnan(a + b)]
    assert len(pairs) == 36
    over_images = np.nanmean(ours - theirs, axis=0)
    expected = [scipy.stats.wilcoxon(*zip(*pairs, strict=True)).pvalue, scipy.stats.wilcoxon(over_images).pvalue]
    np.testing.assert_allclose(opinions.p_values(ours, theirs), expected)
    assert opinions.p_values(ours, ours) == (1, 1)
    assert opinions.p_values(ours, np.full_like(ours, NAN)) == (1, 1)
    # Five images and one rater who always likes the second better: 2/2^5.
    assert opinions.p_values(np.ones((1, 5)), np.array([[2.0, 3, 4, 5, 4]])) == (0.0625, 0.0625)


def test_a_p_that_is_too_small_to_be_a_number():
    draw = np.random.default_rng(0)
    worse = draw.integers(1, 3, (30, 100)).astype(float)
    rows = rows_of(opinions.p_tables("s", {"a": worse, "b": worse + draw.integers(1, 3, worse.shape)})[0])
    assert rows["b"][0].startswith("<1e-99 / ")


def rating(kind, value, image="a", rater=1):
    return Rating(rater, "s", image, "m", kind, value, 1000, "now")


def test_consistency_and_correlation():
    pairs = {"a": (3, 3), "b": (2, 4), "c": (5, 4), "d": (1, 1)}
    ratings = [
        rating(kind, value, image)
        for image, both in pairs.items()
        for kind, value in zip(("first", "repeat"), both, strict=True)
    ]
    ratings += [rating("first", 5, "e"), rating("first", 1, "a", rater=2)]
    assert opinions.consistency(opinions.table_of(ratings)) == (4, 0.5, 0.75)
    pairs, *others = opinions.consistency(opinions.table_of(ratings[-1:]))
    assert pairs == 0 and all(map(math.isnan, others))
    grid = np.array([[1.0, 2, 4, 5, NAN], [2, 2, 5, 4, 3], [1, NAN, 3, 5, NAN], [1, 1, 1, 1, 1]])
    expected = np.corrcoef([1, 2, 4, 5], [4 / 3, 1.5, 3, 10 / 3])[0, 1]
    assert opinions.with_others(grid, 0) == pytest.approx(expected)
    assert math.isnan(opinions.with_others(grid, 3)) and math.isnan(opinions.with_others(grid[:1], 0))


def test_holms_method():
    """By hand: 0.01 of four, 0.02 of three, 0.03 of two, 0.04 of one; none is smaller than a smaller one's."""
    np.testing.assert_allclose(opinions.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert opinions.holm([0.6, 0.9]) == [1, 1] and opinions.holm([0.2]) == [0.2]


def test_holms_p_stand_beside_the_others():
    draw = np.random.default_rng(0)
    grids = {name: draw.integers(1, 6, (3, 8)).astype(float) for name in "abc"}
    plain, adjusted = opinions.p_tables("s", grids)
    assert "Holm" in adjusted.title and "Holm" not in plain.title
    pairs = [("b", "a"), ("c", "a"), ("c", "b")]
    expected = opinions.holm([opinions.p_values(grids[x], grids[y])[0] for x, y in pairs])
    shown = [cell.text for line in adjusted.rows for cell in line.cells if cell.text]
    np.testing.assert_allclose([float(text.split(" / ")[0]) for text in shown], expected, rtol=0.06)


# ---------------------------------------------------------------------------------------------------------------------
# A whole report

ODD = "a|b *x* <i> $1"
METHODS = {"nearest": 1, ODD: 3, "original": 5}  # and what each is worth


@pytest.fixture
def opened(tmp_path):
    """A study of two sets and five images each, without pictures to look at, rated by three people.

    Rater 1 always gives what a method is worth; 2 too, but one less where that is possible and at the second
    showing; 3 gives 1 to everything.
    """
    (tmp_path / "study" / "pictures").mkdir(parents=True)
    digest = stimuli.keep(tmp_path / "study", b"")
    pictures = [Picture(s, f"i{i}", m, digest)._asdict() for s in ("Set5", ODD) for i in range(5) for m in METHODS]
    content = {"settings": {"seed": 0}, "repeats": 6, "examples": [], "pictures": pictures}
    (tmp_path / "study" / "study.json").write_text(json.dumps(content))
    opened = Study(tmp_path / "study")
    opened.add_raters(3)
    for rater in (1, 2, 3):
        for position in range(36):
            kind, picture = opened.showing(rater, position)
            value = METHODS[picture.method]
            value = {1: value, 2: max(1, value - (kind == "repeat")), 3: 1}[rater]
            opened.rate(rater, position, value, 1000 * rater, f"{position}")
    yield opened
    opened.close()


def rows_of(table):
    return {row.name: [cell.text for cell in row.cells] for row in table.rows}


def test_a_report_with_planted_raters(opened, capsys):
    opinions.write(opened)
    printed = capsys.readouterr().out
    assert "108 ratings of 3 raters; the paper's rows are of 26 raters" in printed
    firsts = [r for r in opened.ratings() if r.kind == "first"]
    grids = opinions.by_set(opened, opinions.table_of(firsts))
    assert list(grids) == ["Set5", ODD] and list(grids["Set5"]) == list(METHODS)
    mos = opinions.mos_table("Set5", grids["Set5"])
    rows = rows_of(mos)
    assert rows["nearest"] == ["1.00", "1.00 to 1.00", "15"]
    assert rows[ODD][0] == "2.33" and rows["original"][0] == "3.67"  # (3 + 3 + 1)/3, (5 + 5 + 1)/3
    assert rows[ODD][1] == "1.00 to 3.00"  # whom the bootstrap draws of the three: three times rater 3, or never
    assert rows["paper: NN"][0] == "1.28" and rows["paper: HR"][0] == "4.32" and rows["paper: SRGAN"][0] == "3.58"
    assert {row.name: row.cells[0].best for row in mos.rows if not row.paper} == {
        "nearest": False,
        ODD: True,
        "original": False,
    }
    assert not any(name.startswith("paper") for name in rows_of(opinions.mos_table(ODD, grids[ODD])))
    # Ten pairs differ by 2 and rater 3's by nothing; all five images' means differ alike, which gives 2/2^5.
    p = rows_of(opinions.p_tables("Set5", grids["Set5"])[0])
    expected = tables.wilcoxon_p([2] * 10 + [0] * 5)
    assert p[ODD][0] == f"{expected:.2g} / 0.062" and p["original"][2:] == []
    raters = rows_of(opinions.rater_table(opened, opinions.table_of(opened.ratings())))
    assert raters["rater 1"] == ["36", "3.00", "1.63", "1.0", "6", "1.00", "0.00", "1.00"]
    again = [r for r in opened.ratings() if r.rater == 2 and r.kind == "repeat"]
    same = sum(METHODS[r.method] == 1 for r in again) / 6
    assert raters["rater 2"] == ["36", "3.00", "1.63", "2.0", "6", f"{same:.2f}", f"{1 - same:.2f}", "1.00"]
    assert raters["rater 3"] == ["36", "1.00", "0.00", "3.0", "6", "1.00", "0.00", "-"]
    assert raters["all"][0] == "108" and raters["all"][4] == "18"


@pytest.mark.slow
def test_the_files_of_a_report(opened):
    opinions.write(opened)
    folder = opened.folder / "report"
    assert {path.name for path in folder.iterdir()} == {"mos.md", "mos.csv", "distribution.png"}
    text = (folder / "mos.md").read_text(encoding="utf-8")
    assert "| *paper: NN* | *1.28* | *-* | *-* |" in text and "| nearest | 1.00 | 1.00 to 1.00 | 15 |" in text
    assert r"| a\|b \*x\* \<i\> $1 | **2.33** | 1.00 to 3.00 | 15 |" in text
    with open(folder / "mos.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 108 and {line["set"] for line in lines} == {"Set5", ODD}
    theirs = [int(r["rating"]) for r in lines if (r["rater"], r["method"], r["repeat"]) == ("1", ODD, "0")]
    assert theirs == [3] * 10
    assert sum(int(line["repeat"]) for line in lines) == 18
    assert {(line["rater"], line["milliseconds"]) for line in lines} == {(str(i), f"{i}000") for i in (1, 2, 3)}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    opinions.write(opened)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_the_distribution_shows_shares_and_means(opened):
    """The paper's Figure 5, read back from the drawing: the middle of each field is as dark as the ratings are many."""
    ratings = [r for r in opened.ratings() if r.kind == "first"]
    picture = opinions.draw(opinions.by_set(opened, opinions.table_of(ratings)))
    panel = picture.axes[0]
    shares = np.asarray(panel.images[0].get_array())
    np.testing.assert_allclose(shares.T, [[1, 0, 0, 0, 0], [1 / 3, 0, 2 / 3, 0, 0], [1 / 3, 0, 0, 0, 2 / 3]])
    assert panel.images[0].get_extent() == [-0.5, 2.5, 0.5, 5.5] and panel.images[0].origin == "lower"
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [1, 7 / 3, 11 / 3])
    assert [label.get_text() for label in panel.get_xticklabels()] == list(METHODS)
    opinions.write(opened)
    image = iio.imread(opened.folder / "report" / "distribution.png")
    assert np.any(np.all(image[..., :3] == (255, 0, 0), axis=-1))


@pytest.mark.slow
def test_a_report_leaves_what_a_person_keeps_beside_it(opened, monkeypatch):
    """Written again it replaces its own files alone; where it fails, the one before stays."""
    opinions.write(opened)
    folder = opened.folder / "report"
    (folder / "thoughts.txt").write_text("mine")
    opinions.write(opened, without=[3])
    assert "2 raters" in (folder / "mos.md").read_text() and (folder / "thoughts.txt").read_text() == "mine"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(grids):
        raise UserError("no")

    monkeypatch.setattr(opinions, "draw", fail)
    with pytest.raises(UserError):
        opinions.write(opened)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()} and len(before) == 4


@pytest.mark.slow
def test_raters_can_be_left_out(opened, capsys):
    opinions.write(opened, without=[3])
    assert "72 ratings of 2 raters; left out: 3" in capsys.readouterr().out
    assert "| original | 5.00 | 5.00 to 5.00 | 10 |" in (opened.folder / "report" / "mos.md").read_text()
    with pytest.raises(UserError, match="has no rater 9"):
        opinions.write(opened, without=[9])
    with pytest.raises(UserError, match="nobody has rated"):
        opinions.write(opened, without=[1, 2, 3])


def test_half_a_study_can_be_reported(opened, capsys):
    """One rater who stopped early: no interval, no agreement, no repeats, and no failure."""
    with opened.database:
        opened.database.execute("DELETE FROM ratings WHERE rater > 1 OR position > 4")
    opinions.write(opened)
    printed = capsys.readouterr().out
    assert "5 ratings of 1 rater;" in printed and "Raters (alpha -)" in printed
    shutil.rmtree(opened.folder / "report")
    with opened.database:
        opened.database.execute("DELETE FROM ratings")
    with pytest.raises(UserError, match="nobody has rated a picture"):
        opinions.write(opened)
    assert not (opened.folder / "report").exists()
