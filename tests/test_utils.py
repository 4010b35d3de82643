import fcntl
import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import photo
from PIL import Image
from skimage.color import rgb2ycbcr

import utils
from images import pictures
from utils import UserError


def naive_imresize(image, scale):
    """MATLAB's imresize(image, scale), written down pixel by pixel from its documentation, without matrices."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def one_axis(image):
        n = image.shape[0]
        stretch = min(1, scale)
        rows = []
        for i in range(int(np.ceil(n * scale))):
            centre = (i + 0.5) / scale - 0.5
            total, weights = np.zeros(image.shape[1:]), 0.0
            for j in range(int(centre - 2 / stretch) - 2, int(centre + 2 / stretch) + 3):
                weight = kernel((centre - j) * stretch)
                inside = j
                while not 0 <= inside < n:
                    inside = -1 - inside if inside < 0 else 2 * n - 1 - inside
                total += weight * image[inside]
                weights += weight
            rows.append(np.clip(np.floor(total / weights + 0.5), 0, 255))
        return np.array(rows)

    return one_axis(one_axis(image.astype(float)).transpose(1, 0, 2)).transpose(1, 0, 2).astype(np.uint8)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 1 / 8, 2, 4])
def test_imresize_against_a_naive_one(rng, scale):
    image = rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(utils.imresize(image, scale), naive_imresize(image, scale))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_equals_matlab(shared, scale):
    """Every pixel of the LR images that MATLAB wrote."""
    for path in utils.list_images(shared / "Set5"):
        lr = utils.imresize(utils.mod_crop(pictures.read_image(path), scale), 1 / scale)
        golden = iio.imread(shared / "golden" / "Set5_LR_matlab" / f"x{scale}" / f"{path.stem}x{scale}.png")
        np.testing.assert_array_equal(lr, golden)


def test_nearest_repeats_pixels(rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(utils.imresize(image, 4, "nearest"), image.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(("method", "theirs", "margin"), [("bilinear", "BILINEAR", 1), ("lanczos", "LANCZOS", 3)])
@pytest.mark.parametrize("scale", [2, 4])
def test_other_kernels_against_pillow(rng, method, theirs, margin, scale):
    """Away from the border, where Pillow does not mirror, the two differ by rounding alone.

    The levels are such that nothing is clipped after the first pass, which is over the other axis with Pillow.
    """
    image = rng.integers(90, 166, (24, 16, 3), dtype=np.uint8)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[theirs])).astype(int)
    ours = utils.imresize(image, scale, method).astype(int)
    inside = slice(margin * scale, -margin * scale)
    assert np.abs(ours - expected)[inside, inside].max() <= 2  # two roundings each


def test_luma_against_scikit_image(rng):
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(utils.rgb_to_y(image), np.floor(rgb2ycbcr(image)[..., 0] + 0.5))


def test_halves_are_rounded_up():
    np.testing.assert_array_equal(utils.round_u8(np.array([-3, 0.5, 1.5, 2.49, 254.5, 300])), [0, 1, 2, 2, 255, 255])


def test_value_ranges():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(utils.m11_to_u8(levels / 127.5 - 1), levels)
    assert utils.u8_to_01(levels).dtype == np.float32 and utils.u8_to_01(levels).max() == 1


def test_write_image_is_whole_or_absent(tmp_path, rng, monkeypatch):
    image = photo(rng, 16, 16)
    utils.write_image(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "new" / "a.png"), image)

    def fail(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(iio, "imwrite", fail)
    with pytest.raises(UserError, match="disk full"):
        utils.write_image(tmp_path / "new" / "a.png", image // 2)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "new" / "a.png"), image)


def test_two_that_write_one_file_do_not_meet(tmp_path):
    """The second begins and ends while the first writes: each has a file of its own, and the last to end remains."""
    path = tmp_path / "a.txt"

    def slow(temporary):
        temporary.write_text("first")
        utils.write_atomically(path, lambda other: other.write_text("second"))
        assert path.read_text() == "second" and temporary.suffix == ".txt"

    utils.write_atomically(path, slow)
    assert path.read_text() == "first" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Brought there through a descriptor that may write: Windows refuses any other."""
    done = []

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).read_text())

    def replace(source, target, move=os.replace):
        done.append("replaced")
        move(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    utils.write_atomically(tmp_path / "a.txt", lambda temporary: temporary.write_text("whole"))
    assert done == ["whole", "replaced"]


def test_a_file_is_readable_as_any_other(tmp_path):
    (tmp_path / "other").touch()
    utils.write_atomically(tmp_path / "a", lambda temporary: temporary.touch())
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_list_images_is_recursive_and_sorted(tmp_path):
    for name in ("b.PNG", "sub/a.jpg", "sub/notes.txt", ".hidden/c.png", "._d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in utils.list_images(tmp_path)] == ["b.PNG", "sub/a.jpg"]


def test_mod_crop_and_grid():
    image = np.zeros((13, 10, 3), np.uint8)
    assert utils.mod_crop(image, 4).shape == (12, 8, 3)
    grid = utils.picture_grid([[image, image], [image, image]], gap=4)
    assert grid.shape == (30, 24, 3) and grid[14].min() == 255 and grid[0, 0].max() == 0


def test_folders_are_replaced_whole(tmp_path):
    path = tmp_path / "out"

    def write(text):
        def make(folder):
            folder.mkdir()
            (folder / text).write_text(text)

        return make

    utils.write_folder_atomically(path, write("one"))

    def look(folder):
        assert (path / "one").is_file()  # what was there before stays until the new one is whole
        write("two")(folder)

    utils.write_folder_atomically(path, look)
    assert [file.name for file in path.iterdir()] == ["two"]

    def fail(folder):
        write("three")(folder)
        raise OSError("disk full")

    with pytest.raises(utils.UserError, match="disk full"):
        utils.write_folder_atomically(path, fail)
    assert [file.name for file in path.iterdir()] == ["two"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    with pytest.raises(utils.UserError, match="is not a folder"):
        utils.write_folder_atomically(path / "two", write("four"))
    assert (path / "two").read_text() == "two"


def test_a_library_is_imported_without_noise_but_with_its_errors(tmp_path, monkeypatch, capfd):
    """What TensorFlow says of a missing GPU is left out; other lines stay, also those of an import that fails."""
    (tmp_path / "noisy_library.py").write_text(
        "import os\n"
        "os.write(2, b'I0000 cudart_stub.cc:31] Could not find cuda drivers\\nsomething is wrong\\n')\n"
        "raise ImportError('no such thing')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no such thing"):
        utils.LazyModule("noisy_library").anything  # noqa: B018
    assert capfd.readouterr().err == "something is wrong\n"
