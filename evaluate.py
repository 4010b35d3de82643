"""Score interpolations and all trained models on Set5, Set14 and BSD100; write tables, results and pictures.

The protocol is the paper's (section 3.1): ×4, MATLAB's bicubic LR, PSNR and SSIM on Y without a border of 4 pixels.
Before anything is scored, bicubic must reach its known figures (scoring/testsets.py); docs/metrics.md says more.
"""

import argparse
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data
import utils
from cli import terminal
from inference import compiled
from networks.registry import NETWORKS
from runs import store
from scoring import explain, figures, metrics, report, tables, testsets
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
exposure = LazyModule("skimage.exposure")

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
THREADS = min(os.cpu_count() or 1, 4)  # that work on batches
REPEATS = 8  # a model is compiled for a shape that has at least this many batches: some seconds, then a sixth faster
BATCH = 4  # images at most, all of one size: padding them to one size would change what the network sees at the border


class Interpolation:
    """A method without weights: MATLAB's imresize by `scale`; name: a key of utils.KERNELS."""

    matched = False  # see networks.registry.Network

    def __init__(self, name, scale):
        self.name = name
        self.scale = scale

    def upscale(self, lrs, repeats=False):
        """A list of uint8 [h, w, c] to one of uint8 [scale·h, scale·w, c]."""
        return [utils.imresize(lr_u8, self.scale, self.name) for lr_u8 in lrs]


class Model:
    """A generator as a method; its name becomes the name of its row.

    config: the MODEL section it was built from; weights: the file its weights come from, None if there is none.
    """

    def __init__(self, name, generator, config, weights=None):
        self.name = name
        self.weights = weights
        self.plain, self.compiled = (compiled.inference(generator, config, xla) for xla in (False, True))
        self.matched = NETWORKS[config.network].matched

    def upscale(self, lrs, repeats=False):
        """A list of uint8 [h, w, 1 or 3] of one size to a list of uint8 [scale·h, scale·w, 3].

        Gray is given to the network as three equal channels. repeats: many lists of this length and size will follow,
        so compiling pays.
        """
        lr_01 = np.stack([utils.u8_to_01(utils.to_rgb(lr_u8)) for lr_u8 in lrs])
        return [utils.m11_to_u8(sr) for sr in (self.compiled if repeats else self.plain)(lr_01)]


def match_colours(sr_u8, lr_u8):
    """SR uint8 [h, w, 3], each channel given the histogram of LR's, as Johnson et al. do before they score."""
    lr = utils.to_rgb(lr_u8).astype(np.float64)
    return utils.round_u8(exposure.match_histograms(sr_u8.astype(np.float64), lr, channel_axis=-1))


def load_models(models, optional):
    """[Model] of {row name: path}. One that cannot be loaded is left out and named if `optional`, else a UserError."""
    loaded = []
    for name, path in models.items():
        try:
            generator, about = store.load_generator(path)
            loaded.append(Model(name, generator, about["config"].MODEL, path))
        except UserError as error:
            if not optional:
                raise
            print(f"left out: {error}")
    return loaded


def check_blend(first, second, scale):
    """Raise UserError unless two runs have the same network, of this scale: only then can their weights be mixed."""
    file, about = store.check_blend(first, second)
    if (own_scale := about["config"].MODEL.scale) != scale:
        raise UserError(f"{file} is a ×{own_scale} model: blend it with --scale {own_scale}")


def blend(first, second, shares):
    """[Model] with the weights (1 - t)·first + t·second for each t of `shares`, as ESRGAN (Wang et al., 2018) does."""
    blends = zip(shares, store.blends(first, second, shares), strict=True)
    return [Model(f"blend_{t:g}", generator, about["config"].MODEL) for t, (generator, about) in blends]


