"""Why is my PSNR not yours? How each choice of an evaluation changes the scores of bicubic on an image or a set.

`python -m scoring.explain Set5` compares each choice with the protocol (docs/metrics.md); with --csv or --json
it writes the scores of all combinations.
"""

import argparse
import csv
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import utils
from cli import terminal
from runs import store
from scoring import metrics, testsets
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
cv2 = LazyModule("cv2")
Image = LazyModule("PIL.Image")


# ---------------------------------------------------------------------------------------------------------------------
# The choices; the first of each is the protocol's

# LR: from uint8 [h, w, 3] to uint8 [h/scale, w/scale, 3].


def by_pillow(hr, scale):
    size = (hr.shape[1] // scale, hr.shape[0] // scale)
    return np.asarray(Image.fromarray(hr).resize(size, Image.Resampling.BICUBIC))


def by_tensorflow(hr, scale, antialias):
    size = (hr.shape[0] // scale, hr.shape[1] // scale)
    return utils.round_u8(tf.image.resize(hr, size, "bicubic", antialias=antialias).numpy())


def by_opencv(hr, scale, interpolation):
    size = (hr.shape[1] // scale, hr.shape[0] // scale)
    return cv2.resize(hr, size, interpolation=interpolation)


LR = {
    "MATLAB's imresize": lambda hr, scale: utils.imresize(hr, 1 / scale),
    "Pillow BICUBIC": by_pillow,
    "tf.image.resize bicubic, antialias": lambda hr, scale: by_tensorflow(hr, scale, antialias=True),
    "tf.image.resize bicubic": lambda hr, scale: by_tensorflow(hr, scale, antialias=False),
    "OpenCV INTER_CUBIC": lambda hr, scale: by_opencv(hr, scale, cv2.INTER_CUBIC),
    "OpenCV INTER_AREA": lambda hr, scale: by_opencv(hr, scale, cv2.INTER_AREA),
}


def enlarge(lr, scale):
    """MATLAB's imresize(lr, scale) without its rounding, floats in [0, 255]."""
    rows, columns = (utils.resize_matrix(n, n * scale, scale) for n in lr.shape[:2])
    return np.clip(np.einsum("ih,jw,hwc->ijc", rows, columns, lr, optimize=True), 0, 255)


SR = {  # from LR to [h, w, 3]
    "rounded": lambda lr, scale: utils.imresize(lr, scale),
    "truncated": lambda lr, scale: np.floor(enlarge(lr, scale)),
    "unrounded": enlarge,
}


def full_range(image):
    return utils.round_u8(image @ np.array([0.299, 0.587, 0.114]))


CHANNELS = {  # from [h, w, 3] to the planes that are compared, [h, w, n]
    "Y": lambda image: utils.rgb_to_y(image)[..., None],
    "Y unrounded": lambda image: utils.unrounded_y(image)[..., None],
    "luma of 0-255": lambda image: full_range(image)[..., None],
    "RGB": lambda image: image,
}
BORDER = {"without": 1, "with": 0}  # pixels that are cut off each side, in multiples of the scale


def uniform_ssim(a, b):
    return float(metrics.similarity.structural_similarity(a, b, data_range=255))


SSIM = {"Wang": metrics.ssim, "paper": metrics.ssim_daala, "7×7 uniform": uniform_ssim}
CHOICES = {"LR": LR, "SR": SR, "channels": CHANNELS, "border": BORDER, "SSIM": SSIM}
PROTOCOL = tuple(next(iter(options)) for options in CHOICES.values())


def singles():
    """The protocol, and then each combination that differs from it in one choice, as tuples in the order of CHOICES."""
    yield PROTOCOL
    for i, options in enumerate(CHOICES.values()):
        for option in list(options)[1:]:
            yield (*PROTOCOL[:i], option, *PROTOCOL[i + 1 :])


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def score(hr, scale, combinations):
    """[len(combinations), 2] PSNR in dB and SSIM of bicubic for tuples of choices; hr: uint8 [h, w, 1 or 3].

    A gray original is always scored on its own pixels, not on `channels`. SSIM of three channels is their mean.
    """
    gray, hr = hr.shape[-1] == 1, utils.to_rgb(hr)
    lr, sr, values = {}, {}, []
    for lr_by, sr_by, channels, border, ssim in combinations:
        if lr_by not in lr:
            lr[lr_by] = LR[lr_by](hr, scale)
        if (lr_by, sr_by) not in sr:
            sr[lr_by, sr_by] = SR[sr_by](lr[lr_by], scale)
        off = BORDER[border] * scale
        inside = slice(off, -off or None)
        planes = [
            (image[..., :1] if gray else CHANNELS[channels](image))[inside, inside].astype(np.float64)
            for image in (sr[lr_by, sr_by], hr)
        ]
        similarity = [SSIM[ssim](a, b) for a, b in zip(*(np.moveaxis(plane, -1, 0) for plane in planes), strict=True)]
        values.append((metrics.psnr(*planes), np.mean(similarity)))
    return np.array(values)


def mean_scores(images, scale, combinations):
    """The means of `score` over a list of HR images, computed in threads."""
    with ThreadPoolExecutor(2) as pool:
        scores = pool.map(lambda hr: score(hr, scale, combinations), images)
        return np.mean(list(tqdm(scores, total=len(images), unit="image", disable=None)), axis=0)


def read(what, root, scale):
    """HR images, uint8 [h, w, 1 or 3], of an image file or of a set in the data root. Raises UserError."""
    if Path(what).is_file():
        found = {Path(what).name: [Path(what)]}
    else:
        spelling = {name.lower(): name for name in (*data.TEST_SETS, data.SAMPLES)}
        found = data.find_test_sets(root, [spelling.get(what.lower(), what)])
    with ThreadPoolExecutor(2) as pool:
        ((name, members),) = testsets.read_sets(found, scale, pool).items()
    if members.doubt:
        print(f"this is not {name} as it is published: {members.doubt}")
    return [image.hr for image in members.images]


def explain(what, root=None, scale=4, csv_file=None, json_file=None):
    """Print how the scores change with each choice; write the scores of all combinations to the files given.

    what: image file or name of a set; root: the data root, as --data names it. Raises UserError.
    """
    if scale not in (2, 3, 4, 8):
        raise UserError(f"--scale is 2, 3, 4 or 8, not {scale}")
    images = read(what, root, scale)
    combinations = list(itertools.product(*CHOICES.values()) if csv_file or json_file else singles())
    scores = dict(zip(combinations, mean_scores(images, scale, combinations), strict=True))
    psnr, ssim = scores[PROTOCOL]
    print(f"bicubic ×{scale} on {what} ({len(images)} image{'s' * (len(images) > 1)})")
    print(f"{'':46}  PSNR dB                SSIM")
    print(f"{'the protocol':46} {psnr:8.3f}            {ssim:8.4f}")
    for combination in itertools.islice(singles(), 1, None):
        choice = next(i for i in range(len(PROTOCOL)) if combination[i] != PROTOCOL[i])
        theirs, similarity = scores[combination]
        label = f"{list(CHOICES)[choice]}: {combination[choice]}"
        print(f"{label:46} {theirs:8.3f} {theirs - psnr:+8.3f}   {similarity:8.4f} {similarity - ssim:+8.4f}")
    rows = [
        {**dict(zip(CHOICES, combination, strict=True)), "psnr": float(values[0]), "ssim": float(values[1])}
        for combination, values in scores.items()
    ]
    if json_file:
        store.write_json(json_file, rows)
    if csv_file:
        utils.write_atomically(csv_file, lambda temporary: write_csv(temporary, rows))


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(
        description="How each choice of an evaluation changes the scores of bicubic upscaling.",
        epilog="example: python -m scoring.explain Set5 --csv choices.csv",
    )
    add = parser.add_argument
    add("what", nargs="?", default=data.SAMPLES, metavar="WHAT", help="an image file or a set (default: samples)")
    add("--data", metavar="DIR", help="holds Set5/, Set14/ and BSD100/ (default: $SRGAN_DATA, else data/)")
    add("--scale", type=int, choices=(2, 3, 4, 8), default=4, help="scale factor (default: %(default)s)")
    add("--csv", type=Path, metavar="FILE", help="write the scores of all combinations (some minutes)")
    add("--json", type=Path, metavar="FILE", help="the same as JSON")
    args = parser.parse_args()
    explain(args.what, args.data, args.scale, args.csv, args.json)


if __name__ == "__main__":
    terminal.run_command(main)
