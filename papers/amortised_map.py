"""Amortised MAP inference (Sønderby et al., 2017): the toy, pictures, and SRGAN with the projection; writes the page.

    python reproduce.py amortised-map --data ~/srgan-data

It can be stopped and started again: what is finished is kept in amortised-map/ beside the runs. Ours is
docs/amortised_map.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import utils
from cli import terminal
from inference.tiles import HALO
from layers import projection as layers
from papers import amortised_pictures, amortised_srgan, projection, swiss_roll
from papers.runner import evaluate
from runs import store
from utils import UserError

RUNS = ("srresnet_x4", "srgan_x4")  # that come with the project
MEASURES = {"psnr_y": ("PSNR-Y", 2), "niqe_own": ("NIQE-own", 2), "consistency": ("LR-PSNR", 1)}
SEEDS = 3  # of the Swiss roll


# ---------------------------------------------------------------------------------------------------------------------
# The bridge to SRGAN: RUNS with and without the projection


def bridge(folder, argument):
    """Score bicubic and RUNS without and with the projection by evaluate.py; writes bridge.json, what is there is kept.

    Returns {set: {method: {measure: mean}}}. argument: the value of --data. Raises UserError.
    """
    path = folder / "bridge.json"
    if path.is_file():
        return store.read_json(path)
    methods = {name: name for run in RUNS for name in (run, projection.make(run).name)}
    scores = evaluate(methods, MEASURES, folder / "evaluate", argument)
    store.write_json(path, scores)
    return scores


def bridge_table(scores):
    """The Markdown table of bridge(): a row for each method, its measures on each set."""
    heads = [f"{name}: {title}" for name in scores for title, _ in MEASURES.values()]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in next(iter(scores.values())):
        cells = [f"{scores[name][method][key]:.{digits}f}" for name in scores for key, (_, digits) in MEASURES.items()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def changes_of(scores):
    """How the projection changes the means of PSNR-Y and NIQE-own on the sets, as words."""
    words, known = [], next(iter(scores.values()))
    found = [(name, *pair) for name in RUNS for pair in projection.pairs_of(name) if set(pair) <= set(known)]
    for run, free, projected in found:
        for key in ("psnr_y", "niqe_own"):
            each = [methods[projected][key] - methods[free][key] for methods in scores.values()]
            words.append(f"{MEASURES[key][0]} of {run} changes by {min(each):+.2f} to {max(each):+.2f}")
    return "; ".join(words)


def identity_errors(scale=4, sizes=(1, 3, 9, 64)):
    """{LR pixels of an axis: the largest |AA⁺ - I|} of the bicubic as the layer has it, borders included."""
    degradation, found = layers.bicubic(scale), {}
    for n in sizes:
        unit = np.eye(n, dtype=np.float32)[:, :, None, None].repeat(3, axis=2)  # a lit row, three pixels wide
        found[n] = float(np.abs(layers.shrink(layers.enlarge(unit, degradation), degradation) - unit).max())
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The page

TEXT = """# Amortised MAP inference: super-resolution that cannot contradict its input

Written by `python reproduce.py amortised-map` from [amortised_map.json](amortised_map.json).

Sønderby, Caballero, Theis, Shi and Huszár, "Amortised MAP inference for image super-resolution" (1610.04490, ICLR
2017), put a fixed projection behind a generator f: g(x) = (I - A⁺A) f(x) + A⁺x. A shrinks HR to LR, and A⁺ is its
pseudo-inverse, so that A g(x) = x whatever f paints. Then they train f by a GAN (AffGAN), a denoiser (AffDG) or a
density of HR (AffLL). Without the projection, a loss |x - Aŷ| stands for it (SoftGAN, SoftDG). What differs here is
listed in [departures](departures.md), from 46 on.

## The projection

A is MATLAB's bicubic, of which LR is made here. Its kernel is symmetric, so mirrored borders stay mirrored, and A⁺
is one sub-pixel convolution at every pixel, also at the border ([layers/projection.py](../layers/projection.py)).
The largest |AA⁺ - I|, with borders: {identity}.

`--set MODEL.projection=bicubic` puts it behind any network, and `python -m papers.projection srresnet_x4` behind
weights that were trained without it. `srgan_x4` ships with it; of such a run the same command makes one without,
`srgan_x4-free`.

In tiles (`upscale.py`), each tile sees at least {halo} LR pixels around it, and the projection needs 10. So a
border between tiles is as consistent as the inside; the tiles differ there by what the network itself makes of the
pixels that it does not see. Beyond black and white SR is cut off, which contradicts LR again: `ppt3` in Set14,
black text on white, is the worst of that set.

Nothing was trained for these figures: the weights are those that ship.

{bridge}

LR-PSNR compares LR with SR shrunk again, after both were rounded to 8 bits. NIQE-own: lower is better. With the
projection, {changes}.

The paper's A, a 9×9 Gaussian with stride 4, has an A⁺ of 5×5 kernels that was fitted as in the paper, to a loss of
{fit:.1e} (the paper: 1e-12 to 1e-8). The paper does not give the standard deviation of the Gaussian; here it is 1
pixel.

## The Swiss roll

The paper's Figure 2: points of a plane, of which only the mean of both numbers is given.

