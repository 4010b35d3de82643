"""The studies of papers/inversion.py: textures of filters, style as energy, what the losses of SRGAN see, two searches.

Each writes NAME.json and strips of pictures, NAME_ROW.png, into a folder; what is there already is kept.
"""

import time

import numpy as np

import data
import utils
from images import pictures
from inference import compiled
from networks import features, inversion
from runs import store
from scoring import metrics
from utils import LazyModule

tf = LazyModule("tensorflow")

SIDE, TEXTURE = 128, 96  # pixels of the pictures; of textures, of which there are many
FILTERS = 4  # of each layer, the strongest
STYLED = ("conv2_1", "conv3_1")  # layers whose code is reallocated
TOLD_BY = ("conv1_1", "conv2_1", "conv3_1", "conv4_1")  # layers that a painting's style is told by, as in the paper
CONTENT = "conv2_2"  # the layer that a photograph is told by there
WEIGHT = 1.0  # of the painting, in inversion.style_loss
LOSSES = ("conv2_2", "pool4", "conv5_4")  # SRGAN-VGG22's, the slides' and SRGAN-VGG54's
RUNS = ("srresnet_x4", "srgan_x4")  # that come with the project
SCALE = 4
SEARCHED = ("conv1_1", "conv3_1", "conv5_1")  # layers by which the two rules are compared
PLACE = (24, 168)  # top and left in HR of the crop of the astronaut in which LOSSES are looked at
DENOISE = 0.1  # weight of total variation; the paper's is 0.2, for pictures of 512 pixels


