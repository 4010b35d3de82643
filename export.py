"""Write a trained generator as SavedModel, ONNX and TFLite, and prove each on photographs before it is kept.

Every export takes LR uint8 [batch, h, w, 3], called `lr`, and gives SR uint8 [batch, scale·h, scale·w, 3], called `sr`:
RGB in grey levels, any batch and any size, conversion and rounding inside. docs/export.md shows how each is used.
"""

import argparse
import importlib.util
import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data
import download
import evaluate
import metrics
import model
import runs
import tables
import testsets
import utils
from photographs import Photographs
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
keras = LazyModule("keras")

SHIPPED = ("srgan_x4", "srresnet_x4")  # the first of them that is there is exported if no run is named
CROP = 64  # side in pixels of the LR crops that int8 is calibrated on
ODD = (33, 47)  # height and width of the crops by which a batch of two is proven
ABOUT = "about.json"  # inside a SavedModel or a .tflite; ONNX has properties
MACHINE = ("tensorflow", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert")  # whose versions export.json names
OPSET = 17  # of ONNX: old enough for most programs that read it


class Source(NamedTuple):
    """What is exported: the folded generator, {word: text} that goes into each file, and LR crops to calibrate on."""

    network: "keras.Model"
    about: dict
    crops: list


# ---------------------------------------------------------------------------------------------------------------------
# The graph


def frozen(network):
    """The network as a function whose weights become constants of the graph: every converter takes these."""
    arrays = network.get_weights()

    def call(x):
        return network.stateless_call([tf.constant(array) for array in arrays], [], x, training=False)[0]

    return call


def in_grey_levels(network):
    """The exported function: `lr` uint8 [batch, h, w, 3] to {"sr": uint8 [batch, scale·h, scale·w, 3]}.

    network: LR in [0, 1] to SR in [-1, 1]. Around it is what utils.u8_to_01 and utils.m11_to_u8 do.
    """

    generator = frozen(network)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")])
    def upscale(lr):
        sr_m11 = generator(tf.cast(lr, tf.float32) / 255.0)
        return {"sr": tf.cast(tf.clip_by_value(tf.floor((sr_m11 + 1) * 127.5 + 0.5), 0, 255), tf.uint8)}

    return upscale


def to_be_quantised(network):
    """What int8 is made from: `lr` float32 in [0, 1] to {"sr": float32 in [0, 1]}; 255 steps of it are grey levels.

    The tail is Keras's convolution again: model.row_convolution's nine parts would each be rounded to eight bits.
    """
    rows = network.get_layer("tail_conv")
    tail = keras.layers.Conv2D.from_config(rows.get_config())
    whole = keras.Model(network.input, tail(rows.input))
    tail.set_weights(rows.get_weights())
    generator = frozen(whole)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="lr")])
    def upscale(lr_01):
        return {"sr": tf.clip_by_value((generator(lr_01) + 1) / 2, 0, 1)}

    return upscale


# ---------------------------------------------------------------------------------------------------------------------
# Writing. Each function writes a Source to a path.


def held(upscale):
    """An object with the function on it, which is what TensorFlow saves; by it the inputs keep their names."""
    holder = tf.Module()
    holder.upscale = upscale
    return holder


def write_savedmodel(source, path):
    holder = held(in_grey_levels(source.network))
    tf.saved_model.save(holder, path, signatures=holder.upscale)
    (path / "assets.extra").mkdir()  # TensorFlow's place for what users add
    (path / "assets.extra" / ABOUT).write_text(json.dumps(source.about, indent=2) + "\n")


def write_onnx(source, path):
    import onnx
    import tf2onnx

    upscale = in_grey_levels(source.network)
    proto, _ = tf2onnx.convert.from_function(upscale, upscale.input_signature, opset=OPSET)
    for value, factor in ((proto.graph.input[0], ""), (proto.graph.output[0], f"{source.about['scale']}*")):
        for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False):
            dim.dim_param = name if name == "batch" else factor + name
    onnx.helper.set_model_props(proto, source.about)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def converter_of(upscale):
    return tf.lite.TFLiteConverter.from_concrete_functions([upscale.get_concrete_function()], held(upscale))


def write_tflite(source, path):
    finish_tflite(converter_of(in_grey_levels(source.network)), source, path)


def write_float16(source, path):
    """Weights in 16 bits, which are made 32 again when the file is loaded: half the size, not more speed on a CPU."""
    converter = converter_of(in_grey_levels(source.network))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    finish_tflite(converter, source, path)


