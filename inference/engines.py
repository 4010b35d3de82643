"""Engines: what computes a generator on this machine. TensorFlow, LiteRT (XNNPACK) or onnxruntime.

LiteRT and onnxruntime run converted files, which are made once and kept in `engines` of the cache folder, under a
digest of the weights and the versions of the libraries. With such a file TensorFlow, which takes seconds to load, is
not needed. Which engine is fastest is measured once and kept there, too.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from images import hashes
from inference import compiled, formats
from networks import receptive, style, vespcn
from runs import devices, film_runs, store, style_runs
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")
keras = LazyModule("keras")

FORM = "engine 2"  # of the converted files: raise it when they change
FILM_HALO = 40  # LR pixels around tiles of a network for films
KEPT = 16  # conversions that stay in the cache, of 5 to 12 MB each
SIDE = 96  # of the LR image that engines are timed with, in pixels
TURNS = 3  # of the timing
# Providers of onnxruntime that are left out: TensorRT compiles minutes for each size, Azure asks a server.
LEFT_OUT = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "AzureExecutionProvider")


class Source(NamedTuple):
    """The weights of a generator: those of a file, or (1 - share)·partner + share·weights."""

    weights: Path
    partner: Path | None
    share: float | None
    config: dict  # the MODEL section

    frames = 1  # of a film, that it sees at a time
    whole = False  # whether it needs the whole picture, and no tiles

    def generator(self):
        """The generator. Raises UserError."""
        if self.partner:
            return next(store.blends(self.partner, self.weights, [self.share]))[0]
        return store.load_generator(self.weights)[0]

    def network(self):
        """The generator without batch norms. Raises UserError."""
        return compiled.fold_batch_norm(self.generator(), self.config)

    def radius(self, network):
        """How far a part of the network sees, in LR pixels."""
        return receptive.radius_of(network)

    def digest(self, *facts):
        """A name for these weights and the facts, texts."""
        files = [hashes.file_digest(file, "sha256") for file in (self.weights, self.partner) if file]
        text = json.dumps([FORM, files, self.share, self.config, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


class FilmSource(Source):
    """The weights of a network that sees several frames of a film; no partner."""

    @property
    def frames(self):
        return vespcn.NETWORKS[self.config.network].frames

    def network(self):
        """The network with colour: RGB frames [batch, h, w, 3·frames] to SR RGB, as a generator's. Raises UserError."""
        return vespcn.with_colour(film_runs.load(self.weights, self.config), self.config.scale)

    def radius(self, network):
        """Of tiles, that show no seams: a flow sees 29 LR pixels and leads to others."""
        return FILM_HALO


class StyleSource(Source):
    """The weights of a network that paints in a style; no partner. Its instance norms are over the whole picture."""

    whole = True

    def network(self):
        """The network for pictures of any size, as a generator of scale 1. Raises UserError."""
        return style.any_size(style_runs.load(self.weights, self.config))

    def radius(self, network):
        return 0


class Loaded(NamedTuple):
    """A generator that is ready to run, in one to three parts: see compiled.split.

    parts: functions from float32 [n, h, w, c] to [n, h', w', c'], the first from LR in [0, 1], the last to SR in about
    [-1, 1]; they raise MemoryError and UserError. radii: how far each sees, in LR pixels. batch: how many tiles of a
    picture are best computed at a time. bytes: memory that the first of several parts takes for each LR pixel and
    feature map.
    """

    parts: list
    radii: list
    batch: int = 1
    bytes: int = 32


def guarded(run):
    """A part that raises MemoryError and UserError where its library has its own exceptions."""

    def call(x):
        try:
            return run(x)
        except (MemoryError, UserError):
            raise
        except Exception as error:
            if any(word in str(error).lower() for word in ("memory", "alloc", "exhausted")):
                raise MemoryError from error
            raise UserError(f"the network cannot take it ({utils.short(error)})") from error

    return call


# ---------------------------------------------------------------------------------------------------------------------
# TensorFlow


