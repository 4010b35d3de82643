import importlib.util
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_refused

import benchmark
from config import make_config
from inference import rivals
from networks import counting, registry
from utils import UserError

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch, which is optional")


@pytest.mark.slow
def test_all_measurements_in_small(run, tmp_path):
    result = run("benchmark.py", "--quick", "--no-xla", "--steps", 1, "--rounds", 1, "--json", tmp_path / "speed.json")
    assert result.returncode == 0, result.stderr
    speed = json.loads((tmp_path / "speed.json").read_text())
    units = {"srresnet_train": "img_per_s", "srgan_train": "img_per_s", "inference": "mp_per_s", "input": "crops_per_s"}
    for what, unit in units.items():
        figures = speed[what]
        assert 0.03 < figures["peak_gib"] < 16 and "vs_torch" not in figures
        if what != "input":
            amount = (4 * 128) ** 2 / 1e6 if what == "inference" else 2  # megapixels of the output, crops of a batch
            assert figures[unit] * figures["s_per_step"] == pytest.approx(amount)
            share = figures["gflop"] / figures["s_per_step"] / figures["matrix_product_gflops"]
            assert figures["flops_share"] == pytest.approx(share) and figures["compile_s"] > figures["s_per_step"]
    # A head of 9×9, 3 convolutions of 3×3, sub-pixel ones at LR's size and at twice that, a tail at SR's size.
    a_pixel = 81 * 3 * 8 + 3 * 9 * 8 * 8 + (1 + 4) * 9 * 8 * 32 + 16 * 81 * 8 * 3
    assert speed["inference"]["gflop"] == pytest.approx(2 * 128**2 * a_pixel / 1e9)
    assert speed["srresnet_train"]["gflop"] == pytest.approx(3 * 2 * 2 * 8**2 * a_pixel / 1e9)
    assert speed["srgan_train"]["gflop"] > speed["srresnet_train"]["gflop"]
    assert speed["machine"]["cores"] == os.cpu_count()
    rows = result.stdout.splitlines()
    assert [row.split("  ")[0] for row in rows[2:]] == ["SRResNet training", "SRGAN training", "inference", "input"]
    assert f"{speed['inference']['mp_per_s']:.2f} megapixels/s" in rows[4]


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_against_torch(run, tmp_path, precision):
    """A training: eager and compiled, in both layouts of the tensors; the row is of the fastest."""
    arguments = ("--quick", "--steps", 1, "--rounds", 1, "--only", "srresnet", "--no-xla", "--precision", precision)
    result = run("benchmark.py", *arguments, "--against", "torch", "--json", tmp_path / "speed.json")
    assert result.returncode == 0, result.stderr
    key = "srresnet_train" + ("" if precision == "float32" else f"_{precision}")
    speed = json.loads((tmp_path / "speed.json").read_text())[key]
    rivals = {name: speed[f"torch_{name}_img_per_s"] for name in benchmark.RIVALS if "left out" not in result.stderr}
    assert speed["torch_fastest"] == max(rivals, key=rivals.get)
    assert speed["vs_torch"] == pytest.approx(speed["img_per_s"] / max(rivals.values()))
    assert f"{speed['vs_torch']:.2f}x ({speed['torch_fastest']})" in result.stdout
    assert ("SRResNet training, mixed_bfloat16 " in result.stdout) == (precision != "float32")


@needs_torch
@pytest.mark.parametrize("build", [benchmark.torch_training, benchmark.torch_inference])
def test_pytorch_without_a_compiler_is_eager(monkeypatch, build):
    import torch

    def fails(network):
        def compiled(lr):
            raise RuntimeError("no C++ compiler\nwas found")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    config = make_config(overrides=(*benchmark.QUICK, "MODEL.skip=none"))
    with pytest.raises(UserError, match=r"torch.compile does not work here \(no C\+\+ compiler\)"):
        build(SimpleNamespace(tile=8), config, "channels_last", True)
    step, facts = build(SimpleNamespace(tile=8), config, "channels_last", False)
    step()
    assert facts["device"] == ("GPU" if torch.cuda.is_available() else "CPU")


