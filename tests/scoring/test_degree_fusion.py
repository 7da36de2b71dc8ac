"""`degree_fusion="features"`: the degrees averaged before one search a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import ReferenceBank, reference, score_batch
from musc_fast.backends import BACKENDS
from musc_fast.errors import InputError
from musc_fast.scoring import layer_passes

GRID = (3, 4)


def layers_of(images: int, count: int = 2, channels: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(images)
    return [torch.randn(images, 12, channels, generator=generator) for _ in range(count)]


def truth(layers: list[Tensor], degrees: tuple[int, ...] = (1, 3, 5)) -> Tensor:
    """Patch scores in fp64 by the definition: one MSM of the normalised mean, a layer."""
    total = torch.zeros(layers[0].shape[:2], dtype=torch.float64)
    for layer in layers:
        mean = sum(reference.lnamd(layer.double(), GRID, degrees), torch.zeros(()).double())
        z = mean / mean.norm(dim=2, keepdim=True)
        bounds = reference.interval((0.0, 0.3), len(layer) - 1)
        total += reference.msm(z, None, *bounds)
    return (total / len(layers)).reshape(-1, *GRID)


@pytest.mark.parametrize("backend", [each.name for each in BACKENDS])
def test_every_backend_against_the_definition(backend: str) -> None:
    reason = next(each for each in BACKENDS if each.name == backend).why_not(torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    layers = layers_of(7)
    found = score_batch(layers, grid=GRID, backend=backend, degree_fusion="features")
    torch.testing.assert_close(found.patch_scores.double(), truth(layers), rtol=0, atol=1e-5)


def test_one_degree_is_the_same_either_way() -> None:
    layers = layers_of(6)
    for degree in (1, 3):
        one, other = (
            score_batch(layers, grid=GRID, degrees=(degree,), degree_fusion=fusion).patch_scores
            for fusion in ("scores", "features")
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(images=st.integers(2, 9), block=st.integers(1, 9))
def test_the_bits_do_not_depend_on_blocks_of_images(images: int, block: int) -> None:
    layers = layers_of(images, channels=40)
    whole = score_batch(layers, grid=GRID, degree_fusion="features").patch_scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_passes, "_BLOCK", block * 4 * layers[0][0].numel() * 3)
        cut = score_batch(layers, grid=GRID, degree_fusion="features").patch_scores
    assert torch.equal(whole, cut)


def test_files_references_banks_and_checkpoints_have_the_same_bits(tmp_path: Path) -> None:
    layers, others = layers_of(5), layers_of(8)
    wanted = score_batch(layers, references=others, grid=GRID, degree_fusion="features")
    bank = ReferenceBank(8, grid=GRID, degree_fusion="features")
    bank.add(others)
    assert torch.equal(bank.score(layers).patch_scores, wanted.patch_scores)
    bank.save(tmp_path / "bank.safetensors")
    loaded = ReferenceBank.load(tmp_path / "bank.safetensors")
    assert loaded.scoring.degree_fusion == "features"
    assert torch.equal(loaded.score(layers).patch_scores, wanted.patch_scores)

    alone = score_batch(layers, grid=GRID, degree_fusion="features").patch_scores
    files = []
    for index, layer in enumerate(layers):
        files.append(tmp_path / f"{index}.npy")
        np.save(files[-1], layer.numpy())
    folder = tmp_path / "checkpoint"
    mapped = score_batch(files, grid=GRID, degree_fusion="features", checkpoint=folder)
    assert torch.equal(mapped.patch_scores, alone)
    assert len(list(folder.glob("part-*.npy"))) == len(layers)  # one search a layer
    with pytest.raises(InputError, match="belongs to a run with other tokens or settings"):
        score_batch(files, grid=GRID, checkpoint=folder)


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(InputError, match="degree_fusion: found 'mean', wanted one of scores, feat"):
        score_batch(layers_of(3), grid=GRID, degree_fusion="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("degrees", [1, 2, 5])
def test_an_image_is_fused_to_the_same_bits_whatever_is_beside_it(degrees: int) -> None:
    pooled = layers_of(3, count=degrees, channels=7)
    before = [layer.clone() for layer in pooled]
    together = reference.fuse_degrees(pooled)
    alone = [
        reference.fuse_degrees([layer[image : image + 1, patch : patch + 1] for layer in pooled])
        for image in range(3)
        for patch in range(12)
    ]
    assert torch.equal(together, torch.cat(alone).reshape(together.shape))
    assert all(map(torch.equal, pooled, before))
