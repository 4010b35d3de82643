"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan). The losses stand first, as the slides show them.

One step, from uint8 crops to updated weights, is one function compiled by XLA. Ledig et al., CVPR 2017, section 2.
"""

import argparse
import json
import signal

import numpy as np

import data
import metrics
import model
import runs
import utils
from config import MODES, PRESETS, check_config, learning_rate_at, make_config, make_init_config, set_value
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")
tl = LazyModule("tensorlayer")


# ---------------------------------------------------------------------------------------------------------------------
# Losses. fake and real are [batch, crop, crop, 3] in [-1, 1], logits [batch, 1], the VGG embeddings [batch, h, w, c].


def discriminator_losses(logits_real, logits_fake):
    """(d_loss1, d_loss2) of the slides: real ones are to be called real, generated ones fake (paper, Eq. 2)."""
    d_loss1 = tl.cost.sigmoid_cross_entropy(logits_real, tf.ones_like(logits_real), name="d1")
    d_loss2 = tl.cost.sigmoid_cross_entropy(logits_fake, tf.zeros_like(logits_fake), name="d2")
    return d_loss1, d_loss2


def srresnet_losses(fake, real):
    """The pixel loss alone (paper, Eq. 4)."""
    mse_loss = tl.cost.mean_squared_error(fake, real, is_mean=True)
    return {"mse_loss": mse_loss}


def slides_losses(fake, real, logits_fake, vgg_predict_emb, vgg_target_emb):
    """The three terms of the slides: g_loss = mse_loss + vgg_loss + g_gan_loss."""
    g_gan_loss = 1e-3 * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake), name="g")
    mse_loss = tl.cost.mean_squared_error(fake, real, is_mean=True)
    vgg_loss = 2e-6 * tl.cost.mean_squared_error(vgg_predict_emb, vgg_target_emb, is_mean=True)
    return {"mse_loss": mse_loss, "vgg_loss": vgg_loss, "g_gan_loss": g_gan_loss}


def paper_losses(fake, real, logits_fake, vgg_predict_emb, vgg_target_emb):
    """The paper's SRGAN-VGG54 (Eq. 3, 5, 6): features over 12.75, a mean over pixels, a sum over channels, no MSE."""
    g_gan_loss = 1e-3 * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake), name="g")
    channels = vgg_predict_emb.shape[-1]
    vgg_loss = channels * tl.cost.mean_squared_error(vgg_predict_emb / 12.75, vgg_target_emb / 12.75, is_mean=True)
    return {"vgg_loss": vgg_loss, "g_gan_loss": g_gan_loss}


SRGAN_LOSSES = {"slides": slides_losses, "paper": paper_losses}


# ---------------------------------------------------------------------------------------------------------------------
# The step


def make_adam(config, network):
    """Adam for all trainable weights of a network; the loop sets its learning rate, a variable, at every step."""
    optimizer = keras.optimizers.Adam(config.TRAIN.learning_rate, beta_1=config.TRAIN.beta1)
    optimizer.build(network.trainable_variables)
    return optimizer


def term_gradients(tape, losses, fake):
    """{term: its gradient at the generator's output}. Their sum is the gradient of g_loss, the sum of the terms."""
    zero = tf.UnconnectedGradients.ZERO  # a dead term shows as zero
    return {name: tape.gradient(loss, fake, unconnected_gradients=zero) for name, loss in losses.items()}


