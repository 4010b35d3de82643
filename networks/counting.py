"""The work of a network."""

import numpy as np

from utils import LazyModule

tf = LazyModule("tensorflow")


def multiply_adds(network, shape):
    """Multiply-adds of one forward pass over an input of `shape` (batch, h, w, 3), fixed interpolation left out.

    One for each weight at every place of a convolution's output (of its input, where it is a transposed one).
    """
    traced = tf.function(lambda x: network(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    total = 0
    for operation in traced.graph.get_operations():
        if operation.type not in ("Conv2D", "Conv2DBackpropInput", "MatMul"):
            continue
        weights = operation.inputs[1]
        if weights.op.type not in ("Const", "Placeholder"):  # those are no variables
            places = operation.inputs[2] if operation.type == "Conv2DBackpropInput" else operation.outputs[0]
            total += int(np.prod(weights.shape)) * int(np.prod(places.shape[:-1]))
    return total
