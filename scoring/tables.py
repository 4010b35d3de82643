"""What evaluate.py prints and writes: tables with the paper's figures, p-values, Markdown, JSON and CSV."""

import csv
import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

import utils
from runs import store
from scoring import metrics
from utils import UserError

# The paper's figures at ×4: PSNR-Y in dB, its SSIM (metrics.ssim_paper), and the mean opinion of 26 people (1 to 5).
# Table 2, and from Table 1 the three variants that are not in it.
PAPER = {
    "Set5": {
        "NN": (26.26, 0.7552, 1.28),
        "bicubic": (28.43, 0.8211, 1.97),
        "SRCNN": (30.07, 0.8627, 2.57),
        "SelfExSR": (30.33, 0.8720, 2.65),
        "DRCN": (31.52, 0.8938, 3.26),
        "ESPCN": (30.76, 0.8784, 2.89),
        "SRResNet": (32.05, 0.9019, 3.37),
        "SRGAN": (29.40, 0.8472, 3.58),
        "SRResNet-VGG22": (30.51, 0.8803, 3.46),
        "SRGAN-MSE": (30.64, 0.8701, 3.77),
        "SRGAN-VGG22": (29.84, 0.8468, 3.78),
    },
    "Set14": {
        "NN": (24.64, 0.7100, 1.20),
        "bicubic": (25.99, 0.7486, 1.80),
        "SRCNN": (27.18, 0.7861, 2.26),
        "SelfExSR": (27.45, 0.7972, 2.34),
        "DRCN": (28.02, 0.8074, 2.84),
        "ESPCN": (27.66, 0.8004, 2.52),
        "SRResNet": (28.49, 0.8184, 2.98),
        "SRGAN": (26.02, 0.7397, 3.72),
        "SRResNet-VGG22": (27.19, 0.7807, 3.15),
        "SRGAN-MSE": (26.92, 0.7611, 3.43),
        "SRGAN-VGG22": (26.44, 0.7518, 3.57),
    },
    "BSD100": {
        "NN": (25.02, 0.6606, 1.11),
        "bicubic": (25.94, 0.6935, 1.47),
        "SRCNN": (26.68, 0.7291, 1.87),
        "SelfExSR": (26.83, 0.7387, 1.89),
        "DRCN": (27.21, 0.7493, 2.12),
        "ESPCN": (27.02, 0.7442, 2.01),
        "SRResNet": (27.58, 0.7620, 2.29),
        "SRGAN": (25.16, 0.6688, 3.56),
    },
}
PAPER_ORIGINALS = {"Set5": 4.32, "Set14": 4.32, "BSD100": 4.46}  # the mean opinion of the originals
OPINION = metrics.Column("MOS", 2, "mean opinion of 26 people, 1 to 5; asked by the paper only")


# ---------------------------------------------------------------------------------------------------------------------
# From the scores of single images to the results of each method


@dataclass
class Row:
    """What one method reached on one set.

    means: {measure: mean over the images}; images: {image: {measure: value}}; p_psnr_y: {other method: p of the
    difference in PSNR-Y}, None if PSNR-Y was not measured; doubt: why the figures cannot be compared with published
    ones, a clause, or None; notes: [sentence], what is to be known of pictures from elsewhere.
    """

    means: dict
    images: dict
    p_psnr_y: dict | None = None
    doubt: str | None = None
    notes: list = field(default_factory=list)

    def finite_means(self):
        """{measure: mean} without infinite means and NaN."""
        return {name: mean for name, mean in self.means.items() if math.isfinite(mean)}

    def as_json(self):
        """The row as results.json has it: one dict of all parts, None for a figure that is not finite."""
        content = dict(self.means)
        if self.p_psnr_y is not None:
            content["p_psnr_y"] = self.p_psnr_y
        if self.doubt:
            content["not_comparable"] = self.doubt
        if self.notes:
            content["notes"] = self.notes
        return finite(content | {"images": self.images})


