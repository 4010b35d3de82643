"""How much a picture lost as a JPEG, seen from its pixels alone: so of a PNG that was a JPEG before as well."""

import numpy as np

import utils

SIDE = 512  # pixels of the middle that are looked at
SMALL = 1.0  # nearer to zero is a coefficient that a JPEG has rounded to zero: rounding pixels makes 0.3 of it
COMPRESSED = 0.35  # from this loss on a picture counts as compressed: quality 90 and below (docs/photographs.md)
# The cosine transform of 8 values, orthonormal: rows are frequencies.
COSINES = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)).astype(np.float32) / 2
COSINES[0] /= 2**0.5


def is_compressed(picture):
    """Whether a picture (uint8 [h, w, 1 to 4], or a pictures.Picture) shows that it was a JPEG of much loss."""
    return picture.dtype == np.uint8 and loss(picture) >= COMPRESSED


def loss(picture):
    """The share of a picture's detail that a JPEG has taken, from 0 to 1; picture: as above, of 8 bits.

    A JPEG rounds the cosine transform of each block of 8×8 pixels, most of it to zero. So if blocks are laid over luma
    where the JPEG had its own, more coefficients are zero than anywhere else. All 64 places are tried, since a picture
    may have been cut. Of the coefficients that are not zero at the median place, the result is the share that are zero
    at the best one.
    """
    sides = picture.shape[:2]
    if min(sides) < 16:
        return 0.0
    rows, columns = (slice(max(n - SIDE, 0) // 2, max(n - SIDE, 0) // 2 + SIDE) for n in sides)
    part = picture[rows, columns]
    luma = utils.unrounded_y(utils.to_rgb(part[..., : 3 if part.shape[-1] > 2 else 1])).astype(np.float32)
    shares = [share_of_zeros(luma[top:, left:]) for top in range(8) for left in range(8)]
    usual = np.median(shares)
    return float((max(shares) - usual) / max(1 - usual, 1e-6))


def share_of_zeros(luma):
    """The share of nearly zero coefficients in the cosine transforms of the 8×8 blocks of float32 [h, w]."""
    height, width = (n // 8 for n in luma.shape)
    blocks = luma[: 8 * height, : 8 * width].reshape(height, 8, width, 8).swapaxes(1, 2)
    return np.mean(np.abs(COSINES @ blocks @ COSINES.T) < SMALL)