def test_what_cannot_be_compiled_is_left_out(capsys):
    def start(build, args, config, layout, compile_it):
        if compile_it:
            raise UserError("no compiler")
        return layout

    assert benchmark.start_rivals(start, None, None, None) == {name: name for name in benchmark.LAYOUTS}
    assert capsys.readouterr().err.count("_compiled is left out: no compiler") == 2
    with pytest.raises(UserError, match="nothing works"):
        benchmark.start_rivals(lambda *arguments: fail("nothing works"), None, None, None)


def fail(words):
    raise UserError(words)


def test_figures_of_a_measurement():
    """By hand: the medians of three turns, the faster of PyTorch's layouts, and the median of the turns' ratios."""

    def worker(turns, **facts):
        return SimpleNamespace(turns=turns, facts={"peak_gib": 1.5, **facts})

    ours = worker([2.0, 1.0, 4.0], first_s=9.0, flops=6e9, products=[3e9, 5e9, 10e9])
    rivals = {"contiguous_format": worker([4.0, 4.0, 4.0]), "channels_last_compiled": worker([3.0, 3.0, 20.0])}
    config = make_config(overrides=("TRAIN.batch=8",))
    expected = {"img_per_s": 4, "peak_gib": 1.5, "s_per_step": 2, "compile_s": 9, "gflop": 6, "flops_share": 0.6}
    expected["matrix_product_gflops"] = 5
    assert benchmark.figures_of("srresnet", 16, config, ours, {}) == pytest.approx(expected)
    found = benchmark.figures_of("srresnet", 16, config, ours, rivals)
    assert found.pop("torch_fastest") == "channels_last_compiled"
    expected |= {"vs_torch": 3, "torch_peak_gib": 1.5}
    expected |= {"torch_contiguous_format_img_per_s": 2, "torch_channels_last_compiled_img_per_s": 8 / 3}
    assert found == pytest.approx(expected)
    assert benchmark.figures_of("inference", 250, config, ours, {})["mp_per_s"] == pytest.approx(0.5)
    crops = benchmark.INPUT_STEPS * 8 / 2
    assert benchmark.figures_of("input", 16, config, ours, {}) == {"crops_per_s": crops, "peak_gib": 1.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "speed"), ("speed", "srresnet, srgan, inference, input")),
        (("--only", ","), ("--only", "names nothing")),
        (("--rounds", "0"), ("--rounds", "above zero")),
        (("--tile", "x"), ("--tile", "whole number")),
        (("--json", "nowhere/speed.json"), ("--json", "folder")),
        (("--data", "nowhere"), ("--data", "nowhere")),
        (("--against", "jax"), ("--against", "torch")),
        (("--precision", "float32,float64"), ("float64", "float32, mixed_float16, mixed_bfloat16")),
    ],
)
def test_mistakes_are_one_sentence(call, arguments, words):
    assert_refused(call("benchmark.py", *arguments), *words)


