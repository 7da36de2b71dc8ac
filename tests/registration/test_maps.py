"""Maps come back in the images' own frames, with their peaks."""

from __future__ import annotations

import numpy as np
import torch
from outlines import moved

from musc_fast.registration import Frames, own_grid, own_maps
from musc_fast.registration.geometry import IDENTITY, apply


def test_a_hill_comes_back_to_its_place() -> None:
    size = (60, 90)
    transform = moved(7, (9, -6), size)
    y, x = np.mgrid[: size[0], : size[1]]
    hill = np.exp(-((y - 20) ** 2 + (x - 50) ** 2) / 40).astype(np.float32)
    maps = torch.from_numpy(np.stack([hill + 0.1, hill + 0.1]))
    found = own_maps(maps, Frames(np.stack([IDENTITY, transform]), "a"))
    assert torch.equal(found[0], maps[0])
    x_units, y_units = apply(transform, np.array([[50.5 / 90, 20.5 / 60]]))[0]
    peak = int(found[1].argmax())
    assert (peak // 90, peak % 90) == (int(y_units * 60), int(x_units * 90))
    assert found[1].amax() == maps[1].amax()  # the raw score, to the bit
    centre_y, centre_x = y_units * 60 - 0.5, x_units * 90 - 0.5
    wanted = np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 40) + 0.1
    inside = found[1].numpy() > 0
    assert 0.7 < inside.mean() < 1
    assert np.abs(found[1].numpy() - wanted)[inside].max() < 0.02


def test_what_lies_outside_of_the_frame_is_0() -> None:
    transform = moved(0, (12, 0), (40, 60))  # the image's left 12 columns lie outside
    found = own_maps(torch.ones(1, 40, 60), Frames(transform[None], "a"))[0]
    assert (found[:, :12] == 0).all()
    assert (found[:, 12:] == 1).all()


def test_patches_that_count_come_back_too() -> None:
    valid = torch.ones(1, 8, 12, dtype=torch.bool)
    valid[0, 2:4, 3:6] = False  # left out on the frame
    down = moved(0, (0, 10), (40, 60))  # two patches of five pixels
    found = own_grid(valid, Frames(down[None], "a"))[0]
    assert not found[:2].any()  # outside of the frame
    assert not found[4:6, 3:6].any()
    assert int(found.sum()) == 6 * 12 - 6
    assert own_grid(valid, None) is valid


def test_maps_of_images_at_rest_are_not_touched() -> None:
    maps = torch.rand(2, 8, 8)
    assert own_maps(maps, None) is maps
    assert own_maps(maps, Frames(np.stack([IDENTITY] * 2), "a")) is maps
