"""Gatys et al., 2016: a picture in a style by minimising the loss of networks/style.py over its pixels, by L-BFGS.

What Johnson et al.'s network (papers/style.py) does in one pass takes hundreds of passes through VGG here.
"""

import numpy as np

from utils import LazyModule

optimize = LazyModule("scipy.optimize")
tf = LazyModule("tensorflow")


def make_objective(loss, content_01):
    """The compiled function from a picture [1, h, w, 3] in [-1, 1] to (its loss, the gradient).

    loss: a style.StyleLoss; content_01: [h, w, 3] in [0, 1].
    """
    content = loss.content(tf.constant(content_01[None]))

    @tf.function(autograph=False)
    def objective(picture):
        with tf.GradientTape() as tape:
            tape.watch(picture)
            total = tf.add_n(list(loss(picture, content).values()))
        return total, tape.gradient(total, picture)

    return objective


def optimise(objective, shape, iterations, seed=0, report=lambda picture, loss: None):
    """The picture float32 [h, w, 3] in [-1, 1] after some iterations of L-BFGS from noise.

    The values stay in [-1, 1], as in Johnson et al.'s comparison. report: called with (picture, its loss) after each
    iteration.
    """
    noise = np.random.default_rng(seed).uniform(-1, 1, shape)

    def value_and_gradient(pixels):
        loss, gradient = objective(tf.constant(pixels.reshape(1, *shape), tf.float32))
        return float(loss), gradient.numpy().ravel().astype(np.float64)

    def after_each(intermediate_result):
        report(intermediate_result.x.reshape(shape), intermediate_result.fun)

    found = optimize.minimize(
        value_and_gradient,
        noise.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=optimize.Bounds(-1, 1),
        callback=after_each,
        options={"maxiter": iterations, "maxfun": 10 * iterations, "ftol": 0, "gtol": 0},
    )
    return found.x.reshape(shape).astype(np.float32)
