"""Perception against distortion: any two measures of an evaluation as a plot, in its page and as a file.

`python -m scoring.plot results.json --axes psnr_y,niqe_own` draws what evaluate.py wrote; rows of mixed weights are
joined by a curve, and the paper's methods stand beside ours where it has both measures.

In the page, the page's style gives the plot colours and fonts, so that it suits a dark page too: SVG elements get the
classes in CLASSES, and lose Matplotlib's own style, which the page's content security policy forbids.
"""

import argparse
import csv
import io
import math
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import utils
from cli import terminal
from scoring import metrics, tables
from scoring.pages import printable
from utils import LazyModule, UserError

figure = LazyModule("matplotlib.figure")
matplotlib = LazyModule("matplotlib")
ticker = LazyModule("matplotlib.ticker")

WIDTH, HEIGHT = 460, 330  # SVG units, of which Matplotlib has 72 in an inch
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 14, 46  # margins around the axes
LINE = 13  # from one label's baseline to the next
LETTER = 7  # width of a letter, about
LONGEST_NAME = 24  # letters
SVG = "http://www.w3.org/2000/svg"
POINTS = ("point", "paper")  # ours, and the paper's
CLASSES = ("line", "name", "better", "curve", "lead", "theirs", *POINTS)
COLUMNS = metrics.COLUMNS | {"mos": tables.OPINION}
AXES = (
    ("psnr_y", "niqe_own"),
    ("psnr_y", "consistency"),
)  # what is drawn where nothing is said: the first that is there
STYLE = """text { font: 12px system-ui, sans-serif; fill: #62656b; } .name text { fill: #1c1d1f; }
.better, .theirs text { font-style: italic; } .line { stroke: #dcdcd6; } .point { fill: #0a5c8c; }
.paper { fill: #fff; stroke: #62656b; stroke-width: 1.5; } .curve { fill: none; stroke: #0a5c8c; stroke-width: 1.5; }
.lead { fill: none; stroke: #62656b; stroke-width: 0.5; }"""


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn


def check_axes(axes):
    """Raise UserError unless `axes` are two measures, keys of COLUMNS."""
    for name in axes:
        if name not in COLUMNS:
            raise UserError(f"there is no measure called '{name}' for --axes; there are {', '.join(COLUMNS)}")
    if len(axes) != 2:
        raise UserError("--axes takes two measures, as psnr_y,niqe_own")


def points_of(set_name, rows, axes, scale=4):
    """({method: (x, y)}, the paper's {"paper: …": (x, y)}), without methods that lack one of the two measures.

    rows: {method: tables.Row} of a set; axes: two keys of COLUMNS.
    """
    ours = {method: tuple(row.means.get(name, math.nan) for name in axes) for method, row in rows.items()}
    papers = {
        name: tuple(figures.get(one, math.nan) for one in axes) for name, figures in tables.papers(set_name, scale)
    }
    return ({name: at for name, at in points.items() if all(map(math.isfinite, at))} for points in (ours, papers))


def curves_of(points):
    """[[method]] of rows of mixed weights, blend_0, blend_0.25, …, in the order of their shares."""
    blends = {name: float(found[1]) for name in points if (found := re.fullmatch(r"blend_([\d.]+)", name))}
    return [sorted(blends, key=blends.get)] if len(blends) > 1 else []


def of_set(set_name, rows, axes=None, scale=4):
    """The plot of a set's methods, None where there is nothing to plot: {svg, x, y, papers}.

    x, y: the columns; papers: whether there are points of the paper.
    rows: {method: tables.Row}; axes: two keys of COLUMNS, None for the first of AXES that there is.
    """
    for names in [axes] if axes else AXES:
        points, papers = points_of(set_name, rows, names, scale)
        if points:
            x, y = (COLUMNS[name] for name in names)
            return {"svg": draw(points, x, y, papers), "x": x, "y": y, "papers": bool(papers)}
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def draw(points, x_column, y_column, papers=()):
    """The plot as text of an SVG element, the same each time; an arrow shows where better is.

    points, papers: {name: (x, y)}, ours and the paper's; x_column, y_column: the metrics.Column of both measures.
    """
    papers = dict(papers)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "srgan", "font.size": 12}):
        picture = figure.Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, frameon=False)
        axes = picture.add_axes(
            (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT), frameon=False
        )
        draw_axes(axes, points | papers, x_column, y_column)
        for names in curves_of(points):
            axes.plot(*zip(*(points[name] for name in names), strict=True), gid="curve", clip_on=False)
        tips = draw_points(axes, points, papers, x_column, y_column)
        with warnings.catch_warnings(), io.StringIO() as file:
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts for it
            picture.savefig(file, format="svg", metadata={"Date": None})
            return for_page(file.getvalue(), f"{y_column.title} against {x_column.title}", tips)


