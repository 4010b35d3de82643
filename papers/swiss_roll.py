"""The Swiss roll of Sønderby et al., 2017 (section 4.1, Figure 2, Table 1): points of the plane whose mean is given.

y = (cos ν₁, sin ν₁)·r with r = 0.4·ν₁ + ν₂, ν₁ ~ N(10, 3) and ν₂ ~ N(0, 0.2), by standard deviations; x = (y₁ + y₂)/2.
"""

import json

import numpy as np
from easydict import EasyDict

import utils
from networks.amortised_map import METHODS, dense_network
from papers.amortised_training import Problem, fit
from utils import LazyModule

tf = LazyModule("tensorflow")
pyplot = LazyModule("matplotlib.pyplot")

NAMES = ("MSE", "MAE", "AffGAN", "SoftGAN", "AffDG", "SoftDG")
# Table 1: H[q, p], and the mean of (x - Aŷ)².
PAPER = {
    "MAP": (3.15, None),
    "MSE": (9.10, 1.25e-2),
    "MAE": (6.30, 4.04e-2),
    "AffGAN": (4.10, 0.0),
    "SoftGAN": (4.25, 8.87e-2),
    "AffDG": (3.81, 0.0),
    "SoftDG": (4.19, 1.01e-1),
}
FIRST, SECOND = (10.0, 3.0), (0.0, 0.2)  # mean and standard deviation of ν₁ and ν₂
TESTED = 20_000  # points
SHOWN = 400  # of the figure
LONGER = ("AffGAN", 4)  # is also trained for so many times the updates, with seed 0
TRAIN = EasyDict(
    {"steps": 2000, "learning_rate": 2e-3, "beta1": 0.5, "schedule": "cosine", "warmup": 0.02, "batch": 256}
)


def roll(one, two):
    """The points [n, 2] of ν₁ and ν₂."""
    r = 0.4 * one + two
    return np.stack([np.cos(one) * r, np.sin(one) * r], axis=-1)


def sample(count, rng):
    """Points [count, 2] of the Swiss roll."""
    return roll(rng.normal(*FIRST, count), rng.normal(*SECOND, count))


def log_density(y):
    """log p(y) of points [..., 2]: a sum over all (ν₁, ν₂) that lead to a point; r may be negative."""
    angle, distance = np.arctan2(y[..., 1], y[..., 0]), np.maximum(np.hypot(y[..., 0], y[..., 1]), 1e-3)
    terms = []
    for turns in range(-3, 8):
        for half, r in ((0, distance), (np.pi, -distance)):
            one = angle + half + 2 * np.pi * turns
            two = r - 0.4 * one
            terms.append(sum(-0.5 * ((v - mean) / sd) ** 2 for v, (mean, sd) in ((one, FIRST), (two, SECOND))))
    return np.logaddexp.reduce(terms, axis=0) - np.log(2 * np.pi * FIRST[1] * SECOND[1] * distance)


def best_points(x):
    """{"MAP", "MSE", "MAE"}: the point [n, 2] of each x with the highest density, the mean, and the median of all y.

    Found on a grid of each line (y₁ + y₂)/2 = x: what the best network would give.
    """
    t = np.linspace(-14, 14, 2801)
    found = {"MAP": [], "MSE": [], "MAE": []}
    for one in x:
        weight = np.exp(log_density(np.stack([one + t, one - t], axis=-1)))
        share = weight.cumsum() / weight.sum()
        places = t[weight.argmax()], (weight * t).sum() / weight.sum(), t[np.searchsorted(share, 0.5)]
        for name, place in zip(found, places, strict=True):
            found[name].append([one + place, one - place])
    return {name: np.array(points) for name, points in found.items()}


def problem(steps=TRAIN.steps):
    """The Problem of the Swiss roll, with the paper's networks."""

    def draw(random):
        one, two = (random.normal([TRAIN.batch], *both) for both in (FIRST, SECOND))
        r = 0.4 * one + two
        return tf.stack([tf.cos(one) * r, tf.sin(one) * r], axis=-1)

    return Problem(
        draw,
        shrink=lambda y: tf.reduce_mean(y, axis=-1, keepdims=True),
        enlarge=lambda x: tf.repeat(x, 2, axis=-1),
        generator=lambda: dense_network(1, 2, 64, "generator"),
        critics={
            "judge": lambda: dense_network(2, 1, 64, "judge"),
            "denoiser": lambda: dense_network(2, 2, 256, "denoiser", residual=True),
        },
        spreads={"denoiser": (0.5, 0.25)},
        train=EasyDict(TRAIN, steps=steps),
        at_once=min(steps, 100),
    )