def square(path, side):
    """The middle of a picture as uint8 [side, side, 3]. Raises UserError if it cannot be read."""
    image = utils.to_rgb(pictures.read_image(path))
    shorter = min(image.shape[:2])
    top, left = ((length - shorter) // 2 for length in image.shape[:2])
    return utils.imresize(image[top : top + shorter, left : left + shorter], side / shorter)[:side, :side]


def codes_of(network, images_u8):
    """{layer: code [batch, h, w, c]} as NumPy arrays, of uint8 [batch, h, w, 3]."""
    outputs = network(tf.constant(2 * utils.u8_to_01(np.asarray(images_u8)) - 1))
    return {layer: np.asarray(output) for layer, output in outputs.items()}


def invert_codes(network, layer, codes, start, words, **search):
    """(pictures [batch, h, w, 3] in [0, 255], their losses [steps, batch], ‖Φ(x) - F'‖² / ‖F'‖² at the end).

    layer: whose codes [batch, h', w', c] these are; start: the pictures to begin with, or their side for noise; words:
    for the line of progress; search: further arguments of inversion.invert.
    """
    start = inversion.noise((len(codes), start, start)) if isinstance(start, int) else start
    loss = inversion.code_loss({layer: tf.constant(codes)})
    found, losses = inversion.invert(network, loss, start, words=words, **search)
    sizes = (codes.astype(float) ** 2).sum(axis=(1, 2, 3)) / 2
    return found, losses, losses[-1] / np.maximum(sizes, 1e-12)


class Kept:
    """What is finished of a study: NAME.json with its settings and rows, and a strip of pictures for each row."""

    def __init__(self, folder, name, settings):
        self.folder, self.name = folder, name
        content = store.read_json(self.path) if self.path.is_file() else {}
        self.content = content if content.get("settings") == settings else {"settings": settings, "rows": {}}

    @property
    def path(self):
        return self.folder / f"{self.name}.json"

    def strip(self, row):
        """The path of a row's strip."""
        return self.folder / f"{self.name}_{row}.png"

    def lacks(self, row):
        return row not in self.content["rows"] or not self.strip(row).is_file()

    def add(self, row, shown, **facts):
        """Keep a row: pictures uint8 [h, w, 3], which are written side by side, and its facts."""
        utils.write_image(self.strip(row), utils.picture_grid([shown]))
        self.content["rows"][row] = facts
        store.write_json(self.path, self.content)
        print(f"{self.name}, {row}: {facts['seconds']:.0f} s", flush=True)


def numbers(values, digits=4):
    """Floats that JSON can hold, rounded to significant digits."""
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


# ---------------------------------------------------------------------------------------------------------------------
# The studies


def strongest(code, count):
    """The maps of a code [h, w, c] with most energy, the first the strongest."""
    return [int(k) for k in np.argsort(-code.sum(axis=(0, 1)), kind="stable")[:count]]


def textures(folder, path, weights, side, steps):
    """For each convolution of VGG: its code as it is, with all energy in one map (FILTERS times), and at random.

    path: of the photograph; weights: from features.find_vgg. Returns textures.json's content.
    """
    network = inversion.name_of(weights)
    kept = Kept(folder, "textures", {"network": network, "side": side, "steps": steps, "photograph": path.name})
    photograph = square(path, side)
    for layer in [name for name in inversion.layers_of(network) if name.startswith("conv")]:
        if not kept.lacks(layer):
            continue
        began = time.perf_counter()
        vgg = inversion.load(weights, [layer])
        [code] = codes_of(vgg, [photograph])[layer]
        filters = strongest(code, FILTERS)
        codes = [
            code,
            *(inversion.one_map(code, k) for k in filters),
            inversion.randomly(code, np.random.default_rng(0)),
        ]
        found, _, left = invert_codes(vgg, layer, np.stack(codes), side, layer, steps=steps)
        facts = {"maps": code.shape[-1], "silent": int((code.sum(axis=(0, 1)) == 0).sum()), "filters": filters}
        shown = [inversion.denoise(picture, DENOISE) for picture in found]
        kept.add(layer, shown, **facts, left=numbers(left), seconds=time.perf_counter() - began)
    return kept.content


def style(folder, path, paintings, weights, side, steps):
    """A photograph in the style of paintings: its code reallocated, and searches for a painting's energies and Grams.

    Returns style.json's content: a row is a painting, with the distances of each of its pictures. Strips have two
    pictures for each layer of STYLED (ranks matched, maps scaled in place) and one for each of inversion.STATISTICS.
    """
    settings = {"network": inversion.name_of(weights), "side": side, "steps": steps, "photograph": path.name}
    kept = Kept(folder, "style", settings)
    for painting in paintings:
        if kept.lacks(painting.stem):
            began = time.perf_counter()
            shown, facts = styled(square(path, side), square(painting, side), weights, steps)
            kept.add(painting.stem, shown, **facts, seconds=time.perf_counter() - began)
    return kept.content


def styled(photograph, painting, weights, steps):
    """([picture uint8], facts) of one painting; photograph, painting: uint8 [side, side, 3].

    The facts: {"distances": {title: distances()}, "by energies": the relative squared distance of the painting's Gram
    matrices from those that its energies alone would give, for each of TOLD_BY}.
    """
    side = len(photograph)
    vgg = inversion.load(weights, [*dict.fromkeys((*TOLD_BY, *STYLED, CONTENT))])
    ours, theirs = (codes_of(vgg, [image]) for image in (photograph, painting))
    found = {"photograph": photograph}
    for layer in STYLED:
        codes = [inversion.purposefully(ours[layer][0], theirs[layer][0], ranks) for ranks in (True, False)]
        part = inversion.load(weights, [layer])
        pair, *_ = invert_codes(part, layer, np.stack(codes), side, f"{layer} reallocated", steps=steps)
        found |= {f"{layer} ranked": pair[0], f"{layer} scaled": pair[1]}
    for statistic, measure in inversion.STATISTICS.items():
        wanted = {layer: measure(tf.constant(theirs[layer])) for layer in TOLD_BY}
        loss = inversion.style_loss(statistic, wanted, {CONTENT: tf.constant(ours[CONTENT])}, WEIGHT)
        [found[statistic]], _ = inversion.invert(
            vgg, loss, inversion.noise((1, side, side)), steps=steps, words=statistic
        )
    measured = {
        title: distances(codes_of(vgg, [utils.round_u8(picture)]), ours, theirs) for title, picture in found.items()
    }
    shown = [inversion.denoise(picture, DENOISE) for title, picture in found.items() if title != "photograph"]
    grams = [features.gram_matrix(theirs[layer]) for layer in TOLD_BY]
    alone = [inversion.gram_of(inversion.energies(theirs[layer])) for layer in TOLD_BY]
    by_energies = numbers([inversion.distance(a, b) for a, b in zip(alone, grams, strict=True)])
    return shown, {"distances": measured, "by energies": by_energies}


def distances(codes, ours, theirs):
    """{"gram", "energy": of a picture's codes to the painting's, for each of TOLD_BY; "content": to the photograph's}.

    The arguments are {layer: [1, h, w, c]}; all are relative squared distances.
    """
    found = {
        name: numbers(
            [
                inversion.distance(measure(tf.constant(codes[layer])), measure(tf.constant(theirs[layer])))
                for layer in TOLD_BY
            ]
        )
        for name, measure in inversion.STATISTICS.items()
    }
    return found | {"content": numbers(inversion.distance(codes[CONTENT], ours[CONTENT]))[0]}


def crops(side):
    """{title: uint8 [side, side, 3]} of HR, bicubic and the SR of RUNS: one place of a sample photograph."""
    [path] = data.package_files(data.SAMPLE_TEST[-1:])
    hr = pictures.read_image(path)
    lr = utils.imresize(hr, 1 / SCALE)
    whole = {"HR": hr, "bicubic": utils.imresize(lr, SCALE)}
    for run in RUNS:
        generator, about = store.load_generator(run)
        sr_m11 = compiled.inference(generator, about["config"].MODEL)(tf.constant(utils.u8_to_01(lr)[None]))
        whole[run] = utils.m11_to_u8(sr_m11[0])
    top, left = (min(place, max(length - side, 0)) for place, length in zip(PLACE, hr.shape, strict=False))
    return {title: image[top : top + side, left : left + side] for title, image in whole.items()}


def losses(folder, weights, side, steps):
    """HR, bicubic and the SR of RUNS, as the layers see them that the losses of SRGAN compare; max pooling, as there.

    Returns the content of losses.json. A row is a layer with the four inversions, and a fifth: of HR's code, by a
    search that begins with bicubic. The row "pictures" has the four pictures themselves.
    """
    network = inversion.name_of(weights)
    kept = Kept(folder, "losses", {"network": network, "side": side, "steps": steps})
    layers = [features.VGG16_LAYERS.get(name, name) if network == "VGG16" else name for name in LOSSES]
    if not any(map(kept.lacks, ("pictures", *layers))):
        return kept.content
    began = time.perf_counter()
    titles, images = zip(*crops(side).items(), strict=True)
    hr, bicubic, *_ = images
    apart = [metrics.psnr_y(image, hr, 0) for image in images[1:]]
    kept.add("pictures", images, titles=titles, psnr=numbers(apart), seconds=time.perf_counter() - began)
    for layer in filter(kept.lacks, layers):
        began = time.perf_counter()
        vgg = inversion.load(weights, [layer], average=False)
        codes = codes_of(vgg, images)[layer]
        start = np.concatenate([inversion.noise((len(images), *hr.shape[:2])), bicubic[None].astype(np.float32)])
        found, _, left = invert_codes(vgg, layer, np.concatenate([codes, codes[:1]]), start, layer, steps=steps)
        facts = {"left": numbers(left), "apart": numbers(inversion.distance(codes[1:], codes[:1]))}
        pairs = zip(found, (*images, hr), strict=True)
        facts["psnr"] = numbers([metrics.psnr_y(utils.round_u8(picture), image, 0) for picture, image in pairs])
        shown = [inversion.denoise(picture, DENOISE) for picture in found]
        kept.add(layer, shown, **facts, seconds=time.perf_counter() - began)
    return kept.content


def searches(folder, path, weights, side, steps):
    """The paper's rule of search and ours on the code of a photograph as it is. Returns the content of searches.json.

    A row is a layer: the pictures by both rules, for each the number of steps and what is left of the loss.
    """
    kept = Kept(folder, "searches", {"network": inversion.name_of(weights), "side": side, "steps": steps})
    for layer in filter(kept.lacks, SEARCHED):
        began = time.perf_counter()
        vgg, facts, shown = inversion.load(weights, [layer]), {}, []
        codes = codes_of(vgg, [square(path, side)])[layer]
        for rule in inversion.RULES:
            most = steps if rule == "adam" else None
            [found], history, left = invert_codes(vgg, layer, codes, side, f"{layer}, {rule}", rule=rule, steps=most)
            facts[rule] = {"steps": len(history), "left": numbers(left)[0]}
            shown.append(inversion.denoise(found, DENOISE))
        kept.add(layer, shown, **facts, seconds=time.perf_counter() - began)
    return kept.content