def draw_axes(axes, points, x_column, y_column):
    """Ticks with lines across, titles, and the arrow."""
    ticks = []
    for values, column in zip(zip(*points.values(), strict=True), (x_column, y_column), strict=True):
        room = max(0.12 * (max(values) - min(values)), 10 * 10**-column.digits)
        ticks.append(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(min(values) - room, max(values) + room))
    x_ticks, y_ticks = ticks
    axes.set(xlim=x_ticks[[0, -1]], ylim=y_ticks[[0, -1]])
    axes.set_xticks(x_ticks, [f"{tick:.4g}" for tick in x_ticks])
    axes.set_yticks(y_ticks, [f"{tick:.4g}" for tick in y_ticks])
    axes.tick_params(bottom=False, left=False)
    for tick in x_ticks:
        axes.axvline(tick, gid="line", clip_on=False)
    for tick in y_ticks:
        axes.axhline(tick, gid="line", clip_on=False)
    axes.set_xlabel(x_column.title, labelpad=9)
    axes.set_ylabel(y_column.title, rotation_mode="anchor", labelpad=9)
    upwards, right = y_column.better > 0, x_column.better > 0
    arrow = "↗↘↖↙"[2 * (not right) + (not upwards)]
    axes.annotate(
        f"better {arrow}" if right else f"{arrow} better",
        (right, upwards),
        (-6 if right else 6, -16 if upwards else 8),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right" if right else "left",
        va="baseline",
        gid="better",
    )


def draw_points(axes, points, papers, x_column, y_column):
    """The points with their names beside them; [what the mouse is told of each, in the order of the drawing]."""
    tips, labels, kinds = [], [], []
    for name, (x, y) in sorted((points | papers).items(), key=lambda point: -point[1][1]):
        axes.plot([x], [y], "ko", markersize=10, gid="paper" if name in papers else "point", clip_on=False)
        figures = f"{x_column.title} {x:.{x_column.digits}f}, {y_column.title} {y:.{y_column.digits}f}"
        kinds.append("theirs" if name in papers else "name")
        tips.append(printable(f"{name}: {figures}"))
        name = printable(name.removeprefix("paper: ") if name in papers else name)
        label = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        labels.append((label, *axes.transData.transform((x, y))))
    for (_, *point), (label, x, baseline, side), kind in zip(labels, place_labels(labels), kinds, strict=True):
        axes.annotate(
            label, (x, baseline), xycoords="figure pixels", ha=side, va="baseline", gid=kind, parse_math=False
        )
        if abs(baseline + 4 - point[1]) > LINE:  # a line leads to a name that stands elsewhere
            straight = {"arrowstyle": "-", "shrinkA": 1, "shrinkB": 6}
            lead = axes.annotate("", point, (x, baseline + 4), "figure pixels", "figure pixels", arrowprops=straight)
            lead.arrow_patch.set_gid("lead")
    return tips


def place_labels(labels):
    """[(text, x, baseline, side)]: a free place for each label, beside its point or else on the nearest free line.

    side: "left" if the label starts at x, "right" if it ends there.
    labels: [(text, x, y of its point)], in SVG units from the lower left corner of the picture.
    """
    taken, placed = [(x - 4, y - 4, 8) for _, x, y in labels], []  # the points, and then the labels
    for text, x, y in labels:
        width = LETTER * len(text)
        fits_behind = x + 14 + width <= WIDTH - RIGHT
        start = x + 9 if fits_behind else x - 9 - width
        near = sorted(range(-15 * LINE, 15 * LINE + 1, LINE), key=abs)
        lines = [y - 4 - away for away in near if BOTTOM < y - 4 - away < HEIGHT - TOP]
        free = [line for line in lines if all(apart((start, line, width), other) for other in taken)]
        baseline = free[0] if free else y - 4
        taken.append((start, baseline, width))
        placed.append((text, x + 9, baseline, "left") if fits_behind else (text, x - 9, baseline, "right"))
    return placed


