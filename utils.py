"""Reading and writing image files, value ranges, colour, and MATLAB's imresize, without TensorFlow.

The end of a variable's name tells its range where it might be unclear: `_u8` is uint8 in [0, 255], `_01` float in
[0, 1], `_m11` float in [-1, 1]. Images are [height, width, channels].
"""

import contextlib
import importlib
import os
import sys
import tempfile
import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np

PROJECT = Path(__file__).resolve().parent
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class UserError(Exception):
    """A mistake that the user can correct: commands print its text, one sentence, without a traceback."""


class LazyModule:
    """A library that is imported at its first use: `tf = LazyModule("tensorflow")`.

    TensorFlow takes seven seconds to import; --help and the user's mistakes are answered before that.
    """

    def __init__(self, name):
        self.name = name

    def __getattr__(self, attribute):
        if self.name not in sys.modules:
            import_quietly(self.name)
        return getattr(importlib.import_module(self.name), attribute)


# Parts of lines that TensorFlow and LiteRT write at any log level: no GPU is there; how oneDNN rounds; what is used.
NOISE = (b"absl::InitializeLog()", b"cudart_stub.cc", b"oneDNN custom operations are on", b"XNNPACK delegate for CPU")
IMPORTING = threading.Lock()  # all threads share standard error


@contextlib.contextmanager
def without_noise():
    """What is written to standard error meanwhile comes at the end, without the lines with NOISE."""
    with IMPORTING, tempfile.TemporaryFile() as output:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            output.seek(0)
            for line in output:
                if not any(noise in line for noise in NOISE):
                    os.write(2, line)


def import_quietly(name):
    """Import a library without_noise."""
    with without_noise():
        importlib.import_module(name)


sparse = LazyModule("scipy.sparse")


# ---------------------------------------------------------------------------------------------------------------------
# Files


def cache_folder():
    """Where caches are, which may be deleted at any time: $SRGAN_CACHE, else cache/ in the project."""
    return Path(os.environ.get("SRGAN_CACHE") or PROJECT / "cache")


def list_files(folder):
    """All files in `folder` and its subfolders, sorted by path, without hidden ones."""
    folder = Path(folder)
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def list_images(folder):
    """The files of list_files(folder) that are images by their endings."""
    return [path for path in list_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]


def short(error):
    """The first line of an error's text, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def write_atomically(path, write):
    """Call write(temporary path of the same name), then rename that file to `path`: it appears whole or not at all.

    Raises UserError if it cannot be written (what was there before stays), or if `path` is something other than a
    file, for example a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be written: it is not a file")
    try:
        with beside(path) as folder:
            write(temporary := folder / path.name)  # the same ending: writers take the format from it
            with open(temporary, "r+b") as file:  # Windows flushes only files that are open for writing
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5's is a RuntimeError
        reason = getattr(error, "strerror", None) or short(error)
        raise UserError(f"{path} cannot be written ({reason}); what was there before is untouched") from error


