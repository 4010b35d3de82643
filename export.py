"""Export a trained generator as SavedModel, ONNX and TFLite; each file is checked on photographs before it is kept.

inference/formats.py writes and reads the files. This file compares them with the source, times them and lists them in a
table.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import evaluate
import utils
from cli import terminal
from images import hashes
from images.photographs import Photographs
from inference import compiled
from inference.formats import FORMATS, Source, choose_formats
from inference.tiles import choose_weights, source_of
from runs import store
from scoring import metrics, tables, testsets
from utils import UserError

CROP = 64  # side in pixels of the LR crops that int8 is calibrated on
ODD = (33, 47)  # height and width of the crops that check a batch of two
MACHINE = ("tensorflow", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert")  # whose versions export.json names


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
        print(f"skipped: {reason}", file=sys.stderr)
    random, crops = np.random.default_rng(0), []
    for i in range(count):
        lr = utils.imresize(utils.mod_crop(photographs[i % len(photographs)], scale), 1 / scale)
        top, left = (random.integers(0, length - CROP + 1) for length in lr.shape[:2])
        crops.append(lr[top : top + CROP, left : left + CROP])
    return crops


def batches_of(images):
    """LR uint8 [batch, h, w, 3]: each image (testsets.Image) as a batch of one, then two odd-sized crops as a batch."""
    whole = [utils.to_rgb(image.lr)[None] for image in images]
    height, width = (min(length, odd) for length, odd in zip(whole[0].shape[1:3], ODD, strict=True))
    return [*whole, np.concatenate([whole[0][:, :height, :width], whole[0][:, -height:, -width:]])]


def compare(upscale, wanted, images, scale):
    """{measure: number} that compares upscale(lr) with the source's output, over all pixels, and with the originals.

    upscale: LR uint8 [batch, h, w, 3] to SR; wanted: the source's output for batches_of(images). Raises UserError.
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
    """Write one format to `path` if the file, loaded again, passes the check; {measure: number}. Raises UserError.

    name: a key of FORMATS; judge: from an export's function to compare's measures.
    """
    form, found = FORMATS[name], {}

    def write(temporary):
        try:
            form.write(source, temporary)
            upscale = form.load(temporary)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # each converter has its own
            raise UserError(f"cannot be converted ({utils.short(error)})") from error
        found.update(judge(upscale))
        if found["max_difference"] > form.levels or found["psnr_source"] < form.psnr:
            raise UserError(
                f"differs from the source by up to {found['max_difference']} grey levels, "
                f"{found['psnr_source']:.1f} dB; {form.levels} and {form.psnr} dB are the limits"
            )

    if name == "savedmodel":
        if path.exists() and not (path / "saved_model.pb").is_file():
            raise UserError(f"{path} exists and is not a SavedModel; it is left as it is")
        utils.write_folder_atomically(path, write)
    else:
        utils.write_atomically(path, write)
    files = utils.list_files(path) if path.is_dir() else [path]
    return found | {"file": path.name, "megabytes": sum(file.stat().st_size for file in files) / 1e6}


def describe(weights, about):
    """{word: text} about the exported network, written into each file whose format has a place for it."""
    scale = about["config"].MODEL.scale
    return {
        "name": weights.resolve().parent.name,
        "mode": about["mode"],
        "blend": str(about.get("blend", "none")),
        "scale": str(scale),
        "lr": "uint8 [batch, height, width, 3], RGB in grey levels",
        "sr": f"uint8 [batch, {scale}*height, {scale}*width, 3], RGB in grey levels",
        "weights_sha256": hashes.file_digest(weights, "sha256"),
        "code_commit": str(store.git_commit()),
        "licence": "code: MIT; weights: what the licences of their training data allow",
    }


HEAD = ("format", "file", "MB", "max. difference", "pixels that differ", "PSNR to the source", "PSNR-Y", "ms", "speed")


