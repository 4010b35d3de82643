"""Fixtures of all tests. Tests that need the image sets of the development machine say so and are skipped elsewhere."""

import contextlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import model
import utils
from cli import terminal
from config import make_config
from images.photographs import Photographs
from networks.registry import build_generator
from runs import devices, store
from scoring import figures, tables, testsets

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # as exact tiles need it: whichever test loads TensorFlow first
os.environ.pop("SRGAN_DATA", None)
os.environ.pop("SRGAN_RUNS", None)
os.environ.pop("SRGAN_CACHE", None)

PROJECT = Path(__file__).resolve().parent.parent
ROOMS = sorted({path.relative_to(PROJECT).parts[0] for path in PROJECT.glob("*/*.py")} - {"tests"})
SHARED = PROJECT.parent / "shared" / "data"

# A network and batch that train in a second or two; without the skip no weight is zero and no output just bicubic.
# Tests that are about XLA, which takes longer, ask for it.
TINY_SETTINGS = (
    "MODEL.blocks=1",
    "MODEL.width=8",
    "MODEL.skip=none",
    "DATA.crop=32",
    "VGG.layer=conv2_2",
    "TRAIN.batch=2",
    "TRAIN.log_every=1",
    "TRAIN.validate_every=2",
    "TRAIN.save_every=2",
    "TRAIN.xla=false",
)
TINY = [part for setting in TINY_SETTINGS for part in ("--set", setting)]


# The files that take longest, in this order first: two workers then come to the end at about the same time.
LONGEST = ("test_devices", "test_train", "test_evaluate", "test_upscale", "test_benchmark", "test_explain", "test_demo")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


def slow_but(quick, values):
    """The values of a parametrization, tuples where it has several arguments; all but the quick ones are slow."""
    arguments = [(value, value if isinstance(value, tuple) else (value,)) for value in values]
    return [pytest.param(*each, marks=() if value in quick else pytest.mark.slow) for value, each in arguments]


@pytest.fixture
def shared():
    """The folder of Set5, Set14, BSD100 and MATLAB's golden files."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data (Set5, Set14, BSD100 and MATLAB's LR images)")
    return SHARED


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def photo(rng, height, width):
    """A smooth random uint8 image [height, width, 3], easier on interpolation than noise."""
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(float)
    image = coarse.repeat(8, axis=0).repeat(8, axis=1)
    image = (image + np.roll(image, 3, axis=0) + np.roll(image, 3, axis=1)) / 3
    return image[:height, :width].astype(np.uint8)


def content_of(image, name="png", **options):
    """The bytes of a picture file."""
    Image.fromarray(image).save(buffer := io.BytesIO(), format=name, **options)
    return buffer.getvalue()


def tiny_vgg(resize=0):
    """A stand-in for model.vgg that costs next to nothing: one convolution of the images in [0, 255]."""
    import keras

    floats = {"dtype": keras.config.floatx()}
    image = keras.Input((None, None, 3))
    x = keras.layers.Resizing(resize, resize, **floats)(image) if resize else image
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")((x + 1) * 127.5)
    return keras.Model(image, keras.ops.cast(x, keras.config.floatx()), trainable=False)


SMALL = ((8, 4), (8, 2))  # the (maps, stride) of a small discriminator's convolutions


@pytest.fixture
def small_judge(monkeypatch):
    """A discriminator of two convolutions, where the paper's eight are not what is tested."""
    monkeypatch.setattr(model, "CONVOLUTIONS", SMALL)


@pytest.fixture
def folder(tmp_path, rng):
    """Seven photographs of odd sizes, in two folders."""
    for i in range(7):
        utils.write_image(tmp_path / ("a" if i % 2 else "b") / f"photo{i}.png", photo(rng, 50 + i, 61 + 2 * i))
    return tmp_path


