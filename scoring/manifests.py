"""The manifest of a set of one's own: what its pixels are and what bicubic scores on it, so that it proves itself.

`python data.py manifest DIR` writes DIR/manifest.json, or checks the images against one that is there. evaluate.py
then refuses the set if a pixel has changed, an image is missing or added, or bicubic reads other figures.
"""

import hashlib

import numpy as np
from tqdm import tqdm

import data
import utils
from images import hashes, pictures
from runs import store
from scoring import metrics
from utils import UserError

FILE = "manifest.json"
SCALES = (2, 3, 4, 8)
MEASURES = ("psnr_y", "ssim_y", "psnr_rgb")


def find(paths):
    """The content of the manifest of a set, {"images", "bicubic"}, or None: beside its first image or one folder up.

    Raises UserError for a damaged one.
    """
    parents = list(paths[0].parents[:2]) if paths else []
    path = next((folder / FILE for folder in parents if (folder / FILE).is_file()), None)
    return read(path) if path else None


def read(path):
    """The content of a manifest. Raises UserError."""
    content = store.read_json(path)
    try:
        [entry["sha256"]["1"] + "" for entry in content["images"].values()]
        [(row["lr"] + "", [row[name] + 0.0 for name in MEASURES]) for row in content["bicubic"].values()]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest ({utils.short(error)}): delete it to have it made again") from None
    return content


def lr_digest(lrs):
    """SHA-256 over the pixels of LR images; independent of their order."""
    return hashlib.sha256("".join(sorted(map(hashes.pixel_hash, lrs))).encode()).hexdigest()


def describe(path):
    """(entry of the manifest, {scale: (LR's hash, bicubic's scores)}) of an image file. Raises UserError."""
    image = pictures.read_image(path)
    height, width, channels = image.shape
    rows = {}
    for scale in SCALES:
        hr = utils.mod_crop(image, scale)
        if min(hr.shape[:2]) < 11 + 2 * scale:
            continue
        lr = utils.imresize(hr, 1 / scale)
        scores = metrics.measure(MEASURES, utils.imresize(lr, scale), hr, lr, scale)
        rows[scale] = hashes.pixel_hash(lr), [scores[name] for name in MEASURES]
    return {"size": [width, height], "channels": channels, "sha256": {"1": hashes.pixel_hash(image)}}, rows


def make(paths, pool):
    """The content of the manifest of image files. Raises UserError."""
    answers = list(tqdm(pool.map(describe, paths), total=len(paths), unit="image", disable=None))
    bicubic = {}
    for scale in SCALES:
        rows = [rows.get(scale) for _, rows in answers]
        if all(rows):
            digest = hashlib.sha256("".join(sorted(lr for lr, _ in rows)).encode()).hexdigest()
            means = np.mean([scores for _, scores in rows], axis=0).round(4).tolist()
            bicubic[str(scale)] = {"lr": digest, **dict(zip(MEASURES, means, strict=True))}
    images = {path.stem: entry for path, (entry, _) in zip(paths, answers, strict=True)}
    if len(images) < len(paths):
        raise UserError("two of the images have the same name: rename one")
    return {"images": images, "bicubic": bicubic}


def compare(paths, images):
    """[sentence]: what differs between image files and the `images` of a manifest."""
    known = {entry["sha256"]["1"]: name for name, entry in images.items()}
    found, wrong = set(), []
    for path in tqdm(paths, unit="image", disable=None):
        name = known.get(hashes.pixel_hash(pictures.read_image(path)))
        if name in found:
            wrong.append(f"{path} is {name} once more")
        elif name:
            found.add(name)
        else:
            wrong.append(f"{path} has other pixels" if path.stem in images else f"{path} does not belong to it")
    stems = {path.stem for path in paths}
    return wrong + [f"{name} is missing" for name in images if name not in found and name not in stems]


def make_or_check(folder, pool):
    """Write the manifest of the images in a folder, or check them against it: prints what was done or found.

    Returns whether all is right. Raises UserError.
    """
    paths = data.set_images(folder)
    if not paths:
        raise UserError(f"{folder} holds no images")
    path = folder / FILE
    if path.is_file():
        wrong = compare(paths, read(path)["images"])
        print("\n".join(wrong) or f"{path}: all {len(paths)} images are those of the manifest")
        return not wrong
    content = make(paths, pool)
    store.write_json(path, content)
    print(f"{path}: {len(paths)} images")
    for scale, row in content["bicubic"].items():
        print(
            f"  bicubic ×{scale}: " + " / ".join(f"{row[name]:.{metrics.COLUMNS[name].digits}f}" for name in MEASURES)
        )
    return True
