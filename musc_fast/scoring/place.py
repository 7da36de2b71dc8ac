"""Whether patches may be compared near their own place alone, by what a few images show.

Where parts lie still, a patch's nearest patches in the other images lie near its own place, and a
search there finds them; patches that are alike and lie elsewhere then hide no defect. Where parts
move, such a search finds nothing near, and good patches look like defects. What tells the two apart
is by how much the scores of a few images rise when the search is restricted: a nearest patch that
lies elsewhere matters only where none at its own place is as near. No labels are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import reference
from ..backends.base import Operators
from ..errors import InputError, MuscFastWarning
from ..settings import ScoringSettings, Window
from .layer_passes import Pooling

IMAGES = 12  # that are looked at, spread over the batch
REACHES = (1, 2, 3)  # that are tried; 0 would leave no room for a part that lies half a patch off
MOST_RISE = 0.01  # of the mean score; more tells of parts that move


def decide_place(
    settings: ScoringSettings,
    layers: Sequence[Tensor],
    references: Sequence[Tensor] | None,
    operators: Operators,
    grid: tuple[int, int],
    *,
    all_count: bool = True,
) -> ScoringSettings:
    """The settings with "auto" replaced by what suits the images; a warning tells it, once.

    layers: [N, P, C] of the batch; references: likewise, or None. Two references or more decide by
    themselves, so that what is scored against them and they against each other use one window.
    all_count: whether all patches count, see `check_all_count`.
    """
    if settings.place != "auto":
        check_all_count(settings, all_count=all_count)
        return settings
    batch = layers if references is None or len(references[0]) < 2 else references
    if not all_count:
        reach, why = None, "ignored areas or aligned pictures leave patches out"
    elif len(batch[0]) < 2:
        reach, why = None, "one image cannot tell how parts lie"
    elif max(grid) - 1 <= REACHES[0]:
        reach, why = None, f"a grid of {grid[0]} x {grid[1]} patches has none that lie far apart"
    else:
        reach, why = _decide(rises(settings, batch, operators, grid))
    chosen = "whole images" if reach is None else f"patches at most {reach} from their own place"
    warnings.warn(f"place auto: compared with {chosen}, for {why}", MuscFastWarning, stacklevel=3)
    return replace(settings, place="off" if reach is None else reach)


def check_all_count(settings: ScoringSettings, *, all_count: bool) -> None:
    """Raise InputError where patches that do not count meet a window.

    `valid.overwrite` gives such a patch the vector of another one of its image, which a search of
    the whole image does not notice; a window may hold the one and not the other.
    """
    if settings.place != "off" and not all_count:
        raise InputError(
            "place: with ignored areas or aligned pictures some patches do not count, and a search "
            "near each patch's own place cannot leave them out; leave one of both out"
        )


def _decide(found: dict[int, float]) -> tuple[int | None, str]:
    """The smallest reach at which scores hardly rise, None where there is none, and the reason."""
    for reach, rise in found.items():
        if rise <= MOST_RISE:
            return reach, f"the scores of a few images rise by {rise:.1%} there"
    listed = ", ".join(f"{rise:.1%} within {reach}" for reach, rise in found.items())
    return None, f"the scores of a few images would rise by {listed}: the parts move"


@torch.no_grad()
def rises(
    settings: ScoringSettings,
    layers: Sequence[Tensor],
    operators: Operators,
    grid: tuple[int, int],
) -> dict[int, float]:
    """By which share the mean score of a few images rises within each reach of REACHES.

    Those that take in the whole grid are left out.

    layers: [N, P, C] of at least two images.
    """
    whole = 0.0
    near = dict.fromkeys((reach for reach in REACHES if reach < max(grid) - 1), 0.0)
    options = replace(settings, place="off").search(grid)
    for z in _pooled(settings, layers, operators, grid):
        bounds = reference.interval(settings.topmin, len(z) - 1)
        whole += float(operators.msm(z, None, *bounds, options).double().sum())
        for reach in near:
            local = replace(options, window=Window(grid, reach))
            near[reach] += float(operators.msm(z, None, *bounds, local).double().sum())
    # Where all images are equal nothing can rise.
    return {reach: total / whole - 1.0 if whole > 0 else 0.0 for reach, total in near.items()}


def _pooled(
    settings: ScoringSettings,
    layers: Sequence[Tensor],
    operators: Operators,
    grid: tuple[int, int],
) -> Iterator[Tensor]:
    """LNAMD's results of a few images, for each layer and degree that is searched."""
    pooling = Pooling(operators, grid, settings)
    images = len(layers[0])
    count = min(IMAGES, images)
    chosen = [images * k // count for k in range(count)]
    for layer in layers:
        yield from pooling.pool_in_memory(layer[chosen])
