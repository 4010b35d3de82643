"""The report of evaluate.py: index.html, a page of its tables and pictures that needs nothing but its own folder.

report.html is the page without its content; here it is filled in. The page names pictures by relative paths, and its
content security policy forbids the browser everything else, so that the folder can be moved, zipped or sent as it is.
"""

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path
from string import Template
from urllib.parse import quote

import utils
from scoring import figures, tables
from scoring.metrics import COLUMNS
from utils import LazyModule

ticker = LazyModule("matplotlib.ticker")

PAGE = Path(__file__).resolve().parent / "report.html"
PAPERS_ROWS = "; rows in italics are the paper's own figures (Ledig et al., CVPR 2017, Tables 1 and 2)"


def write(out, results, sets, focus, scale):
    """Write index.html, and figure.png for each set; the pictures are there already (figures.py).

    out: folder; results: from tables.summarise; sets: {set: testsets.ImageSet}; focus: {set: {image: (x, y)}}.
    """
    for name, members in sets.items():
        figures.write_figure(out / name, members.images, results[name], focus[name])
    page = fill_in(results, sets, focus, scale)
    utils.write_atomically(out / "index.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))


def fill_in(results, sets, focus, scale):
    """The page as text; arguments as in write."""
    page = PAGE.read_text(encoding="utf-8")
    protocol, columns = tables.legend(results, scale)
    return Template(page).substitute(
        policy=escape(policy_of(page, "img-src 'self' file:")),
        scale=scale,
        names=escape(", ".join(results)),
        protocol=escape(protocol),
        paper=PAPERS_ROWS if tables.OPINION.title in columns else "",
        legend="".join(
            f"<div><dt>{escape(title)}</dt><dd>{escape(about)}</dd></div>" for title, about in columns.items()
        ),
        contents="".join(f'<a href="#set{i}">{escape(name)}</a>' for i, name in enumerate(results)),
        sets="".join(section(i, name, results, scale) for i, name in enumerate(results)),
        caption=escape(" / ".join(COLUMNS[name].title for name in tables.measures_of(results)[:2])),
        limit=figures.DEPARTURE,
        colours=colour_scale(),
        data=json_inside(content(results, sets, focus)),
    )


def policy_of(page, *allowed):
    """The content security policy of a template: its own script and style and what is `allowed`, nothing else.

    So nothing would run that a file's name could smuggle into the page.
    """
    own = (f"{element}-src 'sha256-{digest_of(page, element)}'" for element in ("script", "style"))
    return "; ".join(["default-src 'none'", *allowed, *own, "base-uri 'none'", "form-action 'none'"])


def digest_of(page, element):
    """The SHA-256 by which a content security policy knows an inline script or style, in Base64."""
    text = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)[1]
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_inside(content):
    """JSON that can stand in a page's script element: no text in it ends the script."""
    return json.dumps(content).replace("<", "\\u003c")


def content(results, sets, focus):
    """What the page's script shows, names and addresses only: see the script."""
    methods = list(next(iter(results.values())))
    names = tables.measures_of(results)

    def describe(set_name, image):
        values = [results[set_name][method].images[image.name] for method in methods]
        height, width = image.hr.shape[:2]
        files = [figures.path_of(image.name, method) for method in methods]
        files = [figures.path_of(image.name, folder="lr"), *files, figures.path_of(image.name, folder="original")]
        departures = [figures.path_of(image.name, method, "departure") for method in methods]
        consistency = [figures.caption(row, ["consistency"]) if "consistency" in row else "" for row in values]
        return {
            "name": image.name,
            "address": link_to(set_name, image.name),
            "size": [width, height],
            "focus": focus[set_name][image.name],
            "files": [address(set_name, path) for path in files],
            "captions": [size_of(image.lr), *(figures.caption(row, names) for row in values), size_of(image.hr)],
            "departures": [address(set_name, path) for path in departures],
            "consistency": [f"{COLUMNS['consistency'].title} {text}" if text else "" for text in consistency],
        }

    return {
        "views": ["LR", *methods, "original"],
        "sets": [{"name": name, "images": [describe(name, image) for image in sets[name].images]} for name in results],
    }


def size_of(image):
    return f"{image.shape[1]} × {image.shape[0]} pixels"


# ---------------------------------------------------------------------------------------------------------------------
# HTML


def escape(text):
    """Any text inside HTML; control characters, which HTML has no way to write, are replaced."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))


def address(set_name, path):
    """The relative address of a file in a set's folder, whatever characters its name has."""
    return quote((Path(set_name) / path).as_posix())


def link_to(set_name, image):
    """The address of an image inside the page."""
    return f"#{quote(set_name, safe='')}/{quote(image, safe='')}"


def section(i, set_name, results, scale):
    """The tables and the plot of the i-th set."""
    rows = results[set_name]
    table = tables.score_table(set_name, results, scale)
    warning = f'<p class="warning">{escape(table.warning)}</p>' if table.warning else ""
    links = {image: link_to(set_name, image) for image in next(iter(rows.values())).images}
    measures = tables.measures_of(results)
    images = [folded(table, links) for table in (tables.image_table(set_name, results, name) for name in measures)]
    more = [f"<details><summary>Figures of each image</summary>{''.join(images)}</details>"]
    if len(rows) > 1 and "psnr_y" in measures:
        more.append(folded(tables.p_table(set_name, results)))
    return (
        f'<section id="set{i}"><h2>{escape(table.title)}</h2>{warning}'
        f'<div class="pair">{table_html(table)}{plot(rows, measures)}</div>{"".join(more)}'
        f'<p class="aside">The first images as in the paper\'s Figure 2: '
        f'<a href="{escape(address(set_name, "figure.png"))}">figure.png</a></p></section>'
    )