def measure(points, x):
    """(H[q, p], the mean of (x - Aŷ)²) of points [n, 2]."""
    return float(-log_density(points).mean()), float(np.mean((points.mean(axis=-1) - x) ** 2))


def run(folder, seeds, steps=TRAIN.steps):
    """Train all NAMES with each seed and write swiss_roll.json into a folder; what it has already is kept.

    Returns its content: {"steps", "rows": {name: {seed: [H, consistency]}}, "longer": the same of LONGER, "best":
    {name: [H, consistency]}, "points": {name: [[y₁, y₂]]}}.
    """
    path = folder / "swiss_roll.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept.get("steps") != steps:
        kept = {"steps": steps, "rows": {}, "points": {}}
    y = sample(TESTED, np.random.default_rng(0))
    x = y.mean(axis=-1)
    if "best" not in kept:
        best = best_points(x[: TESTED // 10])
        kept["best"] = {name: measure(points, x[: TESTED // 10]) for name, points in best.items()}
        kept["points"]["MAP"] = best["MAP"][:SHOWN].round(3).tolist()
        kept["truth"] = y[: 3 * SHOWN].round(3).tolist()
    longer, times = LONGER
    tasks = [("rows", name, seed, steps) for seed in seeds for name in NAMES] + [("longer", longer, 0, times * steps)]
    for part, name, seed, updates in tasks:
        row = kept.setdefault(part, {}).setdefault(name, {})
        if str(seed) in row:
            continue
        upscale, _ = fit(problem(updates), name, seed)
        points = np.asarray(upscale(x[:, None].astype(np.float32)), np.float64)
        entropy, consistency = row[str(seed)] = measure(points, x)
        if part == "rows":
            kept["points"].setdefault(name, points[:SHOWN].round(3).tolist())
        print(f"Swiss roll, {name}, {updates:,} updates, seed {seed}: H {entropy:.2f}, {consistency:.1e}", flush=True)
        text = json.dumps(kept) + "\n"
        utils.write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
    return kept


def draw(path, study):
    """Write the figure, like the paper's Figure 2: the points that each method paints over those of the roll."""
    names = [name for name in ("MAP", *NAMES) if name in study["points"]]
    figure, axes = pyplot.subplots(1, len(names), figsize=(2.3 * len(names), 2.6), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        axis.scatter(*np.transpose(study["truth"]), s=1, color="0.8")
        axis.scatter(*np.transpose(study["points"][name]), s=2, color="tab:blue" if name == "MAP" else "tab:red")
        axis.set(title=name, xticks=[], yticks=[], xlim=(-7, 7), ylim=(-7, 7), aspect="equal")
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=90))
    pyplot.close(figure)


def longer_words(study):
    """What the longer training changed, as a sentence; "" if it was not run."""
    name, times = LONGER
    if name not in study.get("longer", {}):
        return ""
    after, before = (study[part][name]["0"][0] for part in ("longer", "rows"))
    return f" With {times * study['steps']:,} updates, {name} of seed 0 has H = {after:.2f} instead of {before:.2f}."


def table(study):
    """The Markdown table beside the paper's Table 1: means over the seeds ± their standard deviation."""
    lines = ["| | H[q, p] | the paper's | (x - Aŷ)² | the paper's |", "|---|---|---|---|---|"]
    for name, (entropy, consistency) in PAPER.items():
        values = np.array(list(study["rows"][name].values())) if name in METHODS else np.array([study["best"][name]])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else (None, None)
        cells = [f"{mean[0]:.2f}" + (f" ± {spread[0]:.2f}" if spread[0] is not None else ""), f"{entropy:.2f}"]
        off = f"{mean[1]:.2e}" + (f" ± {spread[1]:.1e}" if spread[1] is not None else "")
        cells += ["", ""] if consistency is None else [off, f"{consistency:.2e}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
