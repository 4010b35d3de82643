"""Photographs as they are: LR that is a little blurred and noisy and was saved as a JPEG.

The classical model of Real-ESRGAN (Wang et al., ICCV workshops 2021, section 3.1, Eq. 1): blur, shrink, noise, JPEG.
The kernel is Gaussian and the same in all directions, the noise Gaussian, and shrinking is MATLAB's bicubic.
"""

import io

import numpy as np
from PIL import Image

import utils
from utils import LazyModule

cv2 = LazyModule("cv2")

CLEAN = 0.25  # share of the LR images that are only shrunk, so that clean pictures keep their quality
SOME = 0.5  # shares of the others that are blurred, and that are noisy
BLUR = 0.4  # the largest standard deviation of the blur, in LR pixels
NOISE = 4.0  # the largest standard deviation of the noise, in levels of 255
GRAY = 0.4  # share of the noise that is the same in all channels, as in the paper
QUALITIES = (50, 95)  # of JPEG, least and most
BLOCK = 16  # pixels: side of JPEG's blocks with colours in half the resolution
MARGIN = BLOCK + 3  # LR pixels around a crop: for the place of the blocks, and for shrinking


def photo(random, hr, scale, margin=0):
    """LR, uint8 [h/scale, w/scale, 3], of HR, uint8 [h, w, 3]: a draw from the model above.

    random: a NumPy Generator; margin: LR pixels that are cut off at each border, 0 or MARGIN. With it the JPEG's blocks
    begin at a random place in it, as those of a crop from a photograph do.
    """
    if random.random() < CLEAN:
        return inside(utils.imresize(hr, 1 / scale), margin)
    if random.random() < SOME:
        width = random.uniform(0, BLUR) * scale
        hr = cv2.GaussianBlur(hr, (0, 0), max(width, 0.01), borderType=cv2.BORDER_REFLECT)
    lr = utils.imresize(hr, 1 / scale)
    if random.random() < SOME:
        lr = noisy(random, lr)
    top, left = random.integers(0, BLOCK, 2) if margin else (0, 0)
    quality = random.integers(QUALITIES[0], QUALITIES[1] + 1)
    lr[top:, left:] = jpeg(lr[top:, left:], quality)
    return inside(lr, margin)


def inside(image, margin):
    """The image without `margin` pixels at each border."""
    return image[margin : image.shape[0] - margin, margin : image.shape[1] - margin]


def noisy(random, image):
    """The uint8 image with Gaussian noise of random width, of one value a pixel or of one a channel."""
    channels = 1 if random.random() < GRAY else image.shape[-1]
    noise = random.uniform(0, NOISE) * random.standard_normal((*image.shape[:2], channels))
    return utils.round_u8(image + noise)


def jpeg(image, quality):
    """The uint8 image [h, w, 1 or 3] as a JPEG shows it: of quality 1 to 100, with colours in half the resolution."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        file, "JPEG", quality=int(quality), subsampling="4:2:0"
    )
    return np.asarray(Image.open(file)).reshape(image.shape)
