"""What scoring gives: maps and image scores made of patch scores."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops, reference
from .copies import Copy
from .repeats import Repeat

_ROWS = 10  # of the table in a notebook


@dataclass(frozen=True, repr=False)
class BatchScores:
    """Scores of N images on an H x W grid of patches, float32, on the device of the tokens.

    patch_scores: [N, H, W], the mean distance over layers and degrees; higher is more anomalous.
    anomaly_maps: [N, h, w], patch scores upsampled to `image_size` (the grid itself without one).
    raw_image_scores: [N], the maximum of each anomaly map.
    image_scores: [N], raw scores after RsCIN or RsCon (scaled to 0..1 over the batch) where class
        tokens were given or `similarity` is "salient", otherwise the raw scores.
    place: how many places away patches were compared with; None: whole images.
    copies: the images that are there twice, where `copies` was "auto".
    repeats: the images that share a defect, where `repeats` was "auto".
    """

    patch_scores: Tensor
    anomaly_maps: Tensor
    raw_image_scores: Tensor
    image_scores: Tensor
    place: int | None = field(default=None, kw_only=True)
    copies: tuple[Copy, ...] = field(default=(), kw_only=True)
    repeats: tuple[Repeat, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    def _repr_html_(self) -> str:
        """A table of the highest scores, for notebooks; `judge_batch` adds names and pictures."""
        ranked = self.image_scores.argsort(descending=True, stable=True)[:_ROWS].tolist()
        rescored = not torch.equal(self.image_scores, self.raw_image_scores)
        head = ("rank", "image", *(("image score",) if rescored else ()), "raw score")
        rows = "".join(
            _row("td", (rank, index, *self._scores_of(index, rescored)))
            for rank, index in enumerate(ranked, 1)
        )
        more = len(self.raw_image_scores) - len(ranked)
        told = f"and {more} more; " if more else ""
        told += "musc_fast.judge_batch(scores, paths) shows names, verdicts and pictures"
        return (
            f"<div><p><b>{html.escape(self._summary())}</b></p><table><thead>{_row('th', head)}"
            f"</thead><tbody>{rows}</tbody></table><p>{told}</p></div>"
        )

    def _scores_of(self, index: int, rescored: bool) -> tuple[str, ...]:
        """The image score where it is another than the raw one, and the raw one, as text."""
        raw = f"{float(self.raw_image_scores[index]):#.4g}"
        return (f"{float(self.image_scores[index]):#.4g}", raw) if rescored else (raw,)

    def _summary(self) -> str:
        """Counts, sizes and the range of the raw scores: no tensor, of which there may be many."""
        count = len(self.raw_image_scores)
        text = f"{type(self).__name__} of {count} image{'' if count == 1 else 's'}"
        height, width = self.anomaly_maps.shape[1:]
        if count:
            low, high = float(self.raw_image_scores.min()), float(self.raw_image_scores.max())
            text += f", raw scores {low:.4g} to {high:.4g}"
        return f"{text}, maps {height} x {width}"


def _row(cell: str, values: Sequence[object]) -> str:
    """A row of an HTML table; the values are numbers or words of ours."""
    return f"<tr>{''.join(f'<{cell}>{value}</{cell}>' for value in values)}</tr>"


def anomaly_map(patch_scores: Tensor, size: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """The anomaly map [h, w] of patch scores [H, W].

    valid: [H, W] bool, the patches that count; None: all. A pixel of a patch that does not count is
        0; the others are interpolated among patches that count alone, so that neither side bleeds
        into the other and a peak at the border keeps its height.
    """
    if valid is None:
        return reference.upsample(patch_scores[None], size)[0]
    weights = valid.to(patch_scores.dtype)
    sums = reference.upsample(torch.stack([patch_scores * weights, weights]), size)
    shown = valid
    for axis, (pixels, patches) in enumerate(zip(size, valid.shape, strict=True)):
        places = torch.arange(pixels, dtype=torch.int64, device=valid.device)
        middles = 2 * places + 1  # of pixels, in half pixels
        shown = shown.index_select(axis, middles * patches // (2 * pixels))
    # A map smaller than the grid may have a pixel of a patch that counts among none that do.
    return torch.where(shown & (sums[1] > 0), sums[0] / sums[1], 0.0)


def make_scores(
    patch_scores: Tensor,
    image_size: tuple[int, int],
    cls_tokens: Tensor | None,
    neighbors: Sequence[int],
    valid: Tensor | None = None,
    place: int | None = None,
) -> BatchScores:
    """Maps and image scores of patch scores [N, H, W] float64.

    valid: [N, H W] bool, the patches that count; None: all. place: see `BatchScores`.
    """
    counted = None if valid is None else valid.view(patch_scores.shape)
    count = patch_scores.shape[0]
    maps = torch.empty((count, *image_size), dtype=torch.float32, device=patch_scores.device)
    for i in range(count):  # a float64 map is held for one image at a time
        maps[i] = anomaly_map(patch_scores[i], image_size, None if counted is None else counted[i])
    raw = maps.flatten(1).amax(dim=1)
    scores = raw.clone() if cls_tokens is None else ops.rscin(raw, cls_tokens, neighbors)
    return BatchScores(patch_scores.float(), maps, raw, scores, place=place)
