"""Writing and reading the files that a trained generator is exported to: SavedModel, ONNX, TFLite.

Each takes LR uint8 [batch, h, w, 3], called `lr`, and returns SR uint8 [batch, scale·h, scale·w, 3], called `sr`: RGB,
any batch and size, with conversion and rounding inside. docs/export.md shows how to use each.
"""

import importlib.util
import json
import os
import zipfile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import utils
from layers.projection import PROJECTION, projected_again
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
keras = LazyModule("keras")

ABOUT = "about.json"  # inside a SavedModel or a .tflite; ONNX has properties
OPSET = 17  # of ONNX: old enough for most programs that read it


class Source(NamedTuple):
    """What is exported."""

    network: object  # the generator without batch norms (compiled.fold_batch_norm)
    about: dict  # {word: text} to store in each file
    crops: list = ()  # LR uint8 [h, w, 3] to calibrate int8 on


# ---------------------------------------------------------------------------------------------------------------------
# The graph


def frozen(network):
    """The network as a function whose weights are constants of the graph, which every converter supports."""
    arrays = network.get_weights()

    def call(x):
        return network.stateless_call([tf.constant(array) for array in arrays], [], x, training=False)[0]

    return call


def in_grey_levels(network):
    """The exported function: `lr` uint8 [batch, h, w, 3] to {"sr": uint8 [batch, scale·h, scale·w, 3]}.

    network: LR in [0, 1] to SR in [-1, 1]; utils.u8_to_01 goes before it and utils.m11_to_u8 after it.
    """
    generator = frozen(network)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")])
    def upscale(lr):
        sr_m11 = generator(tf.cast(lr, tf.float32) / 255.0)
        return {"sr": tf.cast(tf.clip_by_value(tf.floor((sr_m11 + 1) * 127.5 + 0.5), 0, 255), tf.uint8)}

    return upscale


def in_floats(network):
    """What inference/engines.py converts: `lr` float32 [batch, h, w, c] to {"sr": float32}, the network as it is."""
    generator = frozen(network)

    @tf.function(input_signature=[tf.TensorSpec(network.input.shape, tf.float32, name="lr")])
    def upscale(lr):
        return {"sr": generator(lr)}

    return upscale


def to_be_quantised(network, shift):
    """The function that int8 is made from: `lr` float32 in [0, 1] to {"sr": float32 in [0, 1]}.

    shift: [3], subtracted from the output (see write_int8). The last layer is Keras's own convolution, as the nine
    parts of layers.blocks.row_convolution would each be rounded to eight bits.
    """
    whole = network
    for rows in [layer for layer in network.layers if layer.name == "tail_conv"]:
        tail = keras.layers.Conv2D.from_config(rows.get_config())
        sr, names = tail(rows.input), {layer.name for layer in network.layers}
        if "skip_m11" in names:
            sr = sr + network.get_layer("skip_m11").output
        if PROJECTION in names:
            sr = projected_again(sr, network)
        whole = keras.Model(network.input, sr)
        tail.set_weights(rows.get_weights())
    generator = frozen(whole)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="lr")])
    def upscale(lr_01):
        return {"sr": tf.clip_by_value((generator(lr_01) + 1) / 2 - shift, 0, 1)}

    return upscale


# ---------------------------------------------------------------------------------------------------------------------
# Writing. Each function writes a Source to a path.


def module_with(upscale):
    """A tf.Module with the function as its attribute: TensorFlow saves it with the names of its inputs."""
    module = tf.Module()
    module.upscale = upscale
    return module


def write_savedmodel(source, path):
    module = module_with(in_grey_levels(source.network))
    tf.saved_model.save(module, path, signatures=module.upscale)
    (path / "assets.extra").mkdir()  # TensorFlow's place for what users add
    (path / "assets.extra" / ABOUT).write_text(json.dumps(source.about, indent=2) + "\n", encoding="utf-8")


