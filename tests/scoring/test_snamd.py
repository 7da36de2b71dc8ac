"""MuSc-V2's 2D parts: SNAMD against its definition, where it is degree 1, RsCon, wrong options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from musc_fast import BankError, InputError, MuSc, ReferenceBank, ops, score_batch
from musc_fast.scoring.leave_one_out import leave_one_out
from musc_fast.scoring.snamd import snamd
from musc_fast.settings import ScoringSettings

GRID = (4, 5)


def tokens(n: int = 4, c: int = 12, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(n, 20, c, generator=torch.Generator().manual_seed(seed))


def as_defined(
    image: Tensor, degrees: tuple[int, ...], temperature: float, *, unit: bool
) -> list[Tensor]:
    """SNAMD of one image [P, C] in fp64, patch by patch, as its definition says."""
    image = image.double()
    features = F.normalize(image, dim=1) if unit else image
    results = []
    for degree in degrees:
        rows = []
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                centre = features[row * GRID[1] + column]
                total, weights = torch.zeros_like(centre), 0.0
                for y in range(row - degree // 2, row + degree // 2 + 1):
                    for x in range(column - degree // 2, column + degree // 2 + 1):
                        inside = 0 <= y < GRID[0] and 0 <= x < GRID[1]
                        other = features[y * GRID[1] + x] if inside else torch.zeros_like(centre)
                        weight = math.exp(-float((other - centre).norm()) / temperature)
                        total, weights = total + weight * other, weights + weight
                rows.append(total / weights)
        results.append(torch.stack(rows))
    return results


@pytest.mark.parametrize(("unit", "temperature"), [(False, 1.0), (False, 4.0), (True, 0.3)])
def test_it_is_as_defined(unit: bool, temperature: float) -> None:
    layer = tokens(2)
    how: dict[str, Any] = {"unit": unit, "temperature": temperature}
    separate = snamd(layer, GRID, (1, 3, 5), fused=False, **how)
    [fused] = snamd(layer, GRID, (1, 3, 5), fused=True, **how)
    for index, image in enumerate(layer):
        means = as_defined(image, (1, 3, 5), temperature, unit=unit)
        for found, mean in zip(separate, means, strict=True):
            assert torch.allclose(found[index].double(), F.normalize(mean, dim=1), atol=1e-5)
        mean = F.normalize(torch.stack(means).mean(dim=0), dim=1)
        assert torch.allclose(fused[index].double(), mean, atol=1e-5)


def test_on_features_of_a_backbone_it_is_degree_1() -> None:
    """Neighbours that lie tens apart, as in DINOv2: no weight but the patch's own is left."""
    layer = tokens(c=64, scale=6)  # rows of norm 48, 68 apart
    alone = F.normalize(layer, dim=2)
    for found in snamd(layer, GRID, (1, 3, 5), unit=False, temperature=1, fused=False):
        assert torch.allclose(found, alone, atol=1e-6)
    how: dict[str, Any] = {"grid": GRID, "degree_fusion": "features"}
    plain = score_batch(layer, pooling="snamd", **how)
    degree_1 = score_batch(layer, degrees=(1,), pooling="snamd", **how)
    assert torch.allclose(plain.patch_scores, degree_1.patch_scores, atol=1e-5)
    # At norm 1 the neighbours count.
    [unit] = snamd(layer, GRID, (3,), unit=True, temperature=1, fused=False)
    assert float((unit - alone).norm(dim=2).min()) > 0.1


