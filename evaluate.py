"""Score nearest, bicubic and every trained model on Set5, Set14 and BSD100; write their pictures.

The protocol is the paper's (section 3.1): ×4, MATLAB's bicubic LR, PSNR and SSIM on Y without a border of 4 pixels. The
bicubic row tells whether it is met: 28.42, 25.99 and 25.96 dB on the three sets.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import download
import metrics
import model
import runs
import utils
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")

INTERPOLATIONS = ("nearest", "bicubic")
CROP = 160  # side in pixels of the crops in the comparison picture

# Table 2 of the paper: PSNR in dB, and its SSIM, which is daala's and not comparable with ours.
PAPER = {
    "Set5": {
        "nearest": (26.26, 0.7552),
        "bicubic": (28.43, 0.8211),
        "srresnet": (32.05, 0.9019),
        "srgan": (29.40, 0.8472),
    },
    "Set14": {
        "nearest": (24.64, 0.7100),
        "bicubic": (25.99, 0.7486),
        "srresnet": (28.49, 0.8184),
        "srgan": (26.02, 0.7397),
    },
    "BSD100": {
        "nearest": (25.02, 0.6606),
        "bicubic": (25.94, 0.6935),
        "srresnet": (27.58, 0.7620),
        "srgan": (25.16, 0.6688),
    },
}


class Interpolation:
    """A row that needs no weights: MATLAB's imresize upwards."""

    def __init__(self, name, scale):
        self.name = self.kind = name
        self.scale = scale

    def upscale(self, lr_u8):
        """uint8 [h, w, c] to uint8 [scale·h, scale·w, c]."""
        return utils.imresize(lr_u8, self.scale, self.name)


class Model:
    """A row of a trained generator; the network is built from what config.json beside its weights says."""

    def __init__(self, name, path):
        self.name = name
        generator, about = runs.load_generator(path)
        self.kind = about["mode"]
        self.infer = model.inference(generator, about["config"].MODEL)

    def upscale(self, lr_u8):
        """uint8 [h, w, 1 or 3] to uint8 [scale·h, scale·w, 3]; gray goes in as three equal channels."""
        return utils.m11_to_u8(self.infer(utils.u8_to_01(utils.to_rgb(lr_u8))[None])[0])


def choose_models(weights, methods, scale):
    """{row name: path} of the models to score: the ones given, else all runs found. Says what it takes and what not.

    weights: paths or run names from --weights, or None; methods: row names from --methods, or None. Raises UserError.
    """
    chosen = {}
    given = [runs.describe_weights(path) for path in weights or ()]
    for file, about in given or runs.find_runs().values():
        name = file.parent.name if file.name == runs.WEIGHTS else file.name.removesuffix(".weights.h5")
        theirs = about["config"].MODEL.scale
        if theirs != scale:
            if weights:
                raise UserError(f"{file} is a ×{theirs} model: evaluate it with --scale {theirs}")
            print(f"left out: {name}, a ×{theirs} model")
        elif given or not methods or name in methods:
            if name in chosen or name in INTERPOLATIONS:
                raise UserError(f"two rows would be called {name}; rename the directory of one")
            chosen[name] = file
            print(f"found: {name} ({about['mode']}, {file})")
    for name in methods or ():
        if name not in chosen and name not in INTERPOLATIONS:
            known = ", ".join((*INTERPOLATIONS, *chosen, *({} if given else runs.find_runs())))
            raise UserError(f"there is no method or ×{scale} run called '{name}'; there are {known}")
    if not chosen and not methods:
        print("no trained models were found: train one with train.py, or name weights with --weights")
    return chosen


def read_sets(sets, scale):
    """{set: [(name, hr uint8 [h, w, 1 or 3])]}, cropped to multiples of the scale; unusable images are named.

    Raises UserError if a set has none that can be used.
    """
    manifest = download.load_manifest()
    channels = {
        name: {image: entry["channels"] for image, entry in entries.items()}
        for name, entries in download.read_manifest().items()
    }
    smallest = 11 + 2 * scale  # SSIM's window and the border
    images = {}
    for set_name, paths in sets.items():
        images[set_name] = []
        known = set()
        for path in paths:
            try:
                image = utils.read_image(path)
            except UserError as error:
                print(f"left out: {error}")
                continue
            if min(image.shape[:2]) < smallest:
                print(f"left out: {path} is smaller than {smallest}×{smallest}")
                continue
            match = manifest.get(download.pixel_hash(image))
            if match and match[0] == set_name and scale % match[2] == 0:
                known.add(match[1])
                if channels[set_name][match[1]] == 1:
                    image = image[..., :1]  # a gray original that a mirror keeps as RGB
            images[set_name].append((path.stem, utils.mod_crop(image, scale)))
        if not images[set_name]:
            raise UserError(f"none of the {len(paths)} images of {set_name} can be used")
        expected = len(channels.get(set_name, ()))
        if expected and (len(known) != expected or len(images[set_name]) != expected):
            print(
                f"{set_name}: {len(images[set_name])} images, of which {len(known)} are among the {expected} of the "
                "known set: the means are not comparable with published ones"
            )
    return images


