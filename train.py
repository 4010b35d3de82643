"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan). The losses stand first, as the slides show them.

One step, from uint8 crops to updated weights, is one function compiled by XLA. Ledig et al., CVPR 2017, section 2.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

import data
from cli import terminal
from config import VGG_LOSSES
from networks import features, losses
from runs import devices, logs, store
from training import doctor, other_runtimes
from training.plan import parse_arguments, read_plan
from training.state import TrainState, load_checkpoint, newest_step, save_checkpoint
from training.validation import Validation
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")
tl = LazyModule("tensorlayer")


# ---------------------------------------------------------------------------------------------------------------------
# Losses. fake and real are [batch, crop, crop, 3] in [-1, 1], logits [batch, 1], the VGG embeddings [batch, h, w, c].
# Each gives its terms by name; the sum of them is minimised.


def discriminator_losses(logits_real, logits_fake):
    """(d_loss1, d_loss2) of the slides: real ones are to be called real, generated ones fake (paper, Eq. 2)."""
    d_loss1 = tl.cost.sigmoid_cross_entropy(logits_real, tf.ones_like(logits_real), name="d1")
    d_loss2 = tl.cost.sigmoid_cross_entropy(logits_fake, tf.zeros_like(logits_fake), name="d2")
    return d_loss1, d_loss2


def srresnet_losses(fake, real):
    """The pixel loss alone (paper, Eq. 4)."""
    mse_loss = tl.cost.mean_squared_error(fake, real, is_mean=True)
    return {"mse_loss": mse_loss}


def adversarial_losses(logits_fake):
    """Generated ones are to be called real (paper, Eq. 6), a thousandth of it (Eq. 3)."""
    g_gan_loss = 1e-3 * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake), name="g")
    return {"g_gan_loss": g_gan_loss}


def slides_losses(fake, real, logits_fake, vgg_predict_emb, vgg_target_emb):
    """The three terms of the slides: g_loss = mse_loss + vgg_loss + g_gan_loss."""
    vgg_loss = 2e-6 * tl.cost.mean_squared_error(vgg_predict_emb, vgg_target_emb, is_mean=True)
    return {**srresnet_losses(fake, real), "vgg_loss": vgg_loss, **adversarial_losses(logits_fake)}


def generator_losses(config, fake, real, logits_fake=None, vgg=None, reconstructions=None, share=0.0):
    """The terms that TRAIN.loss names, and the adversarial one if there are logits; config: all sections.

    vgg: the feature network, for a loss that looks at features; reconstructions, share: as in losses.luma_losses.
    """
    train = config.TRAIN
    if train.loss == "slides":
        terms = slides_losses(fake, real, logits_fake, vgg(fake), vgg(real))
    elif train.loss == "mse":
        terms = srresnet_losses(fake, real)
    elif train.loss == "luma":
        terms = losses.luma_losses(fake, real, reconstructions, share)
    else:
        terms = {"vgg": losses.vgg_losses, "feature": losses.feature_losses}[train.loss](vgg(fake), vgg(real))
    if train.total_variation:
        terms |= losses.total_variation_losses(train.total_variation, fake)
    if train.grid:
        terms |= losses.grid_losses(train.grid, fake, real, config.MODEL.scale)
    if logits_fake is not None and train.loss != "slides":  # whose three terms have it among them
        terms |= adversarial_losses(logits_fake)
    return terms


# ---------------------------------------------------------------------------------------------------------------------
# The update: crops in, one step of the discriminator, one of the generator (paper: alternating, k = 1)


class Values(NamedTuple):
    """What one replica's update measures. The mean over all replicas is the whole batch's."""

    losses: dict  # {name: scalar}: loss terms and sums, what the discriminator believes, norms of whole gradients
    squares: dict  # {term: square of the L2 norm of its gradient at SR}; squares of shares add up, norms do not
    picture: dict  # doctor.measure

    def by_name(self):
        """{name: scalar tensor} as metrics.jsonl has them; the gradient norm of a term is `<term>_grad`."""
        norms = {f"{term}_grad": tf.sqrt(square) for term, square in self.squares.items()}
        return self.losses | doctor.strengths(self.picture) | norms