def to_onnx(upscale):
    import tf2onnx

    return tf2onnx.convert.from_function(upscale, upscale.input_signature, opset=OPSET)[0]


def write_onnx(source, path):
    import onnx

    proto = to_onnx(in_grey_levels(source.network))
    for value, factor in ((proto.graph.input[0], ""), (proto.graph.output[0], f"{source.about['scale']}*")):
        for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False):
            dim.dim_param = name if name == "batch" else factor + name
    onnx.helper.set_model_props(proto, source.about)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def converter_of(upscale):
    return tf.lite.TFLiteConverter.from_concrete_functions([upscale.get_concrete_function()], module_with(upscale))


def write_tflite(source, path):
    finish_tflite(converter_of(in_grey_levels(source.network)), source, path)


def write_float16(source, path):
    """Weights in 16 bits, converted to 32 when the file is loaded: half the size, but no faster on a CPU."""
    converter = converter_of(in_grey_levels(source.network))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    finish_tflite(converter, source, path)


def write_int8(source, path):
    """Everything in 8-bit integers: the steps of weights are chosen per channel, those of feature maps from the crops.

    The rounding errors of all layers shift the colours by up to two grey levels. The shift is measured on the crops
    and subtracted in a second version (bias correction: Nagel et al., ICCV 2019).
    """
    crops, shift = [utils.u8_to_01(crop)[None] for crop in source.crops], np.zeros(3, np.float32)
    wanted = to_be_quantised(source.network, shift)
    for attempt in (1, 2):
        converter = converter_of(to_be_quantised(source.network, shift))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        shown = tqdm(crops, unit="crop", desc=f"calibrating {attempt}/2", leave=False, disable=None)
        converter.representative_dataset = lambda shown=shown: ([crop] for crop in shown)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        finish_tflite(converter, source, path)
        if attempt == 1:
            upscale = load_tflite(path)
            shifts = [upscale(utils.round_u8(255 * lr)) / np.float32(255) - wanted(lr)["sr"] for lr in crops]
            shift = np.mean(np.concatenate(shifts), axis=(0, 1, 2))


def finish_tflite(converter, source, path):
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as file:  # appended, where TFLite looks for associated files
        file.writestr(ABOUT, json.dumps(source.about, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------------------------------
# Loading. Each function returns a function from LR uint8 [batch, h, w, 3] to SR uint8 [batch, scale·h, scale·w, 3].


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
        if zero or step and abs(255 * step - 1) > 1e-3:
            raise UserError("has steps that differ from grey levels: the crops for calibration lack black or white")
    upscale = interpreter.get_signature_runner()
    return lambda lr_u8: upscale(lr=lr_u8)["sr"]


# ---------------------------------------------------------------------------------------------------------------------
# The formats


class Format(NamedTuple):
    """How a format is written and read, and how much its output may differ from the source's."""

    ending: str  # of the file's name, after the run's name
    write: object
    load: object
    packages: tuple  # beyond requirements.txt, as they are imported
    levels: int  # the most that a pixel may differ, in grey levels
    psnr: float  # the least PSNR to the source's output, in dB


# float32 differs where a pixel is rounded the other way: about one in 100,000 (98 dB). 75 dB is one in 500.
FORMATS = {
    "savedmodel": Format("_savedmodel", write_savedmodel, load_savedmodel, (), 1, 75),
    "onnx": Format(".onnx", write_onnx, load_onnx, ("tf2onnx", "onnx", "onnxruntime"), 1, 75),
    "tflite": Format(".tflite", write_tflite, load_tflite, (), 1, 75),
    "tflite-float16": Format("_float16.tflite", write_float16, load_tflite, (), 255, 50),
    "tflite-int8": Format("_int8.tflite", write_int8, load_tflite, (), 255, 30),
}


def choose_formats(names):
    """The formats to write: those named, or all whose packages are installed; prints the others. Raises UserError."""
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
