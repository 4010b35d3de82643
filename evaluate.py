"""Score interpolations and all trained models on Set5, Set14 and BSD100; write tables, results and pictures.

The protocol is the paper's (section 3.1): ×4, MATLAB's bicubic LR, PSNR and SSIM on Y without a border of 4 pixels.
Before anything is scored, bicubic must reach its known figures (scoring/testsets.py); docs/metrics.md says more.
"""

import argparse
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import data
import utils
from cli import terminal
from images import hashes
from inference import compiled
from networks.registry import NETWORKS
from runs import places, store
from scoring import explain, figures, foreign, kept, metrics, perceptual, plot, report, tables, testsets, work
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
exposure = LazyModule("skimage.exposure")

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
THREADS = min(os.cpu_count() or 1, 4)  # batches worked on at a time


# ---------------------------------------------------------------------------------------------------------------------
# Methods, the rows of the tables. Each has a name, the file of its weights or None, made_of(set, image): what its
# picture of an image depends on, in short, and pictures(images, repeats): SR, once it is ready(). Pictures that other
# programs made are a method as well (foreign.Folder); they are taken in before, so they are never made here.


class Interpolation:
    """A method without weights: MATLAB's imresize by `scale`; name: a key of utils.KERNELS."""

    weights = None

    def __init__(self, name, scale):
        self.name = name
        self.scale = scale

    def made_of(self, set_name, image):
        return kept.digest_of(self.name, image.digest, self.scale)

    def ready(self):
        pass

    def pictures(self, images, repeats=False):
        """[testsets.Image] to a list of uint8 [scale·h, scale·w, c]."""
        return [utils.imresize(image.lr, self.scale, self.name) for image in images]


class Trained:
    """A method with weights, which are loaded when it has something to do.

    load(): its Model; parts: what that depends on, texts and numbers; weights: the file, None for mixed ones.
    """

    def __init__(self, name, load, parts, weights=None):
        self.name, self.load, self.parts, self.weights = name, load, parts, weights
        self.model = None

    def made_of(self, set_name, image):
        return kept.digest_of(*self.parts, image.digest)

    def ready(self):
        """Load the weights. Raises UserError."""
        self.model = self.model or self.load()

    def pictures(self, images, repeats=False):
        """[testsets.Image] whose LR is of one size to a list of uint8 [scale·h, scale·w, 3]; repeats: see Model."""
        lrs = [image.lr for image in images]
        srs = self.model.upscale(lrs, repeats)
        return list(map(match_colours, srs, lrs)) if self.model.matched else srs


class Model:
    """A generator at work. name: its run's; config: the MODEL section it was built from."""

    def __init__(self, name, generator, config):
        self.name = name
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


def load_model(name, path):
    """The Model of a run. Raises UserError."""
    generator, about = store.load_generator(path)
    return Model(name, generator, about["config"].MODEL)


def trained(models):
    """[Trained] of {row name: path}."""
    return [Trained(name, partial(load_model, name, path), parts_of(path), path) for name, path in models.items()]


def parts_of(path):
    """What a run's pictures depend on: its weights' digest and its network."""
    weights, about = store.describe_weights(path)
    return hashes.file_digest(weights, "sha256"), json.dumps(about["config"].MODEL, sort_keys=True)


def check_blend(first, second, scale):
    """Raise UserError unless two runs have the same network, of this scale: only then can their weights be mixed."""
    file, about = store.check_blend(first, second)
    if (own_scale := about["config"].MODEL.scale) != scale:
        raise UserError(f"{file} is a ×{own_scale} model: blend it with --scale {own_scale}")


def blend(first, second, shares):
    """[Trained] with the weights (1 - t)·first + t·second for each t of `shares`, as of ESRGAN (Wang et al., 2018)."""

    def load(t):
        ((generator, about),) = store.blends(first, second, [t])
        return Model(f"blend_{t:g}", generator, about["config"].MODEL)

    parts = (*parts_of(first), *parts_of(second))
    return [Trained(f"blend_{t:g}", partial(load, t), (*parts, t)) for t in shares]


def choose_models(weights, methods, scale):
    """{row name: path} of the models to score: those given, else all runs found. Prints which are taken or left out.

    weights: paths or run names from --weights, or None; methods: row names from --methods, or None. Raises UserError.
    """
    chosen, others = {}, {}
    given = [store.describe_weights(path) for path in weights or ()]
    for file, about in given or store.find_runs().values():
        name = file.parent.name if file.name == store.WEIGHTS else file.name.removesuffix(".weights.h5")
        own_scale = about["config"].MODEL.scale
        if own_scale != scale:
            if weights:
                raise UserError(f"{file} is a ×{own_scale} model: evaluate it with --scale {own_scale}")
            others.setdefault(own_scale, []).append(name)
        elif given or not methods or name in methods:
            if name in chosen or name in INTERPOLATIONS:
                raise UserError(f"two rows would be called {name}; rename the directory of one")
            chosen[name] = file
            print(f"found: {name} ({store.kind_of(about['mode'], about['config'])}, {file})")
    for own_scale, names in others.items():
        print(f"left out: {', '.join(names)}, for ×{own_scale} (--scale {own_scale} takes them)")
    for name in methods or ():
        if name not in chosen and name not in INTERPOLATIONS:
            known = ", ".join((*INTERPOLATIONS, *chosen, *({} if given else store.find_runs())))
            raise UserError(f"there is no method or ×{scale} run called '{name}'; there are {known}")
    if not chosen and not methods:
        print("no trained models were found: train one with train.py, or name weights with --weights")
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# What is recorded beside weights