@contextlib.contextmanager
def beside(path):
    """A context manager: a hidden folder beside `path` for this process alone, which is removed with its content."""
    with tempfile.TemporaryDirectory(prefix=".tmp.", dir=path.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def write_folder_atomically(path, write):
    """Call write(temporary path of the same name), which makes a folder there, then rename that folder to `path`.

    Raises UserError as write_atomically does, and then leaves what was there before.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} cannot be written: it is not a folder")
    try:
        with beside(path) as folder:
            temporary, before = folder / path.name, folder / f"{path.name}.before"
            write(temporary)
            if path.exists():
                os.replace(path, before)  # a folder cannot be replaced in one move
            try:
                os.replace(temporary, path)
            except OSError:
                if before.exists():
                    os.replace(before, path)
                raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or short(error)
        raise UserError(f"{path} cannot be written ({reason})") from error


def write_image(path, image_u8):
    """Write uint8 [height, width, 1 or 3] to `path`; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_u8 = image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8
    # Level 2 takes a third of the time of PNG's default, for files of about the same size.
    options = {"compress_level": 2} if path.suffix.lower() == ".png" else {}
    write_atomically(path, lambda temporary: iio.imwrite(temporary, image_u8, plugin="pillow", **options))


# ---------------------------------------------------------------------------------------------------------------------
# Value ranges and colour


def round_to(image, dtype):
    """Floats to uint8 in [0, 255] or uint16 in [0, 65535], rounded as MATLAB rounds (halves up) and clipped."""
    return np.clip(np.floor(image + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def round_u8(image):
    return round_to(image, np.uint8)


def levels_to_01(image):
    """uint8 or uint16 to float32 in [0, 1]."""
    return image.astype(np.float32) / np.iinfo(image.dtype).max


def m11_to_levels(image_m11, dtype):
    """Floats in about [-1, 1] to uint8 or uint16."""
    return round_to((np.asarray(image_m11, dtype=np.float32) + 1) * np.float32(np.iinfo(dtype).max / 2), dtype)


def u8_to_01(image_u8):
    return levels_to_01(image_u8)


def m11_to_u8(image_m11):
    return m11_to_levels(image_m11, np.uint8)


def to_rgb(image):
    """[height, width, 1 or 3] to [height, width, 3]."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def unrounded_y(image):
    """Luma of MATLAB's rgb2ycbcr (BT.601, 16…235): [height, width, 3] in [0, 255] to floats [height, width]."""
    return image @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def rgb_to_y(image_u8):
    """Luma rounded to whole levels: uint8 [height, width, 3] to uint8 [height, width] in [16, 235]."""
    return round_u8(unrounded_y(image_u8))


# ---------------------------------------------------------------------------------------------------------------------
# MATLAB's imresize


def cubic(x):
    """Keys's cubic kernel with a = -0.5, support [-2, 2]."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def box(x):
    """The kernel of nearest-neighbour resizing, support [-1/2, 1/2)."""
    return ((-0.5 <= x) & (x < 0.5)).astype(float)


def triangle(x):
    """The kernel of bilinear resizing, support [-1, 1]."""
    return np.maximum(1 - np.abs(x), 0)


def lanczos3(x):
    """The sinc function times a wider one as its window, support [-3, 3]."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


# name: (function, width of its support)
KERNELS = {"nearest": (box, 1), "bilinear": (triangle, 2), "bicubic": (cubic, 4), "lanczos": (lanczos3, 6)}


def resize_taps(length, new_length, scale, method="bicubic"):
    """The weights of MATLAB's imresize along one axis: (indices, weights), both [new_length, taps].

    New pixel i is the sum of weights[i] * old[indices[i]]; each row of the weights sums to 1. A row may have an index
    twice. When shrinking, all kernels except nearest's are widened by 1/scale (antialiasing); beyond the border the
    image is mirrored. method: a name in KERNELS.
    """
    kernel, width = KERNELS[method]
    stretch = 1.0 if method == "nearest" else min(scale, 1.0)
    centre = (np.arange(new_length) + 0.5) / scale - 0.5
    taps = int(np.ceil(width / stretch)) + 2
    index = np.floor(centre - width / stretch / 2).astype(int)[:, None] + np.arange(taps)
    weight = kernel((centre[:, None] - index) * stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    return mirror(index, length), weight


def resize_matrix(length, new_length, scale, method="bicubic"):
    """resize_taps as a dense matrix [new_length, length], for small sizes; multiplying an axis by it resizes."""
    index, weight = resize_taps(length, new_length, scale, method)
    matrix = np.zeros((new_length, length))
    np.add.at(matrix, (np.arange(new_length)[:, None], index), weight)
    return matrix


def mirror(index, length):
    """Indices beyond [0, length) reflected at the borders, the border pixel repeated (… 1 0 | 0 1 2 …)."""
    index = np.mod(index, 2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


BAND = 256  # columns resized at a time: as floats they fit into the processor's cache


def resize_rows(image, scale, method, new_length=None):
    """Resize the first axis of uint8 or uint16 [n, ...] by `scale`: [ceil(n * scale), ...], rounded to whole levels.

    new_length: instead of ceil(n * scale).
    """
    length, *others = image.shape
    new_length = new_length or int(np.ceil(length * scale))
    index, weight = resize_taps(length, new_length, scale, method)
    starts = np.arange(new_length + 1) * index.shape[1]
    matrix = sparse.csr_array((weight.ravel(), index.ravel(), starts), shape=(new_length, length))
    matrix.sum_duplicates()  # from mirrored borders
    matrix.eliminate_zeros()
    values = image.reshape(length, -1)
    resized = np.empty((new_length, values.shape[1]), image.dtype)
    for start in range(0, values.shape[1], BAND):
        band = slice(start, start + BAND)
        resized[:, band] = round_to(matrix @ values[:, band], image.dtype)
    return resized.reshape(new_length, *others)


def imresize(image, scale, method="bicubic"):
    """MATLAB's imresize(image, scale, method) of uint8 or uint16 [height, width, channels], exact in every pixel.

    Rows first, then columns, each pass rounded to whole levels (halves up) as in MATLAB. method: a name in KERNELS.
    """
    resized = resize_rows(image, scale, method).swapaxes(0, 1)
    return np.ascontiguousarray(resize_rows(resized, scale, method).swapaxes(0, 1))


def imresize_to(image, height, width):
    """MATLAB's imresize(image, [height width]) of uint8 or uint16 [h, w, channels], by its bicubic kernel."""
    for length in (height, width):
        image = resize_rows(image, length / image.shape[0], "bicubic", length).swapaxes(0, 1)
    return np.ascontiguousarray(image)


def downscale_taps(scale):
    """The 4·scale weights with which imresize(…, 1/scale) makes one LR pixel from a row of HR pixels.

    For a whole-number scale they are the same for all LR pixels; those of LR pixel i start at HR pixel
    scale·i - 1.5·scale.
    """
    taps = cubic((np.arange(4 * scale) - (2 * scale - 0.5)) / scale)
    return taps / taps.sum()


def mod_crop(image, scale):
    """Crop at the bottom and right so that height and width are multiples of `scale`."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def picture_grid(rows, gap=4):
    """One picture from rows of uint8 images [h, w, 3] of one size, with white gaps of `gap` pixels."""
    padded = [[np.pad(image, ((0, gap), (0, gap), (0, 0)), constant_values=255) for image in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in padded], axis=0)[:-gap, :-gap]