def load_tensorflow(source, whole=False, half=False):
    """The Loaded of a Source, compiled by XLA on a GPU; whole: in one part, and without anything that rounds otherwise.

    half: computed in 16 bits, float16 on a GPU and bfloat16 on a CPU.
    """
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if half:
        devices.choose_precision("mixed_float16" if gpu else "mixed_bfloat16")
    try:
        network = source.network()
        for layer in network.layers:
            if isinstance(layer, keras.layers.PReLU) and np.max(layer.alpha) <= 1:
                layer.call = lambda x, layer=layer: keras.ops.maximum(x, keras.ops.cast(layer.alpha, x.dtype) * x)
        networks = [network] if whole else compiled.split(network)
    finally:
        if half:
            devices.choose_precision("float32")
    parts = [guarded(compiled.as_function(network, xla=gpu and not whole)) for network in networks]
    return Loaded(parts, [source.radius(network) for network in networks], batch=4 if gpu and not whole else 1)


# ---------------------------------------------------------------------------------------------------------------------
# LiteRT and onnxruntime


def write_litert(network, path):
    path.write_bytes(formats.converter_of(formats.in_floats(network)).convert())


def write_onnx(network, path):
    path.write_bytes(formats.to_onnx(formats.in_floats(network)).SerializeToString())


def load_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    with utils.without_noise():
        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape, lock = None, threading.Lock()

    def run(x):
        nonlocal shape
        with lock:
            if shape != x.shape:
                shape = None
                interpreter.resize_tensor_input(source["index"], x.shape)
                interpreter.allocate_tensors()
                shape = x.shape
            interpreter.set_tensor(source["index"], x)
            interpreter.invoke()
            return interpreter.get_tensor(target["index"])

    return run


def load_onnx(path):
    import onnxruntime

    providers = [name for name in onnxruntime.get_available_providers() if name not in LEFT_OUT]
    session = onnxruntime.InferenceSession(path, providers=providers)
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


class Converted(NamedTuple):
    """An engine that runs converted files."""

    ending: str  # of a file's name
    write: Callable  # (a part of a network, path)
    load: Callable  # path → a function of Loaded.parts
    runs: tuple  # packages that run a file, as they are imported
    converts: tuple  # packages that write one, beside TensorFlow
    libraries: tuple  # whose versions name a conversion
    bytes: int  # see Loaded


ENGINES = {
    "tensorflow": None,
    # The bytes were measured on a CPU, by LiteRT with XNNPACK.
    "litert": Converted(".tflite", write_litert, load_litert, ("ai_edge_litert",), (), ("tensorflow",), 72),
    "onnxruntime": Converted(
        ".onnx", write_onnx, load_onnx, ("onnxruntime",), ("tf2onnx", "onnx"), ("tensorflow", "tf2onnx"), 24
    ),
}


def missing(name):
    """The packages that an engine needs and that are not installed."""
    engine = ENGINES[name]
    packages = (*engine.runs, *engine.converts) if engine else ()
    return [package for package in packages if not importlib.util.find_spec(package)]


def load(name, source, whole=False, half=False):
    """The Loaded of a Source by the engine `name`, which converts it first if it must. Raises UserError.

    whole, half: TensorFlow's alone, see load_tensorflow.
    """
    if name == "tensorflow":
        return load_tensorflow(source, whole or source.whole, half)
    if lacking := missing(name):
        raise UserError(f"--engine {name} needs {' and '.join(lacking)}: pip install -r requirements-export.txt")
    engine = ENGINES[name]
    stem = source.digest(name, *map(version, engine.libraries))
    radii = read_radii(stem) or convert(name, source, stem)
    files = [folder() / f"{stem}.{i}{engine.ending}" for i in range(len(radii))]
    try:
        return Loaded([guarded(engine.load(file)) for file in files], radii, bytes=engine.bytes)
    except Exception as error:  # damaged, or not for this machine
        (folder() / f"{stem}.json").unlink(missing_ok=True)
        raise UserError(f"{name} cannot load what was converted ({utils.short(error)}): try it again") from error