def choose_models(weights, methods, scale):
    """{row name: path} of the models to score: those given, else all runs found. Prints which are taken or left out.

    weights: paths or run names from --weights, or None; methods: row names from --methods, or None. Raises UserError.
    """
    chosen = {}
    given = [store.describe_weights(path) for path in weights or ()]
    for file, about in given or store.find_runs().values():
        name = file.parent.name if file.name == store.WEIGHTS else file.name.removesuffix(".weights.h5")
        own_scale = about["config"].MODEL.scale
        if own_scale != scale:
            if weights:
                raise UserError(f"{file} is a ×{own_scale} model: evaluate it with --scale {own_scale}")
            print(f"left out: {name}, a ×{own_scale} model (--scale {own_scale} takes it)")
        elif given or not methods or name in methods:
            if name in chosen or name in INTERPOLATIONS:
                raise UserError(f"two rows would be called {name}; rename the directory of one")
            chosen[name] = file
            print(f"found: {name} ({store.kind_of(about['mode'], about['config'])}, {file})")
    for name in methods or ():
        if name not in chosen and name not in INTERPOLATIONS:
            known = ", ".join((*INTERPOLATIONS, *chosen, *({} if given else store.find_runs())))
            raise UserError(f"there is no method or ×{scale} run called '{name}'; there are {known}")
    if not chosen and not methods:
        print("no trained models were found: train one with train.py, or name weights with --weights")
    return chosen


class Task(NamedTuple):
    """A batch of images to be scored by one method; repeats: whether many batches of the same shape are to come."""

    set_name: str
    images: list  # testsets.Image, LR of one size
    method: object  # Interpolation or Model
    repeats: bool


def make_tasks(methods, sets):
    """[Task] for every method on every image; arguments as in evaluate."""
    batches = [(name, images) for name, members in sets.items() for images in batches_of(members.images)]
    counts = Counter((len(images), images[0].lr.shape) for _, images in batches)
    repeats = [counts[len(images), images[0].lr.shape] >= REPEATS for _, images in batches]
    return [
        Task(name, images, method, often)
        for (name, images), often in zip(batches, repeats, strict=True)
        for method in methods
    ]


def batches_of(images):
    """[testsets.Image] as lists of at most BATCH images whose LR is of one size; sizes as they first come."""
    sizes = {}
    for image in images:
        sizes.setdefault(image.lr.shape, []).append(image)
    return [same[i : i + BATCH] for same in sizes.values() for i in range(0, len(same), BATCH)]


def score(task, names, scale, folder):
    """[{measure: value}] of a task's images; writes the pictures below the set's folder. names: as in evaluate."""
    scores = []
    lrs = [image.lr for image in task.images]
    for image, sr in zip(task.images, task.method.upscale(lrs, task.repeats), strict=True):
        if task.method.matched:
            sr = match_colours(sr, image.lr)
        figures.write_method(folder, image, task.method.name, sr)
        scores.append(metrics.measure(names, sr, image.hr, image.lr, scale))
    return scores


def evaluate(methods, sets, names, scale, out, pool):
    """Score every method on every image and write the pictures: {set: {method: {image: {measure: value}}}}.

    methods: list of Interpolation or Model; sets: {set: testsets.ImageSet}; names: measures, keys of metrics.COLUMNS;
    out: folder, gets the pictures (figures.py); pool: Executor, its threads do the work.
    """
    results = {}
    for name, members in sets.items():
        figures.check_names([image.name for image in members.images], [method.name for method in methods])
        results[name] = {method.name: {image.name: None for image in members.images} for method in methods}
    tasks = make_tasks(methods, sets)
    answers = pool.map(lambda task: score(task, names, scale, out / task.set_name), tasks)
    with tqdm(total=sum(len(task.images) for task in tasks), unit="image", desc="scoring", disable=None) as progress:
        for task, scores in zip(tasks, answers, strict=True):
            for image, values in zip(task.images, scores, strict=True):
                results[task.set_name][task.method.name][image.name] = values
            progress.update(len(task.images))
    return results


