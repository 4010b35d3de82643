"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan). The losses stand first, as the slides show them.

One step, from uint8 crops to updated weights, is one function compiled by XLA. Ledig et al., CVPR 2017, section 2.
"""

import argparse
import json

import numpy as np

import data
import devices
import doctor
import features
import logs
import losses
import runs
import utils
from baselines import RECONSTRUCTIONS
from config import CHOICES, MODES, PRESETS, VGG_LOSSES, check_config, make_config, make_init_config, set_value
from state import TrainState, load_checkpoint, newest_step, save_checkpoint
from utils import LazyModule, UserError
from validation import Validation

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

    run: runs.Run; photographs, data_facts: from data.read_training; init: weights to start the generator from, or None;
    vgg_path: for a loss that looks at features, from features.find_vgg; strategy: from devices.choose_strategy; resume:
    go on from the newest checkpoint. Raises UserError if a loss is not finite (see TRAIN.on_nan); the last checkpoint
    and weights are kept.
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
    batches = data.Batches(
        photographs, indices, config.TRAIN.batch, config.DATA.crop, config.MODEL.scale, config.TRAIN.seed
    )
    if resume:
        load_checkpoint(run.directory, state.parts())
    else:
        runs.create(run, facts)
    with logs.Log(run, int(state.step.numpy())) as log:
        if resume:
            print(f"resuming {run.name} at step {int(state.step.numpy())}")
        kind = runs.kind_of(run.mode, config)
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
        print(f"done: {run.directory / runs.WEIGHTS}; samples are in {run.samples}")
    return run.directory / runs.WEIGHTS


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
                    runs.save_weights(state.result, run.directory / runs.BEST)
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


# ---------------------------------------------------------------------------------------------------------------------
# The command line


# What a flag is short for. How a run is computed may be changed when it is resumed, what is computed may not.
WHAT = {"batch": "TRAIN.batch", "seed": "TRAIN.seed", "vgg": "VGG.network", "precision": "TRAIN.precision"}
WHAT |= {"model": "MODEL.network", "upsampler": "MODEL.upsampler", "upsampler_init": "MODEL.upsampler_init"}
HOW = {"steps": "TRAIN.steps", "cache": "DATA.cache"}
HOW |= {name: f"TRAIN.{name}" for name in ("xla", "accumulate", "replicas", "on_nan")}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--mode", choices=MODES, help="srgan: with a discriminator (default: what the preset is of, else srresnet)")
    add(
        "--preset",
        choices=PRESETS,
        help="the losses: the slides', or a column of the paper's Table 1 (default: slides)",
    )
    add("--model", choices=CHOICES["MODEL.network"], help="the network to train (default: the preset's, else srresnet)")
    add("--upsampler", choices=CHOICES["MODEL.upsampler"], help="of srresnet (default: subpixel)")
    add("--upsampler-init", choices=CHOICES["MODEL.upsampler_init"], help="of sub-pixel convolutions (default: icnr)")
    add("--steps", metavar="N", help="updates (default: the paper's, 1e6 for srresnet, 2e5 for srgan)")
    add("--batch", metavar="N", help="crops an update (default: the network's, 16 for the paper's)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of HR photographs")
    add("--cache", choices=CHOICES["DATA.cache"], help="where decoded photographs are kept (default: auto)")
    add("--name", metavar="RUN", help="name of the run, checkpoint/RUN/ (default: mode and time)")
    add("--init", metavar="WEIGHTS", help="weights to start from: a file, a run's directory or its name")
    add("--vgg", choices=CHOICES["VGG.network"], help="the perceptual network (default: auto)")
    add("--seed", metavar="N", help="of weights and batches (default: 0)")
    add(
        "--precision",
        metavar="P",
        help="auto, float32, mixed_float16, mixed_bfloat16 (default: auto, which is mixed on GPUs with tensor cores)",
    )
    add("--no-xla", dest="xla", action="store_false", default=None, help="run the plain graph, do not compile the step")
    add(
        "--accumulate",
        metavar="N",
        help="work a batch off in N parts, one after the other, to save memory (default: 1)",
    )
    add(
        "--replicas",
        metavar="N",
        help="copies of the network, each with its share of the batch (default: one for each GPU)",
    )
    add("--on-nan", choices=CHOICES["TRAIN.on_nan"], help="what to do about a loss that is no number (default: stop)")
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of config.py; repeatable")
    add(
        "--resume",
        metavar="RUN",
        help="go on with this run from its newest checkpoint (besides: --data, --steps, and how it is computed)",
    )
    add("--dry-run", action="store_true", help="check everything, print the configuration and stop")
    return parser.parse_args(arguments)


def main():
    args = parse_arguments()
    if args.resume is not None:
        return resume(args)
    args.preset = args.preset or "slides"
    args.mode = args.mode or next(iter(PRESETS[args.preset]))
    overrides = args.set + settings_of(args, WHAT | HOW)
    config = make_config(args.mode, args.preset, overrides)
    name = runs.new_name(runs.kind_of(args.mode, config)) if args.name is None else args.name
    jobs = [runs.Run(runs.check_name(name), args.mode, args.preset, config)]
    init = None if args.init is None else check_init(args.init, config)
    photographs, data_facts = data.read_training(args.data, config)

    vgg_path = features.find_vgg(config.VGG.network) if config.TRAIN.loss in VGG_LOSSES else None
    if args.mode == "srgan" and not init:
        init_config = make_init_config(config, args.preset, overrides)
        init, why = runs.find_init(config.MODEL, data_facts["fingerprint"], init_config.TRAIN.steps)
        if init:
            print(f"starting from {init} ({why})")
        else:
            jobs.insert(0, runs.Run(runs.check_name(f"{name}-srresnet"), "srresnet", args.preset, init_config))
            print(
                f"no SRResNet weights to start from (--init names some): first training SRResNet as run "
                f"{name}-srresnet for {init_config.TRAIN.steps:,} updates (--set TRAIN.init_steps=N)"
            )
    if args.dry_run:
        print(json.dumps(config, indent=2))
        print(f"dry run: all is in order, {jobs[-1].directory} would be written")
        return

    if len(jobs) > 1 and devices.workers()[1] > 1:
        raise UserError("several workers need weights to start a GAN from: train SRResNet first and name it by --init")
    strategy = devices.choose_strategy(config.TRAIN.replicas)
    devices.check_shares(config.TRAIN, strategy)
    devices.estimate(jobs)
    for run in jobs:
        init = train(run, photographs, data_facts, init, vgg_path, strategy)
        if not init:
            if run is not jobs[-1]:
                print(f"then --mode=srgan --init {run.name} trains the GAN")
            return


def settings_of(args, flags):
    """["SECTION.key=value"] of the flags {name: "SECTION.key"} that were given."""
    given = {key: getattr(args, flag) for flag, key in flags.items()}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def resume(args):
    """Go on with a run by its own configuration, if the photographs and the VGG are those that it was begun with."""
    kept = ("mode", "preset", "name", "init", "set", *WHAT)
    if given := [f"--{key}" for key in kept if getattr(args, key) not in (None, [])]:
        raise UserError(f"--resume goes on with the run's own settings: leave out {', '.join(given)}")
    run, about = runs.reopen(args.resume)
    # What "auto" was where the run was begun: a checkpoint of float16 has more in it than one of float32.
    for override in [f"TRAIN.precision={about['precision']}"] * ("precision" in about) + settings_of(args, HOW):
        set_value(run.config, *override.split("=", 1))
    check_config(run.config)
    photographs, data_facts = data.read_training(args.data, run.config)
    theirs = about.get("data", {})
    if data_facts["fingerprint"] != theirs.get("fingerprint"):
        raise UserError(
            f"{run.name} was begun with others ({theirs.get('images')} images in '{theirs.get('name')}'; these "
            f"are {data_facts['images']} in '{data_facts['name']}', with other names or sizes): name them by --data"
        )
    looks = run.config.TRAIN.loss in VGG_LOSSES
    vgg_path = features.find_vgg(run.config.VGG.network) if looks else None
    if looks and (now := features.describe_vgg(run.config, vgg_path)) != about.get("vgg"):
        raise UserError(f"{run.name} was begun with {about.get('vgg')}, and what there is now is {now}")
    if (done := newest_step(run.directory)) >= run.config.TRAIN.steps:
        raise UserError(f"{run.name} has done {done:,} steps already: --steps must name more")
    if args.dry_run:
        print(json.dumps(run.config, indent=2))
        print(f"dry run: all is in order, {run.name} would go on")
        return
    strategy = devices.choose_strategy(run.config.TRAIN.replicas)
    devices.check_shares(run.config.TRAIN, strategy)
    if args.steps is not None and devices.is_chief():
        runs.write_json(run.directory / "config.json", about)  # about shares the configuration
    devices.estimate([run])
    train(run, photographs, data_facts, vgg_path=vgg_path, strategy=strategy, resume=True)


def check_init(path, config):
    """The weights file of --init. Raises UserError if there is none or if it is of another architecture."""
    weights, about = runs.describe_weights(path)
    if different := runs.differences(about["config"].MODEL, config.MODEL):
        raise UserError(f"{weights} is of another architecture than this run: {', '.join(different)}")
    print(f"starting from {weights} (--init)")
    return weights


if __name__ == "__main__":
    utils.run_command(main)
