"""Fewer feature maps for a trained SRResNet: which maps belong together, what each is worth, and the thinner network.

Maps are dropped by groups. The maps between a block's two convolutions are a group, those behind an upsampling too. All
that the residual sums join (the head, the blocks' results, the body's convolution) is one group, "trunk": a map is
dropped there from all of them at once.
"""

import copy

import numpy as np

from layers.blocks import widths_of
from networks.registry import build_generator
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

LEAST = 4  # maps that stay in every group


def groups_of(config):
    """{group: number of maps} of the MODEL section of an SRResNet. Raises UserError for another network."""
    if config.network != "srresnet" or config.upsampler != "subpixel":
        raise UserError("only an srresnet with sub-pixel convolutions can be pruned")
    widths = widths_of(config)
    inner = {f"block{i}": width for i, width in enumerate(widths.inner, start=1)}
    return {"trunk": widths.trunk} | inner | {f"upsample{i}": n for i, n in enumerate(widths.upsampled, start=1)}


def wires_of(config):
    """{convolution: (group that it reads or None, group that it writes or None)}."""
    *ups, last = [f"upsample{i}" for i in range(1, len(widths_of(config).upsampled) + 1)]
    wires = {"head_conv": (None, "trunk"), "body_conv": ("trunk", "trunk"), "tail_conv": (last, None)}
    for i in range(1, config.blocks + 1):
        wires |= {f"block{i}_conv1": ("trunk", f"block{i}"), f"block{i}_conv2": (f"block{i}", "trunk")}
    for before, after in zip(["trunk", *ups], [*ups, last], strict=True):
        wires[f"{after}_conv"] = (before, after)
    return wires


def thin(network, config, kept):
    """(network, MODEL section) with only the maps in kept, {group: indices of maps that stay, rising}.

    Where the convolutions that read a dropped map had zeros for it, the output is the same.
    """
    thinner, wires = copy.deepcopy(config), wires_of(config)
    thinner.widths = " ".join(str(len(kept[group])) for group in groups_of(config))
    result = build_generator(thinner)
    for layer in result.layers:
        read, written = wires.get(layer.name) or (None, group_of(layer.name))
        values = network.get_layer(layer.name).get_weights()
        if read:
            values[0] = values[0][:, :, kept[read]]
        if written:
            copies = 4 if layer.name.startswith("upsample") and layer.name in wires else 1  # before the pixel shuffle
            values = [last_axis(value, kept[written], copies) for value in values]
        layer.set_weights(values)
    return result, thinner


def group_of(name):
    """The group of a batch norm's or PReLU's maps; None for layers without weights."""
    stem, _, kind = name.rpartition("_")
    if kind in ("bn", "bn1", "bn2", "prelu"):
        return stem if kind in ("bn1", "prelu") and stem != "head" else "trunk"
    return None


def last_axis(value, kept, copies):
    """value[..., copies·maps] with the maps in kept of each copy."""
    parts = value.reshape(*value.shape[:-1], copies, -1)[..., kept]
    return parts.reshape(*value.shape[:-1], -1)


# ---------------------------------------------------------------------------------------------------------------------
# What a map is worth


def places_of(config):
    """{layer: group} of the layers whose output has a group's maps as other layers read them."""
    blocks = range(1, config.blocks + 1)
    places = {"head_prelu": "trunk", "body_add": "trunk"}
    places |= {f"block{i}_add": "trunk" for i in blocks} | {f"block{i}_prelu": f"block{i}" for i in blocks}
    return places | {f"{group}_prelu": group for group in groups_of(config) if group.startswith("upsample")}


def scores(network, config, batches):
    """{group: float64 [maps]}: how much the loss would change without each map, in units of the group's mean.

    The change is estimated by the first term of its Taylor series: the sum over an image of map · d loss/d map, whose
    absolute values are added over images and over the group's places. loss: the mean squared error. The paper's own
    score is not known to us; this one is ours. Dividing by the mean takes away that a layer's maps are all worth more
    or less than another's, as the paper asks for, so that maps of all layers can be ranked together.
    batches: of (LR [n, h, w, 3] in [0, 1], HR [n, scale·h, scale·w, 3] in [-1, 1]).
    """
    places = places_of(config)
    tapped = keras.Model(network.input, [network.get_layer(name).output for name in places] + [network.output])

    @tf.function
    def worths(lr_01, hr):
        with tf.GradientTape() as tape:
            *maps, sr = tapped(lr_01, training=False)
            loss = tf.reduce_mean((sr - hr) ** 2)
        gradients = tape.gradient(loss, maps)
        return [
            tf.reduce_sum(tf.abs(tf.reduce_sum(a * g, axis=(1, 2))), axis=0)
            for a, g in zip(maps, gradients, strict=True)
        ]

    totals = {group: np.zeros(maps) for group, maps in groups_of(config).items()}
    for lr_01, hr in batches:
        for group, worth in zip(places.values(), worths(lr_01, hr), strict=True):
            totals[group] += worth.numpy()
    return {group: total / max(total.mean(), 1e-30) for group, total in totals.items()}


def choose(worth, share, ranking="global"):
    """{group: indices of maps that stay} after the `share` of all maps that is worth least is dropped.

    ranking: "global": of all groups together, so that their widths differ in the end; "layers": the same share of each
    group. worth: from scores(). LEAST maps stay in every group.
    """
    every = np.sort(np.concatenate(list(worth.values())))
    limit, kept = every[min(round(share * len(every)), len(every) - 1)], {}
    for group, values in worth.items():
        order = np.argsort(-values, kind="stable")
        stays = np.sum(values >= limit) if ranking == "global" else round((1 - share) * len(values))
        kept[group] = np.sort(order[: max(stays, LEAST)])
    return kept
