"""The report of evaluate.py: index.html, a page of its tables and pictures that needs nothing but its own folder.

report.html is the page, a Jinja2 template; here is what it shows. It names pictures by relative paths, and its content
security policy forbids the browser everything else, so that the folder can be moved, zipped or sent as it is.
"""

from pathlib import Path
from urllib.parse import quote

import utils
from scoring import figures, pages, plot, tables
from scoring.metrics import COLUMNS

PAGE = Path(__file__).resolve().parent / "report.html"


def write(out, results, sets, focus, scale, axes=None):
    """Write index.html, and figure.png for each set; the pictures are there already (figures.py).

    out: folder; results: from tables.summarise; sets: {set: testsets.ImageSet}; focus: {set: {image: (x, y)}};
    axes: of plot.of_set.
    """
    for name, members in sets.items():
        figures.write_figure(out / name, members.images, results[name], focus[name])
    page = fill_in(results, sets, focus, scale, axes)
    utils.write_atomically(out / "index.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))


def fill_in(results, sets, focus, scale, axes):
    """The page as text; arguments as in write."""
    protocol, columns = tables.legend(results, scale)
    return pages.load(PAGE).render(
        policy=pages.policy_of(PAGE, "img-src 'self' file:"),
        scale=scale,
        protocol=protocol,
        has_paper=tables.OPINION.title in columns,
        legend=columns,
        sets=[section(name, results, scale, axes) for name in results],
        caption=" / ".join(COLUMNS[name].title for name in tables.measures_of(results)[:2]),
        colours=[f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in figures.departure_colours()],
        data=content(results, sets, focus),
    )


def section(set_name, results, scale, axes):
    """What the page shows of a set: {name, scores, plot, images, links, significance, figure}; see report.html."""
    rows = results[set_name]
    measures = tables.measures_of(results)
    compared = len(rows) > 1 and "psnr_y" in measures
    return {
        "name": set_name,
        "scores": tables.score_table(set_name, results, scale),
        "plot": plot.of_set(set_name, rows, axes, scale),
        "images": [tables.image_table(set_name, results, name) for name in measures if COLUMNS[name].compute],
        "links": {image: link_to(set_name, image) for image in next(iter(rows.values())).images},
        "significance": tables.p_table(set_name, results) if compared else None,
        "figure": address(set_name, "figure.png"),
    }


def content(results, sets, focus):
    """What the page's script shows, names and addresses only: see the script."""
    methods = list(next(iter(results.values())))
    names = tables.measures_of(results)

    def describe(set_name, image):
        values = [results[set_name][method].images[image.name] for method in methods]
        height, width = image.hr_size
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
            "captions": [
                size_of(image.lr_size),
                *(figures.caption(row, names) for row in values),
                size_of(image.hr_size),
            ],
            "departures": [address(set_name, path) for path in departures],
            "consistency": [f"{COLUMNS['consistency'].title} {text}" if text else "" for text in consistency],
        }

    return {
        "views": ["LR", *methods, "original"],
        "sets": [{"name": name, "images": [describe(name, image) for image in sets[name].images]} for name in results],
    }


def size_of(size):
    return f"{size[1]} × {size[0]} pixels"


def address(set_name, path):
    """The relative address of a file in a set's folder, whatever characters its name has."""
    return quote((Path(set_name) / path).as_posix())


def link_to(set_name, image):
    """The address of an image inside the page."""
    return f"#{quote(set_name, safe='')}/{quote(image, safe='')}"
