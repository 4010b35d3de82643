"""The training of amortised MAP inference's methods, on any Problem: points or images."""

from collections.abc import Callable
from typing import NamedTuple

from config import learning_rate_at
from networks.amortised_map import CRITICS, METHODS, generator_loss
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


class Problem(NamedTuple):
    """What is to be learned.

    draw: (tf.random.Generator) → HR [batch, …]; shrink: A, HR to LR; enlarge: A⁺, LR to HR; generator: () → model f of
    LR; critics: {name: () → model}; spreads: {critic: (standard deviation at first, at the end)}; train: steps, rate
    and schedule, as in config.TRAIN; at_once: updates of one compiled call, which a call of a small network outweighs.
    """

    draw: Callable
    shrink: Callable
    enlarge: Callable
    generator: Callable
    critics: dict
    spreads: dict
    train: dict
    at_once: int = 1


def projection_of(problem, network, method, training=False):
    """ŷ of LR: f(x), or g(x) = f(x) + A⁺(x - A f(x)) if the method has the projection."""

    def upscale(x):
        sr = network(x, training=training)
        return sr + problem.enlarge(x - problem.shrink(sr)) if method.projected else sr

    return upscale


def fit(problem, name, seed, report=None, weights=None):
    """Train one of METHODS; returns (ŷ as a function of LR, the network f).

    report: called with (step, G's loss) after each compiled call; weights: a file that f begins with, or None. An
    update trains the critic on ŷ and y, then G by the critic.
    """
    keras.utils.set_random_seed(seed)
    method, steps = METHODS[name], problem.train.steps
    network = problem.generator()
    if weights:
        network.load_weights(weights)
    critic = problem.critics[method.critic]() if method.critic else None
    rule, its_rule = (keras.optimizers.Adam(beta_1=problem.train.beta1) for _ in range(2))
    for optimizer, model in ((rule, network), (its_rule, critic)):
        if model:
            optimizer.build(model.trainable_variables)
    random = tf.random.Generator.from_seed(seed)
    upscale = projection_of(problem, network, method, training=True)
    start, end = problem.spreads.get(method.critic, (0.0, 0.0))

    def learn(its_loss, model, optimizer, rate):
        optimizer.learning_rate.assign(rate)
        with tf.GradientTape() as tape:
            loss = its_loss()
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    def update(step, rate):
        spread = start + (end - start) * tf.cast(step, tf.float32) / steps
        y = problem.draw(random)
        x = problem.shrink(y)
        if critic:
            sr = upscale(x)
            learn(lambda: CRITICS[method.critic].loss(critic, y, sr, spread, random), critic, its_rule, rate)

        def loss():
            sr = upscale(x)
            return generator_loss(method, critic, y, sr, x, problem.shrink(sr), spread, random)

        return learn(loss, network, rule, rate)

    @tf.function(autograph=False, jit_compile=problem.at_once > 1)
    def updates(first, rates):
        if problem.at_once == 1:
            return update(first, rates[0])

        def body(i, _):
            return i + 1, update(first + i, rates[i])

        return tf.while_loop(lambda i, _: i < problem.at_once, body, (0, 0.0))[1]

    for first in range(0, steps, problem.at_once):
        rates = [learning_rate_at(first + 1 + i, problem.train) for i in range(problem.at_once)]
        value = updates(tf.constant(first), tf.constant(rates, tf.float32))
        if report:
            report(min(first + problem.at_once, steps), float(value))
    return projection_of(problem, network, method), network
