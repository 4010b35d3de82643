"""Gradually global pruning (Wang et al., ICIP 2017, 1703.09916): a trained SRResNet loses feature maps step by step.

    python reproduce.py pruning --weights srresnet_x4 --data ~/photos --lose 0.1

Without --weights, srresnet_x4 is pruned by both rankings, and a page of the results is written. Each round ranks the
maps of all layers together, drops a share of them, and trains what is left for some updates. The last round is the one
after which validation has fallen by more than --lose. The runs are pruned-WEIGHTS-1, -2 and so on in checkpoint/; the
thinnest good one is named at the end, and is used as any other. Stopped, the same command goes on.
"""

import argparse
import math
import shutil
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

import data
import train
from cli import terminal
from networks import thinning
from papers import pruning_page
from papers.runner import has_ended, train_run
from runs import store
from training.validation import Validation
from utils import UserError

COMPARED, LEAST_WORK = "srresnet_x4", 0.3  # what the page prunes, and down to which share of its work
BATCHES = 8  # of the run's own, by which maps are ranked
# Short fine-tuning: the statistics stay, the rate rises to this and falls to zero.
RULE = {"TRAIN.batch_norm": "frozen", "TRAIN.schedule": "cosine", "TRAIN.learning_rate": 2e-4, "TRAIN.ema": 0.99}


class Round(NamedTuple):
    """A network after a round; work: multiply-adds per SR pixel; psnr: PSNR-Y of validation in dB."""

    run: str
    widths: str
    work: float
    psnr: float


class Bench:
    """The photographs that maps are ranked and networks validated by: the same in each round."""

    def __init__(self, config, data_directory):
        photographs, _ = data.read_training(data_directory, config)
        indices, held_out = photographs.split(config.DATA.validation)
        self.held_out = [photographs[i] for i in held_out or indices[:1]]
        self.batches = train.batches_of(photographs, indices, config)

    def rank(self, network, config):
        """{group: worth of each map}, from thinning.scores."""
        batches = map(self.batches, range(BATCHES))
        pairs = (data.degrade(crops, turns, config.MODEL.scale, *lr) for crops, turns, *lr in batches)
        return thinning.scores(network, config.MODEL, tqdm(pairs, "ranking", BATCHES, unit="batch", leave=False))

    def measure(self, run):
        """The Round of a run's weights."""
        network, about = store.load_generator(run)
        model = about["config"].MODEL
        work = pruning_page.work_of(network, model.scale)
        psnr, *_ = Validation(network, about["config"], self.held_out, xla=False)()
        return Round(run, model.widths or f"{model.width} everywhere", work, psnr)


def prune_once(run, name, share, ranking, bench):
    """Write the run `name` with what is left of another after one round's dropping, not yet trained."""
    network, about = store.load_generator(run)
    config = about["config"]
    kept = thinning.choose(bench.rank(network, config), share, ranking)
    if all(len(kept[group]) == n for group, n in thinning.groups_of(config.MODEL).items()):
        raise UserError(f"{run} has no more maps to drop")
    thinner, config.MODEL = thinning.thin(network, config.MODEL, kept)
    begun = store.Run(store.root() / name, about["mode"], about["preset"], config)
    shutil.rmtree(begun.directory, ignore_errors=True)  # what an interrupted call left
    store.create(begun, {"pruned from": run})
    store.save_weights(thinner, begun.directory / store.WEIGHTS)


def command_of(name, start, args):
    """The arguments of train.py that train the run `name` from the weights of the run `start`."""
    about = store.describe_weights(start)[1]
    settings = {f"MODEL.{key}": value for key, value in about["config"].MODEL.items()} | RULE
    settings |= {"DATA.degradation": about["config"].DATA.degradation}
    settings |= {"TRAIN.validate_every": args.steps, "TRAIN.batch": args.batch}
    command = ["--mode", about["mode"], "--name", name, "--init", start, "--steps", str(args.steps)]
    command += ("--data", args.data) if args.data else ()
    for setting in (*(f"{key}={value}" for key, value in settings.items()), *args.set):
        command += ("--set", setting)
    return command


