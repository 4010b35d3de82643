"""Every format, made from a tiny network by the command, is loaded again and compared; faults are planted."""

import importlib.util
import json
import re
import zipfile

import numpy as np
import pytest
from conftest import PROJECT, assert_refused, photo

import data
import evaluate
import export
import utils
from config import make_config
from images import pictures
from inference import formats
from inference.compiled import fold_batch_norm
from inference.formats import FORMATS
from networks.registry import build_generator
from runs import store
from utils import LazyModule, UserError

keras = LazyModule("keras")

TINY_MODEL = ("MODEL.blocks=1", "MODEL.width=8")
EXTRA = sorted({package for form in FORMATS.values() for package in form.packages})
needs_all = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, EXTRA)), reason=f"needs {', '.join(EXTRA)} (requirements-export.txt)"
)


@pytest.fixture(scope="module")
def generator():
    """A random network that adds up to half the grey levels to each channel, with batch norms that do something."""
    keras.utils.set_random_seed(0)
    config, random = make_config(overrides=TINY_MODEL).MODEL, np.random.default_rng(0)
    network = build_generator(config)
    for layer in network.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([random.uniform(0.5, 1.5, array.shape) for array in layer.get_weights()])
    tail = network.get_layer("tail_conv")
    tail.kernel.assign(random.normal(0, 0.05, tail.kernel.shape))
    lr = utils.imresize(pictures.read_image(data.package_files(data.SAMPLE_TEST)[0]), 1 / 4)
    added = keras.Model(network.input, tail.output)(utils.u8_to_01(lr)[None], training=False).numpy()
    factor = 1 / np.ptp(added, axis=(0, 1, 2))
    kernel, bias = tail.get_weights()
    tail.set_weights([kernel * factor, bias - factor * added.mean(axis=(0, 1, 2))])
    return network, config


@pytest.fixture(scope="module")
def tiny(generator, clone):
    """A run of this name in the clone's checkpoint/."""
    folder = clone / "checkpoint" / "tiny"
    store.create(store.Run(folder, "srresnet", "slides", make_config(overrides=TINY_MODEL)), {})
    store.save_weights(generator[0], folder / store.WEIGHTS)


