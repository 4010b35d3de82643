"""Pictures of Sønderby et al., 2017 (sections 4.2 and 4.3, Table 2), small: 16×16 to 64×64 pixels by their networks.

Grass is one photograph of scikit-image, of which the left three quarters are trained on; photos are crops of the
training photographs, tested on those of the libraries. LR is made by the paper's Gaussian (layers/projection.gaussian).
"""

import numpy as np
from easydict import EasyDict

import data
import utils
from images import pictures
from layers import projection
from networks import amortised_map
from networks.amortised_map import METHODS
from papers.amortised_training import Problem, fit
from runs import store
from scoring import metrics
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")

NAMES = ("MSE", "AffMSE", "SoftGAN", "AffGAN", "AffDG", "AffLL")
SETS = ("grass", "photos")
# Table 2, of faces: SSIM, PSNR in dB, and the mean of (x - Aŷ)².
PAPER = {
    "MSE": (0.90, 26.30, 8.0e-5),
    "AffMSE": (0.91, 26.53, 1.6e-10),
    "SoftGAN": (0.76, 21.11, 2.3e-3),
    "AffGAN": (0.81, 23.02, 9.1e-10),
}
SIDE, SCALE = 64, 4  # of HR; LR is 16×16
POOL, TESTED, SHOWN = 1000, 24, 6  # crops
WIDTH = 32  # maps of the denoiser and the density; the paper's denoiser has 128
TRAIN = EasyDict({"steps": 150, "learning_rate": 1e-3, "beta1": 0.5, "schedule": "cosine", "warmup": 0.05, "batch": 8})
CRITIC_RATE = 3e-4  # of methods with a critic


def crops_of(image, count, rng):
    """`count` random crops uint8 [count, SIDE, SIDE, c] of an image [h, w, c]."""
    places = [[rng.integers(0, length - SIDE + 1) for length in image.shape[:2]] for _ in range(count)]
    return np.stack([image[top : top + SIDE, left : left + SIDE] for top, left in places])


