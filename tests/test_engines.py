"""Engines against the reference, TensorFlow without oneDNN on the whole picture; conversions and their cache."""

import json

import numpy as np
import pytest
from conftest import photo

from inference import compiled, engines
from inference.engines import fastest
from inference.tiles import Upscaler, source_of
from networks import receptive
from utils import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of engines; "auto" is the fastest, as outside of these tests."""
    monkeypatch.delenv("SRGAN_ENGINE", raising=False)
    monkeypatch.setenv("SRGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def differences(image, reference):
    """(the largest difference in levels, the share of values that differ)"""
    levels = np.abs(image.astype(int) - reference)
    return levels.max(), (levels > 0).mean()


ALL = [name for name in engines.ENGINES if not engines.missing(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_engines_of_the_shipped_network(name, cache):
    """On a photograph in several tiles and strips: at most a level, in at most 0.01 % of values."""
    from skimage.data import chelsea

    lr = np.ascontiguousarray(chelsea()[60:160, 100:210])
    reference = Upscaler("srresnet_x4", exact=True).upscale(lr)
    upscaler = Upscaler("srresnet_x4", tile=48, engine=name)
    assert upscaler.engine == name and upscaler.count(*lr.shape[:2]) > 3
    largest, share = differences(upscaler.upscale(lr), reference)
    assert largest <= 1 and share <= 1e-4


@pytest.mark.slow
def test_half_without_a_skip(tiny_run, rng):
    lr = photo(rng, 20, 30)
    exact, half = Upscaler(tiny_run, exact=True).upscale(lr), Upscaler(tiny_run, half=True).upscale(lr)
    assert 0 < differences(half, exact)[0] < 20


@pytest.mark.slow
def test_half_is_near(cache):
    from skimage.data import chelsea

    lr = np.ascontiguousarray(chelsea()[60:140, 100:190])
    reference = Upscaler("srresnet_x4", exact=True).upscale(lr)
    image = Upscaler("srresnet_x4", half=True).upscale(lr)
    error = np.mean((image.astype(float) - reference) ** 2)
    assert 0 < error < 255**2 / 10**4.2  # over 42 dB, where an 8-bit JPEG of quality 95 has about 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_all_kinds_of_arrays_by_each_engine(name, tiny_run, rng, cache):
    """Also tiles of changing sizes, one pixel, and a network without the bicubic skip."""
    exact, upscaler = Upscaler(tiny_run, exact=True), Upscaler(tiny_run, tile=24, engine=name)
    for shape, dtype in (
        ((61, 50, 3), np.uint8),
        ((40, 33, 2), np.uint8),
        ((1, 1, 4), np.uint16),
        ((9, 70, 1), np.uint16),
    ):
        lr = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
        ours, reference = upscaler.upscale(lr) / np.iinfo(dtype).max, exact.upscale(lr) / np.iinfo(dtype).max
        assert np.abs(ours - reference).max() <= 1 / 255


@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_the_two_parts_are_the_network(skip, rng):
    from conftest import TINY_SETTINGS

    from config import make_config
    from networks.registry import build_generator

    config = make_config(overrides=[*TINY_SETTINGS, f"MODEL.skip={skip}"]).MODEL
    network = compiled.fold_batch_norm(build_generator(config), config)
    network.set_weights([weights + rng.uniform(0, 0.05, weights.shape) for weights in network.get_weights()])
    trunk, rest = compiled.split(network)
    lr_01 = rng.random((2, 9, 12, 3), np.float32)
    assert np.array_equal(rest(trunk(lr_01)), network(lr_01))
    assert receptive.radius_of(trunk) + receptive.radius_of(rest) >= receptive.radius_of(network)
    assert 1 <= receptive.radius_of(rest) <= 3


def test_too_small_a_halo_of_strips_shows(tiny_run, rng):
    lr = photo(rng, 60, 40)
    upscaler = Upscaler(tiny_run)
    whole = upscaler.upscale(lr)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.tiles.STRIP", 400)
        assert differences(upscaler.upscale(lr), whole)[0] <= 1
        patch.setattr(upscaler, "radii", [0, 0])
        assert differences(upscaler.upscale(lr), whole)[0] > 1


# ---------------------------------------------------------------------------------------------------------------------
# Conversions


@pytest.mark.slow
def test_a_conversion_is_made_once_for_the_same_weights(tiny_run, cache, monkeypatch):
    source = source_of(tiny_run, None, None)
    loaded = engines.load("litert", source)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".tflite", ".tflite"]
    monkeypatch.setattr(engines, "convert", lambda *_: pytest.fail("converted again"))
    assert engines.load("litert", source).radii == loaded.radii
    monkeypatch.undo()
    assert source.digest("a") != source._replace(share=0.5).digest("a") != source.digest("b")
    with open(tiny_run / "other.weights.h5", "wb") as file:
        file.write(b"other")
    assert source._replace(weights=tiny_run / "other.weights.h5").digest("a") != source.digest("a")


@pytest.mark.slow
def test_the_oldest_conversions_go(tiny_run, cache, monkeypatch):
    monkeypatch.setattr(engines, "KEPT", 1)
    cache.mkdir(parents=True)
    for name in ("old.json", "old.0.tflite", "speeds"):
        (cache / name).write_text("{}")
    engines.load("litert", source_of(tiny_run, None, None))
    assert "speeds" in (names := {path.name for path in cache.iterdir()}) and len(names) == 4
    assert not any("old" in name for name in names)


@pytest.mark.slow
def test_a_damaged_conversion_is_made_again(tiny_run, cache):
    source = source_of(tiny_run, None, None)
    engines.load("litert", source)
    for path in cache.glob("*.tflite"):
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="litert cannot load what was converted"):
        engines.load("litert", source)
    assert len(engines.load("litert", source).parts) == 2


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_and_a_missing_package(tiny_run, cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_text("a file")
    source = source_of(tiny_run, None, None)
    with pytest.raises(UserError, match="another folder with SRGAN_CACHE, or use --engine tensorflow"):
        engines.load("litert", source)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--engine onnxruntime needs onnxruntime and tf2onnx and onnx: pip install"):
        engines.load("onnxruntime", source)
    assert fastest(source, 1) == "tensorflow"
    monkeypatch.undo()
    monkeypatch.setenv("SRGAN_CACHE", str(cache.parent))
    monkeypatch.delenv("SRGAN_ENGINE")
    assert fastest(source, 1) == "tensorflow"  # no other can be converted, and that is no error


def test_the_fastest_is_the_one_that_is_done_first(tiny_run, cache, monkeypatch, capsys):
    """One starts at once and is slow, another is fast: small work goes to the first. Timed once, or if damaged."""
    source, timed = source_of(tiny_run, None, None), []

    def time_engines(names, source):
        timed.append(names)
        return {"tensorflow": [10, 300], "litert": [0, 100], "onnxruntime": [1, 50]}

    monkeypatch.setattr(engines, "time_engines", time_engines)
    assert [fastest(source, pixels) for pixels in (10, 1400, 1600, 10**6)] == ["litert"] * 2 + ["tensorflow"] * 2
    assert len(timed) == 1 and capsys.readouterr().out.count("the engines are timed") == 1
    (cache / "speeds").write_text(json.dumps({key: [] for key in json.loads((cache / "speeds").read_text())}))
    assert fastest(source, 10) == "litert" and len(timed) == 2
    monkeypatch.setenv("SRGAN_ENGINE", "onnxruntime")
    assert fastest(source, 10) == "onnxruntime"
    monkeypatch.setenv("SRGAN_ENGINE", "best")
    with pytest.raises(UserError, match="SRGAN_ENGINE is 'best', but there are tensorflow, litert"):
        fastest(source, 10)


@pytest.mark.slow
def test_engines_are_timed(tiny_run, cache):
    speeds = engines.time_engines(ALL, source_of(tiny_run, None, None))
    assert list(speeds) == ALL and all(start > 0 and speed > 100 for start, speed in speeds.values())


def test_errors_of_libraries_are_ours():
    def fails(error):
        def run(x):
            raise error

        return engines.guarded(run)

    with pytest.raises(MemoryError):
        fails(RuntimeError("Failed to allocate 3 GiB"))(0)
    with pytest.raises(UserError, match="cannot take it"):
        fails(ValueError("a wrong shape"))(0)
    with pytest.raises(UserError, match="as it was"):
        fails(UserError("as it was"))(0)
