"""Draw what training runs logged, a row of plots for each: validation, loss terms, discriminator, colours and grid.

It reads metrics.jsonl, also while a run is training.
"""

import argparse
from pathlib import Path

import numpy as np

import utils
from cli import terminal
from runs import store
from runs.logs import read_metrics
from training import doctor
from utils import LazyModule, UserError

pyplot = LazyModule("matplotlib.pyplot")

POINTS = 400  # of a curve, at most
# {title: names of the values in metrics.jsonl; None: the loss terms}
PLOTS = {
    "Validation, PSNR-Y in dB": ("val_psnr_y", "val_bicubic"),
    "Loss terms, log10": None,
    "The discriminator's belief that a crop is real": ("d_real", "d_fake"),
    "Colour drift and checkerboard, grey levels of 255": ("colour_drift", "checkerboard"),
}


def curve(lines, names):
    """[(step, value, name)] for a plot, from the lines of metrics.jsonl, thinned to POINTS for each name.

    names: of the values; None for the decimal logarithms of the loss terms.
    """
    points = []
    for name in names or dict.fromkeys(term for line in lines for term in doctor.terms_of(line)):
        logged = [line for line in lines if isinstance(line.get(name), (int, float)) and np.isfinite(line[name])]
        for i in np.unique(np.linspace(0, len(logged) - 1, min(POINTS, len(logged))).astype(int)):
            value = logged[i][name]
            if names or value > 0:
                points.append((logged[i]["step"], value if names else float(np.log10(value)), name))
    return points


def draw(found, path):
    """Write the plots of {run's name: lines of its metrics.jsonl} as a PNG, except those without any values."""
    plots = {title: names for title, names in PLOTS.items() if any(curve(lines, names) for lines in found.values())}
    size = (4.4 * len(plots), 3.2 * len(found))
    figure, axes = pyplot.subplots(len(found), len(plots), figsize=size, layout="constrained", squeeze=False)
    for (run, lines), row in zip(found.items(), axes, strict=True):
        for axis, (title, names) in zip(row, plots.items(), strict=True):
            points = curve(lines, names)
            if not points:
                axis.axis("off")
                continue
            for name in dict.fromkeys(point[2] for point in points):
                steps, values, _ = zip(*(point for point in points if point[2] == name), strict=True)
                axis.plot(steps, values, label=name, linewidth=1, marker="." if len(steps) < 10 else "")
            axis.set_title(title, fontsize=9)
            axis.set_xlabel(f"update of {run}")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=70))
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python -m training.curves srresnet_x4 srgan_x4 -o curves.png",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="names or directories of runs")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("curves.png"), metavar="FILE", help="a PNG (%(default)s)"
    )
    args = parser.parse_args()
    if args.out.suffix.lower() != ".png":
        parser.error(f"--out must end in .png, not {args.out}")
    found = {}
    for name in args.runs:
        run, _ = store.reopen(name)
        found[run.name] = read_metrics(run.directory)
        if not found[run.name]:
            raise UserError(f"{run.directory} has logged nothing yet")
    draw(found, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    terminal.run_command(main)