def update(config, state, crops, turns):
    """One update of one replica: its crops and turns, as data.Batches gives them, to Values."""
    # 1. LR [batch, n/scale, n/scale, 3] in [0, 1] and HR [batch, n, n, 3] in [-1, 1] (section 3.2).
    lr_01, real = data.degrade(crops, turns, config.MODEL.scale)
    # 2. SR = G(LR). DRCN gives what else is supervised behind it.
    with tf.GradientTape() as g_tape:
        outputs = tf.nest.flatten(state.supervised(lr_01, training=config.TRAIN.batch_norm == "batch"))
    # 3. The discriminator first, then the generator against the updated one.
    d_losses = discriminator_update(config, state, outputs[0], real) if state.discriminator else {}
    values = generator_update(config, state, outputs, g_tape, real)
    picture = doctor.measure(outputs[0], real, lr_01, config.MODEL.scale)
    return Values(d_losses | values.losses, values.squares, picture)


def discriminator_update(config, state, fake, real):
    """D learns to tell generated images from real ones (Eq. 2). fake, real: [batch, n, n, 3] in [-1, 1].

    Returns {name: scalar}.
    """
    discriminator, optimizer = state.discriminator, state.d_optimizer
    fake, real = seen(config, state, fake), seen(config, state, real)
    # 1. D's opinion of both, and its loss.
    with tf.GradientTape() as tape:
        logits_real = discriminator(real, training=True)
        logits_fake = discriminator(fake, training=True)
        d_loss1, d_loss2 = discriminator_losses(logits_real, logits_fake)
        d_loss = d_loss1 + d_loss2
        scaled = optimizer.scale_loss(d_loss)
    # 2. One step of the optimizer.
    gradients = tape.gradient(scaled, discriminator.trainable_variables)
    d_grad = apply_gradients(config, optimizer, gradients, discriminator.trainable_variables)
    d_real, d_fake = (tf.reduce_mean(tf.sigmoid(logits)) for logits in (logits_real, logits_fake))
    return {"d_loss": d_loss, "d_real": d_real, "d_fake": d_fake, "d_grad": d_grad}


def generator_update(config, state, outputs, g_tape, real):
    """G learns from the sum of its loss terms (Eq. 3, or the slides' three lines). Returns Values without a picture.

    outputs: [SR, and what else is supervised], recorded by g_tape; real: HR [batch, n, n, 3].

    The terms are differentiated one by one down to SR, which costs no more than their sum and shows the weight of each.
    """
    optimizer, train = state.g_optimizer, config.TRAIN
    # 1. The loss terms at SR: what D and VGG make of it.
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        fake = seen(config, state, outputs[0])
        logits_fake = state.discriminator(fake, training=True) if state.discriminator else None
        share = 1 - tf.cast(state.step, fake.dtype) / train.steps
        real = seen(config, state, real)
        terms = generator_losses(config, fake, real, logits_fake, state.vgg, *outputs[1:], share=share)
        scale = tf.cast(optimizer.scale_loss(1.0), fake.dtype)  # above one for float16 alone
        scaled = {name: scale * loss for name, loss in terms.items()}
    # 2. The gradient of each term at SR; a term without influence shows as zero.
    zero = tf.UnconnectedGradients.ZERO
    by_term = {name: tape.gradient(loss, outputs, unconnected_gradients=zero) for name, loss in scaled.items()}
    # 3. Their sum goes on through the generator to its weights.
    together = [sum(parts) for parts in zip(*by_term.values(), strict=True)]
    gradients = g_tape.gradient(outputs, state.generator.trainable_variables, output_gradients=together)
    gradients = [rate * gradient for rate, gradient in zip(state.rates, gradients, strict=True)]
    # 4. One step of the optimizer.
    g_grad = apply_gradients(config, optimizer, gradients, state.generator.trainable_variables)
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync  # each has the gradient of its share's mean
    squares = {name: tf.linalg.global_norm(parts) ** 2 / scale**2 / replicas for name, parts in by_term.items()}
    return Values(terms | {"g_loss": sum(terms.values()), "g_grad": g_grad}, squares, {})