![the points that each method paints](amortised_map_roll.png)

*Gray: points of the roll. Blue: the best point for each x. Red: the networks of seed 0.*

{roll_table}

Means over {seeds} seed(s) ± their standard deviation, after {roll_steps:,} updates of {batch} points. H[q, p] is
the cross-entropy: the mean of -log p(ŷ) by the density p that the points are drawn from. MAP is the highest density
on the line of each x, found on a grid, not by a network. The same grid gives H = {grid_mse:.2f} for the conditional
mean and {grid_mae:.2f} for the median: what the best MSE and MAE networks would have.{longer}

## Pictures: 16×16 to 64×64

{pictures}

## SRGAN with -log D and -logit D

{trainings}
"""

PICTURES = """![{names}]({figure})

*{title}. From above: {names}.*

{table}

{steps:,} updates of {batch} crops, one seed, {tests} test crops; methods with a critic begin with the weights of MSE or
AffMSE. The paper's Table 2 is of CelebA's faces, with larger networks and longer trainings, so its figures can only be
compared in their order: projected methods are consistent up to float32's rounding, the others are not.
"""

TITLES = {"grass": "Grass, one photograph of scikit-image", "photos": "Crops of photographs"}


def picture_part(folder, out, study, set_name):
    """The part of the page on one of amortised_pictures.SETS; its figure is written into `out`."""
    figure = f"amortised_map_{set_name}.png"
    names = amortised_pictures.draw(out / figure, folder, set_name)
    facts = {"steps": study["steps"], "batch": amortised_pictures.TRAIN.batch, "table": amortised_pictures.table(study)}
    facts["tests"] = amortised_pictures.TESTED
    return PICTURES.format(names=", ".join(names), figure=figure, title=TITLES[set_name], **facts)


def page_of(folder, out, studies):
    """The text of amortised_map.md; its figures are written into `out`. studies: from read_studies."""
    roll = studies["swiss_roll"]
    swiss_roll.draw(out / "amortised_map_roll.png", roll)
    parts = [
        picture_part(folder, out, studies[name], name)
        if name in studies
        else f"{TITLES[name]}: not run here; the same command runs it."
        for name in amortised_pictures.SETS
    ]
    errors = [f"{error:.0e} ({n} LR pixel{'s' if n > 1 else ''} wide)" for n, error in identity_errors().items()]
    return TEXT.format(
        identity=", ".join(errors),
        halo=HALO,
        bridge=bridge_table(studies["bridge"]),
        changes=changes_of(studies["bridge"]),
        longer=swiss_roll.longer_words(roll),
        fit=json.loads(layers.GAUSSIAN.read_text(encoding="utf-8"))["loss"],
        roll_table=swiss_roll.table(roll),
        seeds=len(roll["rows"]["MSE"]),
        roll_steps=roll["steps"],
        batch=swiss_roll.TRAIN.batch,
        grid_mse=roll["best"]["MSE"][0],
        grid_mae=roll["best"]["MAE"][0],
        pictures="\n".join(parts),
        trainings=amortised_srgan.part_of_page(studies.get("srgan")),
    )


def read_studies(folder):
    """{"swiss_roll", "bridge", "grass", "photos", "srgan": its content} of what was run. Raises UserError."""
    names = ("swiss_roll", "bridge", *amortised_pictures.SETS, "srgan")
    studies = {name: store.read_json(folder / f"{name}.json") for name in names if (folder / f"{name}.json").is_file()}
    if missing := {"swiss_roll", "bridge"} - set(studies):
        raise UserError(f"not run yet: {', '.join(sorted(missing))}")
    return studies


def write_page(folder, out):
    """Write amortised_map.md, its figures, and what they are made of as amortised_map.json into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    studies = read_studies(folder)
    text = page_of(folder, out, studies)
    roll = {key: value for key, value in studies["swiss_roll"].items() if key not in ("points", "truth")}
    store.write_json(out / "amortised_map.json", studies | {"swiss_roll": roll, "commit": store.git_commit()})
    utils.write_atomically(out / "amortised_map.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"written: {out / 'amortised_map.md'}, its figures and amortised_map.json")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python reproduce.py amortised-map --data ~/srgan-data"
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="a data root with train/ and the test sets in it")
    help_set = "a setting of the four SRGAN trainings, as TRAIN.precision=mixed_bfloat16; repeatable"
    add("--set", action="append", default=[], metavar="SECTION.key=value", help=help_set)
    add("--report", action="store_true", help="run nothing, only write the page of what is finished")
    add(
        "--out",
        type=Path,
        default=store.PROJECT / "samples" / "reproduce" / "amortised-map",
        metavar="DIR",
        help="where the page and its figures go (default: samples/reproduce/amortised-map; ours are in docs/)",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    folder = store.root() / "amortised-map"
    if not args.report:
        folder.mkdir(parents=True, exist_ok=True)
        bridge(folder, args.data)
        swiss_roll.run(folder, range(SEEDS))
        for name in amortised_pictures.SETS:
            amortised_pictures.run(folder, name, args.data)
        amortised_srgan.run(folder, args.data, args.set)
    write_page(folder, args.out)


if __name__ == "__main__":
    terminal.run_command(main)