def summarise(scores, doubts, notes=None, of_sets=None):
    """{set: {method: Row}} from {set: {method: {image: {measure: value}}}}.

    doubts: {set: clause or None}; notes: {set: {method: [sentence]}} of the methods that have some; of_sets: {set:
    {method: {measure: value}}} of the measures that single images have none of.
    """
    notes, of_sets = notes or {}, of_sets or {}
    results = {}
    for set_name, methods in scores.items():
        noted = notes.get(set_name, {})
        rows = {name: make_row(name, methods, doubts[set_name], noted.get(name, ())) for name in methods}
        for name, row in rows.items():
            row.means |= of_sets.get(set_name, {}).get(name, {})
        results[set_name] = rows
    return results


def make_row(method, methods, doubt, notes=()):
    """The Row of a method; methods: {method: {image: {measure: value}}} of its set; doubt, notes: as in Row."""
    images = methods[method]
    names = next(iter(images.values()))
    row = Row({name: mean_of([image[name] for image in images.values()]) for name in names}, images, doubt=doubt)
    row.notes = list(notes)
    if "psnr_y" in names:
        row.p_psnr_y = {other: p_value(images, theirs) for other, theirs in methods.items() if other != method}
    return row


def mean_of(values):
    """The mean of the values without NaN; NaN if all are (NIQE of images smaller than its patches)."""
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def p_value(ours, theirs):
    """p of the paired two-sided Wilcoxon signed-rank test on PSNR-Y over images, as in the paper's section 3.1.

    ours, theirs: {image: {"psnr_y": dB}} with the same images. 1.0 if all are equal.
    """
    differences = [ours[image]["psnr_y"] - theirs[image]["psnr_y"] for image in ours]
    return wilcoxon_p([0.0 if math.isnan(d) else d for d in differences])  # NaN: ∞ - ∞, both are perfect


def wilcoxon_p(differences):
    """p of the two-sided Wilcoxon signed-rank test on paired differences; 1.0 if all are zero, or there are none."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0


def finite(value):
    """The same nested dicts, with None for every number that is not finite: JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measures_of(results):
    """The measures in the rows of {set: {method: Row}}, the same in each, in the order of the tables' columns."""
    row = next(iter(next(iter(results.values())).values()))
    return [name for name in metrics.COLUMNS if name in row.means]


def write_json(path, results):
    """Write {set: {method: Row}} as results.json has it."""
    rows = {set_name: {name: row.as_json() for name, row in methods.items()} for set_name, methods in results.items()}
    store.write_json(path, rows)


def read_json(path):
    """{set: {method: Row}} of a results.json. Raises UserError."""

    def number(value):
        return math.nan if value is None else float(value)

    content = store.read_json(path)
    try:
        return {
            set_name: {
                method: Row(
                    {name: number(row[name]) for name in metrics.COLUMNS if name in row},
                    {
                        image: {name: number(value) for name, value in values.items()}
                        for image, values in row["images"].items()
                    },
                    row.get("p_psnr_y"),
                    row.get("not_comparable"),
                    row.get("notes", []),
                )
                for method, row in rows.items()
            }
            for set_name, rows in content.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not what evaluate.py wrote ({utils.short(error)})") from None


def write_csv(path, results):
    """Write {set: {method: Row}} with a line for each set, method and image, and one for the method's mean."""
    names = measures_of(results)

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["set", "method", "image", *names, "not_comparable"])
            for set_name, rows in results.items():
                for method, row in rows.items():
                    for image, values in [*row.images.items(), ("mean", row.means)]:
                        writer.writerow(
                            [set_name, method, image, *(values.get(name, "") for name in names), row.doubt or ""]
                        )

    utils.write_atomically(path, write)


# ---------------------------------------------------------------------------------------------------------------------
# Tables of lines and cells: printed here, written as Markdown here and as HTML by report.py


class Cell(NamedTuple):
    """A figure as it is shown, and whether it is the best or the second best of those it is compared with."""

    text: str
    best: bool = False
    second: bool = False


class Line(NamedTuple):
    """A line of a table: its name and [Cell]; paper: whether the figures are the paper's."""

    name: str
    cells: list
    paper: bool = False


class Table(NamedTuple):
    """columns: {title: what it is, in words}; rows: [Line]; warning: why the figures are not comparable, or None.

    notes: [sentence] on single rows, which begin with the row's name.
    """

    title: str
    columns: dict
    rows: list
    warning: str | None = None
    notes: tuple = ()


