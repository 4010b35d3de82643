"""The networks of the TensorLayer code of 2018, which the slides were made from; arguments as in model.py."""

import math

from layers.blocks import batch_norm, conv, relu, residual_block
from layers.upsampling import subpixel
from utils import LazyModule

keras = LazyModule("keras")


def normal_around(mean):
    """The TensorLayer code's initial weights: normal, of deviation 0.02.

    This is a description, from which each layer makes an initializer of its own: one object would draw the same for
    all of them.
    """
    return {"class_name": "RandomNormal", "config": {"mean": mean, "stddev": 0.02}}


def generator(lr_01, config, folded=False):
    """k3 and ReLU, LR in [-1, 1], its own initial weights, k1 and tanh."""
    normal = {"kernel_initializer": normal_around(0.0)}
    gamma = normal_around(1.0)
    inner = normal | {"use_bias": folded}  # the batch norm that follows has one
    x = first = relu(conv(2 * lr_01 - 1, config.width, 3, "head_conv", **normal), "head_relu")
    for i in range(1, config.blocks + 1):
        x = residual_block(x, config, f"block{i}", relu, folded, gammas=(gamma, gamma), **inner)
    x = batch_norm(conv(x, config.width, 3, "body_conv", **inner), config, "body_bn", folded, gamma)
    x = keras.layers.Add(name="body_add")([x, first])
    for i in range(1, int(math.log2(config.scale)) + 1):
        x = relu(subpixel(x, config.width, f"upsample{i}_conv", normal_around(0.0)), f"upsample{i}_relu")
    activation = None if config.output == "linear" else config.output
    return conv(x, 3, 1, "tail_conv", activation=activation, dtype=keras.config.floatx(), **normal)


def discriminator(image, config):
    """k4s2 to 2048 maps, then 1×1, then a residual block; one dense layer, which gives the logits."""
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