def make_step(config, generator, g_optimizer, discriminator=None, d_optimizer=None, vgg=None):
    """The compiled update: step(crops, turns) → {name: scalar tensor}; crops and turns as data.Batches gives them.

    Without a discriminator it is SRResNet's. The terms are differentiated one by one down to the generator's output,
    which costs nothing more than their sum and shows the weight of each: `<term>_grad`, an L2 norm.
    """

    @tf.function(jit_compile=config.TRAIN.xla, autograph=False)
    def srresnet_step(crops, turns):
        lr_01, real = data.degrade(crops, turns, config.MODEL.scale)
        with tf.GradientTape() as g_tape:
            fake = generator(lr_01, training=True)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(fake)
            losses = srresnet_losses(fake, real)
        return losses | update_generator(g_tape, tape, losses, fake)

    @tf.function(jit_compile=config.TRAIN.xla, autograph=False)
    def srgan_step(crops, turns):
        lr_01, real = data.degrade(crops, turns, config.MODEL.scale)
        with tf.GradientTape() as g_tape:
            fake = generator(lr_01, training=True)

        # The discriminator first, then the generator against the updated one (paper: alternating, k = 1).
        with tf.GradientTape() as d_tape:
            logits_real = discriminator(real, training=True)
            logits_fake = discriminator(fake, training=True)
            d_loss1, d_loss2 = discriminator_losses(logits_real, logits_fake)
            d_loss = d_loss1 + d_loss2
        d_variables = discriminator.trainable_variables
        d_optimizer.apply(d_tape.gradient(d_loss, d_variables), d_variables)
        judged = {"d_real": tf.reduce_mean(tf.sigmoid(logits_real)), "d_fake": tf.reduce_mean(tf.sigmoid(logits_fake))}

        vgg_target_emb = vgg(real)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(fake)
            logits_fake = discriminator(fake, training=True)
            vgg_predict_emb = vgg(fake)
            losses = SRGAN_LOSSES[config.TRAIN.loss](fake, real, logits_fake, vgg_predict_emb, vgg_target_emb)
        return losses | update_generator(g_tape, tape, losses, fake) | {"d_loss": d_loss} | judged

    def update_generator(g_tape, tape, losses, fake):
        g_loss = sum(losses.values())
        gradients = term_gradients(tape, losses, fake)
        variables = generator.trainable_variables
        g_optimizer.apply(g_tape.gradient(fake, variables, output_gradients=sum(gradients.values())), variables)
        norms = {f"{name}_grad": tf.norm(gradient) for name, gradient in gradients.items()}
        return {"g_loss": g_loss} | norms

    return srgan_step if discriminator else srresnet_step


# ---------------------------------------------------------------------------------------------------------------------
# Validation


