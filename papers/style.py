"""Style transfer by a feed-forward network (Johnson et al., 2016), trained in minutes for one painting.

    python -m papers.style --train PAINTING --name wave --data ~/photos   # stopped, the same command goes on
    python upscale.py photo.jpg film.mp4 --weights wave                   # paints pictures and films
    python -m papers.style --report wave                                  # compares with Gatys et al.; writes a page

A run is in checkpoint/NAME/, as those of train.py are. Our page is docs/style.md.
"""

import argparse
from pathlib import Path

import numpy as np
from easydict import EasyDict as edict

import data
import utils
from cli import terminal
from config import learning_rate_at
from images import pictures
from images.photographs import each
from layers.upsampling import UPSAMPLERS
from networks import features, style
from networks.losses import shifted
from papers import style_page, style_study
from papers.style_study import PAINTING, shrunk
from runs import devices, logs, places, store, style_runs
from training.state import load_checkpoint, newest_step, save_checkpoint
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

# The highest rate is the paper's, which is constant. Adam's first updates would saturate the tanh at this rate.
RULE = {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05}
ROOM = 9 / 8  # photographs are shrunk to this times the side of the crops
LOG_EVERY, SAVE_EVERY = 10, 500  # updates


# ---------------------------------------------------------------------------------------------------------------------
# Photographs


def read_pool(paths, side, progress=True):
    """[uint8 [h, w, 3]] of photographs whose shorter side becomes `side`; those that cannot be read are left out.

    Raises UserError if there is none.
    """

    def read(path):
        try:
            return shrunk(pictures.read_image(path), side)
        except UserError as error:
            print(f"skipped: {error}")
            return None

    pool = [image for image in each(read, paths, "reading photographs", progress) if image is not None]
    if not pool:
        raise UserError("none of the photographs can be read")
    return pool


def batch_of(pool, step, train):
    """Crops [batch, crop, crop, 3] in [0, 1] of random photographs, half of them mirrored; the same for a step again.

    train: the TRAIN section of the run.
    """
    rng, crops = np.random.default_rng([train.seed, step]), []
    for _ in range(train.batch):
        image = pool[rng.integers(len(pool))]
        top, left = (rng.integers(length - train.crop + 1) for length in image.shape[:2])
        crop = image[top : top + train.crop, left : left + train.crop]
        crops.append(crop[:, ::-1] if rng.integers(2) else crop)
    return utils.u8_to_01(np.stack(crops))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def make_update(network, optimizer, loss, seed=0):
    """The update as a graph: (content [batch, h, w, 3] in [0, 1], number of the update) → {term: value}.

    loss: style.StyleLoss. VGG sees pictures rolled by random pixels, which keeps its strides from leaving a grid.
    """

    @tf.function(autograph=False)
    def update(content_01, step):
        content = loss.content(shifted(content_01, seed, step))
        with tf.GradientTape() as tape:
            terms = loss(shifted(network(content_01, training=True), seed, step), content)
            total = tf.add_n(list(terms.values()))
        optimizer.apply(tape.gradient(total, network.trainable_variables), network.trainable_variables)
        return terms

    return update


def train(run, facts, pool, loss):
    """Train the network of a run, or go on. Returns whether it is finished, and False if it was asked to stop.

    run: store.Run; facts: for config.json; pool: from read_pool; loss: style.StyleLoss. Raises UserError if the loss
    is not finite.
    """
    settings = run.config.TRAIN
    keras.utils.set_random_seed(settings.seed)
    network = style_runs.STYLES.build(run.config.MODEL)
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    optimizer.build(network.trainable_variables)
    parts = {"network": network.variables, "optimizer": optimizer.variables}
    first = load_checkpoint(run.directory, parts) if newest_step(run.directory) else 0
    update = make_update(network, optimizer, loss, settings.seed)
    with logs.Log(run, first) as log:
        for step in range(first + 1, settings.steps + 1):
            optimizer.learning_rate.assign(learning_rate_at(step, settings))
            terms = update(tf.constant(batch_of(pool, step, settings)), tf.constant(step))
            stop = log.asked_to_stop
            if stop or step % LOG_EVERY == 0 or step in (1, settings.steps):
                values = {name: float(value) for name, value in terms.items()}
                if not np.isfinite(list(values.values())).all():
                    raise UserError(f"update {step}: the loss is not finite; begin again with another --seed")
                log.metrics(step, values | {"seconds_per_step": log.progress.show(step, values)})
                if stop or step % SAVE_EVERY == 0 or step == settings.steps:
                    style_runs.write(run.directory, network, run.config, facts)
                    save_checkpoint(run.directory, step, parts)
                log.progress.restart()
            log.progress.update()
            if stop:
                print(f"stopped after update {step}, all is saved; the same command goes on")
                return False
    return True


def config_of(args):
    """The configuration of a run, {"MODEL", "TRAIN"}, from the arguments."""
    model = {"network": "style", "scale": 1, "upsampler": args.upsampler, "width": args.width}
    train = {"steps": args.steps, "batch": args.batch, "crop": args.crop, "seed": args.seed}
    weights = style.WEIGHTS | {"style_loss": args.style_weight, "tv_loss": args.tv_weight}
    train |= {"precision": args.precision, "painting_side": args.painting_side}
    return edict({"MODEL": model, "TRAIN": RULE | train | weights})


