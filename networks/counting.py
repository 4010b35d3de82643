"""How much a network computes."""

import numpy as np

from utils import LazyModule

tf = LazyModule("tensorflow")


def multiply_adds(network, shape):
    """Multiply-adds of one forward pass over an input of `shape` (batch, h, w, 3), without fixed interpolation.

    A convolution has one for each weight and pixel of its output; a transposed one for each weight and pixel of its
    input.
    """
    traced = tf.function(lambda x: network(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    total = 0
    for operation in traced.graph.get_operations():
        if operation.type not in ("Conv2D", "Conv2DBackpropInput", "MatMul"):
            continue
        weights = operation.inputs[1]
        if weights.op.type not in ("Const", "Placeholder"):  # a fixed kernel is one of these
            pixels = operation.inputs[2] if operation.type == "Conv2DBackpropInput" else operation.outputs[0]
            total += int(np.prod(weights.shape)) * int(np.prod(pixels.shape[:-1]))
    return total
