"""The page on pruning (docs/pruning.md is ours): global against layer-wise pruning, quality against work and time."""

import time

import numpy as np

import utils
from config import make_config
from inference import compiled
from networks import counting, registry
from papers import results
from papers.rows import VDSR
from papers.runner import evaluate
from runs import store
from scoring import tables
from utils import LazyModule, UserError

pyplot = LazyModule("matplotlib.pyplot")
tf = LazyModule("tensorflow")

SETS = ("Set5", "Set14")
SIDE = 128  # LR pixels of a side, for milliseconds
TURNS = 15
OTHERS = {"srcnn": "SRCNN", "espcn": "ESPCN", "vdsr": "VDSR"}  # {network: its name in the papers' tables}
RANKINGS = {"global": "maps of all layers together", "layers": "the same share of each layer"}


def work_of(network, scale, side=24):
    """Multiply-adds per SR pixel."""
    return counting.multiply_adds(network, (1, side, side, 3)) / (side * scale) ** 2


def times_of(networks):
    """{name: median milliseconds of an LR image of SIDE×SIDE} of {name: (network, MODEL section)}, in turns."""
    tf.get_logger().setLevel("ERROR")  # else it warns of so many functions
    lr_01 = tf.constant(np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32))
    functions = {name: compiled.inference(*each) for name, each in networks.items()}
    turns = {name: [] for name in functions}
    for _ in range(TURNS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(lr_01).numpy()
            turns[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(each[1:])) for name, each in turns.items()}  # the first turn makes ready


def read_runs(names):
    """{name: (network, MODEL section)} of runs."""
    loaded = {name: store.load_generator(name) for name in names}
    return {name: (network, about["config"].MODEL) for name, (network, about) in loaded.items()}


def other_networks(scale):
    """{name: (network, MODEL section)} of OTHERS, with random weights: for their work and time."""
    sections = {name: make_config(overrides=[f"MODEL.network={name}", f"MODEL.scale={scale}"]).MODEL for name in OTHERS}
    return {name: (registry.build_generator(section), section) for name, section in sections.items()}