def table(results):
    """The lines of a Markdown table of {format: {measure: number}}, the source first."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for name, row in results.items():
        cells = [name, row["file"], f"{row['megabytes']:.2f}", row["max_difference"], f"{row['differing']:.4%}"]
        cells += [
            f"{row['psnr_source']:.2f} dB" if row["differing"] else "equal",
            f"{row['psnr_y']:.3f} dB",
            f"{row['ms']:.0f}",
            f"{row['speed']:.2f}×",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def parse_arguments():
    count = terminal.number(int, 1, 2**31, "a whole number above zero")
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
        help="a run's name, its directory or weights file (default: srgan_x4)",
    )
    add(
        "--to",
        type=terminal.names,
        metavar="A,B",
        help=f"{', '.join(FORMATS)} (default: all whose packages are installed)",
    )
    add(
        "--blend",
        metavar="T",
        type=terminal.number(float, 0, 1, "a number from 0 to 1"),
        help="from 0, the smooth SRResNet, to 1, the SRGAN RUN: their weights are mixed",
    )
    add("--out", metavar="DIR", type=Path, help="where the files go (default: exports/RUN)")
    add(
        "--data", metavar="DIR", help="photographs to calibrate int8 on, as for train.py; also the folder of the --sets"
    )
    add("--calibration", type=count, default=32, metavar="N", help="LR crops to calibrate on (default: %(default)s)")
    add(
        "--sets",
        type=terminal.names,
        metavar="A,B",
        default=data.SAMPLES,
        help="sets to compare on, as for evaluate.py (default: %(default)s)",
    )
    add(
        "--size", type=count, default=128, metavar="N", help="side of the LR image that is timed (default: %(default)s)"
    )
    add("--rounds", type=count, default=5, metavar="N", help="rounds of the timing; the median counts (default: 5)")
    args = parser.parse_args()
    if args.out and (str(args.out) == "." or args.out.is_file()):
        parser.error(f"--out takes a folder of its own, not '{args.out}'")
    return args


def write_report(folder, title, results, facts):
    """Print the table and write it as table.md, and export.json with it and the facts, into the folder."""
    lines = [title, "", *table(results)]
    print("", *lines, sep="\n")
    text = "\n".join(lines) + "\n"
    utils.write_atomically(folder / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    store.write_json(folder / "export.json", facts | {"formats": tables.finite(results)})
    print(f"\nfiles, table.md and export.json: {folder}")


def main():
    args = parse_arguments()
    for name in args.to or ():
        if name not in FORMATS:
            raise UserError(f"there is no format called '{name}'; there are {', '.join(FORMATS)}")
    names = choose_formats(args.to)
    weights, about = store.describe_weights(args.run or store.default_weights())
    config, run = about["config"].MODEL, weights.resolve().parent.name
    if weights.name != store.WEIGHTS:
        run += f"_{weights.name.removesuffix('.weights.h5')}"
    if args.blend is not None:
        choose_weights(weights, args.blend, None)  # reports what cannot be mixed, before anything is read
        about["blend"] = args.blend
        run += f"_blend{args.blend:g}"
    sets = data.find_test_sets(args.data, args.sets)
    crops = calibration_crops(args.data, args.calibration, config.scale) if "tflite-int8" in names else []
    with ThreadPoolExecutor(evaluate.THREADS) as pool:
        sets = testsets.read_sets(sets, config.scale, pool)
    images = [image for members in sets.values() for image in members.images]
    out = args.out or store.PROJECT / "exports" / run
    out.mkdir(parents=True, exist_ok=True)

    generator = source_of(*choose_weights(weights, args.blend, None)[:2], args.blend).generator()
    reference = evaluate.Model(run, generator, config)
    source = Source(compiled.fold_batch_norm(generator, config), describe(weights, about), crops)

    def by_reference(lr):
        return np.stack(reference.upscale(lr))

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

    title = (
        f"{run} ×{config.scale} on {len(images)} photographs ({', '.join(sets)}); ms: an LR image of "
        f"{args.size}×{args.size} on {os.cpu_count()} cores; speed: relative to the source, which is "
        "the plain graph of evaluate.py; all took turns."
    )
    facts = {"about": source.about, "machine": store.machine(*MACHINE), "photographs": [image.name for image in images]}
    write_report(out, title, results, facts | {"calibration_crops": len(crops), "timed_lr": args.size})
    if failed:
        raise UserError(f"not all formats could be made: {'; '.join(failed)}")


if __name__ == "__main__":
    terminal.run_command(main)