def make_cells(values, column):
    """[Cell] of values of one measure, compared as rounded for the table.

    With two or more, the best are marked; with three or more that differ, the second best as well.
    """
    texts = ["-" if math.isnan(value) else f"{value:.{column.digits}f}" for value in values]
    figures = [None if text == "-" else column.better * float(text) for text in texts]
    there = [figure for figure in figures if figure is not None]
    order = sorted(set(there), reverse=True)
    best = order[0] if len(there) > 1 else math.nan
    second = order[1] if len(order) > 2 else math.nan
    return [Cell(text, figure == best, figure == second) for text, figure in zip(texts, figures, strict=True)]


def papers(set_name, scale):
    """Yield ("paper: method", {measure: figure, "mos": opinion}) of the paper's figures of a set at a scale."""
    for method, figures in (PAPER.get(set_name, {}) if scale == 4 else {}).items():
        yield f"paper: {method}", dict(zip(("psnr_y", "ssim_paper", "mos"), figures, strict=True))


def score_table(set_name, results, scale):
    """The means of a set: a line for each method, a column for each measure; then the paper's lines, if it has some."""
    ours, names = results[set_name], measures_of(results)
    theirs = dict(papers(set_name, scale)) if {"psnr_y", "ssim_paper"} & set(names) else {}
    columns = {name: metrics.COLUMNS[name] for name in names} | ({"mos": OPINION} if theirs else {})

    def cells_of(rows):
        cells = (make_cells([means.get(name, math.nan) for means in rows], column) for name, column in columns.items())
        return zip(*cells, strict=True)

    means = [row.means for row in ours.values()]
    lines = [Line(method, cells) for method, cells in zip(ours, cells_of(means), strict=True)]
    for name, figures in theirs.items():
        lines += [Line(name, *cells_of([figures]), paper=True)]
    first = next(iter(ours.values()))
    return Table(
        f"{set_name} ({len(first.images)} images)",
        {column.title: column.about for column in columns.values()},
        lines,
        f"NOT COMPARABLE with published figures: {first.doubt}" if first.doubt else None,
        tuple(f"{method}: {sentence}" for method, row in ours.items() for sentence in row.notes),
    )


def image_table(set_name, results, name):
    """One measure of each image of a set: a line for each image, a column for each method."""
    rows, column = results[set_name], metrics.COLUMNS[name]
    images = next(iter(rows.values())).images
    lines = [
        Line(image, make_cells([row.images[image].get(name, math.nan) for row in rows.values()], column))
        for image in images
    ]
    return Table(f"{column.title} of each image", dict.fromkeys(rows, column.about), lines)


def p_table(set_name, results):
    """The p-values between the methods of a set; below 0.05 a difference counts as real, as in the paper."""
    rows = results[set_name]
    count = len(next(iter(rows.values())).images)
    title = f"{set_name}: p of the paired two-sided Wilcoxon signed-rank test on PSNR-Y over {count} images"
    if count < 6:
        title += f" (the least p that {count} images can give is {2 / 2**count:.2g})"
    return pair_table(title, list(rows), lambda name, other: f"{rows[name].p_psnr_y[other]:.2g}")


def pair_table(title, names, text_of):
    """A Table of p-values with each pair of `names` once; text_of(name, other): what is shown for a pair."""
    lines = []
    for i, name in enumerate(names[1:], start=1):
        empty = [Cell("")] * (len(names) - 1 - i)
        lines.append(Line(name, [Cell(text_of(name, other)) for other in names[:i]] + empty))
    return Table(title, dict.fromkeys(names[:-1], "p"), lines)


def tables_of(results, scale, significance=False):
    """[Table]: the means of each set, then, with `significance`, the p-values of each set."""
    means = [score_table(name, results, scale) for name in results]
    return means + [p_table(name, results) for name in results if significance]


def legend(results, scale):
    """(the protocol in a sentence, {title: what it is} of all columns of the sets' tables)."""
    columns = {title: about for table in tables_of(results, scale) for title, about in table.columns.items()}
    return f"Protocol: ×{scale}; {metrics.PROTOCOL.format(border=scale)}", columns


