"""max_references: every image keeps K others, chosen by content and seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_fast import InputError, score_batch
from musc_fast.scoring.sampling import sample_others


def batch(n: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 16, 12, generator=generator) for _ in range(2)]


@given(images=st.integers(3, 40), count=st.integers(1, 40), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_lists_are_k_others_and_follow_the_images(images: int, count: int, seed: int) -> None:
    tokens = batch(images, seed)[0]
    lists = sample_others(tokens, count)
    if count >= images - 1:
        assert lists is None
        return
    assert lists is not None
    assert lists.shape == (images, count)
    assert bool((lists.diff(dim=1) > 0).all())
    assert not bool((lists == torch.arange(images)[:, None]).any())
    if count % 2 == 0 or images % 2 == 0:  # symmetric: one search serves both
        chosen = torch.zeros(images, images, dtype=torch.bool).scatter_(1, lists, True)
        assert torch.equal(chosen, chosen.T)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    moved = sample_others(tokens[order], count)
    assert moved is not None
    assert torch.equal(order[moved].sort(dim=1).values, lists[order])


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_scores_are_those_of_each_image_against_its_sample(backend: str) -> None:
    tokens = batch(11)
    lists = sample_others(tokens[0], 4)
    assert lists is not None
    found = score_batch(tokens, max_references=4, backend=backend)
    for i in range(11):
        expected = score_batch(
            [layer[i : i + 1] for layer in tokens],
            references=[layer[lists[i]] for layer in tokens],
            backend=backend,
        )
        assert torch.equal(found.patch_scores[i], expected.patch_scores[0])
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    moved = score_batch([layer[order] for layer in tokens], max_references=4, backend=backend)
    assert torch.equal(moved.patch_scores, found.patch_scores[order])


def test_enough_references_are_all_of_them() -> None:
    tokens, others = batch(5), batch(6, seed=1)
    expected = score_batch(tokens)
    assert torch.equal(score_batch(tokens, max_references=4).patch_scores, expected.patch_scores)
    expected = score_batch(tokens, references=others)
    assert torch.equal(
        score_batch(tokens, references=others, max_references=6).patch_scores,
        expected.patch_scores,
    )
    fewer = score_batch(tokens, references=others, max_references=2).patch_scores
    assert float((fewer - expected.patch_scores).abs().max()) > 0


@pytest.mark.parametrize("wrong", [0, -1, 2.5])
def test_wrong_counts_are_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="max_references"):
        score_batch(batch(3), max_references=wrong)  # type: ignore[arg-type]