def write_int8(source, path):
    """Everything in whole numbers: weights in steps a channel, feature maps in steps that the crops decide."""
    converter = converter_of(to_be_quantised(source.network))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    crops = tqdm(source.crops, unit="crop", desc="calibrating", leave=False, disable=None)
    converter.representative_dataset = lambda: ([utils.u8_to_01(crop)[None]] for crop in crops)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    finish_tflite(converter, source, path)


def finish_tflite(converter, source, path):
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as file:  # behind the network, where TFLite looks for files that go with it
        file.writestr(ABOUT, json.dumps(source.about, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------------------------------
# Loading. Each function gives a function from LR uint8 [batch, h, w, 3] to SR uint8 [batch, scale·h, scale·w, 3].


def load_savedmodel(path):
    upscale = tf.saved_model.load(path).signatures["serving_default"]
    return lambda lr_u8: upscale(lr=tf.constant(lr_u8))["sr"].numpy()


def load_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda lr_u8: session.run(["sr"], {"lr": lr_u8})[0]


def load_tflite(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        step, zero = details["quantization"]  # (0, 0) where nothing is quantised
        if zero or step and abs(step * 255 - 1) > 1e-3:
            raise UserError(
                f"one step of its `{details['name']}` is {step * 255:.4f} grey levels from {zero}, not 1 from 0"
            )
    upscale = interpreter.get_signature_runner()
    return lambda lr_u8: upscale(lr=lr_u8)["sr"]


# ---------------------------------------------------------------------------------------------------------------------
# The formats


class Format(NamedTuple):
    """How a format is written and read, and by how much its output may differ from the source's."""

    ending: str  # of the file's name, behind the run's
    write: object
    load: object
    packages: tuple  # beyond requirements.txt, as they are imported
    levels: int  # most grey levels that a pixel may differ
    psnr: float  # least PSNR in dB to the source's output


# float32 differs where a rounding falls the other way, about one pixel in 100,000 (98 dB); 75 dB are one in 500.
FORMATS = {
    "savedmodel": Format("_savedmodel", write_savedmodel, load_savedmodel, (), 1, 75),
    "onnx": Format(".onnx", write_onnx, load_onnx, ("tf2onnx", "onnx", "onnxruntime"), 1, 75),
    "tflite": Format(".tflite", write_tflite, load_tflite, ("ai_edge_litert",), 1, 75),
    "tflite-float16": Format("_float16.tflite", write_float16, load_tflite, ("ai_edge_litert",), 255, 50),
    "tflite-int8": Format("_int8.tflite", write_int8, load_tflite, ("ai_edge_litert",), 255, 30),
}


def choose_formats(names):
    """The formats to make: those named, or all whose packages are there, saying what is left out. Raises UserError."""
    chosen = []
    for name in names or FORMATS:
        missing = [package for package in FORMATS[name].packages if not importlib.util.find_spec(package)]
        hint = f"{name} needs {' and '.join(missing)}: pip install -r requirements-export.txt"
        if not missing:
            chosen.append(name)
        elif names:
            raise UserError(hint)
        else:
            print(f"left out: {hint}")
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Photographs, and what is measured on them


def calibration_crops(argument, count, scale):
    """`count` LR crops uint8 [CROP, CROP, 3] of training photographs, drawn by a fixed seed.

    argument: the value of --data. Raises UserError.
    """
    _, paths = data.find_training(argument)
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    photographs = Photographs(paths, CROP * scale, cache_gib=1.0, cache="none")
    for _, reason in photographs.skipped:
        print(f"skipped: {reason}")
    random, crops = np.random.default_rng(0), []
    for i in range(count):
        lr = utils.imresize(utils.mod_crop(photographs[i % len(photographs)], scale), 1 / scale)
        top, left = (random.integers(0, length - CROP + 1) for length in lr.shape[:2])
        crops.append(lr[top : top + CROP, left : left + CROP])
    return crops


def batches_of(images):
    """LR uint8 [batch, h, w, 3]: each of the images (testsets.Image) alone, then two crops of odd size as one batch."""
    whole = [utils.to_rgb(image.lr)[None] for image in images]
    height, width = (min(length, odd) for length, odd in zip(whole[0].shape[1:3], ODD, strict=True))
    return [*whole, np.concatenate([whole[0][:, :height, :width], whole[0][:, -height:, -width:]])]


def compare(upscale, wanted, images, scale):
    """{measure: number} of upscale(lr) beside the source's output, all pixels together, and beside the originals.

    upscale: LR uint8 [batch, h, w, 3] to SR; wanted: what the source makes of batches_of(images). Raises UserError.
    """
    sr = [upscale(lr) for lr in batches_of(images)]
    for ours, theirs in zip(sr, wanted, strict=True):
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            raise UserError(f"gives {ours.dtype} {ours.shape}, not {theirs.dtype} {theirs.shape}")
    ours, theirs = (np.concatenate([part.ravel() for part in parts]) for parts in (sr, wanted))
    difference = np.abs(ours.astype(np.int16) - theirs)
    return {
        "max_difference": int(difference.max()),
        "differing": float(np.mean(difference > 0)),
        "psnr_source": metrics.psnr(ours, theirs),
        # Of the photographs; the batch comes after them.
        "psnr_y": float(np.mean([metrics.psnr_y(s[0], image.hr, scale) for s, image in zip(sr, images, strict=False)])),
    }


def time_in_turns(functions, side, rounds):
    """{name: (median ms, its median ratio to the first's)} of functions of LR [1, side, side, 3] that take turns."""
    lr = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    for upscale in functions.values():
        upscale(lr)  # the first call prepares
    turns = []
    for _ in tqdm(range(rounds), unit="round", desc="timing", disable=None):
        turns.append([])
        for upscale in functions.values():
            start = time.perf_counter()
            upscale(lr)
            turns[-1].append(1000 * (time.perf_counter() - start))
    turns = np.array(turns)
    medians = zip(np.median(turns, axis=0), np.median(turns / turns[:, :1], axis=0), strict=True)
    return {name: (float(ms), float(ratio)) for name, (ms, ratio) in zip(functions, medians, strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# Exporting


def export(name, source, path, judge):
    """Write one format to `path`, and put it there if what is loaded again passes; {measure: number}. Raises UserError.

    name: a key of FORMATS; judge: from an export's function to compare's measures.
    """
    form, found = FORMATS[name], {}

    def write(temporary):
        form.write(source, temporary)
        found.update(judge(form.load(temporary)))
        if found["max_difference"] > form.levels or found["psnr_source"] < form.psnr:
            raise UserError(
                f"differs from the source by up to {found['max_difference']} grey levels, "
                f"{found['psnr_source']:.1f} dB, and may by {form.levels}, {form.psnr} dB"
            )

    if name == "savedmodel":
        if path.exists() and not (path / "saved_model.pb").is_file():
            raise UserError(f"{path} is there and no SavedModel; it stays")
        utils.write_folder_atomically(path, write)
    else:
        utils.write_atomically(path, write)
    files = utils.list_files(path) if path.is_dir() else [path]
    return found | {"file": path.name, "megabytes": sum(file.stat().st_size for file in files) / 1e6}


def describe(weights, about):
    """{word: text} of what is exported, as it goes into each file that has room for it."""
    scale = about["config"].MODEL.scale
    return {
        "name": weights.parent.name,
        "mode": about["mode"],
        "scale": str(scale),
        "lr": "uint8 [batch, height, width, 3], RGB in grey levels",
        "sr": f"uint8 [batch, {scale}*height, {scale}*width, 3], RGB in grey levels",
        "weights_sha256": download.file_digest(weights, "sha256"),
        "code_commit": str(runs.git_commit()),
        "licence": "code: MIT; weights: what the licences of their training data allow",
    }


HEAD = ("format", "file", "MB", "max. difference", "pixels that differ", "PSNR to the source", "PSNR-Y", "ms", "speed")


def table(results):
    """The lines of a Markdown table of {format: {measure: number}}, the source first."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for name, row in results.items():
        cells = [name, row["file"], f"{row['megabytes']:.2f}", row["max_difference"], f"{row['differing']:.4%}"]
        cells += [f"{row['psnr_source']:.2f} dB", f"{row['psnr_y']:.3f} dB", f"{row['ms']:.0f}", f"{row['speed']:.2f}×"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def shipped():
    """The weights that are exported when none are named."""
    folders = (runs.HERE / "checkpoint" / name for name in SHIPPED)
    found = next((folder for folder in folders if (folder / runs.WEIGHTS).is_file()), None)
    if not found:
        raise UserError("no weights come with this copy of the project: name a run, as one of checkpoint/")
    return found


def parse_arguments():
    def count(text):
        if not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"takes a whole number above zero, not '{text}'")
        return int(text)

    parser = argparse.ArgumentParser(
        description="Write a trained generator as SavedModel, ONNX and TFLite (float32, float16, int8), load each file "
        "again and compare it with the source on photographs: a file that differs too much is not kept.",
        epilog="example: python export.py my_run --to onnx,tflite-int8 --data ~/photos",
    )
    add = parser.add_argument
    add(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run's name, its directory or weights file (default: the shipped weights)",
    )
    add("--to", metavar="A,B", help=f"{', '.join(FORMATS)} (default: all whose packages are installed)")
    add("--out", metavar="DIR", type=Path, help="where the files go (default: exports/RUN)")
    add("--data", metavar="DIR", help="photographs to calibrate int8 on, as of train.py; holds the --sets, too")
    add("--calibration", type=count, default=32, metavar="N", help="LR crops to calibrate on (default: %(default)s)")
    add("--sets", metavar="A,B", default=data.SAMPLES, help="to compare on, as of evaluate.py (default: %(default)s)")
    add(
        "--size", type=count, default=128, metavar="N", help="side of the LR image that is timed (default: %(default)s)"
    )
    add("--rounds", type=count, default=5, metavar="N", help="turns of the timing; the median counts (default: 5)")
    args = parser.parse_args()
    for name in ("to", "sets"):
        if (value := getattr(args, name)) is not None:
            parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
            if not parts:
                parser.error(f"--{name} names nothing")
            setattr(args, name, parts)
    if args.out and (str(args.out) == "." or args.out.is_file()):
        parser.error(f"--out takes a folder of its own, not '{args.out}'")
    return args


def main():
    args = parse_arguments()
    for name in args.to or ():
        if name not in FORMATS:
            raise UserError(f"there is no format called '{name}'; there are {', '.join(FORMATS)}")
    names = choose_formats(args.to)
    weights, about = runs.describe_weights(args.run or shipped())
    config, run = about["config"].MODEL, weights.parent.name
    if weights.name != runs.WEIGHTS:
        run += f"_{weights.name.removesuffix('.weights.h5')}"
    sets = data.find_test_sets(args.data, args.sets)
    crops = calibration_crops(args.data, args.calibration, config.scale) if "tflite-int8" in names else []
    with ThreadPoolExecutor(evaluate.THREADS) as pool:
        sets = testsets.read_sets(sets, config.scale, pool)
    images = [image for members in sets.values() for image in members.images]
    out = args.out or runs.HERE / "exports" / run
    out.mkdir(parents=True, exist_ok=True)

    generator, _ = runs.load_generator(weights)
    reference = evaluate.Model(run, generator, config)
    source = Source(model.fold_batch_norm(generator, config), describe(weights, about), crops)

    def by_reference(lr):
        return np.stack([reference.upscale(image) for image in lr])

    wanted = [by_reference(lr) for lr in batches_of(images)]
    results = {"source": compare(by_reference, wanted, images, config.scale)}
    results["source"] |= {"file": weights.name, "megabytes": weights.stat().st_size / 1e6}
    functions, failed = {"source": by_reference}, []
    for name in names:
        path = out / f"{run}{FORMATS[name].ending}"
        try:
            results[name] = export(name, source, path, lambda upscale: compare(upscale, wanted, images, config.scale))
        except UserError as error:
            failed.append(f"{name} {error}")
            print(f"not kept: {failed[-1]}", flush=True)
            continue
        functions[name] = FORMATS[name].load(path)
        print(f"{name}: {path}, {results[name]['psnr_source']:.1f} dB to the source", flush=True)
    for name, (ms, ratio) in time_in_turns(functions, args.size, args.rounds).items():
        results[name] |= {"ms": ms, "speed": 1 / ratio}

    lines = [
        f"{run} ×{config.scale} on {len(images)} photographs ({', '.join(sets)}); ms: an LR image of "
        f"{args.size}×{args.size} on {os.cpu_count()} cores, speed: against the source, the plain graph of evaluate.py, in turns.",
        "",
        *table(results),
    ]
    print("", *lines, sep="\n")
    utils.write_atomically(out / "table.md", lambda temporary: temporary.write_text("\n".join(lines) + "\n"))
    facts = {"about": source.about, "machine": runs.machine(*MACHINE), "photographs": [image.name for image in images]}
    facts |= {"calibration_crops": len(crops), "timed_lr": args.size, "formats": tables.finite(results)}
    runs.write_json(out / "export.json", facts)
    print(f"\nfiles, table.md and export.json: {out}")
    if failed:
        raise UserError(f"not kept: {'; '.join(failed)}")


if __name__ == "__main__":
    utils.run_command(main)