def record(models, results, scale):
    """Write the models' means on proven sets beside their weights, unless some are recorded there already.

    models: list of Model; results: {set: {method: tables.Row}}. A mean that differs from the recorded one by more than
    the last digit of the tables is named, since something that makes the scores has changed. Smaller differences are
    another machine's rounding.
    """
    for entry in models:
        try:
            recorded = store.read_scores(entry.weights)
            scores = {key: dict(means) for key, means in recorded.items()}
            for set_name, rows in results.items():
                row = rows[entry.name]
                if (set_name, scale) in testsets.KNOWN and not row.doubt:
                    add_means(scores.setdefault(f"{set_name} ×{scale}", {}), row, entry.name, set_name)
            if scores != recorded:
                store.write_scores(entry.weights, scores)
        except UserError as error:  # of a folder that is read-only, or of a damaged file
            print(f"the scores of {entry.name} are not recorded beside its weights: {error}")


def add_means(recorded, row, method, set_name):
    """Add the means of a tables.Row to {measure: mean}; print where another mean is recorded already."""
    for name, value in row.finite_means().items():
        column = metrics.COLUMNS[name]
        before = recorded.setdefault(name, value)
        if abs(before - value) > 10**-column.digits:
            now, then = (f"{mean:.{column.digits}f}" for mean in (value, before))
            print(
                f"{method} has {column.title} {now} on {set_name}, but {then} in the {store.SCORES} beside its weights"
            )


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def shares_of(text):
    """The numbers of START:STOP:STEP, including STOP. Raises ValueError."""
    start, stop, step = map(float, text.split(":"))
    if not (0 <= start <= stop <= 1 and 0.001 <= step):
        raise ValueError(text)
    return [start + step * i for i in range(int((stop - start) / step + 1e-9) + 1)]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Score interpolations and trained models on Set5, Set14 and BSD100, and write their pictures.",
        epilog="example: python evaluate.py --sets Set5 --weights checkpoint/my_run",
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="the folder of Set5/, Set14/ and BSD100/ (default: $SRGAN_DATA, else data/)")
    add(
        "--sets",
        type=terminal.names,
        metavar="A,B",
        help="Set5, Set14, BSD100, samples, other folders in DIR (default: the three)",
    )
    add(
        "--methods",
        type=terminal.names,
        metavar="A,B",
        help=f"which rows, in their order: {', '.join(INTERPOLATIONS)}, names of runs (default: all)",
    )
    add(
        "--metrics",
        type=terminal.names,
        metavar="A,B",
        help=f"which columns: {', '.join(metrics.COLUMNS)} (default: all)",
    )
    add("--weights", nargs="+", metavar="FILE", help="weights files, run directories or run names (default: all runs)")
    add(
        "--blend-sweep",
        nargs=3,
        metavar=("A", "B", "0:1:0.25"),
        help="rows of mixed weights (1-t)·A + t·B of two runs of one network, t from start to stop by step",
    )
    add("--significance", action="store_true", help="print p-values between the methods, as in the paper's section 3.1")
    add(
        "--explain",
        metavar="WHAT",
        help="only show how each choice of the protocol changes the scores of an image or set",
    )
    add("--force", action="store_true", help="also score sets that are not the published ones or fail the self-test")
    add("--scale", type=int, choices=(2, 3, 4, 8), default=4, help="upscaling factor (default: %(default)s)")
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=store.PROJECT / "samples" / "evaluate",
        help="where index.html, its pictures, table.md, results.json and results.csv go (default: samples/evaluate)",
    )
    add("--json", metavar="FILE", type=Path, help="write results.json there as well (docs/metrics.md describes it)")
    args = parser.parse_args()
    if str(args.out) == "." or args.out.is_file():
        parser.error(f"--out takes a folder of its own, not '{args.out}'")
    if args.sets:  # upper and lower case are the same
        spelling = {name.lower(): name for name in (*data.TEST_SETS, data.SAMPLES)}
        args.sets = tuple(spelling.get(name.lower(), name) for name in args.sets)
    if args.blend_sweep:
        try:
            args.blend_sweep[2] = shares_of(args.blend_sweep[2])
        except ValueError:
            parser.error("--blend-sweep takes two runs and START:STOP:STEP within 0 and 1, as 0:1:0.25")
    return args


