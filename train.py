"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan): the losses of the slides, the update, the loop.

One update, from uint8 crops to new weights, is one function compiled by XLA. Paper: Ledig et al., CVPR 2017, sections 2
and 3.2.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

import data
from cli import terminal
from config import VGG_LOSSES
from networks import features, losses
from runs import devices, logs, places, store
from training import doctor, other_runtimes
from training.plan import parse_arguments, read_plan
from training.state import TrainState, load_checkpoint, newest_step, save_checkpoint
from training.validation import Validation
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")
tl = LazyModule("tensorlayer")


# ---------------------------------------------------------------------------------------------------------------------
# The losses of the slides: g_loss = mse_loss + vgg_loss + g_gan_loss, and d_loss = d_loss1 + d_loss2. The generator's
# functions return {name: term}; networks/losses.py has further ones.
#
# fake is SR and real is HR, [batch, crop, crop, 3] in [-1, 1]. logits are the discriminator's output, [batch, 1].
# vgg_predict_emb and vgg_target_emb are VGG's features of SR and HR, [batch, h, w, c].


def pixel_losses(fake, real):
    """SR and HR should have equal pixels (paper, Eq. 4); SRResNet's only loss."""
    mse_loss = tl.cost.mean_squared_error(fake, real, is_mean=True)
    return {"mse_loss": mse_loss}


def slides_vgg_losses(vgg_predict_emb, vgg_target_emb):
    """SR and HR should have equal VGG features, weighted as on the slides; losses.vgg_losses is the paper's Eq. 5."""
    vgg_loss = 2e-6 * tl.cost.mean_squared_error(vgg_predict_emb, vgg_target_emb, is_mean=True)
    return {"vgg_loss": vgg_loss}


def adversarial_losses(logits_fake):
    """The discriminator should take SR for real, target 1 (paper, Eq. 6); 1e-3 is the weight in Eq. 3."""
    g_gan_loss = 1e-3 * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake), name="g")
    return {"g_gan_loss": g_gan_loss}


def discriminator_losses(logits_real, logits_fake):
    """(d_loss1, d_loss2): the discriminator should tell HR, target 1, from SR, target 0 (paper, Eq. 2)."""
    d_loss1 = tl.cost.sigmoid_cross_entropy(logits_real, tf.ones_like(logits_real), name="d1")
    d_loss2 = tl.cost.sigmoid_cross_entropy(logits_fake, tf.zeros_like(logits_fake), name="d2")
    return d_loss1, d_loss2


