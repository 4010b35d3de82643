"""Feature map inversion (Xia et al., 2016, "Every filter extracts a specific texture", 1608.04170): codes to pictures.

A code is the output of one layer of VGG for one picture, [h, w, c]: c maps, none of them negative behind a ReLU. The
sum of a map is what the paper calls its energy. A code is changed, and then a picture is sought that has this code.
"""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import model
from networks import features
from utils import LazyModule, UserError, round_u8

keras = LazyModule("keras")
restoration = LazyModule("skimage.restoration")
tf = LazyModule("tensorflow")

CONVOLUTIONS = {"VGG16": (2, 2, 3, 3, 3), "VGG19": (2, 2, 4, 4, 4)}  # in each block


# ---------------------------------------------------------------------------------------------------------------------
# Changed codes: NumPy


def one_map(code, k):
    """The code [h, w, c] whose map k is the sum of all maps, and whose other maps are zero."""
    changed = np.zeros_like(code)
    changed[..., k] = code.sum(axis=-1)
    return changed


def with_sums(code, sums):
    """A code [h, w, c] whose maps are scaled to these sums [c]; a map of nothing but zeros becomes even."""
    now = code.sum(axis=(0, 1))
    even = np.full_like(code, 1 / np.prod(code.shape[:2]))
    shares = np.where(now > 0, code / np.where(now > 0, now, 1), even)
    return (shares * sums).astype(code.dtype)


def randomly(code, rng):
    """The code [h, w, c] with its energy shared out among its maps at random; the whole sum stays.

    All shares that add to one are equally likely. A map of nothing but zeros stays so. The authors' code draws
    Gaussian shares, half of them negative, which no code behind a ReLU is.
    """
    now = code.sum(axis=(0, 1))
    shares = rng.exponential(size=len(now)) * (now > 0)
    return with_sums(code, now.sum() * shares / max(shares.sum(), 1e-12)) * (now > 0)


def purposefully(code, style, ranks=True):
    """The code [h, w, c] with the energy of a painting's code [h', w', c]: each map has as much per pixel as there.

    ranks: the map that is k-th in energy there becomes the one that is k-th here, as in the authors' code; otherwise
    each stays where it is. Then it is scaled; the authors' code adds a number instead, by which some values become
    negative.
    """
    wanted = style.mean(axis=(0, 1)) * np.prod(code.shape[:2])
    if ranks:
        energy, maps = code.sum(axis=(0, 1)), code
        code = np.empty_like(maps)
        code[..., np.argsort(wanted, kind="stable")] = maps[..., np.argsort(energy, kind="stable")]
    return with_sums(code, wanted)


# ---------------------------------------------------------------------------------------------------------------------
# The network


def name_of(path):
    """VGG19, or VGG16 where there are no weights of it; path: from features.find_vgg."""
    return "VGG19" if path else "VGG16"


def layers_of(network):
    """The names of all layers whose code can be inverted, from the first: conv1_1 … pool5. network: VGG16 or VGG19."""
    names = []
    for block, count in enumerate(CONVOLUTIONS[network], start=1):
        names += [*(f"conv{block}_{i}" for i in range(1, count + 1)), f"pool{block}"]
    return names


def check_layers(names, network):
    """Raise UserError if a layer is not one of layers_of(network)."""
    if unknown := [name for name in names if name not in layers_of(network)]:
        raise UserError(f"{network} has no layer {unknown[0]}: it has {', '.join(layers_of(network))}")