def seen(config, state, images):
    """What the discriminator and VGG see of images [batch, n, n, 3] in this update: rolled with TRAIN.shift."""
    return losses.shifted(images, config.TRAIN.seed, state.step) if config.TRAIN.shift else images


def apply_gradients(config, optimizer, gradients, variables):
    """Apply the mean of all replicas' gradients, clipped as TRAIN.clip_value and clip_norm say; return its norm."""
    scale = tf.cast(optimizer.scale_loss(1.0), gradients[0].dtype)
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
    norm = tf.linalg.global_norm(gradients)
    if config.TRAIN.clip_value:
        limit = config.TRAIN.clip_value * scale / tf.cast(optimizer.learning_rate, gradients[0].dtype)
        gradients = [tf.clip_by_value(gradient, -limit, limit) for gradient in gradients]
    if config.TRAIN.clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, config.TRAIN.clip_norm * scale, use_norm=norm)
    optimizer.apply(gradients, variables)
    return norm / scale


def make_update(config, state, strategy=None):
    """The update of the whole batch, not yet compiled: (crops, turns) → {name: scalar tensor}."""
    _ = tl.cost  # loaded now: TensorLayer makes variables, which it must not do while the step is traced
    strategy = strategy or tf.distribute.get_strategy()

    def whole_update(crops, turns):
        if strategy.num_replicas_in_sync == 1:
            values = update(config, state, crops, turns)
        else:
            values = strategy.run(update, (config, state, crops, turns))
            values = tf.nest.map_structure(lambda value: strategy.reduce("mean", value, axis=None), values)
        state.step.assign_add(1)
        if state.average:
            state.follow(config.TRAIN.ema)
        return values.by_name()

    return whole_update


def make_step(config, state, strategy=None, xla=True):
    """The compiled update: step(crops, turns) → Measured; crops and turns as data.Batches gives them.

    state: TrainState; strategy: a tf.distribute strategy, whose every replica gets its share of the batch; xla: whether
    XLA compiles it.
    """
    return Step(make_update(config, state, strategy), xla)


class Step:
    """A compiled update, which gives all its scalars as one vector: the host then waits once."""

    def __init__(self, whole_update, xla):
        self.whole_update, self.names = whole_update, []
        self.compiled = tf.function(self.stacked, jit_compile=xla, autograph=False)

    def stacked(self, crops, turns):
        values = self.whole_update(crops, turns)
        self.names = list(values)  # known once this is traced, before the first call returns
        return tf.stack(list(values.values()))  # all of one precision, or this fails

    def __call__(self, crops, turns):
        return Measured(self.compiled(crops, turns), self.names)


class Measured(Mapping):
    """{name: float} of one update. The numbers stay on the device until one is asked for, and come all at once."""

    def __init__(self, vector, names):
        self.vector, self.names = vector, names

    @functools.cached_property
    def floats(self):
        return dict(zip(self.names, self.vector.numpy().tolist(), strict=True))

    def __getitem__(self, name):
        return self.floats[name]

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


# ---------------------------------------------------------------------------------------------------------------------
# The loop


SOMETIMES = ("log", "validate", "save")  # TRAIN.log_every and so on


