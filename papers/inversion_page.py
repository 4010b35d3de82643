"""The page of papers/inversion.py: docs/what_vgg_sees.md, its plates of pictures and its figures."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import data
import utils
from images import pictures
from networks import inversion
from papers import inversion_studies as studies
from papers import results
from runs import store
from utils import UserError

PHOTOGRAPH = studies.data.SAMPLE_TEST[1]  # coffee.png
STYLED = studies.data.SAMPLE_TEST[2]  # astronaut.png
NAMES = ("textures", "style", "losses", "searches")


def run(folder, paintings, weights, side, steps=None):
    """All studies; what is finished is kept in `folder`. Arguments as for papers/inversion.py."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = steps or inversion.RULES["adam"].steps
    photograph, person = data.package_files([PHOTOGRAPH, STYLED])
    studies.searches(folder, photograph, weights, side, steps)
    studies.losses(folder, weights, side, 2 * steps)
    studies.style(folder, person, paintings, weights, side, 2 * steps)
    studies.textures(folder, photograph, weights, side, steps)


# ---------------------------------------------------------------------------------------------------------------------
# Plates


def plate(rows, columns, line=16, left=76, gap=4):
    """One picture of strips with words: rows: {words: uint8 [h, w, 3]}; columns: words over the pictures of a row."""
    font = ImageFont.load_default(12)
    height, width = (max(strip.shape[axis] for strip in rows.values()) for axis in (0, 1))
    canvas = Image.new("RGB", (left + width, line + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, words in enumerate(columns):
        draw.text((left + (i + 0.5) * width / len(columns), 0), words, "black", font, anchor="ma")
    for i, (words, strip) in enumerate(rows.items()):
        top = line + i * (height + gap)
        draw.text((2, top + height / 2), words, "black", font, anchor="lm")
        canvas.paste(Image.fromarray(strip), (left, top))
    return np.asarray(canvas)


def strips(folder, name, content, words=lambda row: row):
    """{words: strip} of all rows of a study."""
    return {words(row): pictures.read_image(folder / f"{name}_{row}.png") for row in content["rows"]}
