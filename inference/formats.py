"""The files that a trained generator is exported to, written and read: SavedModel, ONNX, TFLite.

Each takes LR uint8 [batch, h, w, 3], called `lr`, and gives SR uint8 [batch, scale·h, scale·w, 3], called `sr`: RGB in
grey levels, any batch and any size, conversion and rounding inside. docs/export.md shows how each is used.
"""

import importlib.util
import json
import os
import zipfile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import utils
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
keras = LazyModule("keras")

ABOUT = "about.json"  # inside a SavedModel or a .tflite; ONNX has properties
OPSET = 17  # of ONNX: old enough for most programs that read it


class Source(NamedTuple):
    """What is exported."""

    network: object  # the generator without batch norms (compiled.fold_batch_norm)
    about: dict  # {word: text} that goes into each file
    crops: list = ()  # LR uint8 [h, w, 3] to calibrate int8 on


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


def to_be_quantised(network, shift):
    """What int8 is made from: `lr` float32 in [0, 1] to {"sr": float32 in [0, 1]}; 255 steps of it are grey levels.

    shift: [3], taken off the output (see write_int8). The tail is Keras's convolution again: the nine parts of
    layers.blocks.row_convolution would each be rounded to eight bits.
    """
    whole = network
    for rows in [layer for layer in network.layers if layer.name == "tail_conv"]:
        tail = keras.layers.Conv2D.from_config(rows.get_config())
        sr = tail(rows.input)
        if network.layers[-1] is not rows:  # the bicubic skip
            sr = sr + network.get_layer("skip_m11").output
        whole = keras.Model(network.input, sr)
        tail.set_weights(rows.get_weights())
    generator = frozen(whole)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="lr")])
    def upscale(lr_01):
        return {"sr": tf.clip_by_value((generator(lr_01) + 1) / 2 - shift, 0, 1)}

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
    """Everything in whole numbers: weights in steps a channel, feature maps in steps that the crops decide.

    The roundings of all layers do not cancel out: the colours come out shifted by up to two grey levels. So the shift
    is measured on the crops, and a second version has it taken off (bias correction: Nagel et al., ICCV 2019).
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
        if zero or step and abs(255 * step - 1) > 1e-3:
            raise UserError("counts in steps that are no grey levels: the crops to calibrate on lack black or white")
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