def train(run, photographs, data_facts, init=None, vgg_path=None, strategy=None, resume=False):
    """Train one network and return the path of its weights, or None if it was interrupted (all is saved then too).

    run: store.Run; photographs, data_facts: from data.read_training; init: weights to start the generator from, or
    None; vgg_path: for a loss that looks at features, from features.find_vgg; strategy: from devices.choose_strategy;
    resume: go on from the newest checkpoint. Raises UserError if a loss is not finite (see TRAIN.on_nan); the last
    checkpoint and weights are kept.
    """
    config, strategy = run.config, strategy or tf.distribute.get_strategy()
    precision, xla = devices.choose_precision(config.TRAIN.precision), devices.use_xla(config.TRAIN.xla, strategy)
    facts = {"data": data_facts, "init": init.parent.name if init else None, "precision": precision}
    vgg_name = features.describe_vgg(config, vgg_path) if config.TRAIN.loss in VGG_LOSSES else None
    shared = {"configuration": config, "feature network": vgg_name, "precision": precision}
    shared |= {"photographs": data_facts["fingerprint"], "weights to begin with": facts["init"]}
    devices.check_agreement(strategy, shared)
    with strategy.scope():
        vgg = None
        if config.TRAIN.loss in VGG_LOSSES:
            vgg, facts["vgg"] = features.load_vgg(config, vgg_path)
        state = TrainState(config, run.mode, init, vgg)
    if strategy.num_replicas_in_sync > 1:
        for network in filter(None, (state.generator, state.discriminator)):
            devices.synchronise(network)

    indices, held_out = photographs.split(config.DATA.validation)
    if not held_out:
        print("no photographs are held out, validation shows one that is trained on")
    validation = Validation(state.result, config, [photographs[i] for i in held_out or indices[:1]], xla)
    batches = batches_of(photographs, indices, config)
    if resume:
        load_checkpoint(run.directory, state.parts())
    else:
        store.create(run, facts)
    with logs.Log(run, int(state.step.numpy())) as log:
        if resume:
            print(f"resuming {run.name} at step {int(state.step.numpy())}")
        kind = store.kind_of(run.mode, config)
        print(f"run {run.name}: {config.TRAIN.steps:,} updates of {kind}, batch {config.TRAIN.batch}")
        print(f"{devices.describe(strategy, precision, xla)}; all is written to {run.directory}")
        if not resume:  # from here on there is something to go back to
            save_checkpoint(run.directory, 0, state.parts())
        try:
            finished = loop(run, state, make_step(config, state, strategy, xla), batches, validation, strategy, log)
        except tf.errors.OpError as error:
            raise devices.explained(error, run) from error
        log.progress.close()
        if not finished:
            step = state.step.numpy()
            print(f"stopped at step {step}, all is saved; go on with the same --data and --resume {run.name}")
            return None
        print(f"done: {run.directory / store.WEIGHTS}; samples are in {run.samples}")
    return run.directory / store.WEIGHTS


def batches_of(photographs, indices, config):
    """The batches (data.Batches) of a run; indices: the photographs to train on."""
    crop, train = config.DATA.crop, config.TRAIN
    return data.Batches(photographs, indices, train.batch, crop, config.MODEL.scale, train.seed, config.DATA.detail)


def loop(run, state, step_function, batches, validation, strategy, log):
    """Train from state.step to TRAIN.steps: the batch, the update, and now and then the log, validation, saving.

    Returns whether the end was reached; if it was asked to stop before (Ctrl-C), everything is saved as well.
    """
    settings, last = run.config.TRAIN, run.config.TRAIN.steps
    share = devices.workers()
    remarks, unchecked = doctor.Doctor(run.mode), {}
    first = step = int(state.step.numpy())
    stream = batches.stream(first + 1, last, share)
    while step < last:
        step, crops, turns = next(stream)
        learning_rate = state.set_learning_rate(run.config, step)
        unchecked[step] = step_function(*devices.distribute(strategy, crops, turns))
        log_now, validate, save = (step == last or step % settings[f"{what}_every"] == 0 for what in SOMETIMES)
        stop = log.asked_to_stop and step < last
        if step <= first + 3 or log_now or validate or save or stop:
            try:
                values = check_finite(unchecked)  # waits for the device
            except NotFinite as error:
                if settings.on_nan != "rollback":
                    raise
                roll_back(run, state, error)
                first = step = int(state.step.numpy())
                stream = batches.stream(first + 1, last, share)
                log.progress.reset(first)
                continue
            finally:
                unchecked = {}
            line = dict(values, learning_rate=learning_rate, seconds_per_step=log.progress.show(step, values))
            for remark in remarks.examine(values):
                log.progress.write(f"step {step}: the doctor says: {remark}")
            if validate:
                line["val_psnr_y"], line["val_bicubic"], grid = validation()
                log.picture(step, grid)
                score = f"{line['val_psnr_y']:.2f} dB (bicubic {line['val_bicubic']:.2f} dB)"
                log.progress.write(f"step {step}: validation {score}")
                # PSNR falls while a GAN or a loss of features learns: there it chooses nothing.
                by_psnr = not state.discriminator and settings.loss not in VGG_LOSSES
                if by_psnr and line["val_psnr_y"] > float(state.best.numpy()):
                    state.best.assign(line["val_psnr_y"])
                    store.save_weights(state.result, run.directory / store.BEST)
            log.metrics(step, line)
            if save or stop:  # after the log: what is logged beyond a checkpoint is cut off when it is resumed from
                state.save(run)
            log.progress.restart()
        log.progress.update()
        if stop:
            return False
    return True