def record(models, results, scale):
    """Write the models' means on proven sets beside their weights, unless some are recorded there already.

    models: methods with weights; results: {set: {method: tables.Row}}. A mean that differs from the recorded one by
    more than the last digit of the tables is named, since something that makes the scores has changed. Smaller
    differences are another machine's rounding.
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
    """Add the usual means of a tables.Row to {measure: mean}; print where another mean is recorded already."""
    for name, value in row.finite_means().items():
        if name not in metrics.USUAL:  # of a model that somebody named, or of a library of another version
            continue
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


def qualities(text):
    """A `type` for argparse: the different whole numbers from 1 to 100 of "30,50"."""
    of = terminal.number(int, 1, 100, "whole numbers from 1 to 100, as 30,50")
    return tuple(dict.fromkeys(map(of, text.split(","))))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Score interpolations and trained models on Set5, Set14 and BSD100, and write their pictures.",
        epilog="examples: python evaluate.py --sets Set5 --weights checkpoint/my_run; with another program's pictures "
        "beside ours: python evaluate.py --pictures ESRGAN=~/results/ESRGAN",
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="the folder of Set5/, Set14/ and BSD100/ (default: $SRGAN_DATA, else data/)")
    add(
        "--sets",
        type=terminal.names,
        metavar="A,B",
        help="Set5, Set14, BSD100, Urban100, Manga109, samples, other folders in DIR (default: the first three)",
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
        help=f"which columns: {', '.join(metrics.COLUMNS)} (default: {','.join(metrics.USUAL)})",
    )
    add(
        "--pictures",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="rows of SR that other programs made, as SRCNN=~/SRCNN: files are known by their names or pixels",
    )
    add("--match", metavar="PATTERN", help="which file is which image, as '{set}/{image}_x{scale}_*.png'")
    add(
        "--pairs",
        nargs=2,
        type=Path,
        metavar=("SR_DIR", "HR_DIR"),
        help="score the pictures of one folder against those of another, without any set; beside bicubic",
    )
    add("--niqe-model", type=Path, metavar="FILE", help="add NIQE with the original's model, modelparameters.mat")
    add("--weights", nargs="+", metavar="FILE", help="weights files, run directories or run names (default: all runs)")
    add(
        "--blend-sweep",
        nargs=3,
        metavar=("A", "B", "0:1:0.25"),
        help="rows of mixed weights (1-t)·A + t·B of two runs of one network, t from start to stop by step",
    )
    add(
        "--jpeg",
        type=qualities,
        default=(),
        metavar="Q,Q",
        help="score each set again with LR that was saved as a JPEG of these qualities, as rows of SET-jpegQ",
    )
    add(
        "--axes",
        type=terminal.names,
        metavar="X,Y",
        help="two measures for the page's plot (default: psnr_y,niqe_own); python -m scoring.plot draws others later",
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
    add("--latex", metavar="FILE", type=Path, help="write the tables as LaTeX, for the package booktabs")
    add("--json", metavar="FILE", type=Path, help="write results.json there as well (docs/metrics.md describes it)")
    args = parser.parse_args()
    if str(args.out) == "." or args.out.is_file():
        parser.error(f"--out takes a folder of its own, not '{args.out}'")
    if args.pairs:
        if args.sets:
            parser.error("--pairs needs no --sets: HR_DIR is the set")
        sr, hr = args.pairs
        args.pictures.append(f"{sr.resolve().name if sr.resolve().name != hr.resolve().name else 'SR'}={sr}")
        args.methods = args.methods or ("bicubic",)
    if args.match and not args.pictures:
        parser.error("--match goes with --pictures or --pairs")
    if args.sets:  # upper and lower case are the same
        spelling = {name.lower(): name for name in (*data.TEST_SETS, *data.FURTHER_SETS, data.SAMPLES)}
        args.sets = tuple(spelling.get(name.lower(), name) for name in args.sets)
    if args.blend_sweep:
        try:
            args.blend_sweep[2] = shares_of(args.blend_sweep[2])
        except ValueError:
            parser.error("--blend-sweep takes two runs and START:STOP:STEP within 0 and 1, as 0:1:0.25")
    return args


def check_arguments(args):
    """Raise UserError for names that do not exist and for options that do not go together."""
    if args.niqe_model:
        metrics.use_niqe_model(args.niqe_model)
    for name in args.sets or ():
        own = Path(name).name == name != ".." and (data.data_root(args.data) / name).is_dir()
        known = (*data.TEST_SETS, *data.FURTHER_SETS, data.SAMPLES)
        if name not in known and not own:
            raise UserError(f"there is no set called '{name}'; there are {', '.join(known)}")
    for name in args.metrics or ():
        if name == "niqe" and not args.niqe_model:
            raise UserError("niqe is the measure of --niqe-model FILE.mat; niqe_own has a model of our own")
        if name not in metrics.COLUMNS:
            raise UserError(f"there is no measure called '{name}'; there are {', '.join(metrics.COLUMNS)}")
        if name in perceptual.LIBRARIES:
            perceptual.check(name)
    if args.significance and "psnr_y" not in (args.metrics or metrics.USUAL):
        raise UserError("--significance needs psnr_y among the --metrics")
    for flag, path in (("--json", args.json), ("--latex", args.latex)):
        if path and path.is_dir():
            raise UserError(f"{flag} takes a file, and {path} is a folder")
    if args.axes:
        plot.check_axes(args.axes)
    if args.blend_sweep:
        check_blend(*args.blend_sweep[:2], args.scale)


def last_data(args):
    """The value of --data; not given, and without a data/, that of the last evaluation, if it has the sets."""
    if args.pairs or (store.PROJECT / "data").is_dir() or data.SAMPLES in (args.sets or ()):
        return args.data
    try:
        folder = places.data_of("evaluate.py", args.data)
        if folder is not args.data:
            data.find_test_sets(folder, args.sets)
        return folder
    except UserError as error:
        print(error)
        return args.data


def choose_sets(args):
    """{set: paths} of what is to be scored. Raises UserError."""
    if not args.pairs:
        sets = data.find_test_sets(args.data, args.sets)
        if data.SAMPLES not in sets:
            places.remember("evaluate.py", args.data)
        return sets
    hr = args.pairs[1]
    if not (paths := utils.list_images(hr) if hr.is_dir() else []):
        raise UserError(f"--pairs: {hr} is not a folder of pictures")
    return {hr.resolve().name: paths}


def choose_methods(args, models, folders):
    """The methods in the order of the rows; models: {row name: path}; folders: [foreign.Folder]. Raises UserError."""
    methods = [Interpolation(name, args.scale) for name in INTERPOLATIONS if not args.methods or name in args.methods]
    methods += trained(models)
    order = {name: i for i, name in enumerate(args.methods or ())}
    methods.sort(key=lambda method: order.get(method.name, len(order)))
    if args.blend_sweep:
        methods += blend(*args.blend_sweep)
    methods += folders
    if twice := [name for name, times in Counter(method.name for method in methods).items() if times > 1]:
        raise UserError(f"two rows would be called {twice[0]}: give --pictures another NAME")
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
    if args.latex:
        tables.write_latex(args.latex, results, args.scale, args.significance)
    report.write(args.out, results, sets, focus, args.scale, args.axes)


def main():
    args = parse_arguments()
    args.data = last_data(args)
    if args.explain:
        return explain.explain(args.explain, args.data, args.scale)
    check_arguments(args)
    sets = choose_sets(args)
    folders = foreign.parse(args.pictures, args.scale, args.match)
    models = choose_models(args.weights, args.methods, args.scale)
    methods = choose_methods(args, models, folders)
    for folder in (args.out, *(path.parent for path in (args.json, args.latex) if path)):
        folder.mkdir(parents=True, exist_ok=True)
    if data.SAMPLES in sets and not args.sets:
        print("no test set was found, so the sample photographs are scored; `python data.py` says how to get the sets")

    wanted = {*(args.metrics or metrics.USUAL), *(["niqe"] if args.niqe_model else [])}
    names = [name for name in metrics.COLUMNS if name in wanted]
    known = kept.Kept(args.out)
    with ThreadPoolExecutor(THREADS) as pool:
        sets = foreign.look_for(folders, testsets.read_sets(sets, args.scale, pool), args.sets or args.pairs)
        for members in sets.values():
            figures.check_names([image.name for image in members.images], [method.name for method in methods])
        testsets.prove(sets, args.scale, pool, args.force, known)
        sets = testsets.with_jpegs(sets, args.jpeg)
        notes = foreign.take_in(folders, sets, args.out, known, pool)
        tasks = work.make_tasks(methods, sets, args.out, known, pool)
        if any(isinstance(task.method, Trained) and task.new for task in tasks):
            tf.get_logger().setLevel("ERROR")  # else it warns of retracing at each model's first image
        tasks = work.ready(tasks, optional=not (args.weights or args.methods))
        focus = figures.write_originals(args.out, sets, args.scale, pool, known)
        of_images = [name for name in names if name != "fid"]
        scores = work.evaluate(tasks, sets, of_images, args.scale, args.out, known, pool)
    doubts = {name: members.doubt for name, members in sets.items()}
    results = tables.summarise(scores, doubts, notes, work.of_sets(scores, args.out) if "fid" in names else {})
    write_results(args, results, sets, focus)
    rows = {task.method.name: task.method for task in tasks}
    record([method for method in rows.values() if method.weights], results, args.scale)
    print(f"\nthe report: {args.out / 'index.html'}; pictures, table.md, results.json and results.csv are beside it")


if __name__ == "__main__":
    terminal.run_command(main)