def test_missing_torch_is_a_hint(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--against", "torch"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(benchmark.UserError, match="pip install torch==2.13.0"):
        benchmark.main()


def test_a_failing_process_says_why(tmp_path):
    """A UserError inside a measurement comes out as it is."""
    args = SimpleNamespace(data=str(tmp_path))
    with pytest.raises(benchmark.UserError, match="holds no images"):
        benchmark.Worker(benchmark.our_input, args, make_config())


@pytest.mark.slow
def test_flops_against_a_count_by_hand():
    """Multiplications a pixel of LR, Figure 4: head, 33 convolutions, two sub-pixel ones (×1, ×4), tail (×16)."""
    head, body, tail = 81 * 3 * 64, 33 * 9 * 64 * 64, 16 * 81 * 64 * 3
    a_pixel = head + body + (1 + 4) * 9 * 64 * 256 + tail
    generator = registry.build_generator(make_config().MODEL)
    assert counting.multiply_adds(generator, (2, 24, 20, 3)) == 2 * 24 * 20 * a_pixel
    discriminator = registry.build_discriminator(make_config().MODEL, 32)
    widths, sides = [3, 64, 64, 128, 128, 256, 256, 512, 512], [32, 16, 16, 8, 8, 4, 4, 2]
    expected = sum(9 * a * b * n * n for a, b, n in zip(widths, widths[1:], sides, strict=False))
    expected += 2 * 2 * 512 * 1024 + 1024
    assert counting.multiply_adds(discriminator, (3, 32, 32, 3)) == 3 * expected


@needs_torch
@pytest.mark.parametrize("scale", [2, 4])
def test_the_reference_is_the_same_network(scale, rng):
    """As many weights, and with ours put into it the same output, also after PyTorch's own fusion."""
    import torch

    small = ("MODEL.blocks=2", "MODEL.width=8", "MODEL.skip=none")
    config = make_config(overrides=(f"MODEL.scale={scale}", *small)).MODEL
    generator, reference = registry.build_generator(config), rivals.torch_generator(config)
    assert benchmark.count_weights(generator) == sum(p.numel() for p in reference.parameters())
    for ours, theirs in zip(
        [layer for layer in generator.layers if layer.weights],
        [part for part in reference.modules() if next(part.parameters(recurse=False), None) is not None],
        strict=True,
    ):
        arrays = [np.asarray(array) for array in ours.get_weights()]
        if type(ours).__name__ == "Conv2D":
            arrays[0] = arrays[0].transpose(3, 2, 0, 1)
            if ours.name.startswith("upsample"):  # PyTorch's shuffle reads channel c·4 + (2·i + j)
                arrays[0] = arrays[0].reshape(4, 8, 8, 3, 3).swapaxes(0, 1).reshape(32, 8, 3, 3)
        if type(ours).__name__ == "BatchNormalization":
            arrays[0] = rng.normal(1, 0.5, arrays[0].shape).astype(np.float32)
            ours.gamma.assign(arrays[0])
        for array, parameter in zip(arrays, theirs.parameters(recurse=False), strict=False):
            parameter.data = torch.tensor(array.reshape(parameter.shape))
    reference.eval()
    for part in reference.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = config.bn_epsilon
    lr = rng.random((1, 9, 7, 3), np.float32)
    with torch.inference_mode():
        sr = reference(torch.tensor(lr.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(sr, generator(lr, training=False), atol=1e-4)


@pytest.mark.parametrize("fastest", range(3))
def test_the_machines_limit_is_the_fastest_product(monkeypatch, fastest):
    """Of TensorFlow's, XLA's and NumPy's; each is called once before."""
    seconds = [4.0, 4.0, 4.0]
    seconds[fastest] = 2.0
    ways = iter(seconds)
    monkeypatch.setattr(benchmark, "timed", lambda way: next(ways))
    assert benchmark.matrix_product_flops(8) == 2 * 8**3 / 2.0
    assert not list(ways)


def test_both_sides_are_the_same_network_on_the_same_device():
    def worker(device, parameters=3):
        return SimpleNamespace(facts={"device": device, "parameters": parameters})

    benchmark.check_same([worker("GPU"), worker("GPU"), worker("GPU")])
    with pytest.raises(
        UserError, match="TensorFlow computes on a GPU here and PyTorch on a CPU, which is no comparison"
    ):
        benchmark.check_same([worker("GPU"), worker("CPU"), worker("CPU")])
    with pytest.raises(UserError, match="the number of their weights"):
        benchmark.check_same([worker("CPU"), worker("CPU", 4)])


def test_trainings_are_measured_in_the_precision_of_train(call, monkeypatch):
    """On a GPU with tensor cores in float32 and mixed_float16, into which "auto" is resolved; others in float32."""
    measured = []
    monkeypatch.setattr(benchmark.devices, "choose_precision", lambda name: name.replace("auto", "mixed_float16"))
    monkeypatch.setattr(benchmark, "measure", lambda *asked: measured.append((asked[0], asked[2])) or {})
    monkeypatch.setattr(benchmark, "print_row", lambda label, result: print(label))
    result = call("benchmark.py", "--only", "srresnet,inference")
    assert measured == [("srresnet", "float32"), ("srresnet", "mixed_float16"), ("inference", "float32")]
    assert result.stdout.splitlines()[-3:] == ["SRResNet training", "SRResNet training, mixed_float16", "inference"]


def test_our_training_is_of_the_precision_that_is_asked_for():
    """The policy is chosen before the network is built."""
    config = make_config(overrides=(*benchmark.QUICK, "TRAIN.precision=mixed_bfloat16", "TRAIN.xla=false"))
    args = SimpleNamespace(data=None)
    built = []

    class Seen(benchmark.TrainState):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            built.append({layer.compute_dtype for layer in self.generator.layers if "conv" in layer.name})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "TrainState", Seen)
        benchmark.our_training(args, config, "srresnet")
    benchmark.devices.choose_precision("float32")
    assert built == [{"bfloat16", "float32"}]  # the last convolution is float32


@pytest.mark.slow
def test_upscaling_in_turns(monkeypatch, tmp_path):
    """By hand: 2 rounds of each way; the median of each round's ratio; a small picture first."""
    seconds = {"--exact": [0, 8.0, 12.0], "auto": [0, 2.0, 4.0], "litert": [0, 4.0, 4.0]}
    commands = []

    def timed_process(command):
        commands.append(command)
        way = "--exact" if "--exact" in command else "litert" if "litert" in command else "auto"
        return seconds[way].pop(0), 1.5

    ways = {"exact": ("--exact",), "auto": (), "litert": ("--engine", "litert")}
    monkeypatch.setattr(benchmark, "ways_of_upscaling", lambda folder, weights, against: ways)
    monkeypatch.setattr(benchmark, "timed_process", timed_process)
    monkeypatch.setattr(benchmark, "matrix_product_flops", lambda side: 1e9)
    found = benchmark.measure_upscaling(SimpleNamespace(megapixels=0.01, rounds=2, quick=False, against=None))
    ways = found["ways"]
    assert found["megapixels"] == pytest.approx(0.01, rel=0.1) and len(commands) == 9
    assert ways["auto"]["s"] == 3 and ways["auto"]["vs_exact"] == 3.5 and ways["litert"]["vs_exact"] == 2.5
    work = 2 * (81 * 3 * 64 + 33 * 9 * 64 * 64 + 5 * 9 * 64 * 256 + 16 * 81 * 64 * 3)
    assert ways["auto"]["flops_share"] == pytest.approx(work * found["megapixels"] * 1e6 / 3 / 1e9)
    assert ways["exact"]["mp_per_s"] == pytest.approx(16 * found["megapixels"] / 10)


def test_ways_of_upscaling(monkeypatch, tmp_path):
    """Other libraries take part where they are installed and asked for, with the same picture."""
    monkeypatch.setattr(rivals, "installed", lambda: ["torch"])
    ways = benchmark.ways_of_upscaling(tmp_path, "weights", "torch")
    assert {"exact", "auto", "half", "tensorflow", "torch"} <= set(ways)
    assert list(ways["torch"][1:4]) == ["-m", "inference.rivals", "torch"] and "--exact" in ways["exact"]
    assert all(str(tmp_path / "photo.png") in command for command in ways.values())
    assert set(ways) - set(benchmark.ways_of_upscaling(tmp_path, "weights", None)) == {"torch"}


@pytest.mark.slow
def test_a_picture_by_pytorch(rng, monkeypatch):
    """In tiles the same as in one piece."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(rivals, "make_config", lambda: make_config(overrides=["MODEL.blocks=1", "MODEL.width=4"]))
    lr, results = rng.integers(0, 256, (70, 50, 3), np.uint8), []
    for tile in (256, 24):
        monkeypatch.setattr(rivals, "TILE", tile)
        torch.manual_seed(0)
        results.append(rivals.by_torch(lr))
    assert results[0].shape == (280, 200, 3) and np.ptp(results[0]) > 5
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


def test_a_process_that_fails_is_told():
    import sys

    seconds, gib = benchmark.timed_process([sys.executable, "-c", "x = bytearray(2 * 10**8)"])
    assert 0 < seconds < 30 and 0.18 < gib < 0.4
    with pytest.raises(UserError, match="upscaling has failed: no such thing"):
        benchmark.timed_process([sys.executable, "-c", "import sys; sys.exit('no such thing')"])