def apart(one, other):
    """Whether two labels, (start, baseline, width), do not overlap."""
    (start, baseline, width), (other_start, other_baseline, other_width) = one, other
    beside = start + width < other_start or other_start + other_width < start
    return beside or abs(baseline - other_baseline) >= LINE


def for_page(text, title, tips):
    """Matplotlib's SVG as an element of an HTML page: without style, with our classes, a title, a tip on each point."""
    for prefix, namespace in (("", SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        ElementTree.register_namespace(prefix, namespace)
    root = ElementTree.fromstring(text)
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": title}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    tips = iter(tips)
    for element in root.iter():
        style = element.attrib.pop("style", "")
        for anchor in ("middle", "end"):
            if f"text-anchor: {anchor}" in style:
                element.set("text-anchor", anchor)
        if element.tag == f"{{{SVG}}}g":
            kind = element.attrib.pop("id", None)
            if kind in CLASSES:
                element.set("class", kind)
            if kind in POINTS:
                ElementTree.SubElement(element, f"{{{SVG}}}title").text = next(tips)
    return ElementTree.tostring(root, encoding="unicode")


def standalone(svg):
    """The text of an SVG file: what `draw` returns, with a style and a white ground of its own."""
    root = ElementTree.fromstring(svg)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    root.attrib |= {"width": f"{2 * width:g}", "height": f"{2 * height:g}"}
    ground = {"x": f"{left:g}", "y": f"{top:g}", "width": f"{width:g}", "height": f"{height:g}", "fill": "#fff"}
    root.insert(0, ElementTree.Element(f"{{{SVG}}}rect", ground))
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = STYLE
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def write_csv(path, axes, sets):
    """Write the points of all sets: set, method, x and y; sets: {set: {method: (x, y)}}."""

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["set", "method", *axes])
            writer.writerows([name, method, *at] for name, points in sets.items() for method, at in points.items())

    utils.write_atomically(path, write)


def main():
    parser = argparse.ArgumentParser(
        description="Plot any two measures of an evaluation, perception against distortion.",
        epilog="example: python -m scoring.plot samples/evaluate/results.json --axes psnr_y,niqe_own --sets Set5",
    )
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS.json", help="what evaluate.py wrote")
    add(
        "--axes", type=terminal.names, metavar="X,Y", help=f"two of {', '.join(COLUMNS)} (default: {','.join(AXES[0])})"
    )
    add("--sets", type=terminal.names, metavar="A,B", help="which sets (default: all)")
    add("--methods", type=terminal.names, metavar="A,B", help="which rows (default: all)")
    add("--out", type=Path, metavar="DIR", help="where SET.svg go (default: beside RESULTS.json)")
    add("--csv", type=Path, metavar="FILE", help="write the points as a table as well")
    args = parser.parse_args()
    axes = args.axes or AXES[0]
    check_axes(axes)
    results = tables.read_json(args.results)
    for kind, wanted, there in (
        ("set", args.sets, results),
        ("row", args.methods, {name for rows in results.values() for name in rows}),
    ):
        if unknown := [name for name in wanted or () if name not in there]:
            raise UserError(f"{args.results} has no {kind} called '{unknown[0]}'; there are {', '.join(sorted(there))}")
    out, drawn = args.out or args.results.parent, {}
    for set_name in args.sets or results:
        rows = {name: row for name, row in results[set_name].items() if name in (args.methods or results[set_name])}
        points, papers = points_of(set_name, rows, axes)
        if not (points or papers):
            print(f"left out: {set_name}, of which no row has both {axes[0]} and {axes[1]}")
            continue
        path = out / f"{set_name}_{axes[0]}_{axes[1]}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = standalone(draw(points, *(COLUMNS[name] for name in axes), papers))
        utils.write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
        drawn[set_name] = points | papers
        print(f"{set_name}: {path}")
    if args.csv:
        write_csv(args.csv, axes, drawn)


if __name__ == "__main__":
    terminal.run_command(main)
