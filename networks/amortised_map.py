"""Amortised MAP inference (Sønderby et al., ICLR 2017): its methods and their losses, and networks for its experiments.

HR y and SR ŷ are [batch, 2] points of the Swiss roll or images [batch, h, w, c] in [0, 1]; LR x is what the map A makes
of them. A critic is what G learns from beside a pixel loss: a discriminator, a denoiser, or a density of HR. Where the
paper leaves something open, docs/departures.md says what is done. Nothing here imports TensorFlow.
"""

from collections.abc import Callable
from typing import NamedTuple

from layers.blocks import conv
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


# ---------------------------------------------------------------------------------------------------------------------
# Critics: their own loss, and what G minimises.


def judge_loss(judge, y, sr, spread, random):
    """-log D(y) - log (1 - D(ŷ)), the mean; both with instance noise of this spread. judge: to logits [batch, 1]."""
    real, fake = (judge(noisy(images, spread, random), training=True) for images in (y, sr))
    return tf.reduce_mean(tf.nn.softplus(-real) + tf.nn.softplus(fake))


def judged(judge, sr, spread, random):
    """-logit D(ŷ), the mean (the paper's Equation 10)."""
    return -tf.reduce_mean(judge(noisy(sr, spread, random), training=True))


def denoiser_loss(denoiser, y, sr, spread, random):
    """The squared difference of y and what the denoiser makes of y plus noise."""
    return tf.reduce_mean((denoiser(noisy(y, spread, random), training=True) - y) ** 2)


def denoised(denoiser, sr, spread, random):
    """A number whose gradient by ŷ is -(f(ŷ) - ŷ)/σ², about that of -log p(ŷ), per value (section 3.4)."""
    score = tf.stop_gradient((denoiser(sr, training=True) - sr) / spread**2)
    return -tf.reduce_mean(score * sr)


def density_loss(density, y, sr, spread, random):
    """-log p(y) per value, of y plus noise of this spread."""
    return log_loss(density, noisy(y, spread, random))


def likely(density, sr, spread, random):
    """-log p(ŷ) per value (section 3.5)."""
    return log_loss(density, sr)


def log_loss(density, y):
    """-log of a mixture of Gaussians for each value of y given those before it: see `density_network`."""
    logits, means, log_scales = tf.split(density(y, training=True), 3, axis=-1)
    shape = tf.concat([tf.shape(y), [MIXTURE]], axis=0)
    logits, means, log_scales = (tf.reshape(part, shape) for part in (logits, means, log_scales))
    log_scales = tf.maximum(log_scales, -4.0)
    each = -0.5 * ((y[..., None] - means) * tf.exp(-log_scales)) ** 2 - log_scales - 0.919  # log √(2π)
    return -tf.reduce_mean(tf.reduce_logsumexp(tf.nn.log_softmax(logits) + each, axis=-1))


def noisy(y, spread, random):
    """y plus Gaussian noise; random: a tf.random.Generator."""
    return y + spread * random.normal(tf.shape(y))


class Critic(NamedTuple):
    """loss: (critic, y, ŷ, spread, random) → what the critic minimises; term: (critic, ŷ, spread, random) → what G
    minimises. spread: a standard deviation that falls during a training; random: a tf.random.Generator.
    """

    loss: Callable
    term: Callable


CRITICS = {
    "judge": Critic(judge_loss, judged),
    "denoiser": Critic(denoiser_loss, denoised),
    "density": Critic(density_loss, likely),
}


class Method(NamedTuple):
    """How G is trained: with the projection or not, a pixel loss "mse" or "mae", a critic; soft: + |x - Aŷ|."""

    projected: bool = False
    pixel: str = ""
    critic: str = ""
    soft: bool = False


METHODS = {
    "MSE": Method(pixel="mse"),
    "MAE": Method(pixel="mae"),
    "AffMSE": Method(projected=True, pixel="mse"),
    "AffGAN": Method(projected=True, critic="judge"),
    "SoftGAN": Method(critic="judge", soft=True),
    "AffDG": Method(projected=True, critic="denoiser"),
    "SoftDG": Method(critic="denoiser", soft=True),
    "AffLL": Method(projected=True, critic="density"),
}