def read_crops(name, argument):
    """(crops to train on, crops to test on), uint8 [n, SIDE, SIDE, 1 or 3], of one of SETS. Raises UserError.

    argument: the value of --data, for the photographs.
    """
    rng = np.random.default_rng(0)
    if name == "grass":
        [path] = data.package_files([("skimage", "data/grass.png")])
        image = pictures.read_image(path)[..., :1]
        edge = 3 * image.shape[1] // 4
        return crops_of(image[:, :edge], POOL, rng), crops_of(image[:, edge:], TESTED, rng)
    _, paths = data.find_training(argument)
    tests = data.package_files(data.SAMPLE_TEST)
    halves = []
    for count, files in ((POOL, paths), (TESTED, tests)):
        images = [utils.imresize(utils.to_rgb(pictures.read_image(path)), 1 / 2) for path in files[:100]]
        images = [image for image in images if min(image.shape[:2]) >= SIDE]
        if not images:
            raise UserError(f"no photograph has {2 * SIDE} pixels of height and width")
        halves.append(np.concatenate([crops_of(image, -(-count // len(images)), rng) for image in images])[:count])
    return tuple(halves)


def problem(pool, steps=TRAIN.steps, rate=TRAIN.learning_rate):
    """The Problem of crops uint8 [n, SIDE, SIDE, c], with the paper's networks; images in [0, 1]."""
    channels, degradation = pool.shape[-1], projection.gaussian()
    pool = tf.constant(pool)

    def draw(random):
        index = random.uniform([TRAIN.batch], maxval=len(pool), dtype=tf.int32)
        return tf.cast(tf.gather(pool, index), tf.float32) / 255.0

    return Problem(
        draw,
        shrink=lambda y: projection.shrink(y, degradation),
        enlarge=lambda x: projection.enlarge(x, degradation),
        generator=lambda: amortised_map.image_generator(SCALE, channels),
        critics={
            "judge": lambda: amortised_map.image_judge(SIDE, channels),
            "denoiser": lambda: amortised_map.image_denoiser(channels, WIDTH),
            "density": lambda: amortised_map.density_network(channels, WIDTH),
        },
        spreads={"judge": (0.1, 0.0), "denoiser": (0.3, 0.1), "density": (0.02, 0.02)},
        train=EasyDict(TRAIN, steps=steps, learning_rate=rate),
    )


def measure(sr, y, shrink):
    """{"ssim", "psnr" in dB, "consistency"} of SR [n, SIDE, SIDE, c] in about [0, 1] and HR uint8.

    SSIM and PSNR are of pictures rounded to 8 bits, on luma; consistency, the mean of (x - Aŷ)², is of SR unrounded.
    """
    planes = [[luma(image) for image in images] for images in (utils.round_u8(255 * sr), y)]
    pairs = list(zip(*planes, strict=True))
    x = shrink(tf.constant(utils.u8_to_01(y)))
    return {
        "ssim": float(np.mean([metrics.ssim(*pair) for pair in pairs])),
        "psnr": float(np.mean([metrics.psnr(*pair) for pair in pairs])),
        "consistency": float(tf.reduce_mean((x - shrink(tf.constant(sr))) ** 2)),
    }


def luma(image):
    """uint8 [h, w] of uint8 [h, w, 1 or 3]."""
    return image[..., 0] if image.shape[-1] == 1 else utils.rgb_to_y(image)


def run(folder, set_name, argument, steps=TRAIN.steps):
    """Train all NAMES on one of SETS, write NAME_METHOD.png and NAME.json into a folder; what it has already is kept.

    As SRGAN, methods with a critic begin with the weights of the pixel loss, MSE or AffMSE.

    Returns its content: {"steps", "rows": {method: measure()}}. argument: the value of --data. Raises UserError.
    """
    path = folder / f"{set_name}.json"
    kept = store.read_json(path) if path.is_file() else {}
    if kept.get("steps") != steps:
        kept = {"steps": steps, "rows": {}}
    missing = [name for name in NAMES if name not in kept["rows"]]
    if not missing:
        return kept
    pool, tested = read_crops(set_name, argument)
    task = problem(pool, steps)
    x = task.shrink(tf.constant(utils.u8_to_01(tested)))
    write_strip(folder / f"{set_name}_x.png", utils.round_u8(255 * x.numpy()).repeat(SCALE, 1).repeat(SCALE, 2))
    write_strip(folder / f"{set_name}_y.png", tested)
    for name in missing:
        method = METHODS[name]
        start = folder / f"{set_name}_{'AffMSE' if method.projected else 'MSE'}.weights.h5" if method.critic else None
        task = problem(pool, steps, CRITIC_RATE if method.critic else TRAIN.learning_rate)
        upscale, network = fit(task, name, seed=0, weights=start)
        if not method.critic:
            store.save_weights(network, folder / f"{set_name}_{name}.weights.h5")
        sr = upscale(x).numpy()
        kept["rows"][name] = measure(sr, tested, task.shrink)
        write_strip(folder / f"{set_name}_{name}.png", utils.round_u8(255 * sr))
        store.write_json(path, kept)
        words = ", ".join(f"{key} {value:.3g}" for key, value in kept["rows"][name].items())
        print(f"{set_name}, {name}: {words}", flush=True)
    return kept


def write_strip(path, images):
    """Write the first SHOWN of uint8 [n, h, w, c] side by side."""
    utils.write_image(path, utils.picture_grid([[utils.to_rgb(image) for image in images[:SHOWN]]], gap=2))


def draw(path, folder, set_name):
    """Write the strips of LR, HR and all methods one below the other; returns their names from above."""
    names = [name for name in ("x", "y", *NAMES) if (folder / f"{set_name}_{name}.png").is_file()]
    strips = [[pictures.read_image(folder / f"{set_name}_{name}.png").repeat(2, 0).repeat(2, 1)] for name in names]
    utils.write_image(path, utils.picture_grid(strips, gap=2))
    return names


def table(study):
    """The Markdown table beside the paper's Table 2; study: the content of NAME.json."""
    lines = ["| | SSIM | PSNR, dB | (x - Aŷ)² | the paper's, of faces |", "|---|---|---|---|---|"]
    for name in NAMES:
        row, paper = study["rows"].get(name), PAPER.get(name)
        cells = [f"{row['ssim']:.2f}", f"{row['psnr']:.2f}", f"{row['consistency']:.1e}"] if row else ["not run"] * 3
        cells.append(f"{paper[0]:.2f} / {paper[1]:.2f} / {paper[2]:.1e}" if paper else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