class Validation:
    """PSNR on Y and a sample grid of a few photographs that are not trained on."""

    def __init__(self, generator, config, photographs):
        """photographs: uint8 [h, w, 3] each; their middle, 256 pixels at most and of one size for all, is used."""
        self.scale = config.MODEL.scale
        side = min(256, *(n for photo in photographs for n in photo.shape[:2])) // self.scale * self.scale
        self.hr = [self.middle(photo, side) for photo in photographs]
        self.lr = [utils.imresize(hr, 1 / self.scale) for hr in self.hr]
        self.bicubic = [utils.imresize(lr, self.scale) for lr in self.lr]
        self.infer = tf.function(lambda lr_01: generator(lr_01, training=False), jit_compile=config.TRAIN.xla)

    @staticmethod
    def middle(image, side):
        top, left = ((n - side) // 2 for n in image.shape[:2])
        return image[top : top + side, left : left + side].copy()  # a view would keep the whole photograph

    def __call__(self, grid_path):
        """(PSNR of SR, PSNR of bicubic) in dB, means over the photographs; writes LR | bicubic | SR | HR of four."""
        sr = list(utils.m11_to_u8(self.infer(tf.constant(utils.u8_to_01(np.stack(self.lr))))))
        nearest = [utils.imresize(lr, self.scale, "nearest") for lr in self.lr]
        utils.write_image(grid_path, utils.picture_grid(list(zip(nearest, self.bicubic, sr, self.hr, strict=True))[:4]))
        return tuple(
            float(np.mean([metrics.psnr_y(image, hr, self.scale) for image, hr in zip(images, self.hr, strict=True)]))
            for images in (sr, self.bicubic)
        )


# ---------------------------------------------------------------------------------------------------------------------
# The loop


SOMETIMES = ("log", "validate", "save")  # TRAIN.log_every and so on


def train(run, photographs, data_facts, init=None, vgg=None, resume=False):
    """Train one network and return the path of its weights, or None if it was interrupted (all is saved then too).

    run: runs.Run; photographs, data_facts: from data.read_training; init: weights to start the generator from, or None;
    vgg: for a GAN, from model.load_vgg; resume: go on from the run's newest checkpoint. Raises UserError if a loss is
    not finite; the last checkpoint and weights are kept then.
    """
    config, directory = run.config, run.directory
    keras.utils.set_random_seed(config.TRAIN.seed)
    generator = model.build_generator(config.MODEL)
    if init:
        runs.load_weights(generator, init)
    g_optimizer = make_adam(config, generator)
    facts = {"data": data_facts, "init": init.parent.name if init else None}
    optimizers = [g_optimizer]
    parts = {"generator": generator, "g_optimizer": g_optimizer}  # what a checkpoint holds
    if run.mode == "srgan":
        discriminator = model.build_discriminator(config.MODEL, config.DATA.crop)
        optimizers.append(make_adam(config, discriminator))
        parts |= {"discriminator": discriminator, "d_optimizer": optimizers[1]}
        facts["vgg"] = vgg[1]
        step_function = make_step(config, generator, g_optimizer, discriminator, optimizers[1], vgg[0])
    else:
        step_function = make_step(config, generator, g_optimizer)

    indices, held_out = photographs.split(config.DATA.validation)
    batches = data.Batches(
        photographs, indices, config.TRAIN.batch, config.DATA.crop, config.MODEL.scale, config.TRAIN.seed
    )
    if not held_out:
        print("no photographs are held out, validation shows one that is trained on")
    validation = Validation(generator, config, [photographs[i] for i in held_out or indices[:1]])
    first = 0
    if resume:
        first = runs.load_checkpoint(directory, parts)
        print(f"resuming {run.name} at step {first}")
    else:
        runs.create(run, facts)
    samples = runs.HERE / "samples" / run.name
    samples.mkdir(parents=True, exist_ok=True)
    print(f"run {run.name}: {config.TRAIN.steps:,} updates of {run.mode}, batch {config.TRAIN.batch}, in {directory}")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    print(f"on {', '.join(device.name for device in devices)}; the first update compiles the step, for a minute or so")

    progress = runs.Progress(first, config.TRAIN.steps)
    try:
        for step, crops, turns in batches.stream(first + 1, config.TRAIN.steps):
            learning_rate = learning_rate_at(step, config.TRAIN)
            for optimizer in optimizers:
                optimizer.learning_rate.assign(learning_rate)
            values = step_function(tf.constant(crops), tf.constant(turns))
            last = step == config.TRAIN.steps
            log, validate, save = (last or step % config.TRAIN[f"{what}_every"] == 0 for what in SOMETIMES)
            if step <= first + 3 or log or validate or save:
                values = {name: float(value) for name, value in values.items()}  # waits for the device
                check_finite(step, values)
                line = dict(values, learning_rate=learning_rate, seconds_per_step=progress.show(step, values))
                if validate:
                    line["val_psnr_y"], bicubic = validation(samples / f"step_{step:07d}.png")
                    progress.write(f"step {step}: validation {line['val_psnr_y']:.2f} dB (bicubic {bicubic:.2f} dB)")
                runs.log_metrics(directory, step=step, **line)
            if save:  # after the log: what is logged beyond a checkpoint is cut off when it is resumed from
                save_all(run, parts)
            progress.update()
    except KeyboardInterrupt:
        step = save_all(run, parts)
        progress.close()
        print(f"\nstopped at step {step}, all is saved; go on with the same --data and --resume {run.name}")
        return None
    finally:
        progress.close()
    print(f"done: {directory / runs.WEIGHTS}; samples are in {samples}")
    return directory / runs.WEIGHTS


def check_finite(step, values):
    """Raise UserError, naming the terms, if one of `values` {name: float} is not finite."""
    if bad := [name for name, value in values.items() if not np.isfinite(value)]:
        raise UserError(f"step {step}: {', '.join(bad)} not finite; a smaller TRAIN.learning_rate may help")


def save_all(run, parts):
    """Write a checkpoint and the generator's weights; return the step. The optimizer counts it in the same breath as it
    updates the weights, so that an interruption between the two cannot part them."""
    step = int(parts["g_optimizer"].iterations)
    runs.save_checkpoint(run.directory, step, parts)
    runs.save_weights(parts["generator"], run.directory)
    return step


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--mode", choices=MODES, help="which network to train (default: srresnet)")
    add("--preset", choices=PRESETS, help="the losses of --mode=srgan (default: slides)")
    add("--steps", metavar="N", help="updates of this mode (default: 1e6 for srresnet, 2e5 for srgan)")
    add("--batch", metavar="N", help="crops an update (default: 16)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of HR photographs")
    add("--cache", choices=("auto", "ram", "disk", "none"), help="where decoded photographs are kept (default: auto)")
    add("--name", metavar="RUN", help="name of the run, checkpoint/RUN/ (default: mode and time)")
    add("--init", metavar="WEIGHTS", help="weights to start from: a file, a run's directory or its name")
    add("--vgg", choices=("auto", "vgg19", "hed"), help="the perceptual network (default: auto)")
    add("--seed", metavar="N", help="of weights and batches (default: 0)")
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of config.py; repeatable")
    add(
        "--resume",
        metavar="RUN",
        help="go on with this run from its newest checkpoint (only --steps, --data and --cache besides)",
    )
    add("--dry-run", action="store_true", help="check everything, print the configuration and stop")
    return parser.parse_args(arguments)


def main():
    args = parse_arguments()
    if args.resume is not None:
        return resume(args)
    args.mode = args.mode or "srresnet"
    args.preset = args.preset or "slides"
    flags = {"TRAIN.steps": args.steps, "TRAIN.batch": args.batch, "TRAIN.seed": args.seed, "VGG.network": args.vgg}
    flags["DATA.cache"] = args.cache
    overrides = args.set + [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = make_config(args.mode, args.preset, overrides)
    name = runs.new_name(args.mode) if args.name is None else args.name
    jobs = [runs.Run(runs.check_name(name), args.mode, args.preset, config)]
    init = None if args.init is None else check_init(args.init, config)
    photographs, data_facts = data.read_training(args.data, config)

    if args.mode == "srgan":
        vgg_path = model.find_vgg(config.VGG.network)
        if not init:
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

    runs.estimate(jobs)
    catch_termination()
    vgg = model.load_vgg(config, vgg_path) if args.mode == "srgan" else None
    for run in jobs:
        init = train(run, photographs, data_facts, init, vgg)
        if not init:
            return


def resume(args):
    """Go on with a run by its own configuration, if the photographs and the VGG are those that it was begun with."""
    kept = ("mode", "preset", "batch", "name", "init", "vgg", "seed", "set")
    if given := [f"--{key}" for key in kept if getattr(args, key) not in (None, [])]:
        raise UserError(f"--resume goes on with the run's own settings: leave out {', '.join(given)}")
    run, about = runs.reopen(args.resume)
    if args.steps is not None:
        set_value(run.config, "TRAIN.steps", args.steps)
        check_config(run.config)
    if args.cache is not None:
        set_value(run.config, "DATA.cache", args.cache)
    photographs, data_facts = data.read_training(args.data, run.config)
    theirs = about.get("data", {})
    if data_facts["fingerprint"] != theirs.get("fingerprint"):
        raise UserError(
            f"{run.name} was begun with others ({theirs.get('images')} images in '{theirs.get('name')}'; these "
            f"are {data_facts['images']} in '{data_facts['name']}', with other names or sizes): name them by --data"
        )
    vgg = None
    if run.mode == "srgan":
        vgg = model.load_vgg(run.config, model.find_vgg(run.config.VGG.network))
        if vgg[1] != about.get("vgg"):
            raise UserError(f"{run.name} was begun with {about.get('vgg')}, and what there is now is {vgg[1]}")
    newest = runs.checkpoints(run.directory)
    if newest and runs.step_of(newest[0]) >= run.config.TRAIN.steps:
        done = runs.step_of(newest[0])
        raise UserError(f"{run.name} has done {done:,} steps already: --steps must name more")
    if args.dry_run:
        print(json.dumps(run.config, indent=2))
        print(f"dry run: all is in order, {run.name} would go on")
        return
    if args.steps is not None:
        runs.write_json(run.directory / "config.json", about)  # about shares the configuration
    runs.estimate([run])
    catch_termination()
    train(run, photographs, data_facts, vgg=vgg, resume=True)


def catch_termination():
    """A polite kill saves as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def check_init(path, config):
    """The weights file of --init. Raises UserError if there is none or if it is of another architecture."""
    weights, about = runs.describe_weights(path)
    if different := runs.differences(about["config"].MODEL, config.MODEL):
        raise UserError(f"{weights} is of another architecture than this run: {', '.join(different)}")
    print(f"starting from {weights} (--init)")
    return weights


if __name__ == "__main__":
    utils.run_command(main)