def folder():
    """Where conversions and the engines' speeds are kept."""
    return utils.cache_folder() / "engines"


def read_radii(stem):
    """The radii of a conversion from its file, which is written last; None if there is no conversion."""
    path = folder() / f"{stem}.json"
    try:
        path.touch(exist_ok=path.is_file())  # those used last stay
        return json.loads(path.read_text(encoding="utf-8"))["radii"]
    except (OSError, ValueError, KeyError):
        return None


def convert(name, source, stem):
    """Convert a Source for an engine into the cache; returns the radii of its parts. Raises UserError."""
    engine, networks = ENGINES[name], compiled.split(source.network())
    radii = [source.radius(network) for network in networks]
    try:
        folder().mkdir(parents=True, exist_ok=True)
        for i, network in enumerate(networks):
            part = folder() / f"{stem}.{i}{engine.ending}"
            utils.write_atomically(part, lambda path, network=network: engine.write(network, path))
        store.write_json(folder() / f"{stem}.json", {"radii": radii})
        for index in sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            for file in folder().glob(f"{index.stem}.*"):
                file.unlink(missing_ok=True)
    except (OSError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder()} cannot hold a converted network ({reason}): name another folder with SRGAN_CACHE, or use "
            "--engine tensorflow"
        ) from error
    except Exception as error:  # each converter has its own
        raise UserError(f"{name} cannot convert the network ({utils.short(error)}): use --engine tensorflow") from error
    return radii


# ---------------------------------------------------------------------------------------------------------------------
# Which one


def fastest(source, pixels):
    """The engine that is done first with so many LR pixels, the time that it takes to start included. Raises UserError.

    The engines that are installed are timed once for this machine, these libraries and this kind of network; none is
    if $SRGAN_ENGINE names one.
    """
    if name := os.environ.get("SRGAN_ENGINE"):
        if name not in ENGINES:
            raise UserError(f"SRGAN_ENGINE is '{name}', but there are {', '.join(ENGINES)}")
        return name
    names = [name for name in ENGINES if not missing(name)]
    if len(names) == 1:
        return names[0]
    libraries = sorted({library for name in names if ENGINES[name] for library in ENGINES[name].libraries})
    facts = [FORM, names, os.cpu_count(), cpu_name(), [version(library) for library in libraries], source.config]
    key, path = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24], folder() / "speeds"
    try:
        speeds = {
            name: (start, speed) for name, (start, speed) in json.loads(path.read_text(encoding="utf-8"))[key].items()
        }
        speeds["tensorflow"]  # which is always there
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or damaged
        print("first use of this kind of network here: the engines are timed", flush=True)
        speeds = time_engines(names, source)
        with contextlib.suppress(OSError, ValueError, TypeError, UserError):  # then they are timed again the next time
            folder().mkdir(parents=True, exist_ok=True)
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            store.write_json(path, known | {key: speeds})
    return min(speeds, key=lambda name: speeds[name][0] + pixels / speeds[name][1])


def cpu_name():
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def time_engines(names, source):
    """{name: (seconds to start, LR pixels a second)} of engines that take turns; those that fail are named."""
    loaded, starts = {}, {}
    lr_01 = np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32)

    def run(name):
        x = lr_01
        start = time.perf_counter()
        for part in loaded[name].parts:
            x = part(x)
        np.asarray(x)
        return time.perf_counter() - start

    for name in names:
        try:
            if ENGINES[name]:
                load(name, source)  # the conversion does not count
            start = time.perf_counter()
            loaded[name] = load(name, source)
            run(name)
            starts[name] = time.perf_counter() - start
        except UserError as error:
            print(f"left out: {error}")
            loaded.pop(name, None)
    turns = [{name: run(name) for name in loaded} for _ in range(TURNS)]
    return {name: (starts[name], SIDE**2 / min(turn[name] for turn in turns)) for name in loaded}