def evaluate(methods, images, scale, out):
    """Score every method on every image, write the pictures: {set: {method: {"psnr_y": dB, "ssim_y": 0…1}}}, means.

    methods: list of Interpolation or Model; images: from read_sets; out: folder, gets <set>/<image>_<method>.png and
    <set>_crops.png: the middles of the set's first images, a column a method and the original last.
    """
    results = {}
    total = len(methods) * sum(map(len, images.values()))
    with tqdm(total=total, unit="image", desc="scoring", disable=None) as bar:
        for set_name, members in images.items():
            scores = {method.name: [] for method in methods}
            rows = []
            for name, hr in members:
                lr = utils.imresize(hr, 1 / scale)
                row = []
                for method in methods:
                    sr = method.upscale(lr)
                    scores[method.name].append((metrics.psnr_y(sr, hr, scale), metrics.ssim_y(sr, hr, scale)))
                    utils.write_image(out / set_name / f"{name}_{method.name}.png", sr)
                    row.append(sr)
                    bar.update()
                rows.append([middle(utils.to_rgb(image)) for image in (*row, hr)])
            utils.write_image(out / f"{set_name}_crops.png", utils.picture_grid(rows[:6]))
            means = {name: np.mean(values, axis=0) for name, values in scores.items()}
            results[set_name] = {name: {"psnr_y": float(p), "ssim_y": float(s)} for name, (p, s) in means.items()}
    return results


def middle(image):
    """The CROP×CROP middle of an image, smaller ones filled up with white."""
    top, left = (max((n - CROP) // 2, 0) for n in image.shape[:2])
    image = image[top : top + CROP, left : left + CROP]
    missing = [(0, CROP - n) for n in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], constant_values=255)


def print_tables(results, methods, images, scale):
    """One table a set, the paper's figures beside ours where it has some."""
    print(f"\nProtocol: ×{scale}; {metrics.PROTOCOL.format(border=scale)}")
    print("The paper's SSIM is another measure (daala's) and not comparable with ours.")
    width = max(len(method.name) for method in methods)
    for set_name, rows in results.items():
        print(f"\n{set_name} ({len(images[set_name])} images)")
        print(f"{'':{width}}  PSNR-Y  SSIM-Y | paper  PSNR    SSIM")
        for method in methods:
            row = rows[method.name]
            paper = PAPER.get(set_name, {}).get(method.kind) if scale == 4 else None
            theirs = f"{paper[0]:11.2f}  {paper[1]:.4f}" if paper else f"{'-':>11}  {'-':>6}"
            print(f"{method.name:{width}}  {row['psnr_y']:6.2f}  {row['ssim_y']:.4f} | {theirs}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Score nearest, bicubic and trained models on Set5, Set14 and BSD100, and write their pictures.",
        epilog="example: python evaluate.py --sets Set5 --weights checkpoint/my_run",
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="holds Set5/, Set14/ and BSD100/ (default: $SRGAN_DATA, else data/)")
    add("--sets", metavar="A,B", help="Set5, Set14, BSD100 or samples (default: all that are there)")
    add("--methods", metavar="A,B", help="which rows: nearest, bicubic, names of runs (default: all)")
    add("--weights", nargs="+", metavar="FILE", help="models to score: weights files, run directories or run names")
    add("--scale", type=int, choices=(2, 4, 8), default=4, help="upscaling factor (default: %(default)s)")
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=runs.HERE / "samples" / "evaluate",
        help="where the pictures go (default: samples/evaluate)",
    )
    add("--json", metavar="FILE", type=Path, help="write the means as {set: {method: {psnr_y, ssim_y}}}")
    args = parser.parse_args()
    if str(args.out) == "." or args.out.is_file():
        parser.error(f"--out takes a folder of its own, not '{args.out}'")
    for name in ("sets", "methods"):
        if (value := getattr(args, name)) is not None:
            parts = tuple(part.strip() for part in value.split(",") if part.strip())
            if not parts:
                parser.error(f"--{name} names nothing")
            setattr(args, name, parts)
    if args.sets:  # in whatever spelling
        spelling = {name.lower(): name for name in (*data.TEST_SETS, data.SAMPLES)}
        args.sets = tuple(spelling.get(name.lower(), name) for name in args.sets)
    return args


def main():
    args = parse_arguments()
    for name in args.sets or ():
        if name not in (*data.TEST_SETS, data.SAMPLES):
            raise UserError(f"there is no set called '{name}'; there are {', '.join((*data.TEST_SETS, data.SAMPLES))}")
    sets = data.find_test_sets(args.data, args.sets)
    models = choose_models(args.weights, args.methods, args.scale)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.json and args.json.is_dir():
        raise UserError(f"--json takes a file, and {args.json} is a folder")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    if data.SAMPLES in sets and not args.sets:
        print("no test set was found, so the sample photographs are scored; `python data.py` says how to get the sets")
    images = read_sets(sets, args.scale)

    methods = [Interpolation(name, args.scale) for name in INTERPOLATIONS if not args.methods or name in args.methods]
    for name, path in models.items():
        try:
            methods.append(Model(name, path))
        except UserError as error:
            if args.weights or args.methods:
                raise
            print(f"left out: {error}")
    tf.get_logger().setLevel("ERROR")  # or each model's first image makes it warn of retracing
    results = evaluate(methods, images, args.scale, args.out)
    print_tables(results, methods, images, args.scale)
    if args.json:
        runs.write_json(args.json, results)
    print(f"\npictures: {args.out}")


if __name__ == "__main__":
    utils.run_command(main)
