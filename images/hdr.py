"""HDR for ordinary screens: PQ and HLG in BT.2020's colours to eight bits in BT.709's.

Light up to half of white stays as it is; what is brighter is pressed together below white, however bright it is.
"""

from functools import cache

import numpy as np

WHITE = 203  # nits of a white sheet in HDR (ITU-R BT.2408)
PEAK = 1000  # nits of the display that HLG is shown on (ITU-R BT.2100)
KNEE = 0.5  # of white
GAMMA = 2.2
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
TO_709 = np.array(  # linear light, ITU-R BT.2087
    [[1.660491, -0.587641, -0.07285], [-0.12455, 1.132899, -0.008349], [-0.018151, -0.100579, 1.11873]], np.float32
)


def to_sdr(pixels, transfer):
    """uint8 RGB [h, w, 3] for a uint16 one of HDR; transfer: "PQ" or "HLG"."""
    light = curve(transfer)[pixels]
    if transfer == "HLG":  # the scene's light, which a display raises by its own brightness
        light *= PEAK * np.maximum(light @ LUMA, 1e-9)[..., None] ** 0.2
    light = np.maximum(light @ TO_709.T / WHITE, 0)
    brightest = light.max(axis=-1, keepdims=True)
    pressed = KNEE + (1 - KNEE) * -np.expm1((KNEE - brightest) / (1 - KNEE))
    light *= np.where(brightest > KNEE, pressed / np.maximum(brightest, KNEE), 1)
    return np.round(255 * light ** (1 / GAMMA)).astype(np.uint8)


@cache
def curve(transfer):
    """float32 [65536]: the light of each level: nits of PQ (SMPTE ST 2084), the scene's in [0, 1] of HLG (BT.2100)."""
    level = np.arange(65536) / 65535
    if transfer == "PQ":
        root = level ** (1 / 78.84375)
        light = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
    return light.astype(np.float32)
