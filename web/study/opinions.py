"""The results of a rating study: mean opinion scores with intervals, tests, the raters' consistency and agreement.

STUDY/report/ gets mos.md, mos.csv and distribution.png, the paper's Figure 5.
"""

import itertools
import math

import numpy as np
from tqdm import tqdm

import utils
from scoring import tables
from scoring.tables import Cell, Line, Table
from utils import LazyModule, UserError
from web.study.plans import ORIGINAL, SCALE, Rating

figure = LazyModule("matplotlib.figure")
pd = LazyModule("pandas")

PACKAGES = ("pandas",)

DRAWS = 2000  # of the bootstrap
LEGEND = {
    "MOS": "mean of the ratings, 1 (bad) to 5 (excellent); second showings and examples do not count",
    "95 %": "its interval: bootstrap over raters and images together, where there are two of each",
    "p": "paired two-sided Wilcoxon signed-rank test; first over all ratings, each paired with the same rater's of the "
    "other method on the same image (as they hang together, too small), then over the images' means",
    "Holm": "each p of a set made larger for their number, so that one below 0.05 comes by chance in one set of 20",
    "alpha": "Krippendorff's, ordinal: 1 is full agreement between raters, 0 what chance gives",
    "equal, apart": "of pictures rated twice: the share of equal ratings, and the mean difference",
    "with others": "correlation of a rater's ratings with the mean of the other raters' of the same pictures",
}


# ---------------------------------------------------------------------------------------------------------------------
# Ratings: a table with a line for each plans.Rating, and grids, which are floats [raters, pictures], NaN where there is
# no rating.


def table_of(ratings):
    """The pandas.DataFrame of a list of plans.Rating: a column for each of its fields."""
    return pd.DataFrame(ratings, columns=Rating._fields)


def grid_of(ratings, pictures):
    """The grid of a table of ratings, its raters in order; pictures: [(set, image, method)], its columns."""
    grid = ratings.pivot(index="rater", columns=["set", "image", "method"], values="rating")
    return grid.reindex(columns=pd.MultiIndex.from_tuples(pictures)).to_numpy(float)


def by_set(study, ratings):
    """{set: {method: grid}}, the images of a set in one order."""
    grids = {}
    for name, members in pd.DataFrame(study.pictures).groupby("set", sort=False):
        images, methods = members["image"].unique(), members["method"].unique()
        grids[name] = {method: grid_of(ratings, [(name, image, method) for image in images]) for method in methods}
    return grids


# ---------------------------------------------------------------------------------------------------------------------
# Statistics


def mean_of(values):
    """The mean of those values that are numbers; NaN if none is."""
    values = np.asarray(values, dtype=float)
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else math.nan


def interval(grid):
    """(low, high): the 95 % bootstrap interval of a grid's mean; NaN with fewer than two raters or pictures.

    Raters and pictures are drawn with replacement, both at once, as either might have been others (Owen, The pigeonhole
    bootstrap, 2007); that errs to the wide side. The draws are the same each time. scipy.stats.bootstrap, drawing the
    numbers of raters and pictures, agrees but for other draws, and takes seven times as long.
    """
    rated = ~np.isnan(grid)
    grid = grid[rated.any(axis=1)][:, rated.any(axis=0)]
    if min(grid.shape) < 2:
        return math.nan, math.nan
    draw = np.random.default_rng(0)
    raters, pictures = (times_drawn(count, draw) for count in grid.shape)
    # A rating counts as often as its rater was drawn, times as often as its picture was.
    sums = (raters @ np.nan_to_num(grid) * pictures).sum(axis=1)
    counts = (raters @ ~np.isnan(grid) * pictures).sum(axis=1)
    drawn = counts > 0  # not so where all ratings that were drawn are missing
    low, high = np.percentile(sums[drawn] / counts[drawn], (2.5, 97.5))
    return float(low), float(high)


def times_drawn(count, draw):
    """Floats [DRAWS, count]: how often each of `count` things comes up if as many are drawn with replacement."""
    return draw.multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)


def alpha(grid):
    """Krippendorff's alpha for ordinal ratings 1 to 5, some of which may be missing; NaN where it is not defined.

    Krippendorff, Computing Krippendorff's alpha-reliability, 2011.
    """
    counts = np.stack([(grid == value).sum(axis=0) for value in SCALE], axis=1).astype(float)  # [pictures, 5]
    counts = counts[counts.sum(axis=1) >= 2]
    pairs = counts / (counts.sum(axis=1, keepdims=True) - 1)
    coincidences = pairs.T @ counts - np.diag(pairs.sum(axis=0))
    each = coincidences.sum(axis=1)
    middle = np.cumsum(each) - each / 2
    distance = (middle[:, None] - middle) ** 2
    expected = (np.outer(each, each) * distance).sum()
    return float(1 - (each.sum() - 1) * (coincidences * distance).sum() / expected) if expected else math.nan


