"""The pictures of an evaluation: SR, HR, LR, where SR departs from LR, and a grid of crops as in the paper.

In the folder of a set:

    <image>_<method>.png             SR
    original/<image>.png             HR, cut to multiples of the scale
    lr/<image>.png                   LR
    departure/<image>_<method>.png   metrics.departure in colours, at LR's size
    figure.png                       the first images, a column a method, as in the paper's Figure 2
"""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import utils
from images import pictures
from scoring import kept, metrics, tables
from utils import LazyModule, UserError

matplotlib = LazyModule("matplotlib")
ndimage = LazyModule("scipy.ndimage")

CROP = 96  # side in pixels of the crops in figure.png
ENLARGED = 2  # factor by which they are enlarged there
ROWS = 6  # images in figure.png
DEPARTURE = 16  # grey levels: the last colour of a departure, for larger ones as well
COLOURS = "magma"  # of Matplotlib: black for no departure, then red, light yellow for the largest


def path_of(image, method=None, folder=""):
    """The Path of a picture below its set's folder; originals and LR are in folders of their own."""
    return Path(folder) / (f"{image}_{method}.png" if method else f"{image}.png")


def files_of(folder, image, method):
    """The files that write_method writes: of SR, and of its departure from LR."""
    return folder / path_of(image, method), folder / path_of(image, method, "departure")


def check_names(images, methods):
    """Raise UserError if two pictures would have one name, for example image a by b_c and image a_b by c."""
    taken = {}
    for image, method in itertools.product(images, methods):
        if (other := taken.setdefault(path_of(image, method), (image, method))) != (image, method):
            both = " and ".join(f"{name} by {row}" for name, row in (other, (image, method)))
            raise UserError(f"{both} would be one file, {path_of(image, method)}: rename the row or the image of one")


def write_method(folder, image, method, sr):
    """Write SR and its departure from LR.

    folder: the set's; image: testsets.Image; method: its name; sr: uint8 [h, w, 1 or 3].
    """
    path, departure = files_of(folder, image.name, method)
    utils.write_image(path, sr)
    utils.write_image(departure, colour_departure(sr, image.lr))


def write_originals(out, sets, scale, pool, known=None):
    """Write HR and LR of every image, in the threads of `pool`: {set: {image: its focus, see find_focus}}.

    out: holds the folders of the sets; sets: {set: testsets.ImageSet}; known: kept.Kept, if what is there may stay.
    """

    def write(task):
        set_name, image = task
        files = [out / set_name / path_of(image.name, folder=folder) for folder in ("original", "lr")]
        made_of = kept.digest_of("original", image.digest, scale)
        if focus := known and known.files(made_of, *files):
            return focus
        for path, pixels in zip(files, (image.hr, image.lr), strict=True):
            utils.write_image(path, pixels)
        focus = find_focus(image, scale)
        if known:
            known.add_files(made_of, focus, *files)
        return focus

    tasks = [(name, image) for name, members in sets.items() for image in members.images]
    found = {name: {} for name in sets}
    done = tqdm(pool.map(write, tasks), total=len(tasks), unit="image", desc="originals", disable=None)
    for (set_name, image), focus in zip(tasks, done, strict=True):
        found[set_name][image.name] = focus
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Departures


def departure_colours():
    """uint8 [DEPARTURE + 1, 3]: the colour of each departure in grey levels; the last is that of larger ones too."""
    return matplotlib.colormaps[COLOURS](np.linspace(0, 1, DEPARTURE + 1), bytes=True)[:, :3]


def colour_departure(sr, lr):
    """metrics.departure in colours: uint8 [h, w, 3] of LR's size."""
    return departure_colours()[np.minimum(metrics.departure(sr, lr), DEPARTURE)]


# ---------------------------------------------------------------------------------------------------------------------
# Crops


def find_focus(image, scale):
    """(x, y) in HR: the middle of the CROP×CROP window in which bicubic has the largest error."""
    green = slice(image.hr.shape[-1] // 2, image.hr.shape[-1] // 2 + 1)  # most of luma, a third of the work
    error = (utils.imresize(image.lr[..., green], scale).astype(float) - image.hr[..., green])[..., 0] ** 2
    y, x = np.unravel_index(np.argmax(ndimage.uniform_filter(error, CROP, mode="constant")), error.shape)
    return int(x), int(y)


def crop_at(image, focus):
    """The CROP×CROP pixels around a focus, moved into the image; a smaller image is not cropped."""
    left, top = (
        min(max(middle - CROP // 2, 0), max(length - CROP, 0))
        for middle, length in zip(focus, image.shape[1::-1], strict=True)
    )
    return image[top : top + CROP, left : left + CROP]


def caption(values, names):
    """The first two of the measures `names` that `values` has, as text: "28.42 dB / 0.8101"."""
    parts = []
    for name in [name for name in names if name in values][:2]:
        column = metrics.COLUMNS[name]
        unit = " dB" if column.about.startswith("dB") else ""
        parts += [cell.text + unit for cell in tables.make_cells([values[name]], column)]
    return " / ".join(parts)


def write_figure(folder, images, rows, focus):
    """Write figure.png: a row for each image, a column for each method and one for the original, with figures below.

    folder: the set's; images: [testsets.Image]; rows: {method: tables.Row}; focus: {image: (x, y)}.
    """
    names = tables.measures_of({"": rows})
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
    side, gap, line = CROP * ENLARGED, 8, 17
    step = side + 2 * line + 2 * gap  # from one row to the next
    images = images[:ROWS]
    canvas = Image.new("RGB", ((len(rows) + 1) * (side + gap) + gap, len(images) * step + gap), "white")
    draw = ImageDraw.Draw(canvas)

    def paste(picture, *lines, at):
        left, top = at
        crop = utils.to_rgb(crop_at(picture, focus[image.name])).repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        canvas.paste(Image.fromarray(crop), (left + (side - crop.shape[1]) // 2, top))
        for i, text in enumerate(lines):
            while draw.textlength(text, font) > side:
                text = text.removesuffix("…")[:-1] + "…"
            draw.text((left + side / 2, top + side + 4 + i * line), text, "black", font, anchor="ma")

    for i, image in enumerate(images):
        top = gap + i * step
        for j, (method, row) in enumerate(rows.items()):
            sr = pictures.read_image(folder / path_of(image.name, method))
            paste(sr, method, f"({caption(row.images[image.name], names)})", at=(gap + j * (side + gap), top))
        paste(image.hr, "original", image.name, at=(gap + len(rows) * (side + gap), top))
    utils.write_image(folder / "figure.png", np.asarray(canvas))