def average_pooling(vgg):
    """The same network with average instead of max pooling, as in the paper: each value then counts in the gradient."""

    def layer_of(layer):
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D(2, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    other = keras.models.clone_model(vgg, clone_function=layer_of)
    other.set_weights(vgg.get_weights())
    return other


def load(path, names, average=True):
    """The network from images [batch, h, w, 3] in [-1, 1] to {layer: its features [batch, h', w', c]}.

    path: from features.find_vgg; names: of layers_of; average: with average pooling. Raises UserError.
    """
    check_layers(names, name_of(path))
    last = max(names, key=layers_of(name_of(path)).index)
    vgg = features.load_vgg19(path, last) if path else features.load_hed_vgg16(last)
    vgg = average_pooling(vgg) if average else vgg
    outputs = {name: vgg.get_layer(model.vgg_layer(name)).output for name in names}
    return keras.Model(vgg.input, outputs, trainable=False)


# ---------------------------------------------------------------------------------------------------------------------
# Losses: functions of {layer: features} that return a number per picture, [batch]


def energies(feature):
    """The energy of each map per pixel: [batch, h, w, c] → [batch, c]."""
    return tf.reduce_mean(feature, axis=(1, 2))


def gram_of(energy):
    """The Gram matrix of maps with these energies per pixel that do not vary together: [batch, c] → [batch, c, c]."""
    return energy[:, :, None] * energy[:, None] / energy.shape[-1]


def distance(one, other):
    """The relative squared distance ‖one - other‖² / ‖other‖² of each of a batch: [batch, …] → [batch]."""
    axes = list(range(1, len(one.shape)))
    return tf.reduce_sum(tf.square(one - other), axes) / tf.reduce_sum(tf.square(other), axes)


def code_loss(codes):
    """½ ‖Φ(x) - F'‖² of each picture, summed over the layers; codes: {layer: [batch, h, w, c]}."""

    def loss(outputs):
        return sum(tf.reduce_sum((outputs[layer] - code) ** 2, axis=(1, 2, 3)) / 2 for layer, code in codes.items())

    return loss


STATISTICS = {"energy": energies, "gram": features.gram_matrix}  # of a layer, by which a painting's style is told


def style_loss(statistic, styles, codes, weight):
    """A painting's statistics in some layers, times `weight`, and a photograph's code in others.

    statistic: a name of STATISTICS; styles: {layer: the painting's, [1, …]}; codes: {layer: [1, h, w, c]}. All terms
    are relative distances; each of the two parts is the mean over its layers.
    """
    measure = STATISTICS[statistic]

    def loss(outputs):
        style = [distance(measure(outputs[layer]), wanted) for layer, wanted in styles.items()]
        content = [distance(outputs[layer], code) for layer, code in codes.items()]
        return weight * sum(style) / len(style) + sum(content) / len(content)

    return loss


# ---------------------------------------------------------------------------------------------------------------------
# The search

MEANS = np.array([123.68, 116.779, 103.939], np.float32)  # of ImageNet's photographs, RGB from 0 to 255


class Rule(NamedTuple):
    """How pictures are sought: the most steps, and the relative change of a step below which the search ends."""

    steps: int
    change: float
    optimizer: object  # optimizer(steps) → function(levels, gradient) that changes the variable `levels`


def adam(steps, rate=8.0):
    """Ours: Adam with a rate in grey levels, which falls along a cosine; pictures stay between black and white."""
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))

    def update(levels, gradient):
        optimizer.apply_gradients([(gradient, levels)])
        levels.assign(tf.clip_by_value(levels, -MEANS, 255 - MEANS))

    return update


def sgd(steps):
    """The paper's: SGD with momentum, whose rate falls by a tenth every ten steps; gradients are cut off at 10."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9, staircase=True)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9)

    def update(levels, gradient):
        optimizer.apply_gradients([(tf.clip_by_value(gradient, -10.0, 10.0) + 5e-4 * levels, levels)])

    return update


RULES = {"adam": Rule(100, 0.0, adam), "sgd": Rule(1000, 0.005, sgd)}


def levels_to_m11(levels):
    """RGB from 0 to 255 less MEANS, as the search has it, to [-1, 1]."""
    return (levels + MEANS) / 127.5 - 1


def noise(shape, seed=0):
    """What the paper's search begins with: [batch, h, w, 3] of MEANS plus U(-0.1, 0.1); shape: (batch, h, w)."""
    return MEANS + np.random.default_rng(seed).uniform(-0.1, 0.1, (*shape, 3)).astype(np.float32)


def invert(network, loss, start, rule="adam", steps=None, words="inversion"):
    """(Pictures float32 [batch, h, w, 3] in [0, 255] with a small loss, their losses [steps, batch]).

    network: from load; loss: one of those above; start: the pictures to begin with, such as noise(); rule: a name of
    RULES; steps: if not the rule's own number; words: for the line of progress. By the paper's rule values may leave
    [0, 255]. Each picture has its own loss, so that what else is in the batch does not matter to it, but for the end of
    the paper's rule.
    """
    most, least, optimizer = RULES[rule]
    most = steps or most
    levels = tf.Variable((start - MEANS).astype(np.float32))
    update = optimizer(most)

    @tf.function
    def step():
        before = tf.identity(levels)
        with tf.GradientTape() as tape:
            losses = loss(network(levels_to_m11(levels)))
        update(levels, tape.gradient(losses, levels))
        return losses, tf.norm(levels - before) / tf.norm(levels)

    history = []
    for _ in tqdm(range(most), words, unit="step", leave=False, disable=None):
        losses, change = step()
        history.append(losses.numpy())
        if change < least:
            break
    return levels.numpy() + MEANS, np.array(history)


def denoise(picture, weight):
    """A picture [h, w, 3] in [0, 255] as uint8, after Chambolle's total-variation denoising; weight: 0 for none."""
    picture = np.clip(picture, 0, 255) / 255
    if weight:
        picture = restoration.denoise_tv_chambolle(picture, weight=weight, channel_axis=-1)
    return round_u8(255 * picture)
