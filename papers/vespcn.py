"""VESPCN (Caballero et al., 2017): its networks' sizes and work, their training on films of photographs, and Vid4.

    python -m papers.vespcn --list
    python -m papers.vespcn 9L-E3 9L-E3-MC --data ~/photos --steps 2000 --seeds 3      # or --data ~/films
    python -m papers.vespcn --score ~/vid4         # scores what was trained, and writes the page (docs/vespcn.md)

Only Y is trained and scored, as in the paper. A network's weights, config.json and log are in
checkpoint/vespcn-NAME-xSCALE-SEED/; what is there already is not trained again.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import utils
from cli import terminal
from images import clips, motion, pictures
from images.films import is_film
from networks import vespcn
from papers import vespcn_page
from runs import film_runs, store
from scoring import films
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

CROP = 33  # LR pixels of a side, as in the paper
BATCH, RATE = 4, 2e-3  # the paper's rate of 1e-4 and batches of 1 to 128 are for far longer trainings
MOTION_BATCH, MOTION_RATE = 16, 1e-3  # pairs of frames, while motion compensation is trained by itself
GENTLE = 1e-4  # its rate once it is trained with the rest
WARM_UP = 0.05  # share of the updates in which the rate rises
FILMS = 400  # in the pool that batches are drawn from
LENGTH = 7  # frames of one


# ---------------------------------------------------------------------------------------------------------------------
# Films to train on


def find_sources(argument):
    """(a folder's name, paths of films or else of photographs in it); argument: the value of --data. Raises UserError.

    Films are what images/clips.find finds in the data root, or in its train/; all else is for data.find_training.
    """
    if data.is_named(argument):
        root = data.data_root(argument)
        folder = root / "train" if (root / "train").is_dir() else root
        if found := clips.find(folder):
            return str(folder), found
    return data.find_training(argument)


def make_pool(paths, count, crop, scale, rng, progress=False):
    """(HR uint8 [count, LENGTH, crop·scale, crop·scale], LR uint8 [count, LENGTH, crop, crop]): Y of films.

    paths: as of find_sources(). Those too small or short are left out. LR is MATLAB's bicubic of HR. Raises UserError.
    """
    draw = cut_films if is_film(paths[0]) else made_films
    drawn = draw(paths, crop * scale, rng)
    hr = np.array([next(drawn) for _ in tqdm(range(count), "films", unit="film", disable=None if progress else True)])
    lr = [utils.imresize(np.moveaxis(film, 0, -1), 1 / scale) for film in hr]
    return hr, np.moveaxis(np.stack(lr), -1, 1)


def made_films(paths, side, rng):
    """Yield Y uint8 [LENGTH, side, side] of films made of photographs, without end. Raises UserError."""
    made = failed = 0
    for i in endless(len(paths), rng):
        photograph = utils.to_rgb(pictures.read_image(paths[i]))
        try:
            film = motion.film_of(photograph, LENGTH, side, side, rng, layer=bool(rng.integers(2)))
        except UserError:
            failed += 1
            if failed > len(paths) and not made:
                raise
            continue
        made += 1
        yield np.stack([utils.rgb_to_y(frame) for frame in film.frames])


def cut_films(paths, side, rng):
    """Yield the same of places in films at any time, without end. Raises UserError."""
    opened = [clips.opened(path) for path in tqdm(paths, "reading", unit="film", disable=None)]
    found = [film for film in opened if len(film.times) >= LENGTH and min(clips.size_of(film)) >= side]
    cuts = 0
    for i in endless(len(found), rng) if found else ():
        clip = clips.clip_of(found[i], LENGTH, rng)
        if clip is not None:
            cuts = 0
            y, x = (rng.integers(have - side + 1) for have in clip.shape[1:])
            yield clip[:, y : y + side, x : x + side]
        elif (cuts := cuts + 1) > 100:
            break
    raise UserError(
        f"no film has {LENGTH} frames without a cut that are large enough: numbered pictures need {side}×{side} "
        f"pixels, and film files, which are halved, {2 * side}×{2 * side}"
    )


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


def make_update(network, optimizers, losses_of):
    """The compiled update of a network: (inputs, target) → {name of a loss: value}.

    optimizers: [(optimizer, the weights it changes)]; losses_of: (network's outputs, inputs, target) → the losses,
    whose sum is made smaller.
    """

    @tf.function
    def update(inputs, target):
        with tf.GradientTape() as tape:
            losses = losses_of(network(inputs, training=True), inputs, target)
            total = tf.add_n(list(losses.values()))
        gradients = tape.gradient(total, [weights for _, weights in optimizers])
        for (optimizer, weights), slopes in zip(optimizers, gradients, strict=True):
            optimizer.apply_gradients(zip(slopes, weights, strict=True))
        return losses

    return update


def losses_of_sr(outputs, lr, hr):
    """The losses of a network of vespcn.build; lr, hr: as of batch_of()."""
    if not isinstance(outputs, (list, tuple)):
        return {"mse_loss": tf.reduce_mean((outputs - hr) ** 2)}
    middle = lr.shape[-1] // 2
    sr, warped, flows = outputs
    return vespcn.joint_losses(sr, hr, lr[..., middle : middle + 1], warped, flows)


def losses_of_motion(outputs, pair, target):
    """The losses of motion compensation by itself; pair: [current, neighbour]; target is not used."""
    warped, flow = outputs
    return vespcn.motion_losses(pair[0], warped, flow[:, :, :, None])


def optimizer_of(rate, steps):
    """Adam whose rate rises from 0 in the first updates, and falls as a cosine."""
    warm = int(WARM_UP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=rate, warmup_steps=warm)
    return keras.optimizers.Adam(schedule if warm else rate)


def updates(title, update, steps, batches, log):
    """Call an update `steps` times, and log losses and seconds since the start; batches: () → (inputs, target)."""
    began = time.perf_counter()
    with tqdm(total=steps, desc=title, unit="update", disable=None) as bar:
        for step in range(1, steps + 1):
            losses = update(*batches())
            bar.update()
            if step % 50 == 0 or step == steps:
                line = {key: float(f"{float(value):.6g}") for key, value in losses.items()}
                seconds = round(time.perf_counter() - began, 1)
                log.write(json.dumps({"phase": title, "step": step, "seconds": seconds, **line}) + "\n")
                bar.set_postfix(line)


def train(name, scale, pool, directory, facts, settings):
    """Train a network of vespcn.NETWORKS on a pool of films, and write its run.

    Motion compensation is trained first, by its own losses; then all end to end. facts: further content of config.json,
    see film_runs.write; settings: {"steps", "motion_steps", "batch", "seed", "skip"}.
    """
    keras.utils.set_random_seed(settings["seed"])
    rng = np.random.default_rng([settings["seed"], 1])
    network, film = vespcn.build(name, scale, skip=settings["skip"]), vespcn.NETWORKS[name]

    motion = network.get_layer("motion") if film.motion else None
    flows = motion.trainable_weights if motion else []
    rest = [weight for weight in network.trainable_weights if all(weight is not other for other in flows)]
    steps, before = settings["steps"], settings["motion_steps"]

    def pairs():
        lr = batch_of(pool, 2, MOTION_BATCH, rng)[0]
        return [lr[..., 1:], lr[..., :1]], None

    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "metrics.jsonl", "w", encoding="utf-8", buffering=1) as log:
        if motion:
            update = make_update(motion, [(optimizer_of(MOTION_RATE, before), flows)], losses_of_motion)
            updates("motion", update, before, pairs, log)
        optimizers = [(optimizer_of(RATE, steps), rest), (optimizer_of(GENTLE, steps), flows)]
        update = make_update(network, [pair for pair in optimizers if pair[1]], losses_of_sr)
        batches = functools.partial(batch_of, pool, film.frames, settings["batch"], rng)
        updates(name, update, steps, batches, log)
    model = {"network": name, "scale": scale, "width": vespcn.WIDTH, "skip": settings["skip"]}
    about = {key: settings[key] for key in ("steps", "batch", "seed")}
    about |= {"crop": pool[1].shape[-1], "films": len(pool[0]), "learning_rate": RATE}
    if film.motion:
        about |= {"motion_steps": settings["motion_steps"], "motion_batch": MOTION_BATCH}
    film_runs.write(directory, network, {"MODEL": model, "TRAIN": about}, facts)


def directory_of(name, scale, seed):
    """Where a trained network lies."""
    return store.root() / f"vespcn-{name}-x{scale}-{seed}"


def train_all(args):
    """Train the networks and seeds of the arguments that are not there yet."""
    if args.name and len(args.networks) * args.seeds > 1:
        raise UserError("--name is for one network and one seed")
    if args.name and Path(args.name).name != args.name:
        raise UserError(f"a run's name must be a plain file name, not '{args.name}'")
    name, paths = find_sources(args.data)
    kind = "films" if is_film(paths[0]) else "images"
    facts = {"data": {"name": Path(name).name, kind: len(paths)}}
    for seed in range(args.seed, args.seed + args.seeds):
        pool = None
        for network in args.networks:
            place = store.root() / args.name if args.name else directory_of(network, args.scale, seed)
            if found := film_runs.describe(place):
                print(f"{place.name}: finished before, {found[1]['config'].TRAIN.steps:,} updates")
                continue
            if pool is None:
                print(f"{args.films:,} films from {len(paths):,} {kind} in {name}")
                pool = make_pool(paths, args.films, CROP, args.scale, np.random.default_rng(seed), progress=True)
            settings = {"steps": args.steps, "motion_steps": args.motion_steps, "batch": BATCH, "seed": seed}
            train(network, args.scale, pool, place, facts, settings | {"skip": not args.no_skip})
            print(f"weights: {place}", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def print_list():
    print(f"{'network':10} {'scale':>5} {'parameters':>10} {'GOps':>6} {'paper':>6}")
    for name in vespcn.NETWORKS:
        for scale in (3, 4):
            paper = vespcn_page.PAPER.get((name, scale), {}).get("GOps")
            parameters, work = vespcn.build(name, scale).count_params(), vespcn_page.work(name, scale)
            print(f"{name:10} {scale:5} {parameters:10,} {work:6.2f} {f'{paper:.2f}' if paper else '':>6}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python -m papers.vespcn 9L-E3-MC --data ~/photos --steps 2000",
    )
    add = parser.add_argument
    add(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help=f"what to train: {', '.join(vespcn.NETWORKS)}; 9L-E3-MC is VESPCN",
    )
    add("--list", action="store_true", help="print all networks with their parameters and work, and end")
    add("--scale", type=int, choices=(3, 4), default=4, help="the factor (default: %(default)s)")
    add(
        "--data",
        metavar="FOLDER",
        help="photographs that films are made of (default: as train.py); or films, and folders of numbered frames",
    )
    whole = terminal.number(int, 1, 10**7, "a whole number above 0")
    add("--steps", type=whole, default=2000, help="updates (default: %(default)s)")
    add(
        "--motion-steps",
        type=whole,
        default=3000,
        metavar="N",
        help="updates of motion compensation by itself, before these (default: %(default)s)",
    )
    add("--films", type=whole, default=FILMS, help="how many to make (default: %(default)s)")
    add("--seed", type=int, default=0, help="the first one: of weights, films and batches (default: %(default)s)")
    add("--seeds", type=whole, default=1, metavar="N", help="runs of each network (default: %(default)s)")
    add("--no-skip", action="store_true", help="the paper's networks: nothing is added to bicubic (with --name)")
    add("--name", metavar="RUN", help="the run's name (default: vespcn-NETWORK-xSCALE-SEED)")
    add(
        "--score",
        metavar="FOLDER",
        type=Path,
        help="score all trained networks on a folder's films: folders of pictures, or gray MKVs; and write the page",
    )
    add("--frames", type=whole, metavar="N", help="score only the first N frames of each film (default: all)")
    add(
        "--out",
        type=Path,
        default=store.PROJECT / "samples" / "vespcn",
        metavar="DIR",
        help="where the page, its figures and pictures go (default: samples/vespcn; our page is docs/vespcn.md)",
    )
    args = parser.parse_args()
    if not (args.list or args.networks or args.score):
        parser.error("name a network to train, or --list, or --score")
    if args.no_skip and not args.name:
        parser.error("--no-skip needs --name: the table's runs have the skip")
    for name in args.networks:
        if name not in vespcn.NETWORKS:
            parser.error(f"there is no network called '{name}'; there are {', '.join(vespcn.NETWORKS)}")
    return args


def main():
    args = parse_arguments()
    if args.list:
        print_list()
        return
    if args.networks:
        train_all(args)
    if args.score:
        print(films.PROTOCOL)
        vespcn_page.write(films.find(args.score), args.scale, args.out, args.frames)


if __name__ == "__main__":
    terminal.run_command(main)
