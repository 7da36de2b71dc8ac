"""`repeats="auto"`: a defect that several images share is found, and nothing else changes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from musc_fast import score_batch
from musc_fast.backends import BACKENDS
from musc_fast.errors import InputError
from musc_fast.scoring import all_distances
from musc_fast.scoring.repeats import Repeat, merged, widened

GRID = (6, 6)
SPOT = (14, 15, 20, 21)  # patches of the defect
IMAGES = 18


def batch(defective: tuple[int, ...], seed: int = 0, images: int = IMAGES) -> Tensor:
    """Tokens [N, 36, 24] of one product; the same defect lies on the spot of some images."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.randn(36, 24, generator=generator)
    tokens = layout + 0.25 * torch.randn(images, 36, 24, generator=generator)
    defect = torch.randn(len(SPOT), 24, generator=generator)
    own = 0.25 * torch.randn(len(defective), len(SPOT), 24, generator=generator)
    tokens[torch.tensor(defective, dtype=torch.int64)[:, None], list(SPOT)] = defect + own
    return tokens


def auroc(scores: Tensor, defective: tuple[int, ...]) -> float:
    """Share of the pairs of a defective and a good image that are in the right order."""
    good = [i for i in range(len(scores)) if i not in defective]
    pairs = [float(scores[i] > scores[j]) for i in defective for j in good]
    return float(np.mean(pairs))


def scored(tokens: Tensor, **keywords: object):  # type: ignore[no-untyped-def]
    return score_batch(tokens, grid=GRID, degrees=(1,), **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, 6, 9])
def test_a_defect_of_some_images_is_found(count: int) -> None:
    defective = tuple(range(1, 2 * count, 2))
    tokens = batch(defective)
    hidden, found = scored(tokens), scored(tokens, repeats="auto")
    assert auroc(found.raw_image_scores, defective) == 1.0
    assert [each.images for each in found.repeats] == [defective]
    assert set(SPOT) <= set(found.repeats[0].patches) <= set(widened(SPOT, GRID))
    if count > 3:
        assert auroc(hidden.raw_image_scores, defective) < 0.8
    good = [i for i in range(IMAGES) if i not in defective]
    assert torch.equal(found.patch_scores[good], hidden.patch_scores[good])
    away = torch.ones(36, dtype=torch.bool)
    away[list(found.repeats[0].patches)] = False
    for image in defective:
        rest = (each.patch_scores[image].flatten()[away] for each in (found, hidden))
        assert torch.equal(*rest)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fusion", ["scores", "features"])
def test_without_repeats_every_bit_stays(seed: int, fusion: str) -> None:
    tokens = batch((), seed)
    tokens[2, 5] += 3.0  # a defect of one image
    kinds = [
        score_batch(tokens, grid=GRID, degree_fusion=fusion, repeats=each)  # type: ignore[arg-type]
        for each in ("off", "auto")
    ]
    assert torch.equal(kinds[0].patch_scores, kinds[1].patch_scores)
    assert kinds[1].repeats == ()


def test_two_defects_of_different_images_are_two_repeats() -> None:
    tokens = batch((0, 1, 2, 3))
    other = batch((4, 5, 6, 7, 8), seed=1) - batch((), seed=1)
    defect = torch.randn(24, generator=torch.Generator().manual_seed(9))
    for image in (4, 5, 6, 7, 8):
        tokens[image, 33] = defect + 0.1 * other[image, 14]
    found = scored(tokens, repeats="auto")
    assert {each.images for each in found.repeats} == {(0, 1, 2, 3), (4, 5, 6, 7, 8)}


def test_the_bits_do_not_depend_on_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = batch((3, 4, 5, 6))
    whole = scored(tokens, repeats="auto")
    monkeypatch.setattr(all_distances, "_BYTES", 4 * 36 * IMAGES * 5)  # five images at a time
    told: list[tuple[int, int]] = []
    some = scored(tokens, repeats="auto", progress=lambda done, total: told.append((done, total)))
    assert torch.equal(whole.patch_scores, some.patch_scores)
    assert whole.repeats == some.repeats
    assert told[-1][0] == told[-1][1]
    assert len(told) > 3


@pytest.mark.parametrize("backend", [each.name for each in BACKENDS])
def test_every_backend_finds_the_same(backend: str) -> None:
    reason = next(each for each in BACKENDS if each.name == backend).why_not(torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    tokens = batch((3, 4, 5, 6))
    found = scored(tokens, repeats="auto", backend=backend)
    assert [each.images for each in found.repeats] == [(3, 4, 5, 6)]
    wanted = scored(tokens, repeats="auto", backend="reference").patch_scores
    torch.testing.assert_close(found.patch_scores, wanted, rtol=0, atol=1e-5)


def test_the_scores_are_those_against_the_other_images() -> None:
    """By the definition: at the spot, the interval mean over the images without the defect."""
    defective = (1, 5, 7, 10, 12, 17)
    tokens = batch(defective)
    found = scored(tokens, repeats="auto")
    good = [i for i in range(IMAGES) if i not in defective]
    alone = scored(tokens[list(defective)], references=tokens[good])
    for place, image in enumerate(defective):
        at = [
            each.flatten()[list(SPOT)]
            for each in (found.patch_scores[image], alone.patch_scores[place])
        ]
        torch.testing.assert_close(*at, rtol=0, atol=1e-6)


@pytest.mark.parametrize("images", range(2, 8))
def test_small_batches_are_scored(images: int) -> None:
    tokens = batch((), images=images)
    assert torch.equal(scored(tokens, repeats="auto").patch_scores, scored(tokens).patch_scores)


def test_equal_images_give_no_error() -> None:
    tokens = batch(())[:1].repeat(8, 1, 1)
    assert scored(tokens, repeats="auto").raw_image_scores.max() == 0


def test_what_cannot_be_joined_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    tokens = batch(())
    for keywords, word in (
        ({"references": tokens}, "references"),
        ({"max_references": 3}, "max_references"),
        ({"checkpoint": tmp_path / "kept"}, "checkpoint"),
    ):
        with pytest.raises(InputError, match=f"repeats: .*{word}"):
            scored(tokens, repeats="auto", **keywords)
    with pytest.raises(InputError, match="repeats: found 'on', wanted one of off, auto"):
        scored(tokens, repeats="on")


def test_repeats_of_several_passes_become_one() -> None:
    passes = [
        Repeat((1, 2, 3), (4, 5), 2.0),
        Repeat((1, 2, 3, 4), (5, 6), 1.0),
        Repeat((7, 8, 9), (4,), 0.5),
    ]
    wanted = (Repeat((1, 2, 3), (4, 5, 6), 3.0), Repeat((7, 8, 9), (4,), 0.5))
    for order in itertools.permutations(passes):
        assert merged(order) == wanted
