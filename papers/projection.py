"""Runs with the projection of Sønderby et al., 2017, behind others' weights, or without it: nothing is trained.

    python -m papers.projection srresnet_x4     # makes srresnet_x4-projected
    python -m papers.projection srgan_x4        # makes srgan_x4-free, since srgan_x4 has the projection
    python evaluate.py --weights srgan_x4 srgan_x4-free

The new runs are used like any other: by evaluate.py, upscale.py, export.py and demo.py. --fit fits A⁺ of the paper's
Gaussian again.
"""

import argparse
import json
import shutil

import utils
from cli import terminal
from layers import projection
from layers.borders import extended
from runs import store
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

REACH = 2  # the paper's A⁺ has kernels of 5×5
LARGEST_LOSS = 1e-8  # the paper's fits ended between 1e-12 and this


def pairs_of(name):
    """(without, with the projection): the names of a run and of the one that `make` makes; two, for both kinds."""
    return (name, f"{name}-projected"), (f"{name}-free", name)


def make(run):
    """Make the run NAME-projected, with MODEL.projection=bicubic, or NAME-free of one that has it. Returns its folder.

    run: a run's name, directory or weights file. Nothing is made if it is there already, with the same weights. Raises
    UserError.
    """
    weights, about = store.describe_weights(run)
    free = about["config"].MODEL.projection == "none"
    name = weights.resolve().parent.name
    (_, projected), (without, _) = pairs_of(name)
    directory = store.root() / (projected if free else without)
    if directory.exists():
        if (directory / store.WEIGHTS).read_bytes() != weights.read_bytes():
            raise UserError(f"{directory} has other weights: remove it to have it made again")
        return directory
    about["config"].MODEL.projection = "bicubic" if free else "none"
    directory.mkdir(parents=True)
    shutil.copyfile(weights, directory / store.WEIGHTS)
    store.write_json(directory / "config.json", about | {"weights_of": name})
    return directory


def fit(degradation, steps=3000, rate=0.03):
    """(A⁺ [5, 5, 16] of a Degradation, its loss): the paper's fit (appendix A), by Adam.

    The loss is E|Ay - ABAy|² + E|Bx - BABx|², means over pixels; y and x are Gaussian noise in HR and LR.
    """
    scale, side = degradation.scale, 2 * REACH + 1
    kernel = tf.Variable(tf.zeros([side, side, 1, scale**2]))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    optimizer.build([kernel])
    random = tf.random.Generator.from_seed(0)

    def down(y):
        return projection.shrink(y, degradation)

    def up(x):
        maps = tf.nn.conv2d(extended(x, REACH, REACH, degradation.border), kernel, 1, "VALID")
        return tf.nn.depth_to_space(maps, scale)

    def loss_of(side):
        y, x = random.normal([4, scale * side, scale * side, 1]), random.normal([4, side, side, 1])
        return sum(tf.reduce_mean((a - b) ** 2) for a, b in ((down(y), down(up(down(y)))), (up(x), up(down(up(x))))))

    @tf.function(autograph=False, jit_compile=True)
    def update():
        with tf.GradientTape() as tape:
            loss = loss_of(8)
        optimizer.apply(tape.gradient(loss, [kernel]), [kernel])

    for _ in range(steps):
        update()
    return kernel.numpy().reshape(side, side, -1), float(loss_of(64))


def write_fit():
    """Fit A⁺ of the paper's Gaussian and write it with the digest of A. Raises UserError if the loss stays large."""
    kernel = projection.gaussian_kernel()
    start = projection.Degradation(4, kernel, 2, None, projection.wrap)
    inverse, loss = fit(start)
    if loss > LARGEST_LOSS:
        raise UserError(f"the fit ended at a loss of {loss:.1e}, above {LARGEST_LOSS}")
    content = {"digest": projection.digest_of(kernel), "loss": loss, "inverse": inverse.ravel().tolist()}
    text = json.dumps(content) + "\n"
    utils.write_atomically(projection.GAUSSIAN, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"written: {projection.GAUSSIAN}, loss {loss:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's name, its directory or weights file")
    parser.add_argument(
        "--fit", action="store_true", help="fit A⁺ of the paper's Gaussian, layers/gaussian_inverse.json"
    )
    args = parser.parse_args()
    if not (args.runs or args.fit):
        parser.error("name a run, or --fit")
    if args.fit:
        write_fit()
    for run in args.runs:
        print(f"made: {make(run)}")


if __name__ == "__main__":
    terminal.run_command(main)
