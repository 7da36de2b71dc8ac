"""What scoring gives: maps and image scores made of patch scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops, reference


@dataclass(frozen=True, repr=False)
class BatchScores:
    """Scores of N images on an H x W grid of patches, float32, on the device of the tokens.

    patch_scores: [N, H, W], the mean distance over layers and degrees; higher is more anomalous.
    anomaly_maps: [N, h, w], patch scores upsampled to `image_size` (the grid itself without one).
    raw_image_scores: [N], the maximum of each anomaly map.
    image_scores: [N], raw scores after RsCIN (scaled to 0..1 over the batch) where class tokens
        were given, otherwise the raw scores.
    place: how many places away patches were compared with; None: whole images.
    """

    patch_scores: Tensor
    anomaly_maps: Tensor
    raw_image_scores: Tensor
    image_scores: Tensor
    place: int | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    def _summary(self) -> str:
        """Counts, sizes and the range of the raw scores: no tensor, of which there may be many."""
        count = len(self.raw_image_scores)
        text = f"{type(self).__name__} of {count} image{'' if count == 1 else 's'}"
        height, width = self.anomaly_maps.shape[1:]
        if count:
            low, high = float(self.raw_image_scores.min()), float(self.raw_image_scores.max())
            text += f", raw scores {low:.4g} to {high:.4g}"
        return f"{text}, maps {height} x {width}"


def make_scores(
    patch_scores: Tensor,
    image_size: tuple[int, int],
    cls_tokens: Tensor | None,
    neighbors: Sequence[int],
    place: int | None = None,
) -> BatchScores:
    """Maps and image scores of patch scores [N, H, W] float64; place: see `BatchScores`."""
    count = patch_scores.shape[0]
    maps = torch.empty((count, *image_size), dtype=torch.float32, device=patch_scores.device)
    for i in range(count):  # a float64 map is held for one image at a time
        maps[i] = reference.upsample(patch_scores[i : i + 1], image_size)[0]
    raw = maps.flatten(1).amax(dim=1)
    scores = raw.clone() if cls_tokens is None else ops.rscin(raw, cls_tokens, neighbors)
    return BatchScores(patch_scores.float(), maps, raw, scores, place=place)
