"""NIQE (Mittal, Soundararajan and Bovik, 2013) with a model fitted by us: how far an image is from natural photographs.

It needs no original; lower is better. `python -m scoring.niqe score FILE …` scores pictures, `python -m scoring.niqe
fit --data DIR` makes niqe_model.json from pristine photographs. The figures depend on those: compare them with each
other, not with the NIQE of other programs. Tables call them niqe_own.
"""

import argparse
import functools
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import utils
from cli import terminal
from images import hashes, pictures
from utils import LazyModule, UserError

io = LazyModule("scipy.io")
ndimage = LazyModule("scipy.ndimage")
special = LazyModule("scipy.special")

MODEL = Path(__file__).resolve().parent / "niqe_model.json"
PATCH = 96  # side of a patch in pixels at the first scale, half of that at the second
SHARPNESS = 0.75  # the model is fitted to patches with at least this share of their image's sharpest patch
FEATURES = 36  # of a patch: 18 at each of the two scales


# ---------------------------------------------------------------------------------------------------------------------
# Features of natural scenes


def mscn(plane):
    """(mean-subtracted contrast-normalised coefficients, local deviation σ), both float [h, w], of a plane in [0, 255].

    (I - μ) / (σ + 1) with a 7×7 Gaussian window, σ_window = 7/6; beyond the border the outermost pixels are repeated.
    """
    window = {"sigma": 7 / 6, "radius": 3, "mode": "nearest"}
    mean = ndimage.gaussian_filter(plane, **window)
    deviation = np.sqrt(np.maximum(ndimage.gaussian_filter(plane * plane, **window) - mean * mean, 0))
    return (plane - mean) / (deviation + 1), deviation


def cut(plane, side):
    """[h, w] to its patches [n, side, side], row by row; h and w are multiples of `side`."""
    height, width = plane.shape
    patches = plane.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    return patches.reshape(-1, side, side)


@functools.cache
def shapes():
    """(ratio, shape) as increasing arrays: E|x|² / E[x²] of a generalised Gaussian for shapes of 0.2 to 10."""
    shape = np.arange(0.2, 10.0005, 0.001)
    log_ratio = 2 * special.gammaln(2 / shape) - special.gammaln(1 / shape) - special.gammaln(3 / shape)
    return np.exp(log_ratio), shape


def fit_ggd(x):
    """[n, 2]: shape α and variance σ² of the zero-mean generalised Gaussian of each row of x [n, m], by its moments."""
    variance = np.mean(x * x, axis=1)
    alpha = np.interp(np.mean(np.abs(x), axis=1) ** 2 / variance, *shapes())
    return np.stack([alpha, variance], axis=1)


def fit_aggd(x):
    """[n, 4]: shape γ, mean η and the scales βl, βr of the asymmetric generalised Gaussian of each row of x [n, m].

    By moments (Lasmar et al., 2009): βl and βr belong to the negative and the positive side.
    """
    square, negative = x * x, x < 0
    positive = x > 0
    left = np.sqrt((square * negative).sum(axis=1) / negative.sum(axis=1))
    right = np.sqrt((square * positive).sum(axis=1) / positive.sum(axis=1))
    skew = left / right
    ratio = np.mean(np.abs(x), axis=1) ** 2 / np.mean(square, axis=1)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    gamma = np.interp(ratio, *shapes())
    log_1, log_2, log_3 = (special.gammaln(k / gamma) for k in (1, 2, 3))
    beta_left, beta_right = (side * np.exp((log_1 - log_3) / 2) for side in (left, right))
    mean = (beta_right - beta_left) * np.exp(log_2 - log_1)
    return np.stack([gamma, mean, beta_left, beta_right], axis=1)


