"""The results of one scored batch, as the results folder and the report take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.ignored import IgnoredRegions
from ..settings import ReadSettings
from ..threshold import Threshold
from .heatmap import MapScale, Scale, scale_of
from .regions import pixel_threshold


def unscored(valid: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels of a map of `size` (h, w) that lie in patches [H, W] that do not count."""
    rows, columns = (
        (2 * np.arange(pixels) + 1) * patches // (2 * pixels)
        for pixels, patches in zip(size, valid.shape, strict=True)
    )
    return np.asarray(~valid[rows][:, columns])


@dataclass(frozen=True)
class ScoredBatch:
    """A batch of N images with its scores, anomaly maps, settings and threshold.

    paths: [N] image files.
    image_scores: [N] float32 scores that rank the images (after RsCIN where it was used).
    raw_scores: [N] float32 maxima of the anomaly maps, before RsCIN.
    anomaly_maps: [N, h, w] float32 distances.
    settings: the entries of run.json; "seconds" maps a stage to its time, "skipped" lists the
        reasons of unreadable images.
    threshold: on the raw scores, with the images that it flags.
    reading: how the image files are read, with the white level of the batch.
    valid: [N, H, W] bool, the patches that count; None: all.
    left_out: what the user left out of every picture; None: nothing.
    """

    paths: Sequence[Path]
    image_scores: NDArray[np.float32]
    raw_scores: NDArray[np.float32]
    anomaly_maps: NDArray[np.float32]
    settings: dict[str, Any]
    threshold: Threshold
    reading: ReadSettings = field(default_factory=ReadSettings)
    valid: NDArray[np.bool_] | None = None
    left_out: IgnoredRegions | None = None

    @property
    def is_calm(self) -> bool:
        """Whether nothing stands out: no image is flagged."""
        return not self.threshold.flagged.any()

    def scales(self, map_scale: MapScale) -> Callable[[int], Scale]:
        """The scale of each image's pictures; see `heatmap.scale_of`."""
        ignored = None if self.valid is None else self.ignored
        return scale_of(self.anomaly_maps, map_scale, calm=self.is_calm, ignored=ignored)

    def ignored(self, index: int) -> NDArray[np.bool_] | None:
        """The pixels [h, w] of an image's map that are not scored; None: all are."""
        if self.valid is None or self.valid[index].all():
            return None
        return unscored(self.valid[index], self.anomaly_maps.shape[1:])

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """[N], the images by rank, most anomalous first; raw score, then place, breaks ties."""
        return np.lexsort((-self.raw_scores, -self.image_scores))

    @property
    def ranks(self) -> NDArray[np.int64]:
        """[N], 1 = most anomalous, see `order`."""
        ranks = np.empty(len(self.order), dtype=np.int64)
        ranks[self.order] = np.arange(1, len(self.order) + 1)
        return ranks

    @cached_property
    def verdicts(self) -> list[str]:
        """[N] of "flagged", "look" (the scores cannot tell) or "clear"."""
        return [str(verdict) for verdict in self.threshold.verdicts]

    @property
    def p_values(self) -> NDArray[np.float64] | None:
        """[N], how often, at most, a normal image scores as high; None where that is not known."""
        return self.threshold.p_values

    @property
    def is_rescored(self) -> bool:
        """Whether the image scores are not the raw ones: RsCIN has evened them out."""
        return not np.array_equal(self.image_scores, self.raw_scores)

    @cached_property
    def pixel_threshold(self) -> float | None:
        """The level from which on (>=) pixels belong to a region; None: no image is flagged."""
        return pixel_threshold(self.threshold, self.raw_scores)
