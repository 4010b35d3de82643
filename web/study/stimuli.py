"""The pictures of a rating study: chosen from those that evaluate.py wrote, and copied.

The examples for calibration show images that nobody rates: other images of the evaluation, and if there are too few,
the photographs that come with the libraries.
"""

import hashlib
import random
from pathlib import Path

from tqdm import tqdm

import data
import utils
from images.pictures import header_size, read_image
from runs import store
from scoring import figures
from utils import UserError
from web.study.plans import ORIGINAL, Picture, now

EXAMPLES = 10  # images, each as nearest neighbour and as the original
WORTH = {"nearest": 1, ORIGINAL: 5}  # the ratings that the examples stand for
REPEATS = 10  # pictures that each rater is shown twice, as in the paper's pilot


def make(folder, source, sets=None, methods=None, images=None, repeats=None, seed=0):
    """Make the study `folder` of pictures in `source`, a folder that evaluate.py wrote. Raises UserError.

    sets, methods: names, default all and the originals; images: how many of each set, drawn by `seed`, default all;
    repeats: how many pictures each rater is shown twice, default REPEATS, at most a third of all.
    """
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {"pictures"}:
        raise UserError(f"{folder} is no study, and not empty: name a new folder")
    draw = random.Random(f"study {seed}")
    rated, others = choose(source, sets, methods, images, draw)
    most = len(rated) // 3  # so that the second showing is far from the first
    if repeats is not None and repeats > most:
        raise UserError(f"{repeats} repeats are more than a third of the {len(rated)} pictures")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = []
    for set_name, image, method in tqdm(rated, unit="picture", desc="copying", disable=None):
        path, original = (picture_path(source, set_name, image, name) for name in (method, ORIGINAL))
        if header_size(path) != header_size(original):
            raise UserError(f"{path} is not of its original's size: run evaluate.py again, into an empty folder")
        pictures.append(Picture(set_name, image, method, keep(folder, path.read_bytes())))
    examples = make_examples(folder, source, rated[0], draw.sample(others, min(EXAMPLES, len(others))), draw)
    settings = {"pictures": str(source), "sets": sets, "methods": methods, "images": images, "repeats": repeats}
    content = {"made": now(), "settings": settings | {"seed": seed}}
    content["repeats"] = min(REPEATS, most) if repeats is None else repeats
    content |= {"examples": [p._asdict() for p in examples], "pictures": [p._asdict() for p in pictures]}
    store.write_json(folder / "study.json", content)


def choose(source, sets, methods, images, draw):
    """([(set, image, method)] to rate, [(set, image)] that are not rated). Raises UserError.

    Arguments as of make(); draw: random.Random.
    """
    found = read_results(source)
    known = dict.fromkeys(name for theirs, _ in found.values() for name in (*theirs, ORIGINAL))
    for kind, names, there in (("set", sets, found), ("method", methods, known)):
        if unknown := [name for name in names or () if name not in there]:
            raise UserError(f"{source} has no {kind} called '{unknown[0]}'; there are {', '.join(there)}")
    rated, others = [], []
    for set_name, (theirs, names) in found.items():
        count = min(images or len(names), len(names)) if set_name in (sets or found) else 0
        chosen = set(draw.sample(names, count))
        wanted = [method for method in (*theirs, ORIGINAL) if method in (methods or known)]
        rated += [(set_name, image, method) for image in names if image in chosen for method in wanted]
        others += [(set_name, image) for image in names if image not in chosen]
    if not rated:
        raise UserError(f"{source} has no picture of these sets by these methods")
    return rated, others


def read_results(source):
    """{set: (its methods, its images)} of evaluate.py's results.json. Raises UserError."""
    if not (source / "results.json").is_file():
        raise UserError(
            f"{source} holds no results.json: run `python evaluate.py` first, or name its --out by --pictures"
        )
    results, found = store.read_json(source / "results.json"), {}
    try:
        for set_name, rows in results.items():
            images = list(next(iter(rows.values()))["images"])
            if ORIGINAL in rows or any(set(row["images"]) != set(images) for row in rows.values()):
                raise ValueError("its methods are not of the same images, or one is called 'original'")
            found[set_name] = list(rows), images
        if not found:
            raise ValueError("it names no set")
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise UserError(f"{source / 'results.json'} is not what evaluate.py wrote ({utils.short(error)})") from None
    return found


def picture_path(source, set_name, image, method):
    """The file of a method's picture, or the original, below `source`. Raises UserError as inside() does."""
    name = figures.path_of(image, folder=ORIGINAL) if method == ORIGINAL else figures.path_of(image, method)
    return inside(source, Path(set_name) / name)


def inside(source, name):
    """The file `name` below `source`. Raises UserError if there is none, or the name leads out of the folder."""
    path = source / name
    if not path.resolve().is_relative_to(source.resolve()) or not path.is_file():
        raise UserError(f"{path} is not a picture that evaluate.py wrote: run it again")
    return path


def make_examples(study, source, rated, others, draw):
    """[Picture] for calibration, with their worth: images that are not rated, then the photographs of the libraries.

    study: its folder; rated: (set, image, method) of a picture that is rated, which shows the scale; others:
    [(set, image)] that are not rated.
    """
    set_name, image, _ = rated
    names = (Path(set_name) / figures.path_of(image, folder=folder) for folder in (ORIGINAL, "lr"))
    high, low = (header_size(inside(source, name)) for name in names)
    if not low[0] or high[0] % low[0]:
        raise UserError(f"{source} holds pictures of different scales: run evaluate.py again, into an empty folder")
    scale = high[0] // low[0]
    paths = {(set_name, image): picture_path(source, set_name, image, ORIGINAL) for set_name, image in others}
    samples = data.package_files(data.SAMPLE_TRAIN)
    for path in draw.sample(samples, EXAMPLES - len(paths)):
        paths[data.SAMPLES, path.stem] = path
    examples, written = [], study / "pictures" / "example.png"
    for (set_name, image), path in tqdm(paths.items(), unit="image", desc="examples", disable=None):
        hr = utils.mod_crop(read_image(path), scale)
        nearest = utils.imresize(utils.imresize(hr, 1 / scale), scale, "nearest")
        for method, pixels in (("nearest", nearest), (ORIGINAL, hr)):
            utils.write_image(written, pixels)
            examples.append(Picture(set_name, image, method, keep(study, written.read_bytes()), WORTH[method]))
    written.unlink()
    return examples


def keep(folder, content):
    """Write the bytes of a picture into the study unless they are there, and return their SHA-256."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / "pictures" / f"{digest}.png"
    if not path.is_file():
        utils.write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return digest