def consistency(ratings):
    """(pairs, share of equal ratings, mean absolute difference) of the pictures that were rated twice by one rater."""
    both = ratings.pivot(index=["rater", "set", "image", "method"], columns="kind", values="rating")
    both = both.reindex(columns=["first", "repeat"]).dropna()
    apart = (both["repeat"] - both["first"]).abs()
    return len(apart), float((apart == 0).mean()), float(apart.mean())


def with_others(grid, i):
    """Correlation of rater i with the mean of the others on the pictures they share; NaN where it is not defined."""
    others = np.delete(grid, i, axis=0)
    shared = ~np.isnan(grid[i]) & (~np.isnan(others)).any(axis=0)
    ours, theirs = grid[i, shared], np.array([mean_of(column) for column in others[:, shared].T])
    if len(ours) < 2 or not (np.ptp(ours) and np.ptp(theirs)):
        return math.nan
    return float(np.corrcoef(ours, theirs)[0, 1])


def p_values(ours, theirs):
    """(p over ratings, p over the images' means) of two grids of the same raters and images."""
    apart = ours - theirs
    means = [mean_of(column) for column in apart.T]
    return tuple(tables.wilcoxon_p([d for d in part if not math.isnan(d)]) for part in (apart.ravel(), means))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def number(value, digits=2):
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def mos_table(set_name, grids):
    """The mean opinion of each method on a set, and the paper's below; the best method is marked."""
    means = {method: mean_of(grid) for method, grid in grids.items()}
    methods = [method for method in grids if method != ORIGINAL]
    cells = dict(zip(methods, tables.make_cells([means[m] for m in methods], tables.OPINION), strict=True))
    lines = []
    for method, grid in grids.items():
        limits = interval(grid)
        about = "-" if math.isnan(limits[0]) else f"{limits[0]:.2f} to {limits[1]:.2f}"
        cell = cells.get(method, Cell(number(means[method])))
        lines.append(Line(method, [cell, Cell(about), Cell(str(np.count_nonzero(~np.isnan(grid))))]))
    paper = {name: figures[-1] for name, figures in tables.PAPER.get(set_name, {}).items()}
    paper |= {"HR": tables.PAPER_ORIGINALS[set_name]} if set_name in tables.PAPER_ORIGINALS else {}
    for name, opinion in paper.items():
        lines.append(Line(f"paper: {name}", [Cell(f"{opinion:.2f}"), Cell("-"), Cell("-")], paper=True))
    images = next(iter(grids.values())).shape[1]
    columns = {"MOS": LEGEND["MOS"], "95 %": LEGEND["95 %"], "ratings": "their number"}
    return Table(f"{set_name} ({images} image{'s' * (images != 1)})", columns, lines)


def p_tables(set_name, grids):
    """Two tables of p_values between the methods of a set: as they are, and by Holm's method."""
    methods = list(grids)
    pairs = {
        (ours, theirs): p_values(grids[ours], grids[theirs]) for ours, theirs in itertools.combinations(methods, 2)
    }
    adjusted = dict(zip(pairs, zip(*map(holm, zip(*pairs.values(), strict=True)), strict=True), strict=True))

    def table(title, values):
        def text_of(ours, theirs):
            # Below that a computer's figures end in a 0, which no p is.
            found = values[min(ours, theirs, key=methods.index), max(ours, theirs, key=methods.index)]
            return " / ".join(f"{p:.2g}" if p >= 1e-99 else "<1e-99" for p in found)

        return tables.pair_table(f"{set_name}: {title} over ratings / over images", methods, text_of)

    return [table("p", pairs), table("Holm's p", adjusted)]


def holm(values):
    """Holm's adjusted p-values of p-values that are looked at together (A simple sequentially rejective test, 1979)."""
    values = np.asarray(values)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted.tolist()


def rater_table(study, ratings):
    """A row a rater, which shows who did not look, or did not understand, and one for all; ratings: a table."""
    grid = grid_of(ratings[ratings["kind"] == "first"], [picture.key for picture in study.pictures])
    columns = {"ratings": "their number", "mean": "", "SD": "", "seconds": "median time for a picture"}
    columns |= {"twice": "pictures rated twice", "equal": "", "apart": "", "with others": LEGEND["with others"]}
    rows = []
    for i, (rater, own) in enumerate(ratings.groupby("rater")):
        seconds = own["milliseconds"].median() / 1000
        rows.append(rater_row(f"rater {rater}", own, number(seconds, 1), number(with_others(grid, i))))
    rows.append(rater_row("all", ratings, "-", "-"))
    return Table(f"Raters (alpha {number(alpha(grid))})", columns, rows)


