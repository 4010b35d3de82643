"""Try it in a browser: upscale pictures (the default), watch a training (--run), or rate pictures blind (--mos)."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

from cli import terminal
from runs import store
from utils import UserError
from web import serving, upscaling, watching
from web.study import opinions, plans, server, stimuli

EVALUATION = store.PROJECT / "samples" / "evaluate"  # where evaluate.py writes by default
MEGAPIXELS = 2.0  # of uploads


def raters_of(text):
    """A list of the numbers in N,N."""
    if not all(name.isdecimal() for name in terminal.names(text)):
        raise argparse.ArgumentTypeError(f"takes numbers of raters, not '{text}'")
    return list(map(int, terminal.names(text)))


# ---------------------------------------------------------------------------------------------------------------------
# The command line: three pages, each with its own flags. A table holds what argparse's add_argument takes.

SERVING = {
    "--host": {
        "default": "127.0.0.1",
        "help": "address to listen on (default: this machine only; 0.0.0.0: the network)",
    },
    "--password": {
        "metavar": "WORD",
        "help": "password that the page asks for, with the user name `srgan` (not for --mos: its links are secret)",
    },
    "--port": {"type": int, "default": 7860, "help": "port to listen on (default: %(default)s; 0: any free one)"},
}
UPSCALING = {
    "--weights": {
        "metavar": "A,B",
        "type": terminal.names,
        "help": "runs, directories or weights files to offer (default: srgan_x4, srresnet_x4 and all runs)",
    },
    "--max-megapixels": {
        "metavar": "N",
        "type": terminal.number(float, 1e-6, 1e6, "a number of megapixels above zero"),
        "default": MEGAPIXELS,
        "help": "refuse larger uploads (default: %(default)s)",
    },
}
WATCHING = {"--run": {"required": True, "help": "a run's name or directory"}}
RATING = {
    "--mos": {
        "metavar": "STUDY",
        "type": Path,
        "required": True,
        "help": "the folder of the study, which is made or continued",
    },
    "--report": {"action": "store_true", "help": "write STUDY/report/ and print it, instead of asking people"},
    "--without": {"metavar": "N,N", "type": raters_of, "help": "raters to leave out of the report (default: none)"},
    "--raters": {
        "metavar": "N",
        "type": int,
        "help": "number of raters, each with a link (default: 1, or as many as there are)",
    },
}
NEW_STUDY = {
    "--pictures": {"metavar": "DIR", "type": Path, "help": "what evaluate.py wrote (default: samples/evaluate)"},
    "--sets": {"metavar": "A,B", "type": terminal.names, "help": "sets of the evaluation (default: all)"},
    "--methods": {
        "metavar": "A,B",
        "type": terminal.names,
        "help": "rows of the evaluation, and `original` (default: all)",
    },
    "--images": {"metavar": "N", "type": int, "help": "number of images of each set, drawn at random (default: all)"},
    "--repeats": {
        "metavar": "N",
        "type": int,
        "help": f"number of pictures that a rater sees twice (default: {stimuli.REPEATS})",
    },
    "--seed": {"metavar": "N", "type": int, "help": "seed of all random choices (default: 0)"},
}
LEAST = {"raters": 1, "images": 1, "repeats": 0, "seed": 0}


class Page(NamedTuple):
    """What one page's command line takes; groups: {title: table of flags}."""

    about: str
    example: str
    groups: dict

    def parser(self):
        parser = argparse.ArgumentParser(description=self.about, epilog=f"example: {self.example}")
        for title, flags in (self.groups | {"where it is served": SERVING}).items():
            group = parser.add_argument_group(title)
            for flag, settings in flags.items():
                group.add_argument(flag, **settings)
        return parser

    def takes(self, flag):
        return any(flag in flags for flags in self.groups.values())


PAGES = {  # by the flag that asks for a page
    "": Page("Upscale pictures in a browser.", "python demo.py", {"what is upscaled": UPSCALING}),
    "--run": Page(
        "Watch a training: its curves, samples and the doctor's remarks, live.",
        "python demo.py --run my_run",
        {"what is watched": WATCHING},
    ),
    "--mos": Page(
        "Ask people to rate pictures blind: the paper's mean opinion score.",
        "python demo.py --mos studies/friends --methods bicubic,my_run,original --raters 3",
        {"the study": RATING, "a new study": NEW_STUDY},
    ),
}


def parse_arguments():
    """(key of PAGES, the page's arguments). A flag of another page is refused by a sentence."""
    given = [word.partition("=")[0] for word in sys.argv[1:]]
    page = next((flag for flag in ("--mos", "--run") if flag in given), "")
    if not page and {"-h", "--help"} & set(given):
        print(__doc__, *(each.parser().format_help() for each in PAGES.values()), sep="\n\n")
        sys.exit()
    parser = PAGES[page].parser()
    if "--mos" in given and "--run" in given:
        parser.error("--mos and --run are two pages: start two commands, each with another --port")
    for other in PAGES:
        if other != page and (wrong := [flag for flag in given if PAGES[other].takes(flag)]):
            needs = f"goes with {other}" if other else f"is for the page that upscales, not for {page}"
            parser.error(f"{wrong[0]} {needs}")
    args = parser.parse_args()
    for name, least in LEAST.items():
        if (value := getattr(args, name, None)) is not None and value < least:
            parser.error(f"--{name} must be at least {least}")
    if not args.host:
        parser.error("--host takes a name or an address, for example 127.0.0.1")
    if not 0 <= args.port < 2**16:
        parser.error("--port takes a number from 0 to 65535")
    if args.password == "":
        parser.error("--password takes a word")
    if page == "--mos" and args.password:
        parser.error("--password is not for --mos: each rater has a link that nobody else can guess")
    if page == "--mos" and args.without and not args.report:
        parser.error("--without goes with --report")
    return page, args


# ---------------------------------------------------------------------------------------------------------------------
# The pages


def open_study(args):
    """The plans.Study that the arguments name, made first if there is none. Raises UserError."""
    names = [flag.removeprefix("--") for flag in NEW_STUDY]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if (args.mos / "study.json").is_file():
        study = plans.Study(args.mos)
        for name, value in given.items():
            if as_written(value) != study.settings[name]:
                raise UserError(f"{args.mos} was made with another --{name}: a study cannot be changed, make a new one")
        return study
    if args.report:
        raise UserError(f"there is no study in {args.mos}")
    stimuli.make(args.mos, given.pop("pictures", EVALUATION), **given)
    return plans.Study(args.mos)


def as_written(value):
    """A setting of a study as study.json has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def rate(args):
    """Ask people, or write the report of what they said."""
    serving.check_packages(opinions.PACKAGES if args.report else server.PACKAGES)
    with contextlib.closing(open_study(args)) as study:
        if args.report:
            opinions.write(study, args.without or ())
        else:
            server.serve(study, args.host, args.port, args.raters or 1)


def main():
    page, args = parse_arguments()
    if page == "--mos":
        rate(args)
        return
    serving.check_packages(serving.GRADIO)
    if page == "--run":
        watching.serve(args.run, args.host, args.port, args.password)
    else:
        upscaling.serve(args.weights, args.max_megapixels, args.host, args.port, args.password)


if __name__ == "__main__":
    terminal.run_command(main)
