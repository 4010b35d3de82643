"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan). The losses stand first, as the slides show them.

One step, from uint8 crops to updated weights, is one function compiled by XLA. Ledig et al., CVPR 2017, section 2.
"""

import numpy as np

import data
from cli import terminal
from config import VGG_LOSSES
from networks import features, losses
from networks.baselines import RECONSTRUCTIONS
from runs import devices, logs, store
from training import doctor
from training.plan import parse_arguments, read_plan
from training.state import TrainState, load_checkpoint, save_checkpoint
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
# The step


def make_step(config, state, strategy=None, xla=True):
    """The compiled update: step(crops, turns) → {name: scalar tensor}; crops and turns as data.Batches gives them.

    state: TrainState; strategy: a tf.distribute strategy, whose every replica gets its share of the batch; xla: whether
    XLA compiles it. The loss terms are differentiated one by one down to the generator's output, which costs nothing
    more than their sum and shows the weight of each: `<term>_grad`, an L2 norm.
    """
    _ = tl.cost  # loaded now: TensorLayer makes variables, which it must not do while the step is traced
    strategy = strategy or tf.distribute.get_strategy()
    replicas, accumulate = strategy.num_replicas_in_sync, config.TRAIN.accumulate
    generator, discriminator, vgg = state.generator, state.discriminator, state.vgg
    more = [layer.output for layer in generator.layers if layer.name == RECONSTRUCTIONS]
    trained = keras.Model(generator.input, [generator.output, *more])

    def generate(lr_01):
        """([SR, and what else is supervised], tape)."""
        with tf.GradientTape() as g_tape:
            outputs = tf.nest.flatten(trained(lr_01, training=config.TRAIN.batch_norm == "batch"))
        return outputs, g_tape

    def d_gradients(fake, real):
        with tf.GradientTape() as tape:
            logits_real = discriminator(real, training=True)
            logits_fake = discriminator(fake, training=True)
            d_loss1, d_loss2 = discriminator_losses(logits_real, logits_fake)
            d_loss = d_loss1 + d_loss2
            scaled = state.d_optimizer.scale_loss(d_loss)
        judged = {"d_real": tf.reduce_mean(tf.sigmoid(logits_real)), "d_fake": tf.reduce_mean(tf.sigmoid(logits_fake))}
        return tape.gradient(scaled, discriminator.trainable_variables), {"d_loss": d_loss} | judged

    def seen(images):
        """What the discriminator and VGG see of them in this update."""
        return losses.shifted(images, config.TRAIN.seed, state.step) if config.TRAIN.shift else images

    def g_gradients(outputs, g_tape, real, lr_01):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(outputs)
            fake = seen(outputs[0])
            logits_fake = discriminator(fake, training=True) if discriminator else None
            share = 1 - tf.cast(state.step, fake.dtype) / config.TRAIN.steps
            terms = generator_losses(config, fake, seen(real), logits_fake, vgg, *outputs[1:], share=share)
            scale = tf.cast(state.g_optimizer.scale_loss(1.0), fake.dtype)  # above one for float16 alone
            scaled = {name: scale * loss for name, loss in terms.items()}
        zero = tf.UnconnectedGradients.ZERO  # a dead term shows as zero
        by_term = {name: tape.gradient(loss, outputs, unconnected_gradients=zero) for name, loss in scaled.items()}
        together = [sum(parts) for parts in zip(*by_term.values(), strict=True)]
        gradients = g_tape.gradient(outputs, generator.trainable_variables, output_gradients=together)
        # This is the gradient of a part's mean; the batch's mean has it divided by the number of parts. Squares add up.
        norms = {
            f"{name}_grad": tf.linalg.global_norm(by_term[name]) ** 2 / scale**2 / (replicas * accumulate)
            for name in terms
        }
        values = terms | {"g_loss": sum(terms.values())} | doctor.measure(outputs[0], real, lr_01, config.MODEL.scale)
        return gradients, values | norms

    def update(optimizer, gradients, network):
        """Apply the mean of all replicas' gradients, clipped; return its norm."""
        scale = tf.cast(optimizer.scale_loss(1.0), gradients[0].dtype)
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        norm = tf.linalg.global_norm(gradients)
        if config.TRAIN.clip_value:
            limit = config.TRAIN.clip_value * scale / tf.cast(optimizer.learning_rate, gradients[0].dtype)
            gradients = [tf.clip_by_value(gradient, -limit, limit) for gradient in gradients]
        if config.TRAIN.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, config.TRAIN.clip_norm * scale, use_norm=norm)
        # Keras sums over the replicas.
        optimizer.apply([gradient / replicas for gradient in gradients], network.trainable_variables)
        return norm / scale

    def replica_step(crops, turns):
        lr_01, real = data.degrade(crops, turns, config.MODEL.scale)
        # One batch goes through the generator once; parts that are accumulated, twice, or all would be kept in memory.
        whole = generate(lr_01) if accumulate == 1 else None
        values = {}
        # The discriminator first, then the generator against the updated one (paper: alternating, k = 1).
        if discriminator:

            def d_part(lr_01, real):
                outputs, _ = whole or generate(lr_01)
                return d_gradients(seen(outputs[0]), seen(real))

            gradients, values = devices.mean_over_parts(d_part, accumulate, lr_01, real)
            values["d_grad"] = update(state.d_optimizer, gradients, discriminator)

        def g_part(lr_01, real):
            outputs, g_tape = whole or generate(lr_01)
            return g_gradients(outputs, g_tape, real, lr_01)

        gradients, g_values = devices.mean_over_parts(g_part, accumulate, lr_01, real)
        if config.TRAIN.last_layer_rate != 1:
            last = {id(v) for v in [layer for layer in generator.layers if layer.trainable_weights][-1].weights}
            rates = [config.TRAIN.last_layer_rate if id(v) in last else 1.0 for v in generator.trainable_variables]
            gradients = [rate * gradient for rate, gradient in zip(rates, gradients, strict=True)]
        values |= g_values | {"g_grad": update(state.g_optimizer, gradients, generator)}
        return values

    @tf.function(jit_compile=xla, autograph=False)
    def step(crops, turns):
        if replicas == 1:
            values = replica_step(crops, turns)
        else:
            values = strategy.run(replica_step, (crops, turns))
            values = {name: strategy.reduce("mean", value, axis=None) for name, value in values.items()}
        values |= doctor.strengths(values)
        for name in doctor.terms_of(values):
            values[f"{name}_grad"] = tf.sqrt(values[f"{name}_grad"])
        state.step.assign_add(1)
        if state.average:
            state.follow(config.TRAIN.ema)
        return values

    return step


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
    crop, detail = config.DATA.crop, config.DATA.detail
    batches = data.Batches(
        photographs, indices, config.TRAIN.batch, crop, config.MODEL.scale, config.TRAIN.seed, detail
    )
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
                if line["val_psnr_y"] > float(state.best.numpy()):
                    state.best.assign(line["val_psnr_y"])
                    store.save_weights(state.result, run.directory / store.BEST)
            log.metrics(step, line)
            if save or stop:  # after the log: what is logged beyond a checkpoint is cut off when it is resumed from
                state.save(run)
        log.progress.update()
        if stop:
            return False
    return True


class NotFinite(UserError):
    """A loss or gradient is infinite or no number."""


def check_finite(steps):
    """The last values of {step: {name: scalar tensor}} as floats. Raises NotFinite, naming the first bad step.

    Gradients in float16 overflow now and then and are left out by the optimizer; that is no error.
    """
    float16 = keras.config.dtype_policy().compute_dtype == "float16"
    for step, values in steps.items():
        values = {name: float(value) for name, value in values.items()}
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


def main():
    plan = read_plan(parse_arguments())
    if plan is None:
        return  # a dry run
    asked = plan.jobs[-1]
    strategy = devices.choose_strategy(asked.config.TRAIN.replicas)
    devices.check_shares(asked.config.TRAIN, strategy)
    if plan.about and devices.is_chief():
        store.write_json(asked.directory / "config.json", plan.about)
    devices.estimate(plan.jobs)
    init = plan.init
    for run in plan.jobs:
        init = train(run, plan.photographs, plan.data_facts, init, plan.vgg_path, strategy, plan.resumed)
        if not init:
            if run is not asked:
                print(f"then --mode=srgan --init {run.name} trains the GAN")
            return


if __name__ == "__main__":
    terminal.run_command(main)
