"""What docs/style.md shows: trained networks beside Gatys et al.'s optimisation; loss, speed, grid and pictures."""

import hashlib
import json
import statistics
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import utils
from images import pictures
from networks import counting, features, style
from papers import gatys
from runs import store, style_runs
from runs.logs import read_metrics
from training import doctor
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
pyplot = LazyModule("matplotlib.pyplot")

PAINTING = "painting.png"  # in a run's directory: the painting at the size that was trained with
SIDE = 256  # pixels of the pictures that are compared
ITERATIONS = 300  # of L-BFGS
TURNS, PASSES, SHORT = 5, 10, 10  # of the timing; passes of the network and iterations in a turn
CELL, OTHER_CELL = 4, 5  # pixels: the upsampling's cell, and one in which nothing repeats
SHOWN = (data.SAMPLE_TEST[0], data.SAMPLE_TEST[2])  # the photographs on the page
ZOOM, DETAIL = 4, 72  # of the picture that shows a grid, and its side in pixels


def shrunk(image, side):
    """A picture uint8 [h, w, 1 or 3] as RGB, shrunk or enlarged until its shorter side has so many pixels."""
    image = utils.to_rgb(image)
    factor = side / min(image.shape[:2])
    return utils.imresize_to(image, *(max(round(factor * length), side) for length in image.shape[:2]))