def prune(args):
    """All rounds. Returns [Round], the first of the weights that it began with; prints each. Raises UserError."""
    weights, about = store.describe_weights(args.weights)
    thinning.groups_of(about["config"].MODEL)
    bench = Bench(about["config"], args.data)
    rounds = [bench.measure(args.weights)]
    show(rounds)
    stem = f"pruned-{weights.resolve().parent.name}" + ("-layers" if args.ranking == "layers" else "")
    while rounds[-1].psnr >= rounds[0].psnr - args.lose and rounds[-1].work > args.work * rounds[0].work:
        name = f"{stem}-{len(rounds)}"
        start = f"{name}-start"
        if not has_ended(name):
            if not (store.root() / start / store.WEIGHTS).is_file():
                prune_once(rounds[-1].run, start, args.share, args.ranking, bench)
            train_run(name, command_of(name, start, args), args.data)
        rounds.append(bench.measure(name))
        show(rounds)
    return rounds


def show(rounds):
    first, last = rounds[0], rounds[-1]
    share, change = last.work / first.work, last.psnr - first.psnr
    print(f"{last.run}: {100 * share:.0f} % of the multiply-adds, validation {last.psnr:.2f} dB ({change:+.2f})")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python reproduce.py pruning --weights srresnet_x4 --data ~/photos --lose 0.1",
    )
    add = parser.add_argument
    compared = f"default: {COMPARED}, by both rankings down to {LEAST_WORK:.0%} of its multiply-adds, for the page"
    add("--weights", metavar="RUN", help=f"the SRResNet to make thinner: a run's name or directory ({compared})")
    above = terminal.number(float, 1e-6, 100, "a number above zero")
    add("--lose", type=above, default=0.1, metavar="DB", help="how much validation may fall (default: 0.1 dB)")
    part = terminal.number(float, 1e-3, 0.9, "a share from 0.001 to 0.9")
    add("--share", type=part, default=0.05, help="share of all maps that a round drops (default: 0.05)")
    add("--work", type=part, metavar="SHARE", help="stop at this share of the multiply-adds (default: 0.1)")
    help_ranking = "global: maps of all layers together, as in the paper; layers: the same share of each layer"
    add("--ranking", choices=("global", "layers"), default="global", help=f"{help_ranking} (default: global)")
    count = terminal.number(int, 1, 10**9, "a whole number above zero")
    add("--steps", type=count, default=200, metavar="N", help="updates of training in each round (default: 200)")
    add("--batch", type=count, default=16, metavar="N", help="crops per update (default: 16)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of photographs")
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of training; repeatable")
    default = store.PROJECT / "samples" / "reproduce" / "pruning"
    add(
        "--out",
        type=Path,
        default=default,
        metavar="DIR",
        help="where the page goes (default: samples/reproduce/pruning)",
    )
    return parser.parse_args()


def compare(args):
    """Prune COMPARED by both rankings, and write the page. Raises UserError."""
    data.find_test_sets(args.data, pruning_page.SETS)
    args.weights, args.lose, args.work = COMPARED, math.inf, args.work or LEAST_WORK
    rounds = {}
    for args.ranking in pruning_page.RANKINGS:
        rounds[args.ranking] = prune(args)
    pruning_page.write(rounds, args)


def main():
    args = parse_arguments()
    if not args.weights:
        compare(args)
        return
    args.work = args.work or 0.1
    rounds = prune(args)
    good = [each for each in rounds if each.psnr >= rounds[0].psnr - args.lose]
    if len(good) == 1:
        print(f"after the first round validation had fallen by more than {args.lose:g} dB: more --steps may help")
        return
    best = min(good, key=lambda each: each.work)
    print(f"the thinnest within {args.lose:g} dB is {best.run}, with maps {best.widths}")


if __name__ == "__main__":
    terminal.run_command(main)
