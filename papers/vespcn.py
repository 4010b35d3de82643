"""VESPCN (Caballero et al., 2017): its networks' sizes and work, their training on films of photographs, and Vid4.

    python -m papers.vespcn --list
    python -m papers.vespcn 9L-E3-MC --data ~/photos --steps 2000
    python -m papers.vespcn 9L-E3-MC --vid4 ~/vid4          # scores what was trained

Only Y is trained and scored, as in the paper. A network's weights and log are in checkpoint/vespcn-NAME-xSCALE-SEED/.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import utils
from cli import terminal
from images import film_reading, motion, pictures
from networks import counting, vespcn
from runs import store
from scoring import metrics
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

CROP = 33  # LR pixels of a side, as in the paper
BATCH, RATE = 16, 1e-3  # the paper's rate of 1e-4 is for far longer trainings
FILMS = 200  # in the pool that batches are drawn from
LENGTH = 7  # frames of one
BORDER = 8  # HR pixels that are not scored
WEIGHTS = "vespcn.weights.h5"
# GOps for a frame of 1080 lines in the paper, {(network, scale): GOps}.
PAPER_WORK = {("5L-E3", 3): 7.96, ("9L-E3-MC", 3): 24.23, ("5L-E3", 4): 4.85, ("9L-E3-MC", 4): 14.00}


def work(name, scale):
    """GOps of a network for one frame of 1920×1080: two for each multiply-add."""
    return 2 * counting.multiply_adds(vespcn.build(name, scale), (1, 1080 // scale, 1920 // scale, 3)) / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# Films to train on


def make_pool(paths, count, crop, scale, rng, progress=False):
    """(HR uint8 [count, LENGTH, crop·scale, crop·scale], LR uint8 [count, LENGTH, crop, crop]): Y of films.

    paths: of photographs that they are made of; those too small are left out. LR is MATLAB's bicubic of HR. Raises
    UserError.
    """
    side, hr = crop * scale, []
    photographs = (pictures.read_image(paths[i]) for i in endless(len(paths), rng))
    bar = tqdm(total=count, desc="films", unit="film", disable=None if progress else True)
    failed = 0
    while len(hr) < count:
        try:
            film = motion.film_of(utils.to_rgb(next(photographs)), LENGTH, side, side, rng, layer=bool(rng.integers(2)))
        except UserError:
            failed += 1
            if failed > len(paths) and not hr:
                raise
            continue
        hr.append([utils.rgb_to_y(frame) for frame in film.frames])
        bar.update()
    bar.close()
    hr = np.array(hr)
    lr = [utils.imresize(np.moveaxis(film, 0, -1), 1 / scale) for film in hr]
    return hr, np.moveaxis(np.stack(lr), -1, 1)


def endless(count, rng):
    """Yield numbers below `count`, each once in random order, again and again."""
    while True:
        yield from rng.permutation(count)


def batch_of(pool, frames, size, rng):
    """(LR [size, crop, crop, frames], HR of the middle frame [size, side, side, 1]), float32 in [0, 1], from a pool.

    Drawn, mirrored, turned and played backwards at random.
    """
    lrs, hrs = [], []
    for _ in range(size):
        film, first = rng.integers(len(pool[0])), rng.integers(LENGTH - frames + 1)
        hr, lr = pool[0][film, first + frames // 2][None], pool[1][film, first : first + frames]
        turns, mirrored, backwards = rng.integers(4), rng.integers(2), rng.integers(2)
        lr = lr[:: -1 if backwards else 1]
        hr, lr = (np.rot90(a, turns, (1, 2))[:, :, :: -1 if mirrored else 1] for a in (hr, lr))
        lrs.append(np.moveaxis(lr, 0, -1))
        hrs.append(np.moveaxis(hr, 0, -1))
    return utils.u8_to_01(np.stack(lrs)), utils.u8_to_01(np.stack(hrs))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def make_update(network, optimizer):
    """The compiled update: (LR, HR) as of batch_of() → {name of a loss: value}."""
    middle = network.inputs[0].shape[-1] // 2

    @tf.function
    def update(lr, hr):
        with tf.GradientTape() as tape:
            outputs = network(lr, training=True)
            if isinstance(outputs, (list, tuple)):
                sr, warped, flows = outputs
                losses = vespcn.joint_losses(sr, hr, lr[..., middle : middle + 1], warped, flows)
            else:
                losses = {"mse_loss": tf.reduce_mean((outputs - hr) ** 2)}
            total = tf.add_n(list(losses.values()))
        weights = network.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))
        return losses

    return update


def train(name, scale, steps, seed, paths, films=FILMS, crop=CROP, batch=BATCH):
    """Train a network of vespcn.NETWORKS end to end and write its weights and log; returns the directory."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    pool = make_pool(paths, films, crop, scale, rng, progress=True)
    network = vespcn.build(name, scale)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    update, frames, lines = make_update(network, optimizer), vespcn.NETWORKS[name].frames, []
    with tqdm(total=steps, unit="update", disable=None) as bar:
        for step in range(1, steps + 1):
            losses = update(*batch_of(pool, frames, batch, rng))
            bar.update()
            if step % 50 == 0 or step == steps:
                lines.append({"step": step, **{key: float(value) for key, value in losses.items()}})
                bar.set_postfix({key: f"{value:.2e}" for key, value in lines[-1].items() if key != "step"})
    folder = directory(name, scale, seed)
    folder.mkdir(parents=True, exist_ok=True)
    network.save_weights(folder / WEIGHTS)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    utils.write_atomically(folder / "metrics.jsonl", lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def directory(name, scale, seed):
    """Where a trained network lies."""
    return store.root() / f"vespcn-{name}-x{scale}-{seed}"


# ---------------------------------------------------------------------------------------------------------------------
# Vid4


def read_luma(path):
    """uint8 [frames, h, w]: Y of a film of one gray plane, or of the pictures in a folder."""
    if path.is_dir():
        return np.stack([utils.rgb_to_y(utils.to_rgb(pictures.read_image(file))) for file in utils.list_images(path)])
    with film_reading.opened(path) as film:
        return np.stack([frame.to_ndarray(format="gray") for frame in film.decode(video=0)])


def score(upscale, films, scale):
    """{film: (PSNR, SSIM)} of Y, means over all frames, without BORDER pixels; and "mean" over the films.

    upscale: LR uint8 [n, h, w] → SR uint8 [n, scale·h, scale·w]; films: {name: HR uint8 [n, h, w]}.
    """
    scores = {}
    inside = slice(BORDER, -BORDER)
    for name, hr in films.items():
        hr = np.stack([utils.mod_crop(frame[..., None], scale)[..., 0] for frame in hr])
        lr = np.moveaxis(utils.imresize(np.moveaxis(hr, 0, -1), 1 / scale), -1, 0)
        pairs = [(a[inside, inside], b[inside, inside]) for a, b in zip(upscale(lr), hr, strict=True)]
        measured = np.array([(metrics.psnr(*pair), metrics.ssim(*pair)) for pair in pairs])
        scores[name] = tuple(measured.mean(axis=0).tolist())
    scores["mean"] = tuple(np.mean(list(scores.values()), axis=0))
    return scores


def bicubic(lr, scale):
    """Bicubic SR of uint8 [n, h, w]."""
    return np.moveaxis(utils.imresize(np.moveaxis(lr, 0, -1), scale), -1, 0)


def by_network(network, lr):
    """SR uint8 [n, scale·h, scale·w] of a film, LR uint8 [n, h, w]; its first and last frame stand for those beyond."""
    frames = network.inputs[0].shape[-1]
    padded = np.pad(lr, ((frames // 2, frames // 2), (0, 0), (0, 0)), "edge")
    sr = []
    for i in range(len(lr)):
        outputs = network(utils.u8_to_01(np.moveaxis(padded[i : i + frames], 0, -1))[None])
        outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        sr.append(utils.round_u8(255 * np.asarray(outputs)[0, ..., 0]))
    return np.stack(sr)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def print_list():
    print(f"{'network':10} {'scale':>5} {'parameters':>10} {'GOps':>6} {'paper':>6}")
    for name in vespcn.NETWORKS:
        for scale in (3, 4):
            paper = PAPER_WORK.get((name, scale))
            parameters = vespcn.build(name, scale).count_params()
            print(f"{name:10} {scale:5} {parameters:10,} {work(name, scale):6.2f} {f'{paper:.2f}' if paper else '':>6}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("network", nargs="?", choices=vespcn.NETWORKS, help="a network of the paper; 9L-E3-MC is VESPCN")
    add("--list", action="store_true", help="print all networks with their parameters and work, and end")
    add("--scale", type=int, choices=(3, 4), default=4, help="the factor (default: %(default)s)")
    add("--data", metavar="FOLDER", help="photographs that films are made of (default: as train.py)")
    add(
        "--steps",
        type=terminal.number(int, 1, 10**7, "a whole number above 0"),
        default=2000,
        help="updates (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of weights, films and batches (default: %(default)s)")
    add("--vid4", metavar="FOLDER", type=Path, help="score on a folder's films: folders of pictures, or gray MKVs")
    args = parser.parse_args()
    if not args.list and not args.network:
        parser.error("name a network, or --list")
    return args


def main():
    args = parse_arguments()
    if args.list:
        print_list()
        return
    folder = directory(args.network, args.scale, args.seed)
    if not args.vid4:
        name, paths = data.find_training(args.data)
        print(f"films of {len(paths)} photographs from {name}")
        print(f"weights: {train(args.network, args.scale, args.steps, args.seed, paths)}")
        return
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"there are no weights in {folder}: train the network first")
    found = [path for path in sorted(args.vid4.iterdir()) if path.is_dir() or path.suffix == ".mkv"]
    films = {path.stem: read_luma(path) for path in found}
    network = vespcn.build(args.network, args.scale)
    network.load_weights(folder / WEIGHTS)
    print(f"Y, all frames, {BORDER} pixels of the border left out, LR by MATLAB's bicubic from Y")
    for method, upscale in {
        "bicubic": lambda lr: bicubic(lr, args.scale),
        args.network: lambda lr: by_network(network, lr),
    }.items():
        for film, (psnr, ssim) in score(upscale, films, args.scale).items():
            print(f"{method:10} {film:10} {psnr:6.2f} dB {ssim:.4f}")


if __name__ == "__main__":
    terminal.run_command(main)
