"""Scenes: where a film is cut, and what stands for neighbours that are of another scene."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photo
from scipy import ndimage

from images import motion, scenes


def frames_of(cuts, rng):
    """[frame with `pixels` and `number`] of scenes of so many frames each."""
    frames = []
    for count, level in zip(cuts, (30, 200, 90, 170), strict=False):
        frames += [level + rng.integers(0, 20, (36, 64, 3), np.uint8) for _ in range(count)]
    return [SimpleNamespace(pixels=pixels, number=i) for i, pixels in enumerate(frames)]


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
@pytest.mark.parametrize("cuts", [(1,), (2,), (5,), (1, 1, 4), (3, 2), (4, 1, 2)])
def test_neighbours_are_of_the_same_scene(radius, cuts, rng):
    """Against a whole list in memory: the nearest frame of the scene stands for one that is missing."""
    starts = np.cumsum((0, *cuts))
    expected = []
    for first, end in zip(starts, starts[1:], strict=False):
        expected += [np.clip(range(i - radius, i + radius + 1), first, end - 1).tolist() for i in range(first, end)]
    found = [[frame.number for frame in window] for window in scenes.neighbourhoods(iter(frames_of(cuts, rng)), radius)]
    assert found == expected


def test_memory_holds_a_window(rng):
    """Frames are asked for when they are needed, not before."""
    taken = []

    def film():
        for frame in frames_of((9,), rng):
            taken.append(frame.number)
            yield frame

    for i, _ in enumerate(scenes.neighbourhoods(film(), 2)):
        assert len(taken) == min(i + 3, 9)


def test_motion_is_no_cut(rng):
    """In films of eight bits and of sixteen; another picture is one."""
    photograph = ndimage.gaussian_filter(photo(rng, 200, 300).astype(float), (2, 2, 0)).astype(np.uint8)
    frames = motion.film_of(photograph, 6, 90, 120, rng).frames
    pairs = list(zip(frames, frames[1:], strict=False))
    assert not any(scenes.is_cut(a, b) for a, b in pairs)
    deep = frames.astype(np.uint16) * 257
    assert not scenes.is_cut(deep[0], deep[1]) and scenes.is_cut(deep[0], 65535 - deep[0])
    assert scenes.is_cut(frames[0], 255 - frames[0])
