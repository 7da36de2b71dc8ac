"""Leave-one-out scores: what they are, and that they never lie below those of a new image."""

from __future__ import annotations

import pytest
import torch

from musc_fast.errors import InputError
from musc_fast.scoring.batch import score_batch
from musc_fast.scoring.leave_one_out import leave_one_out
from musc_fast.settings import ScoringSettings

GRID = (5, 6)


def tokens(images: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 1 + 30, 16, generator=generator)


@pytest.mark.parametrize(("images", "ranks"), [(2, 1), (3, 1), (7, 2), (20, 6)])
def test_each_is_scored_by_the_others_at_the_ranks_of_a_new_image(images: int, ranks: int) -> None:
    layer = tokens(images)
    found = leave_one_out([layer], ScoringSettings(), grid=GRID, prefix_tokens=1)
    for image in range(images):
        others = [k for k in range(images) if k != image]
        alone = score_batch(
            layer[[image]],
            references=layer[others],
            topmin=(0, ranks),
            grid=GRID,
            prefix_tokens=1,
        )
        assert torch.equal(alone.patch_scores[0], found.patch_scores[image])
        assert alone.raw_image_scores[0] == found.raw_image_scores[image]


@pytest.mark.parametrize("topmin", [(0.0, 0.3), (0.1, 0.5), (1.0, 4.0)])
def test_a_reference_scores_no_lower_than_beside_a_new_image(topmin: tuple[float, float]) -> None:
    """What makes the conformal p-value valid: each against n - 1 others, or against n."""
    layer, images = tokens(12), 11
    settings = ScoringSettings(topmin=topmin)
    held = leave_one_out([layer[:images]], settings, grid=GRID, prefix_tokens=1)
    for image in range(images):
        others = [k for k in range(images + 1) if k != image]  # the new image, too
        beside = score_batch(
            layer[[image]], references=layer[others], topmin=topmin, grid=GRID, prefix_tokens=1
        )
        assert held.raw_image_scores[image] >= beside.raw_image_scores[0] - 1e-6


def test_one_reference_has_no_others() -> None:
    with pytest.raises(InputError, match="references: found 1, wanted 2 or more"):
        leave_one_out([tokens(1)], ScoringSettings(), grid=GRID, prefix_tokens=1)