def generator_losses(config, fake, real, logits_fake=None, vgg=None, reconstructions=None, share=0.0, logits_real=None):
    """{name: term} that the generator minimises: TRAIN.loss, what is added to it, and for a GAN the adversarial loss.

    config: all sections; logits_fake: None without a discriminator; vgg: the feature network, if the loss needs it;
    reconstructions, share: see losses.luma_losses; logits_real: for TRAIN.relativistic.
    """
    train = config.TRAIN
    if train.loss == "mse":
        terms = pixel_losses(fake, real)
    elif train.loss == "slides":
        terms = pixel_losses(fake, real) | slides_vgg_losses(vgg(fake), vgg(real))
    elif train.loss in losses.FEATURE_LOSSES:
        terms = losses.FEATURE_LOSSES[train.loss](vgg(fake), vgg(real))
    else:
        terms = losses.IMAGE_LOSSES[train.loss](fake, real, reconstructions, share)
    if train.total_variation:
        terms |= losses.total_variation_losses(train.total_variation, fake)
    if train.grid:
        terms |= losses.grid_losses(train.grid, fake, real, config.MODEL.scale)
    if logits_fake is None:
        return terms
    if train.relativistic:
        gan_terms = losses.relativistic_losses(logits_real, logits_fake)
    else:
        gan_terms = {"log": adversarial_losses, "logit": losses.logit_losses}[train.adversarial](logits_fake)
    return terms | {name: train.gan * loss for name, loss in gan_terms.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The update: a batch of crops, one step of the discriminator, one of the generator (paper: alternating, k = 1).
# With several GPUs each has a replica of the networks, which makes the update for its share of the batch.


class Values(NamedTuple):
    """What one replica's update measures. The mean over all replicas is the whole batch's."""

    losses: dict  # {name: scalar}: loss terms and their sums, the discriminator's mean opinions, norms of gradients
    squares: dict  # {term: square of the L2 norm of its gradient at SR}; unlike norms, squares add up over shares
    picture: dict  # from doctor.measure

    def by_name(self):
        """{name: scalar tensor} for metrics.jsonl; `<term>_grad` is the gradient norm of a term."""
        norms = {f"{term}_grad": tf.sqrt(square) for term, square in self.squares.items()}
        return self.losses | doctor.strengths(self.picture) | norms


def update(config, state, crops, turns, lr=None):
    """One update of one replica from its crops and turns, and LR if the batch has it (data.Batches). Returns Values."""
    # 1. LR [batch, n/scale, n/scale, 3] in [0, 1] and HR [batch, n, n, 3] in [-1, 1] (section 3.2).
    lr_01, real = data.degrade(crops, turns, config.MODEL.scale, lr)
    # 2. SR = G(LR) is the first output; DRCN has further ones that are compared with HR.
    with tf.GradientTape() as g_tape:
        outputs = tf.nest.flatten(state.supervised(lr_01, training=config.TRAIN.batch_norm == "batch"))
    fake = outputs[0]
    # 3. D learns, then G learns against the updated D.
    d_losses = discriminator_update(config, state, fake, real) if state.discriminator else {}
    values = generator_update(config, state, outputs, g_tape, real)
    picture = doctor.measure(fake, real, lr_01, config.MODEL.scale)
    return Values(d_losses | values.losses, values.squares, picture)


def discriminator_update(config, state, fake, real):
    """D learns to tell SR from HR (Eq. 2). fake, real: [batch, n, n, 3] in [-1, 1]. Returns {name: scalar}."""
    discriminator, optimizer = state.discriminator, state.d_optimizer
    fake, real = shifted(config, state, fake), shifted(config, state, real)
    # 1. D's opinion of both, and its loss.
    with tf.GradientTape() as tape:
        logits_real = discriminator(noisy(config, state, real, 0), training=True)
        logits_fake = discriminator(noisy(config, state, fake, 1), training=True)
        judged = (logits_real, logits_fake)
        d_loss1, d_loss2 = discriminator_losses(*losses.relativistic(*judged) if config.TRAIN.relativistic else judged)
        d_loss = d_loss1 + d_loss2
        scaled = optimizer.scale_loss(d_loss)  # float16 needs larger gradients; else this is d_loss
    # 2. One step of the optimizer.
    gradients = tape.gradient(scaled, discriminator.trainable_variables)
    d_grad = apply_gradients(config, optimizer, gradients, discriminator.trainable_variables)
    d_real, d_fake = (tf.reduce_mean(tf.sigmoid(logits)) for logits in (logits_real, logits_fake))
    return {"d_loss": d_loss, "d_real": d_real, "d_fake": d_fake, "d_grad": d_grad}


def generator_update(config, state, outputs, g_tape, real):
    """G learns from the sum of its loss terms (Eq. 3, or the slides' three lines). Returns Values without a picture.

    outputs: [SR, further ones that are compared with HR], recorded by g_tape; real: HR [batch, n, n, 3].

    Each term has its own gradient at SR, whose norm shows the term's weight; from there on their sum goes back through
    the generator, so this costs no more than the gradient of the sum.
    """
    optimizer, train = state.g_optimizer, config.TRAIN
    # 1. The loss terms: what D and VGG say of SR is part of them.
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        fake, real = shifted(config, state, outputs[0]), shifted(config, state, real)
        judge = state.discriminator
        logits_fake = judge(noisy(config, state, fake, 1), training=True) if judge else None
        logits_real = judge(noisy(config, state, real, 0), training=True) if judge and train.relativistic else None
        share = 1 - tf.cast(state.step, fake.dtype) / train.steps  # of DRCN's reconstructions
        terms = generator_losses(
            config, fake, real, logits_fake, state.vgg, *outputs[1:], share=share, logits_real=logits_real
        )
        scale = tf.cast(optimizer.scale_loss(1.0), fake.dtype)  # 1 except for float16
        scaled = {name: scale * loss for name, loss in terms.items()}
    # 2. The gradient of each term at SR; zero for a term that does not depend on it.
    zero = tf.UnconnectedGradients.ZERO
    by_term = {name: tape.gradient(loss, outputs, unconnected_gradients=zero) for name, loss in scaled.items()}
    # 3. Their sum, back through the generator to its weights.
    together = [sum(parts) for parts in zip(*by_term.values(), strict=True)]
    gradients = g_tape.gradient(outputs, state.generator.trainable_variables, output_gradients=together)
    gradients = [rate * gradient for rate, gradient in zip(state.rates, gradients, strict=True)]
    # 4. One step of the optimizer.
    g_grad = apply_gradients(config, optimizer, gradients, state.generator.trainable_variables)
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync  # each has the gradient of its share's mean
    squares = {name: tf.linalg.global_norm(parts) ** 2 / scale**2 / replicas for name, parts in by_term.items()}
    return Values(terms | {"g_loss": sum(terms.values()), "g_grad": g_grad}, squares, {})


def shifted(config, state, images):
    """Images [batch, n, n, 3] as the discriminator and VGG see them in this update: rolled if TRAIN.shift is on."""
    return losses.shifted(images, config.TRAIN.seed, state.step) if config.TRAIN.shift else images


def noisy(config, state, images, which):
    """What the discriminator sees of images [batch, n, n, 3]; with TRAIN.instance_noise, noise that falls to zero.

    which: 0 or 1, so that HR and SR have different noise.
    """
    train = config.TRAIN
    if not train.instance_noise:
        return images
    left = 1 - tf.cast(state.step, images.dtype) / train.steps
    return losses.noisy(images, train.instance_noise * left, train.seed, 2 * state.step + which)


def apply_gradients(config, optimizer, gradients, variables):
    """One step with the mean of all replicas' gradients, clipped by TRAIN.clip_value and clip_norm; return its norm."""
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
    """The update of all replicas, not yet compiled: a function of a batch's arrays → {name: scalar tensor}."""
    _ = tl.cost  # imports TensorLayer now: it makes variables, which must not happen while the update is traced
    strategy = strategy or tf.distribute.get_strategy()

    def whole_update(*batch):
        if strategy.num_replicas_in_sync == 1:
            values = update(config, state, *batch)
        else:
            values = strategy.run(update, (config, state, *batch))
            values = tf.nest.map_structure(lambda value: strategy.reduce("mean", value, axis=None), values)
        state.step.assign_add(1)
        if state.average:
            state.follow(config.TRAIN.ema)
        return values.by_name()

    return whole_update


def make_step(config, state, strategy=None, xla=True):
    """The compiled update: step(*batch), the arrays of a batch from data.Batches, → Measured.

    state: TrainState; strategy: a tf.distribute strategy, each replica of which gets a share of the batch; xla: whether
    XLA compiles it.
    """
    return Step(make_update(config, state, strategy), xla)


class Step:
    """A compiled update. It returns all scalars as one vector, so that reading them waits for the device once."""

    def __init__(self, whole_update, xla):
        self.whole_update, self.names = whole_update, []
        self.compiled = tf.function(self.stacked, jit_compile=xla, autograph=False)

    def stacked(self, *batch):
        values = self.whole_update(*batch)
        self.names = list(values)  # known once this is traced, before the first call returns
        return tf.stack(list(values.values()))  # fails unless all have one precision

    def __call__(self, *batch):
        return Measured(self.compiled(*batch), self.names)


class Measured(Mapping):
    """{name: float} of one update. The vector stays on the device until a number is read."""

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


def train(run, photographs, data_facts, init=None, vgg_path=None, strategy=None, resume=False):
    """Train one network and return the path of its weights, or None if it was interrupted (all is saved then too).

    run: store.Run; photographs, data_facts: from data.read_training; init: weights to start the generator from, or
    None; vgg_path: for a loss that looks at features, from features.find_vgg; strategy: from devices.choose_strategy;
    resume: continue from the newest checkpoint. Raises UserError if a loss is not finite (see TRAIN.on_nan); the last
    checkpoint and weights are kept.
    """
    config, strategy = run.config, strategy or tf.distribute.get_strategy()
    precision, xla = devices.choose_precision(config.TRAIN.precision), devices.use_xla(config.TRAIN.xla, strategy)
    vgg_name = features.describe_vgg(config, vgg_path) if config.TRAIN.loss in VGG_LOSSES else None
    shared = {"configuration": config, "feature network": vgg_name, "precision": precision}
    shared |= {"photographs": data_facts["fingerprint"], "weights to begin with": init.parent.name if init else None}
    devices.check_agreement(strategy, shared)
    with strategy.scope():
        state, facts = make_state(run, data_facts, init, vgg_path)
    if strategy.num_replicas_in_sync > 1:
        for network in filter(None, (state.generator, state.discriminator)):
            devices.synchronise(network)
    xla = devices.use_xla(config.TRAIN.xla, strategy)
    step_function = make_step(config, state, strategy, xla)

    indices, held_out = photographs.split(config.DATA.validation)
    if not held_out:
        print("no photographs are kept for validation: it uses one that is trained on")
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
        print(f"{devices.describe(strategy, facts['precision'], xla)}; files are in {run.directory}")
        if not resume:  # for a rollback before the first TRAIN.save_every
            save_checkpoint(run.directory, 0, state.parts())
        try:
            finished = loop(run, state, step_function, batches, validation, strategy, log)
        except tf.errors.OpError as error:
            raise devices.explained(error, run) from error
        log.progress.close()
        if not finished:
            step = state.step.numpy()
            print(f"stopped at step {step}, all is saved; continue with --resume {run.name}")
            return None
        print(f"done: {run.directory / store.WEIGHTS}; samples are in {run.samples}")
    return run.directory / store.WEIGHTS


def make_state(run, data_facts, init, vgg_path):
    """(TrainState, facts for config.json) of a run, in the precision that it is trained in; arguments as for train."""
    config = run.config
    facts = {"data": data_facts, "init": init.parent.name if init else None}
    facts["precision"] = devices.choose_precision(config.TRAIN.precision)
    vgg = None
    if config.TRAIN.loss in VGG_LOSSES:
        vgg, facts["vgg"] = features.load_vgg(config, vgg_path)
    return TrainState(config, run.mode, init, vgg), facts


def batches_of(photographs, indices, config):
    """The batches (data.Batches) of a run; indices: the photographs to train on."""
    source, train = config.DATA, config.TRAIN
    how = {"detail": source.detail, "degradation": source.degradation}
    return data.Batches(photographs, indices, train.batch, source.crop, config.MODEL.scale, train.seed, **how)


SOMETIMES = ("log", "validate", "save")  # TRAIN.log_every and so on


def loop(run, state, step_function, batches, validation, strategy, log):
    """Train from state.step to TRAIN.steps: take a batch, update, and now and then log, validate and save.

    Returns True at the end, or False if it was asked to stop before (Ctrl-C); everything is saved then too.
    """
    settings, last = run.config.TRAIN, run.config.TRAIN.steps
    share = devices.workers()
    remarks, unchecked = doctor.Doctor(run.mode), {}
    first = step = int(state.step.numpy())
    stream = batches.stream(first + 1, last, share)
    while step < last:
        step, *batch = next(stream)
        learning_rate = state.set_learning_rate(run.config, step)
        unchecked[step] = step_function(*devices.distribute(strategy, *batch))
        due = {what for what in SOMETIMES if step == last or step % settings[f"{what}_every"] == 0}
        stop = log.asked_to_stop and step < last
        if due or stop or step <= first + 3:
            try:
                values = check_finite(unchecked)  # waits for the device
            except NotFinite as error:
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
            if "validate" in due:
                line |= validate(run, state, validation, step, log)
            log.metrics(step, line)
            if "save" in due or stop:  # after the log: resuming cuts off what is logged beyond the checkpoint
                state.save(run)
            log.progress.restart()
        log.progress.update()
        if stop:
            return False
    return True


def validate(run, state, validation, step, log):
    """Validate, show it, and keep the best weights of a pixel loss. Returns {name: dB} for metrics.jsonl."""
    psnr, bicubic, grid = validation()
    log.picture(step, grid)
    log.progress.write(f"step {step}: validation {psnr:.2f} dB (bicubic {bicubic:.2f} dB)")
    # PSNR falls while a GAN or a loss of features learns, so it does not choose weights there.
    by_psnr = not state.discriminator and run.config.TRAIN.loss not in VGG_LOSSES
    if by_psnr and psnr > float(state.best.numpy()):
        state.best.assign(psnr)
        store.save_weights(state.result, run.directory / store.BEST)
    return {"val_psnr_y": psnr, "val_bicubic": bicubic}


class NotFinite(UserError):
    """A loss or gradient is infinite or NaN."""


def check_finite(steps):
    """The last values of {step: Measured} as a dict of floats. Raises NotFinite, naming the first bad step.

    Gradients in float16 overflow now and then, and the optimizer skips them; that is no error.
    """
    float16 = keras.config.dtype_policy().compute_dtype == "float16"
    for step, values in steps.items():
        values = dict(values)
        checked = [name for name in values if not (float16 and name.endswith("_grad"))]
        if bad := [name for name in checked if not np.isfinite(values[name])]:
            raise NotFinite(f"step {step}: {', '.join(bad)} not finite; a smaller TRAIN.learning_rate may help")
    return values


def roll_back(run, state, error):
    """Go back to the newest checkpoint and halve the learning rate for the rest of the run.

    Raises the error, a NotFinite, if TRAIN.on_nan does not ask for this, or after ten times.
    """
    slowdown = float(state.slowdown.numpy()) / 2
    if run.config.TRAIN.on_nan != "rollback" or slowdown < 2**-10:
        raise error
    load_checkpoint(run.directory, state.parts())
    state.slowdown.assign(slowdown)
    print(f"{error}: back to step {int(state.step.numpy())}, learning rate times {slowdown:g} from there on")


def export_update(run, plan, folder):
    """Write the compiled update of a run as a program for another XLA runtime; see training/other_runtimes.py."""
    state, facts = make_state(run, plan.data_facts, plan.init, plan.vgg_path)
    indices, _ = plan.photographs.split(run.config.DATA.validation)
    batch = batches_of(plan.photographs, indices, run.config)(1)
    other_runtimes.export_update(folder, run, state, make_update(run.config, state), batch, facts)


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
    for run in plan.jobs:
        places.remember(run.name, args.data)
    devices.estimate(plan.jobs, newest_step(asked.directory) if plan.resumed else 0)
    init = plan.init
    for run in plan.jobs:
        init = train(run, plan.photographs, plan.data_facts, init, plan.vgg_path, strategy, plan.resumed)
        if not init:
            if run is not asked:
                print(f"when it is finished, --mode=srgan --init {run.name} trains the GAN")
            return


if __name__ == "__main__":
    terminal.run_command(main)