def rater_row(name, ratings, seconds, others):
    """A Line of rater_table; seconds, others: its two cells that not every row has."""
    firsts = ratings.loc[ratings["kind"] == "first", "rating"]
    twice, equal, apart = consistency(ratings)
    cells = [str(len(ratings)), number(firsts.mean()), number(firsts.std(ddof=0)), seconds]
    return Line(name, [Cell(text) for text in (*cells, str(twice), number(equal), number(apart), others)])


# ---------------------------------------------------------------------------------------------------------------------
# The report


def write(study, without=()):
    """Write STUDY/report/ and print its tables. without: numbers of raters to leave out. Raises UserError."""
    known = {rater for rater, *_ in study.raters()}
    if unknown := sorted(set(without) - known):
        raise UserError(f"{study.folder} has no rater {unknown[0]}")
    ratings = table_of(study.ratings())
    ratings = ratings[~ratings["rater"].isin(without)]
    if ratings.empty:
        raise UserError(f"nobody has rated a picture of {study.folder} yet")
    grids = by_set(study, ratings[ratings["kind"] == "first"])
    parts = [mos_table(name, methods) for name, methods in grids.items()]
    several = [name for name, methods in grids.items() if len(methods) > 1]
    # SciPy takes up to two seconds for a pair that it goes through all permutations of.
    progress = tqdm(several, unit="set", desc="p-values", disable=None)
    parts += [table for name in progress for table in p_tables(name, grids[name])]
    parts.append(rater_table(study, ratings))
    raters = ratings["rater"].nunique()
    left_out = f"; left out: {', '.join(map(str, sorted(set(without))))}" if without else ""
    head = f"{len(ratings)} ratings of {raters} rater{'s' * (raters != 1)}{left_out}; the paper's rows are of 26 raters"

    lines = [head, "", *(f"- {title}: {about}" for title, about in LEGEND.items())]
    lines += [line for table in parts for line in tables.markdown_lines(table)]
    lines += ["", "![share of each rating, by method; the red mark is the mean](distribution.png)", ""]
    picture, folder = draw(grids), study.folder / "report"
    files = {
        "mos.md": lambda path: path.write_text("\n".join(lines), encoding="utf-8"),
        "mos.csv": lambda path: write_csv(path, ratings),
        "distribution.png": lambda path: picture.savefig(path, dpi=150),
    }
    folder.mkdir(exist_ok=True)
    for name, write_file in files.items():  # one by one: what a person keeps beside them stays
        utils.write_atomically(folder / name, write_file)
    print(head)
    for title, about in LEGEND.items():
        print(f"  {title:12}  {about}")
    for table in parts:
        tables.print_table(table)
    print(f"\nthe report: {study.folder / 'report'}: mos.md, mos.csv, distribution.png")


def write_csv(path, ratings):
    """Write a line for each rating that counts, those of second showings marked."""
    lines = ratings.assign(repeat=(ratings["kind"] == "repeat").astype(int))
    columns = ["rater", "set", "image", "method", "rating", "repeat", "milliseconds", "time"]
    lines.to_csv(path, columns=columns, index=False, lineterminator="\n", encoding="utf-8")


def draw(grids):
    """The paper's Figure 5 for each set: a column a method, the darker the more ratings; a red mark at the mean."""
    widths = [len(methods) for methods in grids.values()]
    picture = figure.Figure(figsize=(1.5 + 0.9 * sum(widths), 4.2), layout="constrained")
    panels = picture.subplots(1, len(grids), squeeze=False, sharey=True, width_ratios=widths)[0]
    for panel, (set_name, methods) in zip(panels, grids.items(), strict=True):
        counts = np.array([[np.count_nonzero(grid == value) for grid in methods.values()] for value in SCALE])
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        shown = panel.imshow(
            shares,
            cmap="Blues",
            vmin=0,
            vmax=1,
            origin="lower",
            aspect="auto",
            extent=(-0.5, len(methods) - 0.5, 0.5, 5.5),
        )
        panel.plot([mean_of(grid) for grid in methods.values()], "_", color="red", markersize=22, markeredgewidth=2.5)
        panel.set_title(short(set_name), parse_math=False)
        panel.set_xticks(range(len(methods)), list(map(short, methods)), rotation=40, ha="right", parse_math=False)
        panel.set_yticks(SCALE)
    panels[0].set_ylabel("rating")
    picture.colorbar(shown, ax=panels, label="share of the ratings")
    return picture


def short(name):
    return name if len(name) <= 20 else name[:19] + "…"