def folded(table, links=None):
    """A table that a click on its title shows; arguments as in table_html."""
    return f"<details><summary>{escape(table.title)}</summary>{table_html(table, links)}</details>"


def table_html(table, links=None):
    """A tables.Table, which the page's script can sort; links: {row: address} where the rows are images."""
    first = {"image": "its name"} if links else {"method": "its name"}
    titles = "".join(
        f'<th scope="col"><button title="{escape(about)}">{escape(title)}</button></th>'
        for title, about in (*first.items(), *table.columns.items())
    )
    lines = []
    for row in table.rows:
        name = f'<a href="{escape(links[row.name])}">{escape(row.name)}</a>' if links else escape(row.name)
        cells = (f"<td><b>{cell.text}</b></td>" if cell.best else f"<td>{cell.text}</td>" for cell in row.cells)
        kind = "paper" if row.paper else "ours"
        lines.append(f'<tr class="{kind}"><th scope="row">{name}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.title)}"><table>'
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def plot(rows, measures):
    """The perception-distortion plot of a set's methods as SVG: PSNR-Y to the right, NIQE-own or else LR-PSNR upwards.

    Empty where there is nothing to plot.
    """
    for name in ("niqe_own", "consistency"):
        if {name, "psnr_y"} <= set(measures):
            points = {method: (row.means["psnr_y"], row.means[name]) for method, row in rows.items()}
            points = {method: point for method, point in points.items() if all(map(math.isfinite, point))}
            if points:
                return svg(points, COLUMNS["psnr_y"], COLUMNS[name])
    return ""


def svg(points, x_column, y_column):
    """Points {name: (x, y)} with axes for two measures, each a metrics.Column; an arrow shows where better is."""
    width, height, left, right, top, bottom = 460, 330, 52, 16, 14, 46
    limits = []
    for values in zip(*points.values(), strict=True):
        room = max(0.12 * (max(values) - min(values)), 0.1)
        limits.append(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(min(values) - room, max(values) + room))
    x_ticks, y_ticks = limits

    def x_of(x):
        return left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - right)

    def y_of(y):
        return height - bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom)

    parts = []
    for tick in x_ticks:
        parts.append(
            f'<line class="grid" x1="{x_of(tick):.1f}" x2="{x_of(tick):.1f}" y1="{top}" y2="{height - bottom}"/>'
        )
        parts.append(f'<text x="{x_of(tick):.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:.4g}</text>')
    for tick in y_ticks:
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        )
        parts.append(f'<text x="{left - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    middle = (height - bottom + top) / 2
    arrow = "↗" if y_column.better > 0 else "↘"
    corner = top + 16 if y_column.better > 0 else height - bottom - 8
    parts.append(
        f'<text x="{(width + left - right) / 2}" y="{height - 8}" text-anchor="middle">{x_column.title}</text>'
    )
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{y_column.title}</text>')
    parts.append(f'<text class="better" x="{width - right - 6}" y="{corner}" text-anchor="end">better {arrow}</text>')

    taken = []  # where labels stand: (left, right, baseline)
    for name, (x, y) in sorted(points.items(), key=lambda point: -point[1][1]):
        label = name if len(name) <= 24 else name[:23] + "…"
        before = x_of(x) > width - right - 14 - 7 * len(label)  # no room behind the point
        start = x_of(x) - 9 - 7 * len(label) if before else x_of(x) + 9
        stop = start + 7 * len(label)
        for away in sorted(range(-195, 196, 13), key=abs):  # the nearest line, below or above, that is free
            baseline = y_of(y) + 4 + away
            free = all(stop < other[0] or other[1] < start or abs(baseline - other[2]) >= 13 for other in taken)
            if free and top < baseline < height - bottom:
                break
        taken.append((start, stop, baseline))
        anchor = f'x="{stop:.1f}" text-anchor="end"' if before else f'x="{start:.1f}"'
        tip = f"{x_column.title} {x:.{x_column.digits}f}, {y_column.title} {y:.{y_column.digits}f}"
        parts.append(
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5"><title>{escape(name)}: {tip}</title></circle>'
        )
        parts.append(f'<text class="name" {anchor} y="{baseline:.1f}">{escape(label)}</text>')
    return (
        f'<figure class="plot"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{y_column.title} against {x_column.title}">{"".join(parts)}</svg>'
        f"<figcaption>Perception against distortion: {y_column.title} ({escape(y_column.about)}) and {x_column.title}, "
        f"means over the set.</figcaption></figure>"
    )


def colour_scale():
    """The colours of the departures with their grey levels, as SVG."""
    colours = figures.departure_colours()
    parts = []
    for level, (red, green, blue) in enumerate(colours):
        parts.append(f'<rect x="{18 * level + 8}" width="18" height="14" fill="#{red:02x}{green:02x}{blue:02x}"/>')
        if level % 4 == 0:
            more = "+" if level == figures.DEPARTURE else ""
            parts.append(f'<text x="{18 * level + 17}" y="29" text-anchor="middle">{level}{more}</text>')
    return (
        f'<svg class="colours" shape-rendering="crispEdges" viewBox="0 0 {18 * len(colours) + 16} 34" role="img" '
        f'aria-label="0 to {figures.DEPARTURE} grey levels">{"".join(parts)}</svg>'
    )
