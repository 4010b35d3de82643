"""The state of a training: all that updates change, and how checkpoints save and restore it."""

import contextlib
import json
import zipfile
import zlib

import numpy as np

import utils
from config import learning_rate_at
from networks import registry
from networks.baselines import RECONSTRUCTIONS
from runs import devices, store
from runs.logs import read_metrics
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


class TrainState:
    """Networks, optimizers, the average of the weights, and three numbers: all that a checkpoint holds.

    config: all sections; mode: one of config.MODES; init: weights file to start the generator from, or None; vgg: a
    feature network from features.load_vgg, if the loss compares features. Create it inside the scope of the strategy
    that trains it.
    """

    def __init__(self, config, mode, init=None, vgg=None):
        keras.utils.set_random_seed(config.TRAIN.seed)
        self.generator = registry.build_generator(config.MODEL)
        if init:
            store.load_start(self.generator, init, config.MODEL.scale)
        reconstructions = [layer.output for layer in self.generator.layers if layer.name == RECONSTRUCTIONS]
        # All outputs that are compared with HR: SR, and DRCN's reconstructions.
        self.supervised = keras.Model(self.generator.input, [self.generator.output, *reconstructions])
        self.rates = layer_rates(self.generator, config.TRAIN.last_layer_rate)
        self.g_optimizer = make_optimizer(config, self.generator)
        self.discriminator = self.d_optimizer = None
        self.vgg = vgg
        if mode == "srgan":
            self.discriminator = registry.build_discriminator(config.MODEL, config.DATA.crop)
            self.d_optimizer = make_optimizer(config, self.discriminator)
        self.average = None
        if config.TRAIN.ema:
            self.average = registry.build_generator(config.MODEL)
            self.average.set_weights(self.generator.get_weights())
        self.step = tf.Variable(0, dtype=tf.int64)  # updates done
        self.best = tf.Variable(0.0, dtype=tf.float64)  # the best validation so far, in dB
        self.slowdown = tf.Variable(1.0, dtype=tf.float64)  # factor of the learning rate: halved by each rollback

    @property
    def result(self):
        """The generator that is validated and saved for users: the one with averaged weights if TRAIN.ema keeps it."""
        return self.average or self.generator

    def parts(self):
        """{name: variables} of everything that a resumed training needs to give the same result."""
        names = ("generator", "g_optimizer", "average", "discriminator", "d_optimizer")
        parts = {name: getattr(self, name).variables for name in names if getattr(self, name)}
        return parts | {"state": [self.step, self.best, self.slowdown]}

    def set_learning_rate(self, config, step):
        """Set both optimizers' rates, which are variables, for update `step`; return the generator's."""
        rate = learning_rate_at(step, config.TRAIN) * float(self.slowdown.numpy())
        self.g_optimizer.learning_rate.assign(rate)
        if self.d_optimizer:
            self.d_optimizer.learning_rate.assign(rate * config.TRAIN.d_rate)
        return rate

    def follow(self, decay):
        """Move every variable of the average, with batch norm's statistics, towards the generator's.

        The decay is smaller at first, so that the average soon forgets the random start.
        """
        step = tf.cast(self.step, tf.float32)
        share = 1 - tf.minimum(decay, (1 + step) / (10 + step))
        for average, newest in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(average + tf.cast(share, average.dtype) * (newest - average))

    def save(self, run):
        """Write a checkpoint and the weights for users; run: store.Run.

        state.step fits the weights even after an interruption, since one call updates both.
        """
        store.save_weights(self.result, run.directory / store.WEIGHTS)
        save_checkpoint(run.directory, int(self.step.numpy()), self.parts())


def layer_rates(network, last_layer_rate):
    """[factor of TRAIN.learning_rate] for each trainable weight: last_layer_rate in the last layer, 1 elsewhere."""
    last = {id(v) for v in [layer for layer in network.layers if layer.trainable_weights][-1].weights}
    return [last_layer_rate if id(v) in last else 1.0 for v in network.trainable_variables]


def make_optimizer(config, network):
    """The optimizer TRAIN.optimizer for all trainable weights of a network; it scales the loss if it is in float16."""
    train = config.TRAIN
    decay = {"weight_decay": train.weight_decay} if train.weight_decay else {}
    if train.optimizer == "adam":
        optimizer = keras.optimizers.Adam(train.learning_rate, beta_1=train.beta1, **decay)
    else:
        optimizer = keras.optimizers.SGD(train.learning_rate, momentum=train.beta1, **decay)
    # Keras would sum the gradients over the replicas; train.apply_gradients already takes their mean, to clip it.
    optimizer._all_reduce_sum_gradients = list
    if keras.config.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints

KEPT = 3  # checkpoints per run; older ones are deleted


def checkpoints(directory):
    """The checkpoint files of a run, newest first."""
    return sorted(directory.glob("checkpoint-*.npz"), reverse=True)


def step_of(checkpoint):
    """The step of a checkpoint file."""
    return int(checkpoint.stem.split("-")[1])


def newest_step(directory):
    """The step of the newest checkpoint whose checksums are right; 0 if there is none."""
    for path in checkpoints(directory):
        with contextlib.suppress(OSError, zipfile.BadZipFile, zlib.error), zipfile.ZipFile(path) as file:
            if file.testzip() is None:
                return step_of(path)
    return 0


def save_checkpoint(directory, step, parts):
    """Write checkpoint-<step>.npz with all of `parts`, {name: list of variables}; keep the newest KEPT."""
    if not devices.is_chief():
        return
    arrays = {f"{name}/{i}": np.asarray(v) for name, part in parts.items() for i, v in enumerate(part)}
    path = directory / f"checkpoint-{step:08d}.npz"
    utils.write_atomically(path, lambda temporary: np.savez(temporary, **arrays))
    for old in checkpoints(directory)[KEPT:]:
        old.unlink()


def load_checkpoint(directory, parts):
    """Load the newest undamaged checkpoint into `parts`, cut metrics.jsonl back to its step, and return that.

    An .npz keeps a CRC-32 of every array, which reading it checks: a damaged checkpoint is named, and the one before it
    is used. Raises UserError if all are damaged or it belongs to other networks.
    """
    for path in checkpoints(directory):
        try:
            with open(path, "rb") as opened, np.load(opened) as file:
                arrays = {name: file[name] for name in file.files}
            break
        except Exception:  # zipfile, zlib and NumPy raise different ones for a damaged file
            print(f"{path} is damaged and ignored")
    else:
        raise UserError(f"there is no undamaged checkpoint in {directory} to resume from")
    targets = {f"{name}/{i}": v for name, part in parts.items() for i, v in enumerate(part)}
    if {name: array.shape for name, array in arrays.items()} != {name: tuple(v.shape) for name, v in targets.items()}:
        raise UserError(f"{path} belongs to other networks than those in config.json beside it")
    for name, variable in targets.items():
        variable.assign(arrays[name])
    step = step_of(path)
    if not devices.is_chief():
        return step
    lines = [json.dumps(line) for line in read_metrics(directory) if line["step"] <= step]
    text = "".join(line + "\n" for line in lines)
    utils.write_atomically(directory / "metrics.jsonl", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return step