def measure(rounds, args, out):
    """The content of pruning.json, from {ranking: [Round]}: scores by evaluate.py, work and times of all networks."""
    first = rounds["global"][0].run
    finished = [name for name in store.find_runs() if name.startswith(f"{args.weights}_fast")]
    names = [first, *(each.run for some in rounds.values() for each in some[1:]), *finished]
    weights = {name: store.describe_weights(name)[0] for name in names}
    scores = evaluate(weights, ("psnr_y",), out / "evaluate", args.data, SETS)
    networks = read_runs(names)
    scale = networks[first][1].scale
    networks |= other_networks(scale)
    times = times_of(networks)
    facts = {name: {"work": work_of(network, scale), "ms": times[name]} for name, (network, _) in networks.items()}
    for name in names:
        facts[name]["psnr"] = {one: scores[one][name]["psnr_y"] for one in scores}
        facts[name]["widths"] = networks[name][1].widths
    for name, paper in OTHERS.items():
        known = VDSR if name == "vdsr" else {one: tables.PAPER[one][paper] for one in SETS}
        facts[name]["psnr"] = {one: known[one][0] for one in SETS}
    return {
        "weights": first,
        "width": networks[first][1].width,
        "share": args.share,
        "steps": args.steps,
        "batch": args.batch,
        "rounds": {ranking: [each._asdict() for each in some] for ranking, some in rounds.items()},
        "finished": finished,
        "networks": facts,
        "bicubic": {one: scores[one]["bicubic"]["psnr_y"] for one in scores},
        "commit": store.git_commit(),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The page

TEXT = """# Pruning: a thinner, faster generator

[Back to the README](../README.md). Written by `python reproduce.py pruning` from [pruning.json](pruning.json).

Gradually global pruning (Wang et al., ICIP 2017, 1703.09916): a trained network loses a few feature maps of all layers
at a time, the least useful ones wherever they are, and is trained a little after each step. So each layer finds its
own width.

```bash
python reproduce.py pruning --data DATA {budget}     # this page: both rankings
python reproduce.py pruning --weights RUN --data DATA --lose 0.1      # your own network, until it has lost 0.1 dB
```

**What a map is worth** is the change of the pixel loss without it, by the first term of its Taylor series, divided by
the mean of its layer ([networks/thinning.py](../networks/thinning.py)). The division takes the layer's own bias
away, as the paper asks for; the paper's own score is not known to us, this one is ours. Maps that the residual sums
join are dropped together.

Each round drops {share:.0%} of all maps and trains {steps:,} updates of {batch} crops, at a rate that rises to 2e-4 and
falls to zero.

## Global against layer by layer

| round | global: multiply-adds | Set5, dB | Set14, dB | layers: multiply-adds | Set5, dB | Set14, dB |
|---|---|---|---|---|---|---|
{table}

Multiply-adds are of the whole network, as a share of {weights}'s {work:,.0f} per SR pixel. {found}

![PSNR-Y against multiply-adds and against milliseconds](pruning.png)

*Solid: measured here. Crosses: SRCNN, ESPCN and VDSR with the PSNR of their papers and our speed. Milliseconds: an LR
image of {side}×{side}, TensorFlow on two cores, networks in turns, medians of {turns}.*

Where the maps went, of {width} in each layer, after the last round of the global ranking: {widths}.

{finished}
"""

FINISHED = """## The weights that ship

| | multiply-adds | ms | {sets} |
|---|---|---|---|
{rows}

Their recipes stand in [weights.md](weights.md).
"""


def table_of(study):
    """The lines of the table: a round each, both rankings side by side."""
    facts, rounds = study["networks"], study["rounds"]
    whole = facts[study["weights"]]["work"]
    lines = []
    for i in range(max(map(len, rounds.values()))):
        cells = []
        for some in rounds.values():
            known = facts[some[i]["run"]] if i < len(some) else None
            psnrs = [f"{known['psnr'][one]:.2f}" for one in SETS] if known else ["", ""]
            cells += [f"{known['work'] / whole:.0%}" if known else "", *psnrs]
        lines.append(f"| {i} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains_of(study):
    """{set: global's PSNR minus layers' in dB, mean over the work that both have, by linear interpolation}."""
    curves = {}
    for ranking, some in study["rounds"].items():
        points = sorted((study["networks"][each["run"]] for each in some), key=lambda known: known["work"])
        curves[ranking] = [point["work"] for point in points], points
    low = max(work[0] for work, _ in curves.values())
    high = min(work[-1] for work, _ in curves.values())
    grid, gains = np.linspace(low, high, 50), {}
    for one in SETS:
        levels = {
            ranking: np.interp(grid, work, [point["psnr"][one] for point in points])
            for ranking, (work, points) in curves.items()
        }
        gains[one] = float(np.mean(levels["global"] - levels["layers"]))
    return gains


def found_of(study):
    """A sentence on the paper's claim that ranking globally is better."""
    gains = gains_of(study)
    words = ", ".join(f"{gain:+.2f} dB on {one}" for one, gain in gains.items())
    verdicts = {results.verdict_of(gain) for gain in gains.values()}
    verdict = verdicts.pop() if len(verdicts) == 1 else "not the same on both sets"
    return f"At equal work the global ranking differs by {words} on the mean from layer by layer: {verdict}."


def widths_of(text):
    """The string of MODEL.widths in words: trunk, blocks, upsampling."""
    trunk, *inner, first, second = text.split()
    return f"{trunk} between the blocks, {', '.join(inner)} within them, {first} and {second} after the upsamplings"


def finished_of(study):
    """The part of the page on the finished, thinner weights; empty if there are none."""
    facts, rows = study["networks"], []
    whole = facts[study["weights"]]
    for name in [study["weights"], *study["finished"]] if study["finished"] else ():
        known = facts[name]
        cells = [f"{known['work'] / whole['work']:.0%}", f"{known['ms']:.0f}"]
        cells.append(", ".join(f"{known['psnr'][one]:.2f}" for one in SETS))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return FINISHED.format(sets=", ".join(SETS), rows="\n".join(rows)) if rows else ""


def draw(path, study):
    """Write PSNR-Y on Set14 against work and against time as a PNG."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axis, key, label in zip(axes, ("work", "ms"), ("multiply-adds per SR pixel", "milliseconds"), strict=True):
        for ranking, words in RANKINGS.items():
            points = [study["networks"][each["run"]] for each in study["rounds"][ranking]]
            values = [point["psnr"]["Set14"] for point in points]
            axis.plot([point[key] for point in points], values, marker=".", label=words)
        marks = {name: "*" for name in study["finished"]} | {name: "x" for name in OTHERS}
        for name, mark in marks.items():
            point = study["networks"][name]
            axis.plot(point[key], point["psnr"]["Set14"], marker=mark, color="black", linestyle="none")
            axis.annotate(OTHERS.get(name, name), (point[key], point["psnr"]["Set14"]), (5, -9),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axis.set(xscale="log", xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR-Y on Set14, dB")
    axes[0].legend(fontsize=8)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


def page_of(study):
    """The text of pruning.md; study: the content of pruning.json."""
    last = study["rounds"]["global"][-1]["run"]
    return TEXT.format(
        **{key: study[key] for key in ("share", "steps", "batch", "weights", "width")},
        budget=" ".join(f"--{key} {study[key]:g}" for key in ("share", "steps", "batch")),
        table=table_of(study),
        work=study["networks"][study["weights"]]["work"],
        found=found_of(study),
        side=SIDE,
        turns=TURNS,
        widths=widths_of(study["networks"][last]["widths"]),
        finished=finished_of(study),
    ).rstrip() + "\n"  # fmt: skip


def write(rounds, args):
    """Measure {ranking: [Round]}, and write pruning.md, pruning.json and the figure into args.out. Raises UserError."""
    if any(len(some) < 2 for some in rounds.values()):
        raise UserError("no round was run: --work is too large")
    args.out.mkdir(parents=True, exist_ok=True)
    study = measure(rounds, args, args.out)
    store.write_json(args.out / "pruning.json", study)
    draw(args.out / "pruning.png", study)
    text = page_of(study)
    utils.write_atomically(args.out / "pruning.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"written: {args.out / 'pruning.md'}, its figure and pruning.json")
