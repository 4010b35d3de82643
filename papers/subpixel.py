"""Compare four upsamplers of the generator, at the start and after equal training, with several seeds each.

Writes subpixel.md (ours is docs/subpixel.md). If it is stopped, the same command continues.

The claims are those of two notes: Shi et al., "Is the deconvolution layer the same as a convolutional layer?"
(1609.07009), and Aitken et al., "Checkerboard artifact free sub-pixel convolution" (1707.02937).
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

import data
import utils
from cli import terminal
from config import make_config
from images import pictures
from networks.registry import build_generator
from papers import results
from papers.rows import Row, run_name
from papers.runner import is_finished, train_row
from runs import store
from runs.logs import read_metrics
from utils import LazyModule, UserError

keras = LazyModule("keras")
pyplot = LazyModule("matplotlib.pyplot")

SMALL = ("MODEL.blocks=4", "MODEL.width=32", "MODEL.skip=none")
SMALL += ("TRAIN.log_every=5", "TRAIN.validate_every=100", "TRAIN.ema=0")
SECONDS = 0.35  # an update of these small generators on two cores, estimated
ARMS = (  # the upsamplers that are compared
    Row("small-icnr", ("--upsampler-init", "icnr"), SECONDS, "sub-pixel convolution by ICNR"),
    Row("small-random", ("--upsampler-init", "random"), SECONDS, "sub-pixel convolution, random kernels"),
    Row("small-resize", ("--upsampler", "resize"), SECONDS, "nearest resizing and convolution"),
    Row("small-deconv", ("--upsampler", "deconv"), SECONDS, "transposed convolution 3×3"),
)


def seeded(row, seed):
    """An arm with a seed for its weights and batches; arms with the same seed have the same batches."""
    return row._replace(name=f"{row.name}-{seed}", arguments=(*row.arguments, "--seed", str(seed)))


def config_of(row):
    """The MODEL section of an arm."""
    flag, value = row.arguments
    key = flag.removeprefix("--").replace("-", "_")
    return make_config(overrides=[*SMALL, f"MODEL.{key}={value}"]).MODEL


def first_outputs(lr_u8):
    """[uint8 [scale·h, scale·w, 3]]: each arm's output before training, all stretched to the same contrast."""
    pictures = []
    for row in ARMS:
        keras.utils.set_random_seed(0)
        config = config_of(row)
        sr = np.asarray(build_generator(config)(utils.u8_to_01(lr_u8)[None]))[0]
        pictures.append(utils.round_u8(127.5 + 50 * (sr - sr.mean(axis=(0, 1))) / sr.std(axis=(0, 1))))
    return pictures


def read_study(seeds):
    """What the finished runs of all arms with these seeds logged, for subpixel.json. Raises UserError.

    {"steps": [step], "seeds", "blocks", "width", "images", "bicubic": dB, "commits", "arms": {name: {"parameters":
    number, "mse_loss", "checkerboard": [[value per step] per seed], "validation": [dB per seed]}}}. A run that was
    interrupted has logged more steps than others: only the steps that all have are kept.
    """
    names = {row.name: [run_name(seeded(row, seed).name) for seed in seeds] for row in ARMS}
    runs = {name: store.root() / name for arm in names.values() for name in arm}
    logs = {name: {line["step"]: line for line in read_metrics(run)} for name, run in runs.items()}
    abouts = [store.read_about(run / "config.json") for run in runs.values()]
    if len({max(log) for log in logs.values()}) > 1:
        words = ", ".join(f"{name} {max(log):,}" for name, log in logs.items())
        raise UserError(f"the runs differ in their number of updates, remove those to be trained again: {words}")
    if len({about["data"]["fingerprint"] for about in abouts}) > 1:
        raise UserError("the runs were trained on different photographs: remove them to train them again")
    steps = sorted(set.intersection(*map(set, logs.values())))
    arms = {}
    for row in ARMS:
        arms[row.name] = {"parameters": build_generator(config_of(row)).count_params()}
        for key in ("mse_loss", "checkerboard"):
            arms[row.name][key] = [[logs[name][step][key] for step in steps] for name in names[row.name]]
        arms[row.name]["validation"] = [logs[name][steps[-1]]["val_psnr_y"] for name in names[row.name]]
    facts = {key: abouts[0]["config"].MODEL[key] for key in ("blocks", "width")}
    facts |= {"images": abouts[0]["data"]["images"], "bicubic": next(iter(logs.values()))[steps[-1]]["val_bicubic"]}
    commits = list(dict.fromkeys(about.get("commit") for about in abouts))
    return {"steps": steps, "seeds": len(seeds), **facts, "commits": commits, "arms": arms}


