"""Validation while training."""

import numpy as np

import utils
from images import degradation
from scoring import metrics
from utils import LazyModule

tf = LazyModule("tensorflow")


class Validation:
    """PSNR on Y and a sample grid of a few photographs that are not trained on."""

    def __init__(self, generator, config, photographs, xla=True):
        """generator: the network, used with the weights that it has at each call; config: all sections; photographs:
        [uint8 [h, w, 3]], of which the middle is used: a square of 256 pixels or the shortest side; xla: whether XLA
        compiles it.
        """
        self.scale = config.MODEL.scale
        side = min(256, *(n for photo in photographs for n in photo.shape[:2])) // self.scale * self.scale
        self.hr = [self.middle(photo, side) for photo in photographs]
        self.lr = [utils.imresize(hr, 1 / self.scale) for hr in self.hr]
        if config.DATA.degradation == "photo":
            self.lr = [degradation.photo(np.random.default_rng(i), hr, self.scale) for i, hr in enumerate(self.hr)]
        self.bicubic = [utils.imresize(lr, self.scale) for lr in self.lr]
        self.infer = tf.function(lambda lr_01: generator(lr_01, training=False), jit_compile=xla)

    @staticmethod
    def middle(image, side):
        top, left = ((n - side) // 2 for n in image.shape[:2])
        return image[top : top + side, left : left + side].copy()  # a view would keep the whole photograph

    def __call__(self):
        """(PSNR of SR, PSNR of bicubic, grid): in dB, means over the photographs; LR | bicubic | SR | HR of four."""
        sr = list(utils.m11_to_u8(self.infer(tf.constant(utils.u8_to_01(np.stack(self.lr))))))
        nearest = [utils.imresize(lr, self.scale, "nearest") for lr in self.lr]
        grid = utils.picture_grid(list(zip(nearest, self.bicubic, sr, self.hr, strict=True))[:4])
        scores = (
            float(np.mean([metrics.psnr_y(image, hr, self.scale) for image, hr in zip(images, self.hr, strict=True)]))
            for images in (sr, self.bicubic)
        )
        return *scores, grid
