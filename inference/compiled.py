"""A trained generator as one fast function: batch norms folded into the convolutions, then compiled."""

import numpy as np

from networks.registry import build_generator
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


def fold_batch_norm(generator, config):
    """A generator without batch norms, equal to generator(lr, training=False) but for float32 rounding.

    At inference a batch norm is a factor and a shift, which go into the convolution before it. config: the MODEL
    section. The weights are copies as they are now; the result is not to be trained.
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

    It works with the generator's weights as they are now. config: the MODEL section; xla: a little faster, but compiles
    some seconds for every new size, so for many images of one size. The plain graph takes all sizes alike.
    """
    folded = fold_batch_norm(generator, config)
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]
    return tf.function(lambda lr_01: folded(lr_01, training=False), input_signature=signature, jit_compile=xla)