def check_arguments(args):
    """Raise UserError for names that do not exist and for options that do not go together."""
    for name in args.sets or ():
        own = Path(name).name == name and (data.data_root(args.data) / name).is_dir()
        if name not in (*data.TEST_SETS, data.SAMPLES) and not own:
            raise UserError(f"there is no set called '{name}'; there are {', '.join((*data.TEST_SETS, data.SAMPLES))}")
    for name in args.metrics or ():
        if name not in metrics.COLUMNS:
            raise UserError(f"there is no measure called '{name}'; there are {', '.join(metrics.COLUMNS)}")
    if args.significance and "psnr_y" not in (args.metrics or metrics.COLUMNS):
        raise UserError("--significance needs psnr_y among the --metrics")
    if args.json and args.json.is_dir():
        raise UserError(f"--json takes a file, and {args.json} is a folder")
    if args.blend_sweep:
        check_blend(*args.blend_sweep[:2], args.scale)


def load_methods(args, models):
    """[Interpolation or Model] in the order of the rows; models: {row name: path}. Raises UserError."""
    methods = [Interpolation(name, args.scale) for name in INTERPOLATIONS if not args.methods or name in args.methods]
    methods += load_models(models, optional=not (args.weights or args.methods))
    order = {name: i for i, name in enumerate(args.methods or ())}
    methods.sort(key=lambda method: order.get(method.name, len(order)))
    if args.blend_sweep:
        methods += blend(*args.blend_sweep)
    if args.significance and len(methods) < 2:
        raise UserError("--significance compares methods, and there is only one")
    return methods


def write_results(args, results, sets, focus):
    """Print the tables and write all files but the pictures.

    results: {set: {method: tables.Row}}; sets: {set: testsets.ImageSet}; focus: from figures.write_originals.
    """
    tables.print_tables(results, args.scale, args.significance)
    tables.write_csv(args.out / "results.csv", results)
    for path in filter(None, (args.out / "results.json", args.json)):
        tables.write_json(path, results)
    tables.write_markdown(args.out / "table.md", results, args.scale, args.significance)
    report.write(args.out, results, sets, focus, args.scale)


def main():
    args = parse_arguments()
    if args.explain:
        return explain.explain(args.explain, args.data, args.scale)
    check_arguments(args)
    sets = data.find_test_sets(args.data, args.sets)
    models = choose_models(args.weights, args.methods, args.scale)
    for folder in (args.out, args.json.parent) if args.json else (args.out,):
        folder.mkdir(parents=True, exist_ok=True)
    if data.SAMPLES in sets and not args.sets:
        print("no test set was found, so the sample photographs are scored; `python data.py` says how to get the sets")

    names = [name for name in metrics.COLUMNS if name in (args.metrics or metrics.COLUMNS)]
    with ThreadPoolExecutor(THREADS) as pool:
        sets = testsets.read_sets(sets, args.scale, pool)
        testsets.prove(sets, args.scale, pool, args.force)
        methods = load_methods(args, models)
        tf.get_logger().setLevel("ERROR")  # else it warns of retracing at each model's first image
        focus = figures.write_originals(args.out, sets, args.scale, pool)
        scores = evaluate(methods, sets, names, args.scale, args.out, pool)
    results = tables.summarise(scores, {name: members.doubt for name, members in sets.items()})
    write_results(args, results, sets, focus)
    record([method for method in methods if isinstance(method, Model) and method.weights], results, args.scale)
    print(f"\nthe report: {args.out / 'index.html'}; pictures, table.md, results.json and results.csv are beside it")


if __name__ == "__main__":
    terminal.run_command(main)