def features(image_u8):
    """(features [n, 36], sharpness [n]) of the 96×96 patches of uint8 [h, w, 1 or 3]; n is 0 for a smaller image.

    Of Y, at full size and at half size: shape and variance of the coefficients, and the four parameters of their
    products with the neighbours to the right, below, and on both diagonals. Patches without texture are left out.
    """
    height, width = (length // PATCH * PATCH for length in image_u8.shape[:2])
    if not height or not width:
        return np.zeros((0, FEATURES)), np.zeros(0)
    plane = utils.rgb_to_y(utils.to_rgb(image_u8[:height, :width])).astype(np.float64)
    columns = []
    with np.errstate(divide="ignore", invalid="ignore"):  # of patches without texture
        for side in (PATCH, PATCH // 2):
            coefficients, deviation = mscn(plane)
            x = cut(coefficients, side)
            pairs = (
                x[:, :, :-1] * x[:, :, 1:],
                x[:, :-1] * x[:, 1:],
                x[:, :-1, :-1] * x[:, 1:, 1:],
                x[:, :-1, 1:] * x[:, 1:, :-1],
            )
            columns += [fit_ggd(x.reshape(len(x), -1)), *(fit_aggd(pair.reshape(len(x), -1)) for pair in pairs)]
            if side == PATCH:
                sharpness = cut(deviation, side).mean(axis=(1, 2))
                plane = utils.resize_matrix(height, height // 2, 0.5) @ plane
                plane = plane @ utils.resize_matrix(width, width // 2, 0.5).T
    columns = np.concatenate(columns, axis=1)
    whole = np.isfinite(columns).all(axis=1)
    return columns[whole], sharpness[whole]


# ---------------------------------------------------------------------------------------------------------------------
# The model and the distance from it


@functools.cache
def load_model(path=MODEL):
    """(mean [36], covariance [36, 36]) of the features of pristine patches. Raises UserError without such a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        mean, covariance = np.array(content["mean"]), np.array(content["covariance"])
        if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
            raise ValueError("wrong shapes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a model of scoring.niqe ({utils.short(error)})") from None
    return mean, covariance


def niqe(image_u8):
    """NIQE of uint8 [h, w, 1 or 3] with our model: 0 and more, lower is better; NaN if no 96×96 patch can be used."""
    rows, _ = features(image_u8)
    if not len(rows):
        return float("nan")
    mean, covariance = load_model()
    ours = np.cov(rows, rowvar=False) if len(rows) > 1 else np.zeros_like(covariance)
    difference = rows.mean(axis=0) - mean
    return float(np.sqrt(difference @ np.linalg.pinv((covariance + ours) / 2) @ difference))


# ---------------------------------------------------------------------------------------------------------------------
# The original's, to be compared with others' figures


def load_original(path):
    """(mean [36], covariance [36, 36]) of a .mat file as the original has it. Raises UserError."""
    try:
        content = io.loadmat(path)
        mean, covariance = (np.array(content[f"{name}_prisparam"], float) for name in ("mu", "cov"))
        return mean.reshape(FEATURES), covariance.reshape(FEATURES, FEATURES)
    except Exception as error:  # SciPy's are of many kinds for a wrong file
        raise UserError(f"{path} is not NIQE's model, as modelparameters.mat ({utils.short(error)})") from None


def original(image_u8, model):
    """NIQE of uint8 [h, w, 1 or 3] as Mittal et al.'s own code computes it; model: from load_original.

    It differs from `niqe` in luma (MATLAB's rgb2gray), in the shape of the coefficients, which is the asymmetric
    Gaussian's too, and in the neighbours, which come round the borders of each patch. NaN without two patches of 96×96
    that have texture.
    """
    height, width = (length // PATCH * PATCH for length in image_u8.shape[:2])
    gray = image_u8 @ np.array([0.298936, 0.587043, 0.114021]) if image_u8.shape[-1] == 3 else image_u8[..., 0]
    plane = utils.round_u8(gray[:height, :width]).astype(np.float64)
    columns = []
    with np.errstate(divide="ignore", invalid="ignore"):  # of patches without texture
        for side in (PATCH, PATCH // 2) if plane.size else ():
            x = cut(mscn(plane)[0], side)
            alpha, _, left, right = fit_aggd(x.reshape(len(x), -1)).T
            columns += [alpha[:, None], (left + right)[:, None] / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
                columns.append(fit_aggd((x * np.roll(x, shift, axis=(1, 2))).reshape(len(x), -1)))
            rows, others = (utils.resize_matrix(n, n // 2, 0.5) for n in plane.shape)
            plane = rows @ plane @ others.T
    rows = np.concatenate(columns, axis=1) if columns else np.zeros((0, FEATURES))
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        return float("nan")
    mean, covariance = model
    difference = rows.mean(axis=0) - mean
    return float(np.sqrt(difference @ np.linalg.pinv((covariance + np.cov(rows, rowvar=False)) / 2) @ difference))


# ---------------------------------------------------------------------------------------------------------------------
# Fitting a model of our own


def sharp_features(path):
    """(features [n, 36] of the sharp patches of an image file, pixel hash), or a reason why it cannot be used."""
    try:
        image = pictures.read_image(path)
    except UserError as error:
        return str(error)
    digest = hashes.pixel_hash(image)
    if known := hashes.load_manifest().get(digest):
        return f"{path} is the test image {known[1]} of {known[0]}"
    rows, sharpness = features(image)
    if not len(rows):
        return f"{path} is smaller than {PATCH}×{PATCH} pixels or without texture"
    return rows[sharpness >= SHARPNESS * sharpness.max()], digest


def fit(paths):
    """The content of niqe_model.json from pristine photographs; prints which cannot be used. Raises UserError."""
    with ThreadPoolExecutor(2) as pool:
        answers = list(tqdm(pool.map(sharp_features, paths), total=len(paths), unit="image", disable=None))
    for answer in answers:
        if isinstance(answer, str):
            print(f"left out: {answer}")
    used = [answer for answer in answers if not isinstance(answer, str)]
    rows = np.concatenate([rows for rows, _ in used]) if used else np.zeros((0, FEATURES))
    if len(rows) <= FEATURES:
        raise UserError(f"{len(rows)} sharp patches are too few for a model of {FEATURES} features: name more images")
    return {
        "recipe": f"Y; {PATCH}x{PATCH} patches with at least {SHARPNESS} of their image's greatest sharpness; 2 scales",
        "images": len(used),
        "patches": len(rows),
        "fingerprint": hashlib.sha256("".join(sorted(digest for _, digest in used)).encode()).hexdigest(),
        "mean": rows.mean(axis=0).tolist(),
        "covariance": np.cov(rows, rowvar=False).tolist(),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def find_images(places):
    """All image files of a list of files and folders. Raises UserError if one does not exist or has no images."""
    paths = []
    for place in map(Path, places):
        found = utils.list_images(place) if place.is_dir() else [place] if place.is_file() else []
        if not found:
            raise UserError(f"'{place}' is neither an image nor a folder of images")
        paths += found
    return paths


def main():
    parser = argparse.ArgumentParser(description="NIQE with a model of our own: score images, or fit the model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="score or fit")
    score = commands.add_parser("score", help="print the NIQE of images, lower is better")
    score.add_argument("places", nargs="+", metavar="FILE", help="images or folders of images")
    fitting = commands.add_parser("fit", help="fit the model to pristine photographs")
    fitting.add_argument("--data", required=True, metavar="DIR", help="folder of photographs, read recursively")
    fitting.add_argument("--out", type=Path, default=MODEL, metavar="FILE", help="default: niqe_model.json")
    args = parser.parse_args()
    if args.command == "score":
        paths = find_images(args.places)
        scores = [niqe(pictures.read_image(path)) for path in paths]
        for path, value in zip(paths, scores, strict=True):
            print(f"{value:8.3f}  {path}")
        if len(scores) > 1:
            print(f"{np.nanmean(scores):8.3f}  mean")
        return
    model = fit(find_images([args.data]))
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in model.items() if key != "covariance"]
    rows = ",\n    ".join(json.dumps(row) for row in model["covariance"])
    text = "{\n" + ",\n".join(lines) + f',\n  "covariance": [\n    {rows}\n  ]\n}}\n'
    utils.write_atomically(args.out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{args.out}: {model['patches']} patches of {model['images']} images")


if __name__ == "__main__":
    terminal.run_command(main)