@pytest.fixture(scope="module")
def exported(tiny, clone, call):
    """(what the command said, its folder) for the tiny run."""
    random = np.random.default_rng(1)
    for i in range(3):
        picture = photo(random, 256, 256)
        picture[:64], picture[64:128] = 255, 0
        utils.write_image(clone / "sets" / "train" / f"{i}.png", picture)
    for path in data.package_files(data.SAMPLE_TEST)[:2]:
        utils.write_image(clone / "sets" / "mine" / f"{path.stem}.png", pictures.read_image(path)[100:230, 100:260])
    arguments = ("--data", "sets", "--sets", "mine", "--size", 16, "--rounds", 1, "--calibration", 4)
    result = call("export.py", "tiny", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout, clone / "exports" / "tiny"


def source_of(generator):
    return formats.Source(fold_batch_norm(*generator), {"scale": "4"})


@pytest.mark.slow
@needs_all
def test_the_table(exported):
    said, folder = exported
    names = sorted(path.name for path in folder.iterdir())
    files = ["tiny.onnx", "tiny.tflite", "tiny_float16.tflite", "tiny_int8.tflite", "tiny_savedmodel"]
    assert names == sorted(["export.json", "table.md", *files])
    facts = json.loads((folder / "export.json").read_text())
    assert facts["photographs"] == ["chelsea", "coffee"] and facts["calibration_crops"] == 4
    rows = facts["formats"]
    assert list(rows) == ["source", *FORMATS]
    lines = (folder / "table.md").read_text().splitlines()
    assert (folder / "table.md").read_text() in said
    for name, row in rows.items():
        line = next(line for line in lines if line.startswith(f"| {name} |"))
        assert row["file"] in line and f"{row['psnr_y']:.3f} dB" in line and row["ms"] > 0 and row["speed"] > 0
    assert rows["source"]["max_difference"] == 0 and rows["source"]["psnr_source"] is None
    for name in ("savedmodel", "onnx", "tflite"):
        assert rows[name]["max_difference"] <= 1 and rows[name]["psnr_y"] == pytest.approx(
            rows["source"]["psnr_y"], abs=1e-3
        )
    assert rows["tflite-float16"]["megabytes"] < 0.8 * rows["tflite"]["megabytes"]
    # Eight bits cannot be as near as sixteen; were they, nothing would be quantised.
    assert 30 < rows["tflite-int8"]["psnr_source"] < 60 and rows["tflite-int8"]["differing"] > 0.01


@pytest.mark.slow
@needs_all
@pytest.mark.parametrize("name", FORMATS)
def test_loaded_again_at_any_size(exported, generator, rng, name):
    """Odd sizes, not square, a batch: beside the network with its batch norms, without the command's comparison."""
    upscale = FORMATS[name].load(exported[1] / f"tiny{FORMATS[name].ending}")
    for batch, height, width in ((1, 17, 30), (1, 31, 9), (3, 12, 13)):
        lr = np.stack([photo(rng, height, width) for _ in range(batch)])
        wanted = utils.m11_to_u8(generator[0](utils.u8_to_01(lr), training=False))
        sr = upscale(lr)
        assert sr.dtype == np.uint8 and sr.shape == wanted.shape == (batch, 4 * height, 4 * width, 3)
        difference = np.abs(sr.astype(int) - wanted)
        if FORMATS[name].levels == 1:
            assert difference.max() <= 1 and np.mean(difference > 0) < 0.002
        else:
            assert difference.mean() < (0.1 if name == "tflite-float16" else 6)


@pytest.mark.slow
@needs_all
def test_files_say_what_they_are(exported, clone):
    import onnx

    folder = exported[1]
    abouts = [json.loads((folder / "tiny_savedmodel" / "assets.extra" / "about.json").read_text())]
    for name in ("tiny.tflite", "tiny_float16.tflite", "tiny_int8.tflite"):
        with zipfile.ZipFile(folder / name) as file:
            abouts.append(json.loads(file.read("about.json")))
    proto = onnx.load(folder / "tiny.onnx")
    abouts.append({entry.key: entry.value for entry in proto.metadata_props})
    assert all(about == abouts[0] for about in abouts)
    assert abouts[0]["name"] == "tiny" and abouts[0]["scale"] == "4" and "MIT" in abouts[0]["licence"]
    sizes = [
        [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert sizes == [["batch", "height", "width", ""], ["batch", "4*height", "4*width", ""]]


@pytest.mark.slow
@needs_all
@pytest.mark.parametrize("program", ["tensorflow", "onnxruntime", "ai_edge_litert"])
def test_the_documented_use(exported, generator, rng, tmp_path, monkeypatch, program):
    """Each block of docs/export.md is run as it stands, but for the name of the run."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "export.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if program in block]
    monkeypatch.chdir(exported[1].parent.parent)
    lr = photo(rng, 21, 34)
    utils.write_image(exported[1].parent.parent / "photo.png", lr)
    exec(block.replace("srresnet_x4", "tiny"), {})
    sr = pictures.read_image(exported[1].parent.parent / "photo_x4.png")
    assert np.abs(sr.astype(int) - evaluate.Model("tiny", *generator).upscale([lr])[0]).max() <= 1


# ---------------------------------------------------------------------------------------------------------------------
# Faults


FAULTS = {
    "truncating": lambda sr_m11: sr_m11 - 1 / 255,  # half a level less before the rounding
    "red is blue": lambda sr_m11: sr_m11[..., ::-1],
}


@pytest.fixture
def plant(monkeypatch):
    """plant(fault): from now on the network inside an export is followed by the fault."""

    def follow(fault):
        right = formats.frozen

        def frozen(network):
            call = right(network)
            return lambda x: FAULTS[fault](call(x))

        monkeypatch.setattr(formats, "frozen", frozen)

    return follow


PLANTED = [
    ("savedmodel", "truncating"),
    ("onnx", "red is blue"),
    ("tflite", "truncating"),
    ("tflite-int8", "red is blue"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), PLANTED)
def test_a_planted_fault_is_found_and_no_file_is_left(generator, tmp_path, rng, plant, name, fault):
    if not all(map(importlib.util.find_spec, FORMATS[name].packages)):
        pytest.skip(f"needs {', '.join(FORMATS[name].packages)}")
    plant(fault)
    source = source_of(generator)._replace(crops=[np.full((8, 8, 3), level, np.uint8) for level in (0, 255)])
    path = tmp_path / f"x{FORMATS[name].ending}"
    with pytest.raises(UserError, match="differs from the source by up to .* grey levels"):
        export.export(name, source, path, judge_of(generator, rng))
    assert not list(tmp_path.iterdir())


def judge_of(generator, rng):
    """What export.py asks of an export, on one picture."""
    reference = evaluate.Model("tiny", *generator)
    hr = photo(rng, 96, 128)
    images = [export.testsets.Image("x", hr, utils.imresize(hr, 1 / 4))]
    wanted = [np.stack(reference.upscale(batch)) for batch in export.batches_of(images)]
    return lambda upscale: export.compare(upscale, wanted, images, 4)


@pytest.mark.slow
def test_the_right_one_is_kept_and_a_failing_one_does_not_replace_it(generator, tmp_path, rng, plant):
    path, judge = tmp_path / "x_savedmodel", judge_of(generator, rng)
    assert export.export("savedmodel", source_of(generator), path, judge)["max_difference"] <= 1
    before = (path / "saved_model.pb").read_bytes()
    plant("red is blue")
    with pytest.raises(UserError):
        export.export("savedmodel", source_of(generator), path, judge)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert (path / "saved_model.pb").read_bytes() == before


def test_a_folder_that_is_no_export_is_not_replaced(generator, tmp_path):
    (tmp_path / "x_savedmodel").mkdir()
    (tmp_path / "x_savedmodel" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a SavedModel"):
        export.export("savedmodel", source_of(generator), tmp_path / "x_savedmodel", None)
    assert (tmp_path / "x_savedmodel" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [ValueError("a\nb"), TypeError(), RuntimeError("x"), NotImplementedError("x")])
def test_a_converters_own_exception_is_a_sentence(tmp_path, monkeypatch, error):
    """Then the other formats are made; what was there before stays."""

    def write(source, path):
        path.write_text("half")
        raise error

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write))
    (tmp_path / "x.onnx").write_text("before")
    with pytest.raises(UserError, match="cannot be converted"):
        export.export("onnx", None, tmp_path / "x.onnx", None)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.slow
@needs_all
def test_int8_shifts_no_colours(generator, tmp_path, rng, monkeypatch):
    """The mean of a channel over the crops is the network's own; without the correction it is not."""
    crops = [photo(rng, 32, 32) for _ in range(3)]
    crops[0][:8], crops[0][8:16] = 0, 255
    reference, load, path = evaluate.Model("tiny", *generator), formats.load_tflite, tmp_path / "x.tflite"

    def shift():
        formats.write_int8(source_of(generator)._replace(crops=crops), path)
        upscale = load(path)
        differences = [upscale(lr[None])[0].astype(float) - reference.upscale([lr])[0] for lr in crops]
        return np.abs(np.mean(differences, axis=(0, 1, 2))).max()

    assert shift() < 0.2
    # If what is measured were the network itself, there would be nothing to take off.
    monkeypatch.setattr(formats, "load_tflite", lambda path: lambda lr: np.stack(reference.upscale(lr)))
    assert shift() > 0.5


@pytest.mark.slow
@needs_all
def test_int8_without_black_and_white_is_refused(generator, tmp_path):
    crops = [np.full((16, 16, 3), level, np.uint8) for level in (100, 150)]
    with pytest.raises(UserError, match="lack black or white"):
        export.export("tflite-int8", source_of(generator)._replace(crops=crops), tmp_path / "x.tflite", None)
    assert not list(tmp_path.iterdir())


def test_a_wrong_shape_is_named():
    image = export.testsets.Image("x", np.zeros((40, 40, 3), np.uint8), np.zeros((10, 10, 3), np.uint8))
    wanted = [np.zeros((n, 40, 40, 3), np.uint8) for n in (1, 2)]
    with pytest.raises(UserError, match=r"gives uint8 \(1, 20, 20, 3\), not uint8 \(1, 40, 40, 3\)"):
        export.compare(lambda lr: lr.repeat(2, axis=1).repeat(2, axis=2), wanted, [image], 4)


def test_measures_against_a_count_by_hand():
    """One level at one of 100 pixels and at none of the batch's 200: 300·3 values, PSNR of 1/900."""
    hr = np.zeros((40, 40, 3), np.uint8)
    image = export.testsets.Image("x", hr, hr[:10, :10])
    wanted = [np.zeros((n, 10, 10, 3), np.uint8) for n in (1, 2)]

    def upscale(lr):
        sr = np.zeros((len(lr), 10, 10, 3), np.uint8)
        sr[0, 0, 0, 0] = len(lr) == 1
        return sr

    found = export.compare(upscale, wanted, [image._replace(hr=hr[:10, :10])], 1)
    assert found["max_difference"] == 1 and found["differing"] == pytest.approx(1 / 900)
    assert found["psnr_source"] == pytest.approx(10 * np.log10(255**2 * 900))


# ---------------------------------------------------------------------------------------------------------------------
# Before TensorFlow


def test_calibration_crops_are_photographs_shrunk(tmp_path, rng, capsys):
    """Two of three are large enough; of one just as large the whole LR image is taken."""
    photos = {"a": photo(rng, 256, 256), "b": photo(rng, 100, 300), "c": photo(rng, 300, 280)}
    for name, image in photos.items():
        utils.write_image(tmp_path / f"{name}.png", image)
    crops = export.calibration_crops(str(tmp_path), 5, 4)
    assert "b.png is too small" in capsys.readouterr().err
    assert len(crops) == 5 and all(crop.dtype == np.uint8 and crop.shape == (64, 64, 3) for crop in crops)
    np.testing.assert_array_equal(crops[2], utils.imresize(photos["a"], 1 / 4))


def test_missing_packages_are_a_hint(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("tf2onnx", "onnxruntime") else True)
    with pytest.raises(UserError, match="onnx needs tf2onnx and onnxruntime: pip install -r requirements-export.txt"):
        formats.choose_formats(("onnx",))
    assert formats.choose_formats(None) == ["savedmodel", "tflite", "tflite-float16", "tflite-int8"]
    assert "left out: onnx needs" in capsys.readouterr().out


def test_the_extra_packages_are_listed():
    listed = (PROJECT / "requirements-export.txt").read_text()
    assert all(re.search(rf"^{package.replace('_', '-')}>=", listed, re.MULTILINE) for package in EXTRA)
    assert "-r requirements-export.txt" in (PROJECT / "requirements-dev.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there are no weights at 'nowhere'"),
        ([], "there are no weights (srgan_x4 or srresnet_x4)"),
        (["tiny", "--to=coreml"], "no format called 'coreml'; there are savedmodel, onnx"),
        (["tiny", "--to=,"], "--to"),
        (["tiny", "--calibration=0"], "--calibration"),
        (["tiny", "--size=x"], "--size"),
        (["tiny", "--out=."], "--out"),
        (["tiny", "--data=nowhere"], "nowhere"),
        (["tiny", "--sets=Set6"], "Set6"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(tiny, call, arguments, words):
    assert_refused(call("export.py", *arguments), words)