def begin(args):
    """The store.Run of the arguments: a new one, or one to go on with. Raises UserError if that has other settings."""
    name, config = args.name or args.train.stem, config_of(args)
    run = store.Run(store.root() / name, style_runs.MODE, "default", config)
    if found := style_runs.describe(run.directory):
        theirs = found[1]["config"]
        unlike = [
            f"{section}.{key} {theirs[section].get(key)}, not {value}"
            for section, values in config.items()
            for key, value in values.items()
            if theirs[section].get(key) != value
        ]
        if unlike:
            raise UserError(f"{run.directory} has {', '.join(unlike)}: take the same settings, or another --name")
    elif not (run.directory / PAINTING).is_file():
        store.check_name(name)
        run.directory.mkdir(parents=True)
        utils.write_image(run.directory / PAINTING, shrunk(pictures.read_image(args.train), args.painting_side))
    return run


def run_training(args):
    """Train for the painting of the arguments. Returns the exit status."""
    pictures.read_image(args.train)
    argument = places.data_of("style", args.data)
    name, paths = data.find_training(argument)
    vgg_path = features.find_vgg(args.vgg)
    run = begin(args)
    if newest_step(run.directory) >= args.steps:
        print(f"{run.name}: finished before; remove {run.directory} to train it again")
        return 0
    places.remember("style", argument)
    devices.choose_precision(args.precision)
    paths = [paths[i] for i in np.random.default_rng(args.seed).permutation(len(paths))[: args.photographs]]
    pool = read_pool(paths, round(ROOM * args.crop))
    vgg, words = features.load_layers(vgg_path, features.STYLE_FACTORS)
    begun = style_runs.describe(run.directory)
    if begun and begun[1]["vgg"] != words:
        raise UserError(f"{run.directory} was begun with {begun[1]['vgg']}, not {words}: give another --name")
    facts = {"painting": args.train.name, "vgg": words, "data": {"name": Path(name).name, "images": len(pool)}}
    loss = style.StyleLoss(vgg, pictures.read_image(run.directory / PAINTING), style.weights_of(run.config.TRAIN))
    print(f"run {run.name}: {args.steps:,} updates on {len(pool)} photographs, features of {words}", flush=True)
    if train(run, facts, pool, loss):
        print(f"done: python upscale.py PHOTO --weights {run.name} paints")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# The command


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python -m papers.style --train the_wave.jpg --name wave --data ~/photos; then "
        "python upscale.py photo.jpg film.mp4 --weights wave",
    )
    add = parser.add_argument
    whole = terminal.number(int, 1, 10**9, "a whole number above zero")
    weight = terminal.number(float, 0, 1e12, "a number from zero on")
    add("--train", metavar="PAINTING", type=Path, help="the picture whose style is learned")
    add("--name", metavar="RUN", help="the run's name (default: the painting's)")
    add("--data", metavar="DIR", help="photographs to paint while it learns, as for train.py")
    add("--steps", type=whole, default=1500, metavar="N", help="updates (default: %(default)s; the paper's 40,000)")
    side = terminal.number(int, 32, 2048, "a number of pixels from 32 to 2048")
    add("--crop", type=side, default=192, metavar="N", help="side of the crops (default: %(default)s; the paper's 256)")
    add("--batch", type=whole, default=1, metavar="N", help="crops per update (default: %(default)s; the paper's 4)")
    size = "pixels of the painting's shorter side: a larger one has larger strokes (default: %(default)s)"
    add("--painting-side", type=side, default=256, metavar="N", help=size)
    text = "how much the style counts beside the content, whose weight is 1 (default: %(default)g)"
    add("--style-weight", type=weight, default=style.WEIGHTS["style_loss"], metavar="W", help=text)
    text = "how smooth the picture should be (default: %(default)g)"
    add("--tv-weight", type=weight, default=style.WEIGHTS["tv_loss"], metavar="W", help=text)
    add("--upsampler", choices=UPSAMPLERS, default="resize", help="of the last layers (default: %(default)s)")
    add("--width", type=whole, default=32, metavar="N", help="maps of the first layer (default: %(default)s)")
    add("--photographs", type=whole, default=500, metavar="N", help="how many are read (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of weights and crops (default: %(default)s)")
    add("--vgg", choices=("auto", "vgg19", "hed"), default="auto", help="the perceptual network, as for train.py")
    formats = "number format; mixed_bfloat16 is 1.5 times as fast on a CPU with AVX512-BF16 (default: %(default)s)"
    add("--precision", choices=("float32", "mixed_bfloat16"), default="float32", help=formats)
    add("--report", nargs="+", metavar="RUN", help="compare runs with Gatys et al.'s optimisation and write the page")
    help_iterations = "of the optimisation that runs are compared with (default: %(default)s; the paper's 500)"
    add("--iterations", type=whole, default=style_study.ITERATIONS, metavar="N", help=help_iterations)
    add(
        "--out",
        type=Path,
        default=store.PROJECT / "samples" / "style",
        metavar="DIR",
        help="where the page and its pictures go (default: samples/style; ours are in docs/)",
    )
    args = parser.parse_args()
    if bool(args.train) == bool(args.report):
        parser.error("say what to do: --train PAINTING, or --report RUN")
    if args.crop % style.MULTIPLE:
        parser.error(f"--crop must be a multiple of {style.MULTIPLE}")
    return args


def main():
    args = parse_arguments()
    return style_page.report(args.report, args.out, args.iterations) if args.report else run_training(args)


if __name__ == "__main__":
    terminal.run_command(main)
