"""How the generator's upsampler starts and learns: four arms, trained equally long; writes docs/subpixel.md.

The two notes it looks at: Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (1609.07009), and
Aitken et al., "Checkerboard artifact free sub-pixel convolution" (1707.02937).
"""

import argparse

import numpy as np

import data
import model
import reproduce
import runs
import utils
from config import make_config
from logs import read_metrics
from reproduce import Row
from utils import LazyModule, UserError

keras = LazyModule("keras")
pyplot = LazyModule("matplotlib.pyplot")

DOCS = runs.HERE / "docs"
SMALL = ("MODEL.blocks=4", "MODEL.width=32", "MODEL.skip=none")
SMALL += ("TRAIN.log_every=5", "TRAIN.validate_every=100", "TRAIN.ema=0")
SECONDS = 0.35  # an update of these small generators on two cores, estimated
ARMS = (
    Row("small-icnr", ("--upsampler-init", "icnr"), SECONDS, "sub-pixel convolution, ICNR"),
    Row("small-random", ("--upsampler-init", "random"), SECONDS, "sub-pixel convolution, random"),
    Row("small-resize", ("--upsampler", "resize"), SECONDS, "nearest resizing, convolution"),
    Row("small-deconv", ("--upsampler", "deconv"), SECONDS, "transposed convolution 3×3"),
)


def config_of(row):
    """The MODEL section of an arm."""
    flag, value = row.arguments
    key = flag.removeprefix("--").replace("-", "_")
    return make_config(overrides=[*SMALL, f"MODEL.{key}={value}"]).MODEL


def first_outputs(lr_u8):
    """What each arm makes of LR untrained: uint8 [scale·h, scale·w, 3] each, stretched to the same contrast."""
    pictures = []
    for row in ARMS:
        keras.utils.set_random_seed(0)
        config = config_of(row)
        sr = np.asarray(model.build_generator(config)(utils.u8_to_01(lr_u8)[None]))[0]
        pictures.append(utils.round_u8(127.5 + 50 * (sr - sr.mean(axis=(0, 1))) / sr.std(axis=(0, 1))))
    return pictures


