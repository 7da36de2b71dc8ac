"""Patches that do not count: against a plain reference that has not got them, on every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from musc_fast import InputError, reference, score_batch
from musc_fast.scoring.leave_one_out import leave_one_out
from musc_fast.scoring.scores import anomaly_map
from musc_fast.scoring.valid import overwrite
from musc_fast.settings import ScoringSettings

GRID = (4, 5)


def batch(n: int = 5, c: int = 24, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 20, c + layer, generator=generator) for layer in range(2)]


def some_valid(n: int, seed: int = 3, share: float = 0.6) -> Tensor:
    valid = torch.rand(n, 20, generator=torch.Generator().manual_seed(seed)) < share
    valid[:, seed % 20] = True
    return valid


def pooled_alone(layer: Tensor, valid: Tensor, degrees: tuple[int, ...]) -> list[Tensor]:
    """LNAMD in fp64 of the patches that count: of each the mean over those in its neighbourhood.

    LayerNorm's scale falls away as lengths are taken to 1; only its mean is of account.
    """
    results = [torch.zeros(layer.shape, dtype=torch.float64) for _ in degrees]
    for index, (image, counts) in enumerate(zip(layer.double(), valid, strict=True)):
        centred = image - image[counts].mean()
        for z, degree in zip(results, degrees, strict=True):
            for patch in counts.nonzero().flatten().tolist():
                row, column = divmod(patch, GRID[1])
                near = [
                    other
                    for other in counts.nonzero().flatten().tolist()
                    if max(abs(other // GRID[1] - row), abs(other % GRID[1] - column))
                    <= degree // 2
                ]
                z[index, patch] = F.normalize(centred[near].sum(dim=0), dim=0)
    return results


def removed(
    layers: list[Tensor],
    valid: Tensor,
    others: list[Tensor] | None = None,
    other_valid: Tensor | None = None,
    *,
    degrees: tuple[int, ...] = (1, 3),
    fused: bool = False,
    topmin: tuple[float, float] = (0.0, 0.3),
) -> Tensor:
    """Patch scores in fp64 of the patches that count, as if there were no others."""
    total = torch.zeros(valid.shape, dtype=torch.float64)
    passes = 0
    for index, layer in enumerate(layers):
        pooled = pooled_alone(layer, valid, degrees)
        held = pooled
        if others is not None:
            assert other_valid is not None
            held = pooled_alone(others[index], other_valid, degrees)
        if fused:
            pooled, held = [reference.fuse_degrees(pooled)], [reference.fuse_degrees(held)]
        counted = valid if others is None else other_valid
        assert counted is not None
        for z, y in zip(pooled, held, strict=True):
            passes += 1
            for i in range(len(z)):
                columns = [
                    reference.pair_distances(z[i][valid[i]], y[j][counted[j]])
                    for j in range(len(y))
                    if others is not None or i != j
                ]
                ranks = reference.interval(topmin, len(columns))
                total[i, valid[i]] += reference.interval_mean(torch.stack(columns, 1), *ranks)
    return total / passes


@pytest.mark.parametrize("fusion", ["scores", "features"])
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_the_scores_of_a_batch_without_those_patches(backend: str, fusion: Any) -> None:
    layers, valid = batch(), some_valid(5)
    how: dict[str, Any] = {"grid": GRID, "degrees": (1, 3), "backend": backend}
    found = score_batch(layers, valid=valid, degree_fusion=fusion, **how)
    expected = removed(layers, valid, fused=fusion == "features")
    assert torch.allclose(found.patch_scores.flatten(1).double(), expected, atol=1e-5, rtol=0)
    assert bool((found.patch_scores.flatten(1)[~valid] == 0).all())
    assert torch.equal(found.raw_image_scores, found.anomaly_maps.amax((1, 2)))


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_the_scores_against_references_without_those_patches(backend: str) -> None:
    layers, others = batch(3), batch(4, seed=1)
    valid, other_valid = some_valid(3), some_valid(4, seed=4)
    how: dict[str, Any] = {"grid": GRID, "degrees": (1, 3), "backend": backend}
    found = score_batch(
        layers, references=others, valid=valid, reference_valid=other_valid.numpy(), **how
    )
    expected = removed(layers, valid, others, other_valid)
    assert torch.allclose(found.patch_scores.flatten(1).double(), expected, atol=1e-5, rtol=0)


@given(
    st.integers(0, 10_000),
    st.floats(0.1, 0.9),
    st.sampled_from([(0.0, 0.3), (1, 3)]),
    st.sampled_from([{}, {"degree_fusion": "features"}, {"pooling": "snamd-unit"}]),
)
@settings(max_examples=8, deadline=None)
def test_what_an_ignored_patch_holds_changes_nothing(
    seed: int, share: float, topmin: tuple[float, float], fusion: dict[str, Any]
) -> None:
    """Every patch that counts keeps its score to the bit, whatever the others hold."""
    layers, valid = batch(4, seed=seed), some_valid(4, seed=seed, share=share)
    changed = [layer.clone() for layer in layers]
    for image, counts in enumerate(valid):
        for layer in changed:
            layer[image, ~counts] = 1e4 * layer[image, ~counts].flip(0)
    how = {"grid": GRID, "degrees": (1, 3), "topmin": topmin, "valid": valid, **fusion}
    found, again = score_batch(layers, **how), score_batch(changed, **how)
    assert torch.equal(found.patch_scores, again.patch_scores)


def test_all_patches_count_without_a_word() -> None:
    layers = batch()
    plain = score_batch(layers, grid=GRID, image_size=(17, 23))
    found = score_batch(
        layers, grid=GRID, image_size=(17, 23), valid=torch.ones(5, 20, dtype=torch.bool)
    )
    tensors = {name: each for name, each in vars(plain).items() if isinstance(each, torch.Tensor)}
    assert tensors
    assert all(torch.equal(value, vars(found)[name]) for name, value in tensors.items())


def test_a_defect_where_nobody_looks_is_not_seen() -> None:
    """A patch unlike all others: flagged where it counts, unseen where it does not, and no twin."""
    layers = [layer.clone() for layer in batch()]
    for layer in layers:
        layer[:2, 7] = 40 * layer[0, 7].sign()
    how: dict[str, Any] = {"grid": GRID, "degrees": (1,), "image_size": (40, 50)}
    valid = torch.ones(5, 20, dtype=torch.bool)
    valid[0, 7] = False
    plain, found = score_batch(layers, **how), score_batch(layers, valid=valid, **how)
    # In the plain batch the two defects are twins of each other: the nearest image is at 0.
    assert float(plain.patch_scores[1, 1, 2]) < 0.01
    assert float(found.patch_scores[0, 1, 2]) == 0
    assert float(found.patch_scores[1, 1, 2]) > 0.5
    assert bool((found.anomaly_maps[0, 10:20, 20:30] == 0).all())


def test_files_ranks_of_references_and_parts_give_the_same_bits(tmp_path: Path) -> None:
    layers, valid = batch(6), some_valid(6)
    how: dict[str, Any] = {"grid": GRID, "degrees": (1, 3), "valid": valid}
    expected = score_batch(layers, **how)
    files = []
    for index, layer in enumerate(layers):
        files.append(tmp_path / f"{index}.npy")
        np.save(files[-1], layer.numpy())
    for fusion in ("scores", "features"):
        found = score_batch(files, degree_fusion=fusion, **how)
        assert torch.equal(
            found.patch_scores, score_batch(layers, degree_fusion=fusion, **how).patch_scores
        )
    # Ranks of the references: each of six against the five others, the images of the batch.
    settings = ScoringSettings(degrees=(1, 3), topmin=(0.0, 0.3))
    alone = leave_one_out(layers, settings, grid=GRID, valid=valid)
    ranks = reference.interval((0.0, 0.3), 6)
    again = removed(layers, valid, topmin=(float(ranks[0]), float(ranks[1])))
    assert torch.allclose(alone.patch_scores.flatten(1).double(), again, atol=1e-5, rtol=0)
    assert torch.equal(expected.patch_scores == 0, ~valid.view(6, *GRID))


def test_a_checkpoint_is_of_these_patches(tmp_path: Path) -> None:
    layers, valid = batch(4), some_valid(4)
    how: dict[str, Any] = {"grid": GRID, "degrees": (1,), "checkpoint": tmp_path / "kept"}
    found = score_batch(layers, valid=valid, **how)
    again = score_batch(layers, valid=valid, **how)
    assert torch.equal(found.patch_scores, again.patch_scores)
    with pytest.raises(InputError, match="other tokens or settings"):
        score_batch(layers, **how)
    with pytest.raises(InputError, match="other tokens or settings"):
        score_batch(layers, valid=some_valid(4, seed=9), **how)


def test_sampled_references_bring_their_patches() -> None:
    layers, others = batch(2), batch(5, seed=1)
    other_valid = some_valid(5, seed=4)
    how: dict[str, Any] = {"grid": GRID, "degrees": (1,), "max_references": 2, "topmin": (0.0, 1)}
    found = score_batch(layers, references=others, reference_valid=other_valid, **how)
    every = torch.ones(2, 20, dtype=torch.bool)
    pairs = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]]
    expected = [
        removed(
            layers,
            every,
            [each[pair] for each in others],
            other_valid[pair],
            degrees=(1,),
            topmin=(0.0, 1),
        )
        for pair in pairs
    ]
    scores = found.patch_scores.flatten(1).double()
    assert sum(torch.allclose(scores, each, atol=1e-5, rtol=0) for each in expected) == 1


@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 31), st.integers(1, 31)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_maps_hide_what_does_not_count_and_keep_the_rest(
    grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(grid, generator=generator, dtype=torch.float64) + 0.1
    valid = torch.rand(grid, generator=generator) < 0.6
    found = anomaly_map(torch.where(valid, scores, 0.0), size, valid)
    assert torch.equal(found, anomaly_map(torch.where(valid, scores, 77.0), size, valid))
    rows = (torch.arange(size[0]) + 0.5) * grid[0] / size[0]
    columns = (torch.arange(size[1]) + 0.5) * grid[1] / size[1]
    counts = valid[rows.long()][:, columns.long()]
    assert bool((found[~counts] == 0).all())
    if size[0] >= grid[0] and size[1] >= grid[1]:
        assert bool((found[counts] >= scores[valid].min() - 1e-9).all() if counts.any() else True)
        assert bool((found[counts] <= scores[valid].max() + 1e-9).all() if counts.any() else True)
    everywhere = torch.ones(grid, dtype=torch.bool)
    plain = F.interpolate(scores[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]
    assert torch.allclose(anomaly_map(scores, size, everywhere), plain)


def test_a_peak_at_the_border_keeps_its_height() -> None:
    scores = torch.full((4, 4), 0.2, dtype=torch.float64)
    scores[1, 1] = 0.9
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[:, 2:] = valid[2:] = False
    size = (28, 28)  # 9 pixels from patch to patch
    found = anomaly_map(torch.where(valid, scores, 0.0), size, valid)
    assert float(found[9, 9]) == pytest.approx(0.9)
    assert float(found[13, 13]) == pytest.approx(0.9)  # as far as the patch goes
    assert bool((found[14:] == 0).all())
    assert bool((found[:, 14:] == 0).all())


def test_patches_take_turns() -> None:
    z = torch.arange(8.0).view(1, 8, 1).clone()
    overwrite(z, torch.tensor([[True, False, False, True, False, False, False, False]]))
    assert z.flatten().tolist() == [0, 0, 3, 3, 0, 3, 0, 3]


@pytest.mark.parametrize(
    ("valid", "told"),
    [
        (
            torch.ones(5, 19, dtype=torch.bool),
            r"valid: found bool \[5, 19\], wanted bool \[5, 20\]",
        ),
        (torch.ones(5, 20), r"valid: found float32 \[5, 20\], wanted bool"),
        ([True], "valid: found list, wanted bool"),
        (torch.arange(5)[:, None].expand(5, 20) != 3, "valid: no patch of image 3 counts"),
    ],
)
def test_wrong_patches_are_told(valid: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        score_batch(batch(), grid=GRID, valid=valid)


def test_patches_of_references_need_references() -> None:
    with pytest.raises(InputError, match="reference_valid: given without references"):
        score_batch(batch(), grid=GRID, reference_valid=some_valid(5))
