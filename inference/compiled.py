"""A trained generator as one fast function: its batch norms folded into the convolutions, and compiled."""

import numpy as np

from layers.projection import PROJECTION
from networks.registry import build_generator
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


def fold_batch_norm(generator, config):
    """A copy of a generator without batch norms: the same result, up to float32 rounding. Do not train it.

    At inference a batch norm is a factor and a shift, which are folded into the convolution before it. config: the
    MODEL section.
    """
    folded = build_generator(config, folded=True)
    norms = {norm.name: norm for norm in generator.layers if isinstance(norm, keras.layers.BatchNormalization)}
    for layer in folded.layers:
        weights = generator.get_layer(layer.name).get_weights()
        if norm := norms.get(layer.name.replace("conv", "bn")):
            kernel, bias = weights if len(weights) == 2 else (*weights, 0.0)
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + config.bn_epsilon)
            transposed = isinstance(layer, keras.layers.Conv2DTranspose)  # its kernel is [h, w, out, in]
            weights = [kernel * (factor[:, None] if transposed else factor), (bias - mean) * factor + beta]
        layer.set_weights(weights)
    return folded


CUT = "body_add"  # the layer of the paper's network, and of those like it, behind which it upsamples


def split(network):
    """[network], or [trunk, rest] of a folded network with the layer CUT: rest(trunk(lr_01)) is its result.

    The trunk takes LR [batch, h, w, 3] to maps of LR's size, behind which LR itself follows where the network adds to
    it. It sees far and takes little memory; the rest sees a few pixels and takes much. So tiles of the trunk can be
    large, which need less around them, and the rest goes through them in strips.
    """
    names = {layer.name for layer in network.layers}
    if CUT not in names:
        return [network]
    lr, maps = network.input, network.get_layer(CUT).output
    if not names & {"skip_add", PROJECTION}:
        return [keras.Model(lr, maps), keras.Model(maps, network.output)]
    width = maps.shape[-1]
    both = keras.Input((None, None, width + lr.shape[-1]))
    parts = both[..., :width], both[..., width:]
    trunk = keras.Model(lr, keras.layers.Concatenate(name="trunk", dtype=keras.config.floatx())([maps, lr]))
    return [trunk, keras.Model(both, keras.Model([maps, lr], network.output)(parts))]


def inference(generator, config, xla=False):
    """The compiled function from LR float32 [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1].

    It has the generator's weights of this moment. config: the MODEL section; xla: a little faster, but compiles some
    seconds for every new size, so it is for many images of one size.
    """
    return as_function(fold_batch_norm(generator, config), xla)


def as_function(network, xla=False):
    """The compiled function from the input of a network, [batch, h, w, c], to its output; xla: as above."""
    signature = [tf.TensorSpec(network.input.shape, network.input.dtype)]
    return tf.function(lambda x: network(x, training=False), input_signature=signature, jit_compile=xla)
