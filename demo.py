"""Try it in a browser: upscale pictures (the default), watch a training (--run), or rate pictures blind (--mos)."""

import argparse
import contextlib
from pathlib import Path

from cli import terminal
from runs import store
from utils import UserError
from web import serving, upscaling, watching
from web.study import opinions, plans, server, stimuli

EVALUATION = store.PROJECT / "samples" / "evaluate"  # where evaluate.py writes if it is not told
MEGAPIXELS = 2.0  # of uploads
MAKING = ("pictures", "sets", "methods", "images", "repeats", "seed")  # settings of a new study


def raters_of(text):
    """A list of the numbers in N,N."""
    if not all(name.isdecimal() for name in terminal.names(text)):
        raise argparse.ArgumentTypeError(f"takes numbers of raters, not '{text}'")
    return list(map(int, terminal.names(text)))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="examples: python demo.py; python demo.py --run my_run; "
        "python demo.py --mos studies/friends --methods bicubic,my_run,original --raters 3",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (default: only this machine; 0.0.0.0: its whole network)")
    add("--port", type=int, default=7860, help="default: %(default)s; 0: any that is free")
    upscaling = parser.add_argument_group("the page that upscales")
    upscaling.add_argument(
        "--weights", metavar="A,B", type=terminal.names, help="what to offer (default: upscale.py's own, and all runs)"
    )
    upscaling.add_argument(
        "--max-megapixels",
        metavar="N",
        type=terminal.number(float, 1e-6, 1e6, "a number of megapixels above zero"),
        help=f"refuse larger uploads (default: {MEGAPIXELS})",
    )
    watching = parser.add_argument_group("the page that watches")
    watching.add_argument("--run", help="a run's name or directory: its curves, samples and the doctor's remarks, live")
    rating = parser.add_argument_group("the page that asks for opinions, the paper's mean opinion score")
    add = rating.add_argument
    add("--mos", metavar="STUDY", type=Path, help="a folder: a new study is made there, or goes on")
    add("--report", action="store_true", help="write STUDY/report/ and print it, instead of asking people")
    add("--without", metavar="N,N", type=raters_of, help="of the report: raters to leave out (default: none)")
    add("--raters", metavar="N", type=int, help="raters there are to be, a link each (default: 1, or those there are)")
    new = parser.add_argument_group("of a new study")
    new.add_argument("--pictures", metavar="DIR", type=Path, help="what evaluate.py wrote (default: samples/evaluate)")
    new.add_argument("--sets", metavar="A,B", type=terminal.names, help="default: all")
    new.add_argument(
        "--methods", metavar="A,B", type=terminal.names, help="rows of the evaluation, `original` (default: all)"
    )
    new.add_argument("--images", metavar="N", type=int, help="so many of each set, drawn by the seed (default: all)")
    new.add_argument(
        "--repeats", metavar="N", type=int, help=f"pictures shown to a rater twice (default: {stimuli.REPEATS})"
    )
    new.add_argument("--seed", metavar="N", type=int, help="of what is drawn (default: 0)")
    args = parser.parse_args()
    for name, least in (("raters", 1), ("images", 1), ("repeats", 0), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name} is at least {least}")
    if not args.host:
        parser.error("--host is a name or an address, as 127.0.0.1")
    if not 0 <= args.port < 2**16:
        parser.error("--port is between 0 and 65535")
    if args.without and not args.report:
        parser.error("--without is of --report")
    pages = {"--mos": ("report", "raters", *MAKING), "--run": (), "": ("weights", "max_megapixels")}
    page = "--mos" if args.mos else "--run" if args.run else ""
    if args.mos and args.run:
        parser.error("--mos and --run are pages of their own: start them one by one, with a --port each")
    for other, names in pages.items():
        for name in names if other != page else ():
            if getattr(args, name) not in (None, False):
                needs = f"goes with {other}" if other else f"is of the page that upscales, not of {page}"
                parser.error(f"--{name.replace('_', '-')} {needs}")
    return args


def open_study(args):
    """The plans.Study that the arguments name, made first if there is none. Raises UserError."""
    given = {name: getattr(args, name) for name in MAKING if getattr(args, name) is not None}
    if (args.mos / "study.json").is_file():
        there = plans.Study(args.mos)
        was = there.settings
        for name, value in given.items():
            if (str(value) if name == "pictures" else list(value) if isinstance(value, tuple) else value) != was[name]:
                raise UserError(f"{args.mos} was made with another --{name}: a study cannot be changed, make a new one")
        return there
    if args.report:
        raise UserError(f"there is no study in {args.mos}")
    stimuli.make(args.mos, given.pop("pictures", EVALUATION), **given)
    return plans.Study(args.mos)


def main():
    args = parse_arguments()
    if not args.mos:
        serving.check_packages(serving.GRADIO)
        if args.run:
            watching.serve(args.run, args.host, args.port)
        else:
            upscaling.serve(args.weights, args.max_megapixels or MEGAPIXELS, args.host, args.port)
        return
    if not args.report:
        serving.check_packages(server.PACKAGES)
    with contextlib.closing(open_study(args)) as opened:
        if args.report:
            opinions.write(opened, args.without or ())
        else:
            server.serve(opened, args.host, args.port, args.raters or 1)


if __name__ == "__main__":
    terminal.run_command(main)