def print_tables(results, scale, significance=False):
    """Print the tables of {set: {method: Row}}; significance: the p-values as well."""
    protocol, columns = legend(results, scale)
    print(f"\n{protocol}")
    for title, about in columns.items():
        print(f"  {title:10}  {about}")
    for table in tables_of(results, scale, significance):
        print_table(table)


def print_table(table):
    """Print a Table as text, after an empty line."""
    print(f"\n{table.title}")
    if table.warning:
        print(table.warning)
    width = max(len(row.name) for row in table.rows)
    each = max(10, *map(len, table.columns), *(len(cell.text) for row in table.rows for cell in row.cells))
    print(" " * width, *(f"{title:>{each}}" for title in table.columns))
    for row in table.rows:
        print(f"{row.name:{width}}", *(f"{cell.text:>{each}}" for cell in row.cells))
    for note in table.notes:
        print(f"  {note}")


def write_markdown(path, results, scale, significance=False):
    """Write what print_tables prints as GitHub's Markdown.

    The best figures are bold, the second best underlined, the paper's in italics.
    """
    protocol, columns = legend(results, scale)
    lines = [protocol, "", *(f"- {title}: {about}" for title, about in columns.items())]
    for table in tables_of(results, scale, significance):
        lines += markdown_lines(table)
    text = "\n".join(lines) + "\n"
    utils.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def markdown_lines(table):
    """A Table as lines of GitHub's Markdown, after an empty one."""
    lines = ["", f"**{markdown(table.title)}**", ""]
    if table.warning:
        lines += [f"**{markdown(table.warning)}**", ""]
    lines += [f"| | {' | '.join(map(markdown, table.columns))} |", f"|---{'|---:' * len(table.columns)}|"]
    for row in table.rows:
        mark = "*" if row.paper else ""
        marks = (("**", "**") if cell.best else ("<u>", "</u>") if cell.second else (mark, mark) for cell in row.cells)
        cells = (f"{before}{cell.text}{after}" for cell, (before, after) in zip(row.cells, marks, strict=True))
        lines.append(f"| {mark}{markdown(row.name)}{mark} | {' | '.join(cells)} |")
    return lines + ([""] if table.notes else []) + [f"- {markdown(note)}" for note in table.notes]


def markdown(text):
    """A name on one line, with the characters escaped that mean something in Markdown."""
    return re.sub(r"[\\`*\[\]<>|~&]|\b_|_\b", r"\\\g<0>", " ".join(text.split()))


# LaTeX's own characters, and those that pdfLaTeX has no letter for.
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {char: f"\\{char}" for char in "#$%&_{}"} | {"σ": r"$\sigma$", "×": r"$\times$", "–": "--", "…": r"\dots{}"}


def write_latex(path, results, scale, significance=False):
    """Write what print_tables prints as tables of LaTeX, for the package booktabs; marked as in write_markdown."""
    protocol, columns = legend(results, scale)
    lines = [f"% {protocol}", *(f"% {title}: {about}" for title, about in columns.items()), r"% \usepackage{booktabs}"]
    for table in tables_of(results, scale, significance):
        lines += latex_lines(table)
    text = "\n".join(lines) + "\n"
    utils.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def latex_lines(table):
    """A Table as lines of LaTeX, after an empty one."""
    lines = [
        "",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex('. '.join(filter(None, [table.title, table.warning])))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(["", *map(latex, table.columns)]) + r" \\", r"\midrule"]
    for before, row in zip([None, *table.rows], table.rows, strict=False):
        if row.paper and before and not before.paper:
            lines.append(r"\midrule")
        marks = (
            r"\textbf" if cell.best else r"\underline" if cell.second else r"\textit" * row.paper for cell in row.cells
        )
        cells = (
            f"{mark}{{{latex(cell.text)}}}" if mark else latex(cell.text)
            for cell, mark in zip(row.cells, marks, strict=True)
        )
        lines.append(" & ".join([latex(row.name), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\\ {latex(note)}" for note in table.notes), r"\end{table}"]
    return lines


def latex(text):
    """A text on one line, as LaTeX sets it."""
    return "".join(LATEX.get(char, char) for char in " ".join(text.split()))