def test_a_hot_temperature_is_the_even_mean() -> None:
    layer = tokens(2)
    found = snamd(layer, GRID, (3,), unit=False, temperature=1e6, fused=False)[0]
    maps = layer.transpose(1, 2).reshape(2, -1, *GRID)
    mean = F.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)
    assert torch.allclose(found, F.normalize(mean, dim=2), atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("fusion", ["scores", "features"])
def test_every_backend_searches_it(backend: str, fusion: Any) -> None:
    layer = tokens()
    how: dict[str, Any] = {"degrees": (1, 3), "degree_fusion": fusion, "temperature": 0.5}
    found = score_batch(layer, grid=GRID, pooling="snamd-unit", backend=backend, **how)
    pooled = snamd(layer, GRID, (1, 3), unit=True, temperature=0.5, fused=fusion == "features")
    expected = torch.stack([ops.msm(z, backend="reference").double() for z in pooled]).mean(dim=0)
    assert torch.allclose(found.patch_scores.flatten(1).double(), expected, atol=1e-5)


def test_images_of_the_most_anomalous_patch_that_are_alike_are_smoothed_together() -> None:
    layers = [tokens(5, seed=layer) for layer in range(3)]
    how: dict[str, Any] = {"grid": GRID, "degrees": (1, 3), "degree_fusion": "features"}
    raw = score_batch(layers, **how)
    found = score_batch(layers, similarity="salient", neighbors=(1, 2), **how)
    assert torch.equal(found.raw_image_scores, raw.raw_image_scores)
    pooled = F.normalize(torch.stack(ops.lnamd_all(layers[1], GRID, (1, 3))).mean(dim=0), dim=2)
    places = raw.patch_scores.flatten(1).argmax(dim=1)
    salient = pooled[torch.arange(5), places]
    expected = ops.rscin(raw.raw_image_scores, salient, (1, 2))
    assert torch.allclose(found.image_scores, expected, atol=1e-5)
    assert not torch.allclose(found.image_scores, raw.image_scores)
    valid = torch.ones(5, 20, dtype=torch.bool)
    valid[torch.arange(5), places] = False
    hidden = score_batch(layers, similarity="salient", neighbors=(1, 2), valid=valid, **how)
    assert torch.isfinite(hidden.image_scores).all()


def test_a_scale_of_references_is_not_smoothed() -> None:
    settings = ScoringSettings(degrees=(1,), similarity="salient", pooling="snamd")
    found = leave_one_out([tokens()], settings, grid=GRID)
    assert torch.equal(found.image_scores, found.raw_image_scores)


def test_a_bank_keeps_its_pooling(tmp_path: Path) -> None:
    how: dict[str, Any] = {"grid": GRID, "pooling": "snamd-unit", "temperature": 0.5}
    bank = ReferenceBank(4, **how)
    bank.add(tokens(4))
    expected = score_batch(tokens(2, seed=1), references=bank.tokens(), **how)
    assert torch.equal(bank.score(tokens(2, seed=1)).patch_scores, expected.patch_scores)
    bank.save(tmp_path / "bank")
    again = ReferenceBank.load(tmp_path / "bank")
    assert again.scoring.pooling == "snamd-unit"
    assert torch.equal(again.score(tokens(2, seed=1)).patch_scores, expected.patch_scores)
    sourced = ReferenceBank(4, grid=GRID, source={"backbone": "b"})
    sourced.save(tmp_path / "plain")
    with pytest.raises(BankError, match="pooling: the bank has None, now 'snamd'"):
        ReferenceBank.load(tmp_path / "plain", source={"backbone": "b", "pooling": "snamd"})


def test_a_checkpoint_is_of_its_pooling(tmp_path: Path) -> None:
    how: dict[str, Any] = {"grid": GRID, "degrees": (1,), "checkpoint": tmp_path}
    score_batch(tokens(), **how)
    score_batch(tokens(), pooling="lnamd", temperature=1, **how)  # the same run
    with pytest.raises(InputError, match="other tokens or settings"):
        score_batch(tokens(), pooling="snamd", **how)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"pooling": "mean"}, "pooling: found 'mean', wanted one of lnamd, snamd, snamd-unit"),
        ({"temperature": 0.5}, "temperature: has no say with pooling lnamd"),
        ({"pooling": "snamd", "temperature": 0}, "temperature: found 0, wanted a number above 0"),
        ({"similarity": "patch"}, "similarity: found 'patch', wanted one of class, salient"),
    ],
)
def test_wrong_options_are_told(how: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        score_batch(tokens(), grid=GRID, **how)


def test_class_tokens_have_no_say_beside_salient_patches() -> None:
    with pytest.raises(InputError, match="use_cls: class tokens"):
        MuSc("no-such-backbone", similarity="salient", use_cls=True)
