"""A trained generator as one fast function: its batch norms folded into the convolutions, and compiled."""

import numpy as np

from layers import projection
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
    """[network], or the parts of a folded network with the layer CUT: each takes what the one before it makes.

    The trunk takes LR [batch, h, w, 3] to maps of LR's size, behind which LR itself follows where the network needs it
    again. It sees far and takes little memory; the second part sees a few pixels and takes much. So tiles of the trunk
    can be large, which need less around them, and the second part goes through them in strips. A projection is a third
    part, since it sees far again; SR comes to it as maps of LR's size, scale²·3 values for each LR pixel.
    """
    names = {layer.name for layer in network.layers}
    if CUT not in names:
        return [network]
    lr, maps, sr = network.input, network.get_layer(CUT).output, network.output
    if not names & {"skip_add", projection.PROJECTION}:
        return [keras.Model(lr, maps), keras.Model(maps, sr)]
    beside = keras.layers.Concatenate(dtype=keras.config.floatx())
    trunk = keras.Model(lr, beside([maps, lr]))
    maps_lr, maps_in, lr_in = maps_beside_lr(maps.shape[-1])
    if projection.PROJECTION not in names:
        return [trunk, keras.Model(maps_lr, keras.Model([maps, lr], sr)([maps_in, lr_in]))]
    painted, scale = projection.before(network)
    cells = keras.ops.space_to_depth(keras.Model([maps, lr], painted)([maps_in, lr_in]), scale)
    second = keras.Model(maps_lr, beside([cells, lr_in]))
    cells_lr, cells_in, lr_in = maps_beside_lr(cells.shape[-1])
    projected = keras.Model([painted, lr], sr)([keras.ops.depth_to_space(cells_in, scale), lr_in])
    return [trunk, second, keras.Model(cells_lr, projected)]


def maps_beside_lr(width):
    """(Keras input [batch, h, w, width + 3], its maps [..., width], its LR [..., 3])."""
    both = keras.Input((None, None, width + 3))
    return both, both[..., :width], both[..., width:]


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