def generator_loss(method, critic, y, sr, x, shrunk, spread, random):
    """What G minimises; x: LR; shrunk: Aŷ; the others: see Critic."""
    total = 0.0
    if method.pixel:
        difference = tf.abs(y - sr)
        total += tf.reduce_mean(difference**2 if method.pixel == "mse" else difference)
    if method.critic:
        total += CRITICS[method.critic].term(critic, sr, spread, random)
    if method.soft:
        total += tf.reduce_mean(tf.abs(x - shrunk))
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Networks of the Swiss roll (appendix): two dense layers with ReLU


RADIUS = 5.0  # about that of the roll: networks compute in units of it


def dense_network(inputs, outputs, width, name, residual=False):
    """[batch, inputs] to [batch, outputs] by two hidden layers of `width`; residual: plus the input.

    Biases begin at random: with zeros the ReLUs of a network of one number would all bend at 0.
    """
    start = keras.Input((inputs,))
    x = keras.layers.Rescaling(1 / RADIUS, name=f"{name}_in")(start)
    for i in (1, 2):
        biases = keras.initializers.RandomUniform(-1.0, 1.0)
        dense = keras.layers.Dense(
            width, activation="relu", kernel_initializer="he_normal", bias_initializer=biases, name=f"{name}{i}"
        )
        x = dense(x)
    x = keras.layers.Rescaling(RADIUS, name=f"{name}_out")(keras.layers.Dense(outputs, name=f"{name}3")(x))
    return keras.Model(start, start + x if residual else x, name=name)


# ---------------------------------------------------------------------------------------------------------------------
# Networks of images (appendix): convolutions with batch norm and ReLU, except at the end


def block(x, width, name, **settings):
    """k3, batch norm, ReLU."""
    x = keras.layers.BatchNormalization(name=f"{name}_bn", momentum=0.9)(conv(x, width, 3, name, **settings))
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def image_generator(scale, channels, widths=(32, 32, 64, 64, 128)):
    """LR [batch, h, w, c] in [0, 1] to SR of scale times the size: six convolutions, the sigmoid before the projection.

    All but the last work in LR space; it makes scale² maps a channel for a pixel shuffle.
    """
    x = lr = keras.Input((None, None, channels))
    for i, width in enumerate(widths, 1):
        x = block(x, width, f"conv{i}")
    x = conv(x, scale**2 * channels, 3, "tail")
    sr = keras.ops.sigmoid(keras.ops.depth_to_space(x, scale))
    return keras.Model(lr, sr, name="generator")


def image_judge(side, channels, widths=(32, 64, 128, 256)):
    """Images [batch, side, side, c] to logits [batch, 1]: four convolutions with stride 2."""
    x = image = keras.Input((side, side, channels))
    for i, width in enumerate(widths, 1):
        x = block(x, width, f"conv{i}", strides=2)
    return keras.Model(image, keras.layers.Dense(1, name="logit")(keras.layers.Flatten()(x)), name="judge")


def image_denoiser(channels, width):
    """Images [batch, h, w, c] with noise to images: four convolutions, whose result is added to the image."""
    x = image = keras.Input((None, None, channels))
    for i in range(1, 4):
        x = block(x, width, f"conv{i}")
    noise = conv(x, channels, 3, "tail", kernel_initializer="zeros")  # so that it teaches nothing before it has learned
    return keras.Model(image, image + noise, name="denoiser")


MIXTURE = 5  # Gaussians for each value


def density_network(channels, width):
    """Images [batch, h, w, c] to the mixture of each value given the pixels above and to the left of it: a small
    PixelCNN (van den Oord et al., 2016).

    [batch, h, w, 3·c·MIXTURE]: logits, means, logs of the standard deviations. The channels of a pixel do not see each
    other.
    """
    x = image = keras.Input((None, None, channels))
    x = causal(x, width, 5, "conv1", own=False)
    for i in (2, 3):
        x = causal(keras.layers.ReLU()(x), width, 3, f"conv{i}", own=True)
    x = conv(keras.layers.ReLU()(x), 3 * channels * MIXTURE, 1, "mixture")
    return keras.Model(image, x, name="density")


def causal(x, width, kernel, name, own):
    """A convolution that sees the pixels above, and to the left in its row; own: and the pixel itself."""

    class Causal(keras.layers.Conv2D):
        def convolution_op(self, inputs, weights):
            place = keras.ops.arange(kernel**2)
            seen = place < kernel**2 // 2 + own
            return super().convolution_op(inputs, weights * keras.ops.reshape(seen, (kernel, kernel, 1, 1)))

    return Causal(width, kernel, padding="same", name=name)(x)