def read_middles(files):
    """{name: uint8 [SIDE, SIDE, 3]}: the middles of photographs of the installed libraries, see data.SAMPLE_TEST."""
    middles = {}
    for path in data.package_files(files):
        image = shrunk(pictures.read_image(path), SIDE)
        top, left = ((length - SIDE) // 2 for length in image.shape[:2])
        middles[path.stem] = image[top : top + SIDE, left : left + SIDE]
    return middles


class Painter:
    """A run that is examined: its network for pictures of any size, its painting and its loss, all in float32."""

    def __init__(self, name, vggs):
        found = style_runs.describe(name)
        if not found or not (found[0].parent / PAINTING).is_file():
            raise UserError(f"{name} is no run of papers.style, or was trained elsewhere: train it first")
        self.weights, self.about = found
        self.name, self.directory = self.weights.resolve().parent.name, self.weights.parent
        self.network = style_runs.load(self.weights, self.about["config"].MODEL)
        self.painting = pictures.read_image(self.directory / PAINTING)
        path = features.find_vgg("hed" if "hed" in self.about["vgg"] else "vgg19")
        if path not in vggs:
            vggs[path] = features.load_layers(path, features.STYLE_FACTORS)[0]
        self.loss = style.StyleLoss(vggs[path], self.painting, style.weights_of(self.about["config"].TRAIN))
        self.apply = tf.function(style.any_size(self.network), reduce_retracing=True)

    def paint(self, content_u8):
        """uint8 [h, w, 3] of a photograph uint8 [h, w, 3]."""
        return utils.m11_to_u8(self.apply(tf.constant(utils.u8_to_01(content_u8)[None]))[0])

    def terms(self, picture_u8, content_u8):
        """{term: value} of the loss of a picture, and their sum as "total"."""
        content = self.loss.content(tf.constant(utils.u8_to_01(content_u8)[None]))
        picture_m11 = tf.constant(2 * utils.u8_to_01(picture_u8)[None] - 1)
        terms = {name: float(value) for name, value in self.loss(picture_m11, content).items()}
        return terms | {"total": sum(terms.values())}


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def optimised(painter, name, content, folder, iterations):
    """(Gatys et al.'s picture uint8 [h, w, 3], [its loss after each iteration]), kept in a folder.

    It is made once for a painting, a content and the weights of the loss.
    """
    facts = [gatys.__name__, iterations, painter.about["vgg"], sorted(painter.loss.weights.items())]
    digest = hashlib.sha256(json.dumps(facts).encode() + painter.painting.tobytes() + content.tobytes()).hexdigest()
    path = folder / f"{Path(painter.about['painting']).stem}-{name}-{digest[:12]}.npz"
    if not path.is_file():
        objective, curve = gatys.make_objective(painter.loss, utils.u8_to_01(content)), []
        with tqdm(total=iterations, desc=f"Gatys et al., {name}", disable=None) as bar:

            def report(picture, loss):
                curve.append(loss)
                bar.update()

            picture = gatys.optimise(objective, content.shape, iterations, report=report)
        picture = utils.m11_to_u8(picture)
        utils.write_atomically(path, lambda temporary: np.savez(temporary, picture=picture, curve=curve))
        print(f"Gatys et al. on {name}: {iterations} iterations, loss {curve[-1]:.4g}", flush=True)
    with np.load(path) as kept:
        return kept["picture"], kept["curve"].tolist()


def speeds(painter, content):
    """{"network", "iteration"}: [seconds] of a picture by the network and of an iteration of L-BFGS, taken in turns."""
    objective = gatys.make_objective(painter.loss, utils.u8_to_01(content))
    content_01 = tf.constant(utils.u8_to_01(content)[None])
    found = {"network": [], "iteration": []}
    for turn in range(TURNS + 1):  # the first is not counted: it makes the graphs
        start = time.perf_counter()
        for _ in range(PASSES):
            painter.apply(content_01).numpy()
        middle = time.perf_counter()
        gatys.optimise(objective, content.shape, SHORT)
        if turn:
            found["network"].append((middle - start) / PASSES)
            found["iteration"].append((time.perf_counter() - middle) / SHORT)
    return found


def grids_of(painter, photographs, cells=(CELL, OTHER_CELL)):
    """{cell: the RMS, in grey levels, of what repeats in all cells of cell×cell pixels of painted photographs}.

    It is the doctor's measure, with the photograph as HR. photographs: [uint8 [h, w, 3]] of one size.
    """
    contents = [tf.constant(utils.u8_to_01(image)[None]) for image in photographs]
    painted = [tf.clip_by_value(painter.apply(content), -1, 1) for content in contents]
    fake, content_01 = tf.concat(painted, axis=0), tf.concat(contents, axis=0)
    height, width = fake.shape[1:3]
    found = {}
    for cell in cells:
        place = (slice(None), slice(height - height % cell), slice(width - width % cell))
        values = doctor.measure(fake[place], 2 * content_01[place] - 1, content_01[place], cell)
        found[str(cell)] = float(doctor.strengths(values)["checkerboard"])
    return found


def facts_of(painter, contents, photographs):
    """What style.json has of a run."""
    config, log = painter.about["config"], read_metrics(painter.directory)
    terms = tuple(style.WEIGHTS)
    seconds = statistics.median(line["seconds_per_step"] for line in log)
    return {
        "painting": painter.about["painting"],
        "upsampler": config.MODEL.upsampler,
        "train": config.TRAIN,
        "images": painter.about["data"]["images"],
        "vgg": painter.about["vgg"],
        "commit": painter.about["commit"],
        "parameters": painter.network.count_params(),
        "multiply_adds": counting.multiply_adds(painter.network, (1, SIDE, SIDE, 3)),
        "seconds_per_step": seconds,
        "curve": [[line["step"], sum(line[term] for term in terms)] for line in log],
        "grid": grids_of(painter, photographs),
        "terms": {name: painter.terms(painter.paint(content), content) for name, content in contents.items()},
        "untouched": {name: painter.terms(content, content)["total"] for name, content in contents.items()},
    }


def examine(painters, contents, iterations):
    """(the content of style.json, {(painting, content): Gatys et al.'s picture})."""
    folder = store.root() / "style-gatys"
    folder.mkdir(parents=True, exist_ok=True)
    photographs = list(read_middles(data.SAMPLE_TEST + data.SAMPLE_TRAIN).values())
    study = {"side": SIDE, "iterations": iterations, "runs": {}, "gatys": {}, "grid_pictures": len(photographs)}
    made = {}
    for painter in painters:
        study["runs"][painter.name] = facts_of(painter, contents, photographs)
        print(f"{painter.name}: examined", flush=True)
        for name, content in contents.items():
            key = (painter.about["painting"], name)
            if key not in made:
                made[key], curve = optimised(painter, name, content, folder, iterations)
                study["gatys"].setdefault(key[0], {})[name] = {
                    "curve": curve,
                    "terms": painter.terms(made[key], content),
                }
    study["speed"] = speeds(painters[0], next(iter(contents.values())))
    return study | {"machine": store.machine("tensorflow", "scipy")}, made


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def draw_pictures(path, painters, contents, made):
    """Write rows of pictures, one for each content and painting: the content, by each run, by Gatys et al."""
    paintings = {painter.about["painting"]: [] for painter in painters}
    for painter in painters:
        paintings[painter.about["painting"]].append(painter)
    most = max(map(len, paintings.values()))
    rows = []
    for painting, those in paintings.items():
        for name, content in contents.items():
            painted = [painter.paint(content) for painter in those]
            painted += [np.full_like(content, 255)] * (most - len(painted))
            rows.append([content, *painted, made[painting, name]])
    utils.write_image(path, utils.picture_grid(rows))


def draw_grid(path, painters, content):
    """Write the middle of the painted content by each run, enlarged so that pixels show, side by side."""
    first = (SIDE - DETAIL) // 2
    place = slice(first, first + DETAIL)
    parts = [painter.paint(content)[place, place].repeat(ZOOM, 0).repeat(ZOOM, 1) for painter in painters]
    utils.write_image(path, utils.picture_grid([parts]))


def draw_losses(path, study):
    """Write the losses as a PNG: of the runs over their updates, of Gatys et al. over the iterations."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, run in study["runs"].items():
        steps, values = np.array(run["curve"]).T
        width = max(len(values) // 20, 1)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        left.plot(steps[len(steps) - len(smooth) :], smooth, label=name, linewidth=1.2)
    for painting, curves in study["gatys"].items():
        for content, found in curves.items():
            [line] = right.plot(found["curve"], label=f"{Path(painting).stem}, {content}", linewidth=1.2)
            for run in (run for run in study["runs"].values() if run["painting"] == painting):
                right.axhline(run["terms"][content]["total"], color=line.get_color(), linewidth=0.7, linestyle="--")
    left.set(title="training of the networks", xlabel="update", yscale="log", ylabel="loss")
    right.set(title="Gatys et al.; dashed: the networks", xlabel="iteration", yscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    utils.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)