def curve_of(row, key):
    """(steps, values) of a key of a run's metrics.jsonl."""
    lines = [line for line in read_metrics(runs.root() / reproduce.run_name(row.name)) if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def smooth(values, width=9):
    """The running mean, shorter at both ends."""
    return [float(np.mean(values[max(i - width // 2, 0) : i + width // 2 + 1])) for i in range(len(values))]


def draw_curves(path):
    """Pixel loss and strength of the grid over the updates, an arm a line, as a PNG."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for row in ARMS:
        for axis, key in zip(axes, ("mse_loss", "checkerboard"), strict=True):
            steps, values = curve_of(row, key)
            axis.plot(steps, smooth(values), label=row.title, linewidth=1.2)
    for axis, title in zip(axes, ("pixel loss", "checkerboard, grey levels of 255"), strict=True):
        axis.set(title=title, xlabel="update", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend()
    path.parent.mkdir(exist_ok=True)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


TEXT = """# Sub-pixel convolution: the same as a transposed one, and its checkerboard

Written by `python subpixel.py`.

**The same.** A convolution to r²·C maps followed by a pixel shuffle is a transposed convolution of stride r, and the
reverse. With the kernels K [k, k, C_in, r²·C] of the one and W [r·k, r·k, C, C_in] of the other

    W[y, x, c, i] = K[k-1 - y//r, k-1 - x//r, i, ((y mod r)·r + x mod r)·C + c]

which is `layers.transposed_kernel`. A test compares the two for r = 2, 3, 4 and k = 1, 3, 5, to 1e-12.

**The checkerboard.** With random kernels the r² sub-kernels start independently of each other, and what they draw is a
grid. ICNR gives all of them the same kernel: the layer starts as nearest-neighbour resizing. What four generators make
of the same LR image before any training, each stretched to the same contrast:

![{titles}](subpixel_start.png)

*From left to right: {titles}.*

**Trained.** Each for {steps:,} updates on the same batches of {images:,} photographs: {blocks} residual blocks of
{width} maps, batch 16, crops of 64, Adam, cosine from 1e-3. Lines are running means over nine logged updates. The
transposed convolution has a quarter of the weights of a sub-pixel one, and of its work.

![curves of pixel loss and checkerboard](subpixel_curves.png)

| | parameters | validation, dB | loss, last tenth | grid: first update | after a tenth | last tenth |
|---|---|---|---|---|---|---|
{table}

The grid is the RMS, in grey levels of 255, of the pattern that repeats in every 4×4 cell of SR - HR. On the validation
photographs bicubic has {bicubic} dB. A batch holds a finite number of cells, over which what differs by chance does not
average out wholly: what ICNR and resizing show at the first update, where they have no grid, is that floor. One seed
each: differences of some hundredths of a decibel are within what another seed moves.

**Claimed and found.** The note claims that ICNR starts without the checkerboard: {start}. It claims that ICNR trains
faster, and ends with a lower loss than random kernels and than resizing: {end}.
"""


def write_page():
    """docs/subpixel.md and its two pictures, from the four finished runs."""
    lines, steps, first, last = [], 0, {}, {}
    for row in ARMS:
        (steps_logged, loss), (_, board), (_, validation) = (
            curve_of(row, key) for key in ("mse_loss", "checkerboard", "val_psnr_y")
        )
        steps, tenth = steps_logged[-1], max(len(loss) // 10, 1)
        cells = [f"{model.build_generator(config_of(row)).count_params():,}", f"{validation[-1]:.2f}"]
        cells += [f"{np.mean(loss[-tenth:]):.5f}", f"{board[0]:.2f}", f"{smooth(board)[tenth]:.2f}"]
        cells += [f"{np.mean(board[-tenth:]):.2f}"]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
        first[row.name], last[row.name] = board[0], np.mean(loss[-tenth:])
    draw_curves(DOCS / "subpixel_curves.png")
    photo = utils.read_image(data.package_files(data.SAMPLE_TEST)[0])[60:124, 130:226]
    start = [image.repeat(2, axis=0).repeat(2, axis=1) for image in first_outputs(utils.imresize(photo, 1 / 4))]
    utils.write_image(DOCS / "subpixel_start.png", utils.picture_grid([start]))
    about = runs.read_about(runs.root() / reproduce.run_name(ARMS[0].name) / "config.json")
    others = {name: last[name] for name in ("small-random", "small-resize")}
    lower = [name for name in others if last["small-icnr"] < others[name]]
    end = {0: "it ended above both", 1: f"it ended below {''.join(lower)} alone", 2: "so it did"}[len(lower)]
    text = TEXT.format(
        start="so it does" if first["small-icnr"] < first["small-random"] / 2 else "it does not",
        end=f"{end} ({last['small-icnr']:.5f} against {' and '.join(f'{loss:.5f}' for loss in others.values())})",
        titles=", ".join(row.title for row in ARMS),
        steps=steps,
        blocks=about["config"].MODEL.blocks,
        width=about["config"].MODEL.width,
        images=about["data"]["images"],
        table="\n".join(lines),
        bicubic=f"{curve_of(ARMS[0], 'val_bicubic')[1][-1]:.2f}",
    )
    utils.write_atomically(DOCS / "subpixel.md", lambda temporary: temporary.write_text(text))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python subpixel.py --minutes 5 --data ~/photos"
    )
    minutes = utils.number(float, 1e-3, 1e6, "a number of minutes above zero")
    parser.add_argument("--minutes", type=minutes, default=5.0, help="for each arm, on two quiet cores (default: 5)")
    parser.add_argument("--data", metavar="DIR", help="photographs, as for train.py")
    parser.add_argument("--report", action="store_true", help="train nothing, write docs/subpixel.md")
    return parser.parse_args()


def main():
    args = parse_arguments()
    for row in () if args.report else ARMS:
        reproduce.train_row(row, args.minutes, args.data, SMALL)
    if missing := [row.title for row in ARMS if not reproduce.is_finished(row)]:
        raise UserError(f"not trained yet: {', '.join(missing)}")
    write_page()
    print(f"written: {DOCS / 'subpixel.md'} and its pictures")


if __name__ == "__main__":
    utils.run_command(main)
