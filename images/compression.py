"""Whether a picture was a JPEG once, seen from its pixels alone, so of a PNG or a screenshot as well."""

import numpy as np

import utils

SIDE = 512  # pixels of the middle that are looked at
SMALL = 1.0  # a coefficient that is nearer to zero was rounded to zero by a JPEG; rounding pixels gives it back as 0.3
COMPRESSED = 0.04  # from this strength on a picture counts as compressed (docs/photographs.md)
# The cosine transform of 8 values, orthonormal: rows are frequencies.
COSINES = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)).astype(np.float32) / 2
COSINES[0] /= 2**0.5


def is_compressed(picture):
    """Whether a picture (uint8 [h, w, 1 to 4], or a pictures.Picture) shows that it was a JPEG."""
    return picture.dtype == np.uint8 and strength(picture) >= COMPRESSED


def strength(picture):
    """How clearly a picture of 8 bits is made of a JPEG's blocks: about 0 if it is not, up to 1; picture: as above.

    A JPEG rounds the cosine transform of each block of 8×8 pixels, most of it to zero. So if blocks are laid over luma
    where the JPEG had its own, more coefficients are zero than anywhere else. All 64 places are tried, since a picture
    may have been cut; the result is the share of zeros at the best place, less that at the median one.
    """
    sides = picture.shape[:2]
    if min(sides) < 16:
        return 0.0
    rows, columns = (slice(max(n - SIDE, 0) // 2, max(n - SIDE, 0) // 2 + SIDE) for n in sides)
    part = picture[rows, columns]
    luma = utils.unrounded_y(utils.to_rgb(part[..., : 3 if part.shape[-1] > 2 else 1])).astype(np.float32)
    shares = [share_of_zeros(luma[top:, left:]) for top in range(8) for left in range(8)]
    return float(max(shares) - np.median(shares))


def share_of_zeros(luma):
    """The share of nearly zero coefficients in the cosine transforms of the 8×8 blocks of float32 [h, w]."""
    height, width = (n // 8 for n in luma.shape)
    blocks = luma[: 8 * height, : 8 * width].reshape(height, 8, width, 8).swapaxes(1, 2)
    return np.mean(np.abs(COSINES @ blocks @ COSINES.T) < SMALL)