def smooth(values, width=9):
    """The running mean along the last axis, shorter at both ends."""
    means = [values[..., max(i - width // 2, 0) : i + width // 2 + 1].mean(-1) for i in range(values.shape[-1])]
    return np.stack(means, -1)


def draw_curves(path, study):
    """Write the pixel loss and the grid over the updates as a PNG: a line for each arm's mean, a band for its seeds."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for row in ARMS:
        for axis, key in zip(axes, ("mse_loss", "checkerboard"), strict=True):
            steps, values = study["steps"], smooth(np.array(study["arms"][row.name][key]))
            [line] = axis.plot(steps, values.mean(0), label=row.title, linewidth=1.2)
            axis.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    for axis, title in zip(axes, ("pixel loss", "checkerboard, grey levels of 255"), strict=True):
        axis.set(title=title, xlabel="update", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend()
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


TEXT = """# Sub-pixel convolution: its checkerboard, and why it is a transposed convolution

Written by `python -m papers.subpixel` from [subpixel.json](subpixel.json).

This page examines two notes: Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (1609.07009),
and Aitken et al., "Checkerboard artifact free sub-pixel convolution" (1707.02937).

**The same as a transposed convolution.** A convolution to r²·C maps followed by a pixel shuffle equals a transposed
convolution of stride r, if the kernels K [k, k, C_in, r²·C] of the first and W [r·k, r·k, C, C_in] of the second have

    W[y, x, c, i] = K[k-1 - y//r, k-1 - x//r, i, ((y mod r)·r + x mod r)·C + c]

`layers/upsampling.transposed_kernel` computes this. A test compares the two for r = 2, 3, 4 and k = 1, 3, 5, to 1e-12.

**The checkerboard.** With random initial weights the r² sub-kernels differ from each other, which shows as a grid. ICNR
makes all of them equal, so that the layer starts as nearest-neighbour resizing. The pictures are the output of four
generators for the same LR image before any training, stretched to the same contrast:

![{titles}](subpixel_start.png)

*From left to right: {titles}.*

**Training.** Each generator has {blocks} residual blocks of {width} maps and was trained for {steps:,} updates on
{images:,} photographs: batch 16, crops of 64, Adam, cosine from 1e-3. Seeds: {seeds}; with the same seed all four have
the same batches. Lines are means over the seeds and nine logged updates, bands go from the lowest seed to the highest.
The transposed convolution has a quarter of the weights and work of a sub-pixel one.

![curves of pixel loss and checkerboard](subpixel_curves.png)

| | parameters | validation, dB | loss: first fifth | last tenth | grid: first update | after a tenth | last tenth |
|---|---|---|---|---|---|---|---|
{table}

The table has means over the seeds ± their standard deviation. The grid is the RMS, in grey levels of 255, of the
pattern that repeats in every 4×4 cell of SR - HR. On the validation photographs bicubic has
{bicubic:.2f} dB{moved}. At the first update ICNR and resizing have no
grid: their values there are what chance leaves in the mean over one batch's cells.

**Claims and findings.** Aitken et al. make three claims for ICNR.

- It starts without the checkerboard. Found: its grid at the first update is below half of the
  random kernels' with {start} seeds.
- It trains faster than random kernels and than resizing. Found: its loss over the first fifth is lower than theirs
  with {faster}.
- It ends with the lowest loss. Found: its loss over the last tenth is lower with {end}.

Trained at {commits}.
"""


def moved(study):
    """How much the difference of two arms in validation varies with the seed, as text; "" for a single seed."""
    if study["seeds"] == 1:
        return ""
    validation = [np.array(study["arms"][row.name]["validation"]) for row in ARMS]
    variances = [np.var(one - other, ddof=1) for one, other in itertools.combinations(validation, 2)]
    return f"; the difference between two of the four varies by {np.mean(variances) ** 0.5:.2f} dB with the seed"


def lower(ours, theirs):
    """For how many seeds our value is below the other, as text: "2 of 3"."""
    return f"{int(np.sum(np.less(ours, theirs)))} of {len(ours)}"


def page_of(study):
    """The text of subpixel.md; study: from read_study."""
    lines, first, early, late = [], {}, {}, {}
    tenth, fifth = (max(len(study["steps"]) // share, 1) for share in (10, 5))
    for row in ARMS:
        arm = study["arms"][row.name]
        loss, board = (np.array(arm[key]) for key in ("mse_loss", "checkerboard"))
        first[row.name] = board[:, 0]
        early[row.name], late[row.name] = loss[:, :fifth].mean(1), loss[:, -tenth:].mean(1)
        cells = [f"{arm['parameters']:,}", results.spread(arm["validation"], 2)]
        cells += [results.spread(early[row.name], 4), results.spread(late[row.name], 5)]
        grids = (board[:, 0], smooth(board)[:, min(tenth, board.shape[1] - 1)], board[:, -tenth:].mean(1))
        cells += [results.spread(values, 2) for values in grids]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")

    def against_both(values):
        random, resize = (lower(values["small-icnr"], values[name]) for name in ("small-random", "small-resize"))
        return f"{random} and {resize} seeds"

    facts = {key: study[key] for key in ("blocks", "width", "images", "bicubic")}
    return TEXT.format(
        **facts,
        seeds=", ".join(map(str, range(study["seeds"]))),
        moved=moved(study),
        commits=results.in_words(study["commits"]),
        start=lower(first["small-icnr"], first["small-random"] / 2),
        faster=against_both(early),
        end=against_both(late),
        titles="; ".join(row.title for row in ARMS),
        steps=study["steps"][-1],
        table="\n".join(lines),
    )


def write_page(study, out):
    """Write subpixel.md, its figures as subpixel.json and its two pictures into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    photo = pictures.read_image(data.package_files(data.SAMPLE_TEST)[0])[60:124, 130:226]
    start = [image.repeat(2, axis=0).repeat(2, axis=1) for image in first_outputs(utils.imresize(photo, 1 / 4))]
    utils.write_image(out / "subpixel_start.png", utils.picture_grid([start]))
    draw_curves(out / "subpixel_curves.png", study)
    for name, text in (("subpixel.json", json.dumps(study) + "\n"), ("subpixel.md", page_of(study))):
        utils.write_atomically(out / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python -m papers.subpixel --minutes 5 --data ~/photos"
    )
    minutes = terminal.number(float, 1e-3, 1e6, "a number of minutes above zero")
    parser.add_argument(
        "--minutes",
        type=minutes,
        default=5.0,
        help="minutes of training for each run, as estimated for two idle cores (default: 5)",
    )
    count = terminal.number(int, 1, 100, "a whole number from 1 to 100")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="runs of each upsampler (default: 3)")
    parser.add_argument("--data", metavar="DIR", help="photographs, as for train.py")
    parser.add_argument("--report", action="store_true", help="train nothing, only write the page of the finished runs")
    parser.add_argument(
        "--out",
        type=Path,
        default=store.PROJECT / "samples" / "subpixel",
        metavar="DIR",
        help="where the page and its pictures go (default: samples/subpixel; our page is docs/subpixel.md)",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    seeds = range(args.seeds)
    rows = [seeded(row, seed) for seed in seeds for row in ARMS]
    for row in () if args.report else rows:
        train_row(row, args.minutes, args.data, SMALL)
    if missing := [run_name(row.name) for row in rows if not is_finished(row)]:
        raise UserError(f"not trained yet: {', '.join(missing)}")
    write_page(read_study(seeds), args.out)
    print(f"written: {args.out / 'subpixel.md'}, its figures and its pictures")


if __name__ == "__main__":
    terminal.run_command(main)