class NotFinite(UserError):
    """A loss or gradient is infinite or no number."""


def check_finite(steps):
    """The last values of {step: Measured} as a dict of floats. Raises NotFinite, naming the first bad step.

    Gradients in float16 overflow now and then and are left out by the optimizer; that is no error.
    """
    float16 = keras.config.dtype_policy().compute_dtype == "float16"
    for step, values in steps.items():
        values = dict(values)
        checked = [name for name in values if not (float16 and name.endswith("_grad"))]
        if bad := [name for name in checked if not np.isfinite(values[name])]:
            raise NotFinite(f"step {step}: {', '.join(bad)} not finite; a smaller TRAIN.learning_rate may help")
    return values


def roll_back(run, state, error):
    """Go back to the newest checkpoint and halve the learning rate for the rest. Raises the error after ten times."""
    slowdown = float(state.slowdown.numpy()) / 2
    if slowdown < 2**-10:
        raise error
    load_checkpoint(run.directory, state.parts())
    state.slowdown.assign(slowdown)
    print(f"{error}: back to step {int(state.step.numpy())}, learning rate times {slowdown:g} from there on")


def export_update(run, plan, folder):
    """Write the compiled update of a run as a program for another XLA runtime; see training/other_runtimes.py."""
    config = run.config
    facts = {"data": plan.data_facts, "init": plan.init.parent.name if plan.init else None}
    facts["precision"] = devices.choose_precision(config.TRAIN.precision)
    vgg = None
    if config.TRAIN.loss in VGG_LOSSES:
        vgg, facts["vgg"] = features.load_vgg(config, plan.vgg_path)
    state = TrainState(config, run.mode, plan.init, vgg)
    batch = batches_of(plan.photographs, plan.photographs.split(config.DATA.validation)[0], config)(1)
    other_runtimes.export_update(folder, run, state, make_update(config, state), batch, facts)


def main():
    args = parse_arguments()
    if args.collect:
        other_runtimes.collect(*args.collect, args.name)
        return
    plan = read_plan(args)
    if plan is None:
        return  # a dry run
    asked = plan.jobs[-1]
    if args.export_update:
        export_update(asked, plan, args.export_update)
        return
    strategy = devices.choose_strategy(asked.config.TRAIN.replicas)
    devices.check_shares(asked.config.TRAIN, strategy)
    if plan.about and devices.is_chief():
        store.write_json(asked.directory / "config.json", plan.about)
    devices.estimate(plan.jobs, newest_step(asked.directory) if plan.resumed else 0)
    init = plan.init
    for run in plan.jobs:
        init = train(run, plan.photographs, plan.data_facts, init, plan.vgg_path, strategy, plan.resumed)
        if not init:
            if run is not asked:
                print(f"then --mode=srgan --init {run.name} trains the GAN")
            return


if __name__ == "__main__":
    terminal.run_command(main)
