"""`copies="auto"`: what is there twice is no reference of its copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import score_batch
from musc_fast.errors import InputError
from musc_fast.scoring.copies import Copy, find_copies

GRID = (6, 6)


def batch(images: int = 12, seed: int = 0) -> Tensor:
    """Tokens [N, 36, 24] of one product; image 2 has a defect."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.randn(36, 24, generator=generator)
    tokens = layout + 0.25 * torch.randn(images, 36, 24, generator=generator)
    tokens[2, 14] = 3 * torch.randn(24, generator=generator)
    return tokens


def saved_again(image: Tensor, seed: int = 5) -> Tensor:
    """An image that is as near as a JPEG of it: at 0.04 of the spread."""
    generator = torch.Generator().manual_seed(seed)
    return image + 0.04 * torch.randn(image.shape, generator=generator)


def scored(tokens: Tensor | list[Tensor], **keywords: object):  # type: ignore[no-untyped-def]
    return score_batch(tokens, grid=GRID, **keywords)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=2, max_size=20))
def test_exact_copies_change_no_score(order: list[int]) -> None:
    """Whatever pictures are there how often: scores are those of the set without doubles."""
    tokens = batch(8)
    kept = sorted(set(order))
    if len(kept) < 2:
        with pytest.raises(InputError, match="copies of one"):
            scored(tokens[order], copies="auto")
        return
    alone = scored(tokens[sorted(set(order), key=order.index)]).patch_scores
    place = {image: k for k, image in enumerate(sorted(set(order), key=order.index))}
    found = scored(tokens[order], copies="auto")
    assert torch.equal(found.patch_scores, alone[[place[image] for image in order]])
    wanted = [
        Copy(k, order.index(image), "images", True)
        for k, image in enumerate(order)
        if order.index(image) < k
    ]
    assert list(found.copies) == wanted


def test_a_copy_hides_a_defect_unless_it_is_left_out() -> None:
    tokens = batch()
    twice = torch.cat([tokens, tokens[2:3]])
    hidden, found = scored(twice), scored(twice, copies="auto")
    once = scored(tokens).raw_image_scores[2]
    assert hidden.raw_image_scores[2] < 0.9 * once
    assert found.raw_image_scores[2] == found.raw_image_scores[12] == once
    assert scored(twice).copies == ()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_near_copy_is_scored_without_its_picture(layers: int) -> None:
    tokens = batch()
    twice = torch.cat([tokens, saved_again(tokens[2])[None]])
    found = scored([twice] * layers, copies="auto")
    assert found.copies == (Copy(12, 2, "images", False),)
    alone = scored([tokens] * layers)
    assert torch.equal(found.patch_scores[:12], alone.patch_scores)
    others = [i for i in range(12) if i != 2]
    wanted = scored([twice[12:]] * layers, references=[tokens[others]] * layers)
    assert torch.equal(found.patch_scores[12:], wanted.patch_scores)


def test_what_is_no_copy_stays() -> None:
    tokens = batch()
    assert find_copies([tokens]) == []
    still = tokens[:1] + 0.04 * torch.randn(20, 36, 24, generator=torch.Generator().manual_seed(3))
    assert find_copies([still]) == []  # photos of parts at rest: all alike, none nearer
    damaged = saved_again(tokens[4])
    damaged[20] = 2 * torch.randn(24, generator=torch.Generator().manual_seed(4))
    assert find_copies([torch.cat([tokens, damaged[None]])]) == []  # another part at one place
    other_layer = tokens.clone()
    other_layer[7] = tokens[3]
    assert find_copies([other_layer, tokens]) != find_copies([other_layer])


def test_exact_copies_of_parts_at_rest_are_found() -> None:
    still = batch()[:1] + 0.04 * torch.randn(20, 36, 24, generator=torch.Generator().manual_seed(3))
    still[11] = still[4]
    assert find_copies([still]) == [Copy(11, 4, "images", True)]


def test_references() -> None:
    tokens, good = batch(21).split([12, 9])
    references = torch.cat([good, good[3:4], saved_again(tokens[2])[None]])
    found = scored(tokens, references=references, copies="auto")
    assert set(found.copies) == {
        Copy(9, 3, "references", True),
        Copy(2, 10, "image of reference", False),
    }
    distinct = references[[*range(9), 10]]
    wanted = scored(tokens, references=distinct).patch_scores
    wanted[2] = scored(tokens[2:3], references=distinct[:9]).patch_scores[0]
    assert torch.equal(found.patch_scores, wanted)
    with pytest.raises(InputError, match="image 2 is a copy of the only one"):
        scored(tokens, references=tokens[2:3], copies="auto")


def test_with_a_sample_of_references() -> None:
    tokens = torch.cat([batch(), saved_again(batch()[2])[None], batch()[5:6]])
    for keywords in ({}, {"references": tokens[:10]}):
        found = scored(tokens, copies="auto", max_references=4, **keywords)
        assert found.patch_scores.isfinite().all()
        assert found.raw_image_scores[12] > 0.5 * found.raw_image_scores[2]


def test_mapped_layers_and_checkpoint(tmp_path: Path) -> None:
    tokens = batch()[[0, 1, 2, 2, 3, 4, 5, 6, 7, 1]]
    np.save(tmp_path / "layer.npy", tokens.numpy())
    wanted = scored(tokens, copies="auto")
    for _ in range(2):  # the second goes on from what the first has kept
        found = score_batch(
            tmp_path / "layer.npy", grid=GRID, copies="auto", checkpoint=tmp_path / "kept"
        )
        assert torch.equal(found.patch_scores, wanted.patch_scores)
        assert found.copies == wanted.copies
    with pytest.raises(InputError, match="other tokens or settings"):
        scored(tokens, checkpoint=tmp_path / "kept")


def test_a_repeated_defect_and_a_copy_of_one() -> None:
    tokens = batch(18)
    defect = 2 * torch.randn(4, 24, generator=torch.Generator().manual_seed(7))
    spot, shared = [20, 21, 26, 27], [3, 4, 5, 6, 7, 8]
    for image in shared:
        noise = torch.randn(4, 24, generator=torch.Generator().manual_seed(image))
        tokens[image, spot] = defect + 0.2 * noise
    twice = torch.cat([tokens[:9], tokens[3:4], saved_again(tokens[4])[None], tokens[9:]])
    found = scored(twice, degrees=(1,), copies="auto", repeats="auto")
    assert [each.images for each in found.repeats] == [(3, 4, 5, 6, 7, 8)]
    at_spot = found.patch_scores.flatten(1)[:, spot]
    assert torch.equal(at_spot[9], at_spot[3])
    torch.testing.assert_close(at_spot[10], at_spot[4], rtol=0.2, atol=0)
    assert at_spot[10].min() > 2 * at_spot[0].max()