def write_evaluation(folder, rng, sets, methods):
    """What a study takes of evaluate.py: its pictures of random photographs of {set: images}, and results.json.

    Each method is bicubic with a bright square of its own, so that no two pictures are equal.
    """
    images = {}
    for set_name, names in sets.items():
        photos = [photo(rng, 48, 64) for _ in names]
        images[set_name] = [
            testsets.Image(n, hr, utils.imresize(hr, 1 / 4)) for n, hr in zip(names, photos, strict=True)
        ]
    with ThreadPoolExecutor(2) as pool:
        figures.write_originals(folder, {name: testsets.ImageSet(members) for name, members in images.items()}, 4, pool)
    scores = {set_name: {method: {} for method in methods} for set_name in sets}
    for set_name, members in images.items():
        for image in members:
            for i, method in enumerate(methods):
                sr = utils.imresize(image.lr, 4)
                sr[4 * i : 4 * i + 4, :8] = 255
                figures.write_method(folder / set_name, image, method, sr)
                scores[set_name][method][image.name] = {"psnr_y": 30.0 + i}
    tables.write_json(folder / "results.json", tables.summarise(scores, dict.fromkeys(sets)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache folder of these tests; "auto" is TensorFlow, so that no engine is timed or converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SRGAN_ENGINE", "tensorflow")
        yield


@pytest.fixture
def packs(tmp_path, monkeypatch):
    """The folder of the packs of --cache=disk, hidden from those who look for images."""
    monkeypatch.setenv("SRGAN_CACHE", str(tmp_path / ".cache"))
    return tmp_path / ".cache"


def read_photographs(folder, **settings):
    return Photographs(utils.list_images(folder), **{"minimum": 32, "cache_gib": 1.0, "progress": False} | settings)


def environment_of_scripts(variables=os.environ):
    """Environment variables without the one by which oneDNN is off in these tests: scripts choose for themselves."""
    return {name: value for name, value in variables.items() if name != "TF_ENABLE_ONEDNN_OPTS"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project as a fresh clone has it; what a script writes there goes with it."""
    folder = tmp_path_factory.mktemp("clone")
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, folder)
    for room in ROOMS:
        shutil.copytree(PROJECT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("vgg19", "checkpoint", "samples"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def run(clone):
    """run("train.py", "--steps", 2, …) → CompletedProcess, in the clone, without environment variables of ours.

    A process of its own, which loads TensorFlow anew in eight seconds: where nothing hangs on that, `call` will do.
    """

    def run_script(script, *arguments, timeout=240, **settings):
        command = [sys.executable, "-B", script, *map(str, arguments)]
        env = environment_of_scripts(settings.pop("env", os.environ))
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=timeout, env=env, **settings)

    return run_script


@pytest.fixture(scope="module")
def call(clone):
    """call("train.py", "--steps", 2, …) → CompletedProcess as of `run`, but of the command's main() in this process.

    env: environment variables beside those that are there.
    """

    def call_main(*command, env=()):
        name, *arguments = map(str, command[command[0] == "-m" :])
        module = importlib.import_module(name.removesuffix(".py"))
        printed, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for part in list(sys.modules.values()):
                if getattr(part, "__dict__", {}).get("PROJECT") == PROJECT:
                    patch.setattr(part, "PROJECT", clone)
            for variable, value in dict(env).items():
                patch.setenv(variable, value)
            patch.chdir(clone)
            patch.setattr(sys, "argv", [f"{name.split('.')[-1 if command[0] == '-m' else 0]}.py", *arguments])
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(errors))
            end = stack.enter_context(pytest.raises(SystemExit))
            terminal.run_command(module.main)
        if "keras" in sys.modules:
            devices.choose_precision("float32")
        texts = [stream.buffer.getvalue().decode() for stream in (printed, errors)]
        return subprocess.CompletedProcess(command, end.value.code or 0, *texts)

    return call_main


def make_run(directory, mode, *overrides, seed=0):
    """A run of a tiny network as train.py leaves it, with random weights of which none is without effect."""
    import keras

    config = make_config(mode, overrides=[*TINY_SETTINGS, *overrides])
    keras.utils.set_random_seed(seed)
    generator = build_generator(config.MODEL)
    for layer in generator.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.full_like(weights, 0.5) for weights in layer.get_weights()])
    store.create(store.Run(directory, mode, "slides", config), {})
    store.save_weights(generator, directory / store.WEIGHTS)
    return directory


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The directory of an SRGAN run of a tiny network."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", "srgan")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of runs: a tiny SRGAN and the SRResNet that it can be mixed with, and one of another factor."""
    folder = tmp_path_factory.mktemp("place")
    make_run(folder / "srgan_x4", "srgan", seed=1)
    make_run(folder / "srresnet_x4", "srresnet", seed=2)
    make_run(folder / "half", "srresnet", "MODEL.scale=2", seed=3)
    return folder


@pytest.fixture
def runs_there(place, monkeypatch):
    """`place` as the only runs there are."""
    from web import compare

    monkeypatch.setenv("SRGAN_RUNS", str(place))
    monkeypatch.setattr(store, "PROJECT", place)
    compare.upscaler_of.cache_clear()


def assert_refused(result, *words):
    """One sentence on standard error, exit status 2, no traceback; the sentence holds the words."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    assert "error:" in sentence
    for word in words:
        assert str(word) in sentence


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a window or a connection of its own, driven by Selenium; one for all tests."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    for flag in ("headless=new", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def open_page(browser, address, width=1400, height=900):
    """Open a page in a window of this size, with what came before forgotten."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)


def requested(browser):
    """The addresses that the open page has asked for since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = (message["params"] for message in messages if message["method"] == "Network.requestWillBeSent")
    return [params["request"]["url"] for params in sent]
