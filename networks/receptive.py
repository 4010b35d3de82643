"""The receptive field of a generator, read from its layers."""

import math

from networks.registry import build_generator

# Layers whose output pixels depend only on the input pixel at the same place.
POINTWISE = {"Add", "Subtract", "Multiply", "Matmul", "Concatenate", "Cast", "Rescaling"}
POINTWISE |= {"BatchNormalization", "PReLU", "ReLU"}
BICUBIC_RADIUS = 2  # LR pixels on each side


def receptive_radius(config):
    """The largest distance, in LR pixels, at which an LR pixel changes an SR pixel: 40 for the paper's network.

    config: the MODEL section. Raises ValueError if the network has a layer of a kind not known here.
    """
    return radius_of(build_generator(config))


def radius_of(network):
    """receptive_radius of a built network, whose inputs are of LR's size."""
    return max(radii_of(network))


def radii_of(network, seen=0):
    """[radius for each input, in its own pixels], by going from the output down through the layers to the inputs.

    seen: how far beyond an output pixel something after the network sees. An input that nothing uses has 0.
    """
    radius = {id(network.outputs[0]): seen}  # {tensor: radius in its pixels around the place of one output pixel}
    for _, nodes in sorted(network._nodes_by_depth.items()):  # each layer after all layers that use its output
        for node in nodes:
            if node.is_input:
                continue
            [output] = node.output_tensors
            for tensor, below in zip(node.input_tensors, radii_below(node, radius[id(output)]), strict=True):
                radius[id(tensor)] = max(radius.get(id(tensor), 0), below)
    return [radius.get(id(tensor), 0) for tensor in network.inputs]


def radii_below(node, radius):
    """[radius in each input] of one layer, from the radius in its output."""
    if type(node.operation).__name__ == "Functional":  # a network in a network
        return radii_of(node.operation, radius)
    return [radius_below(node, radius)] * len(node.input_tensors)


def radius_below(node, radius):
    """The radius in the input of one layer, from the radius in its output; both in pixels of that image.

    node: one use of a layer in a Keras graph.
    """
    layer = node.operation
    match type(layer).__name__:
        case kind if kind in POINTWISE:
            return radius
        case "GetItem" if node.arguments.args[1][0] is Ellipsis:  # x[..., a:b], some of the channels
            return radius
        case "Conv2D" if layer.strides == layer.dilation_rate == (1, 1):
            return radius + max(layer.kernel_size) // 2
        case "Conv2DTranspose" if layer.dilation_rate == (1, 1):
            stride = layer.strides[0]
            return math.ceil(radius / stride) + math.ceil(max(layer.kernel_size) / stride) - 1
        case "DepthToSpace":
            return math.ceil(radius / layer.block_size)
        case "SpaceToDepth":
            return (radius + 1) * layer.block_size - 1
        case "UpSampling2D" if layer.interpolation == "nearest":
            return math.ceil(radius / layer.size[0])
        case "Shrink":  # the farthest HR pixel from any in the LR pixel's cell
            start, size, scale = layer.degradation.start, len(layer.degradation.kernel), layer.degradation.scale
            return scale * radius + max(start + scale, size - start) - 1
        case "Enlarge":
            return math.ceil(radius / layer.degradation.scale) + layer.degradation.reach
        case "Bicubic":
            return math.ceil(radius / layer.factor) + BICUBIC_RADIUS
    raise ValueError(f"the receptive field of {layer.name} ({type(layer).__name__}) is not known: add it to {__name__}")
