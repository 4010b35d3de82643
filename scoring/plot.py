"""The perception-distortion plot of the report: Matplotlib's SVG, made part of the page.

The page's style gives it colours and fonts, so that it suits a dark page too: SVG elements get the classes `line`,
`name`, `better` and `point`, and lose Matplotlib's own style, which the page's content security policy forbids.
"""

import io
import warnings
from xml.etree import ElementTree

from scoring.pages import printable
from utils import LazyModule

figure = LazyModule("matplotlib.figure")
matplotlib = LazyModule("matplotlib")
ticker = LazyModule("matplotlib.ticker")

WIDTH, HEIGHT = 460, 330  # SVG units, of which Matplotlib has 72 in an inch
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 46  # margins around the axes
LINE = 13  # from one label's baseline to the next
LETTER = 7  # width of a letter, about
LONGEST_NAME = 24  # letters
SVG = "http://www.w3.org/2000/svg"
CLASSES = ("line", "name", "better", "point")


def draw(points, x_column, y_column):
    """The plot as text of an SVG element, the same each time; an arrow shows where better is.

    points: {name: (x, y)}; x_column, y_column: the metrics.Column of both measures.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "srgan", "font.size": 12}):
        picture = figure.Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, frameon=False)
        axes = picture.add_axes(
            (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT), frameon=False
        )
        draw_axes(axes, points, x_column, y_column)
        tips = draw_points(axes, points, x_column, y_column)
        with warnings.catch_warnings(), io.StringIO() as file:
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts for it
            picture.savefig(file, format="svg", metadata={"Date": None})
            return for_page(file.getvalue(), f"{y_column.title} against {x_column.title}", tips)


def draw_axes(axes, points, x_column, y_column):
    """Ticks with lines across, titles, and the arrow."""
    ticks = []
    for values in zip(*points.values(), strict=True):
        room = max(0.12 * (max(values) - min(values)), 0.1)
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
    upwards = y_column.better > 0
    axes.annotate(
        "better ↗" if upwards else "better ↘",
        (1, upwards),
        (-6, -16 if upwards else 8),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="baseline",
        gid="better",
    )


def draw_points(axes, points, x_column, y_column):
    """The points with their names beside them; [what the mouse is told of each, in the order of the drawing]."""
    tips, labels = [], []
    for name, (x, y) in sorted(points.items(), key=lambda point: -point[1][1]):
        axes.plot([x], [y], "ko", markersize=10, gid="point", clip_on=False)
        figures = f"{x_column.title} {x:.{x_column.digits}f}, {y_column.title} {y:.{y_column.digits}f}"
        tips.append(printable(f"{name}: {figures}"))
        name = printable(name)
        label = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        labels.append((label, *axes.transData.transform((x, y))))
    for label, x, baseline, side in place_labels(labels):
        axes.annotate(
            label, (x, baseline), xycoords="figure pixels", ha=side, va="baseline", gid="name", parse_math=False
        )
    return tips


def place_labels(labels):
    """[(text, x, baseline, side)]: a free place for each label, beside its point or else on the nearest free line.

    side: "left" if the label starts at x, "right" if it ends there.
    labels: [(text, x, y of its point)], in SVG units from the lower left corner of the picture.
    """
    taken, placed = [], []
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
            if kind == "point":
                ElementTree.SubElement(element, f"{{{SVG}}}title").text = next(tips)
    return ElementTree.tostring(root, encoding="unicode")
