"""Anomaly maps brought back from the frame into each image's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .frame import Frames
from .geometry import Matrix, Size, inverse


def own_maps(maps: Tensor, frames: Frames | None) -> Tensor:
    """The maps [N, h, w] of images on their frame, each in its image's own frame.

    What lies outside of the frame is 0, the lowest score. The highest value of each map stays to
    the bit what it was, at its place.
    """
    if frames is None or not frames.moved.any():
        return maps
    result = maps.clone()
    for place in np.flatnonzero(frames.moved):
        result[place] = _own_map(maps[place], frames.transforms[place])
    return result


def own_grid(valid: Tensor, frames: Frames | None) -> Tensor:
    """Which patches count, [N, H, W] bool on the frame's grid, on the grid of each image's own."""
    if frames is None or not frames.moved.any():
        return valid
    result = valid.clone()
    for place in np.flatnonzero(frames.moved):
        result[place] = _sampled(valid[place].double(), frames.transforms[place]) > 0.5
    return result


def _own_map(found: Tensor, transform: Matrix) -> Tensor:
    size: Size = (found.shape[0], found.shape[1])
    own = _sampled(found, transform)
    # The peak falls between pixels; the nearest one takes it.
    peak = int(found.argmax())
    at = np.array([(peak % size[1] + 0.5) / size[1], (peak // size[1] + 0.5) / size[0]])
    x, y = at @ transform[:, :2].T + transform[:, 2]
    row, column = (
        min(max(int(np.floor(share * side)), 0), side - 1)
        for share, side in zip((y, x), size, strict=True)
    )
    own[row, column] = found.flatten()[peak]
    return own


def _sampled(found: Tensor, transform: Matrix) -> Tensor:
    """A map [h, w] on the frame seen from an image; 0 outside of the frame."""
    size: Size = (found.shape[0], found.shape[1])
    back = torch.from_numpy(inverse(transform)).to(found.device)
    points = _points(_centres(size, found.device), back)  # of the frame, for each own pixel
    own = functional.grid_sample(
        found[None, None],
        (points * 2 - 1).to(found.dtype)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, 0]
    inside = ((points >= 0) & (points <= 1)).all(dim=-1)
    return torch.where(inside, own, torch.zeros_like(own))


def _centres(size: Size, device: torch.device) -> Tensor:
    """[h, w, 2], the centres (x, y) of the pixels in units of the sides."""
    height, width = size
    rows = (torch.arange(height, dtype=torch.float64, device=device) + 0.5) / height
    columns = (torch.arange(width, dtype=torch.float64, device=device) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _points(points: Tensor, transform: Tensor) -> Tensor:
    return points @ transform[:, :2].T + transform[:, 2]
