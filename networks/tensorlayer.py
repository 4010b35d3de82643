"""The networks of the TensorLayer code of 2018, on which the slides are based; arguments as in model.py."""

import math

from layers.blocks import batch_norm, conv, relu, residual_block
from layers.upsampling import subpixel
from utils import LazyModule

keras = LazyModule("keras")


def normal_around(mean):
    """The TensorLayer code's initial weights: normal, with standard deviation 0.02.

    As a description, from which each layer makes its own initializer; one shared object would draw the same for all.
    """
    return {"class_name": "RandomNormal", "config": {"mean": mean, "stddev": 0.02}}


def generator(lr_01, config, folded=False):
    """As model.generator, but with LR in [-1, 1], k3 first and k1 last, ReLU, tanh, and normal initial weights."""
    normal = {"kernel_initializer": normal_around(0.0)}
    gamma = normal_around(1.0)
    inner = normal | {"use_bias": folded}  # with batch norm, its shift is the bias
    x = first = relu(conv(2 * lr_01 - 1, config.width, 3, "head_conv", **normal), "head_relu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config.width, config, f"block{i}", relu, folded, gammas=(gamma, gamma), **inner)
    x = batch_norm(conv(x, config.width, 3, "body_conv", **inner), config, "body_bn", folded, gamma)
    x = keras.layers.Add(name="body_add")([x, first])
    for i in range(1, int(math.log2(config.scale)) + 1):
        x = relu(subpixel(x, config.width, f"upsample{i}_conv", normal_around(0.0)), f"upsample{i}_relu")
    activation = None if config.output == "linear" else config.output
    return conv(x, 3, 1, "tail_conv", activation=activation, dtype=keras.config.floatx(), **normal)


def discriminator(image, config):
    """Six k4s2 to 2048 maps, two k1, a residual block, and one dense layer that returns the logits."""
    normal = {"kernel_initializer": normal_around(0.0)}

    def layer(x, width, kernel, name, activate=True, **settings):
        x = conv(x, width, kernel, name, use_bias=False, **normal, **settings)
        x = batch_norm(x, config, f"{name}_bn", gamma=normal_around(1.0))
        return keras.layers.LeakyReLU(negative_slope=0.2, name=f"{name}_lrelu")(x) if activate else x

    x = conv(image, 64, 4, "conv0", strides=2, **normal)
    x = keras.layers.LeakyReLU(negative_slope=0.2, name="conv0_lrelu")(x)
    for i, width in enumerate((128, 256, 512, 1024, 2048), start=1):
        x = layer(x, width, 4, f"conv{i}", strides=2)
    x = layer(x, 1024, 1, "conv6")
    x = skip = layer(x, 512, 1, "conv7", activate=False)
    x = layer(layer(x, 128, 1, "residual1"), 128, 3, "residual2")
    x = keras.layers.Add(name="residual_add")([layer(x, 512, 3, "residual3", activate=False), skip])
    x = keras.layers.Flatten(name="flatten")(keras.layers.LeakyReLU(negative_slope=0.2, name="lrelu")(x))
    return keras.layers.Dense(1, dtype=keras.config.floatx(), name="dense2", **normal)(x)
