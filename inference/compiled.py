"""A trained generator as one fast function: its batch norms folded into the convolutions, and compiled."""

import numpy as np

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


def inference(generator, config, xla=False):
    """The compiled function from LR float32 [batch, h, w, 3] in [0, 1] to SR [batch, scale·h, scale·w, 3] in [-1, 1].

    It has the generator's weights of this moment. config: the MODEL section; xla: a little faster, but compiles some
    seconds for every new size, so it is for many images of one size.
    """
    folded = fold_batch_norm(generator, config)
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]
    return tf.function(lambda lr_01: folded(lr_01, training=False), input_signature=signature, jit_compile=xla)
