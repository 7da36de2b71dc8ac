"""Parts, lists, both ways at once and kept references: every backend, against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast import ops, reference
from musc_fast.backends import BACKENDS
from musc_fast.errors import InputError


@pytest.fixture(params=[b.name for b in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    found = next(b for b in BACKENDS if b.name == request.param)
    reason = found.why_not(torch.device("cpu"))
    if reason is not None:
        pytest.skip(f"{found.name}: {reason}")
    return found.name


def features(images: int, patches: int = 37, channels: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(images, patches, channels, generator=generator), dim=2
    )


def test_parts_make_up_the_whole(backend: str) -> None:
    z = features(7)
    z[3] = z[2]
    expected = ops.msm(z, backend=backend)
    parts = [(0, 3), (3, 4), (4, 7)]
    assert torch.equal(torch.cat(list(ops.msm_parts(z, parts, backend=backend))), expected)
    others = features(5, 30, seed=1)
    expected = ops.msm(z, others, backend=backend)
    found = torch.cat(list(ops.msm_parts(z, parts, others, backend=backend)))
    assert torch.equal(found, expected)


def test_lists_against_the_truth(backend: str) -> None:
    z = features(5)
    lists = torch.tensor([[1, 2, 4], [0, 2, 3], [0, 1, 4], [0, 1, 2], [1, 2, 3]])
    truth = reference.patch_to_image(z.double())
    (found,) = ops.msm_parts(z, [(0, 5)], topmin=(0, 2), lists=lists, backend=backend)
    for i in range(5):
        wanted = reference.interval_mean(truth[i][:, lists[i]], 0, 2)
        assert float((found[i].double() - wanted).abs().max()) < 1e-5


def test_both_ways(backend: str) -> None:
    a, b = features(3), features(4, 50, seed=2)
    there, back = ops.between(a, b, backend=backend)
    assert torch.equal(there, ops.patch_to_image(a, b, backend=backend))
    assert torch.equal(back, ops.patch_to_image(b, a, backend=backend))


@pytest.mark.parametrize("against", ["itself", "references"])
def test_nearest_images(backend: str, against: str) -> None:
    z = features(5)
    z[4] = z[1]  # at distance 0 of each other
    others = None if against == "itself" else features(4, 30, seed=1)
    truth = reference.patch_to_image(z.double(), None if others is None else others.double())
    distances, images, patches = ops.nearest_images(z, others, 3, backend=backend)
    wanted = truth.sort(dim=2, stable=True)
    assert (distances - wanted.values[..., :3]).abs().max() < 1e-5
    assert distances.dtype == torch.float32
    assert images.dtype == patches.dtype == torch.int64
    named = (z if others is None else others)[images, patches].double()  # [N, P, k, C]
    apart = torch.linalg.vector_norm(z[:, :, None].double() - named, dim=3)
    assert (apart - distances).abs().max() < 1e-5
    assert all(len(set(row)) == 3 for row in images.flatten(0, 1).tolist())
    if others is None:
        assert not (images == torch.arange(5)[:, None, None]).any()
        assert (images[1, :, 0] == 4).all()


@pytest.mark.parametrize("k", [0, 5, 1.5])
def test_wrong_numbers_of_nearest_images(k: object) -> None:
    with pytest.raises(InputError, match="k: found"):
        ops.nearest_images(features(5), k=k)  # type: ignore[arg-type]


def test_kept_references(backend: str) -> None:
    every, query = features(6), features(2, 30, seed=3)
    kept = ops.KeptReferences(4, 37, 40, backend=backend)
    held: dict[int, int] = {}
    for step, slot in enumerate((0, 1, 2, 3, 1, 0)):
        kept.put(slot, every[step])
        held[slot] = step
        others = every[[held[slot] for slot in range(len(kept))]]
        assert torch.equal(kept.msm(query), ops.msm(query, others, backend=backend))


def test_wrong_lists_and_parts_are_refused() -> None:
    z = features(4)
    good = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    for row in ([0, 1], [2, 1], [1, 4], [-1, 1], [1, 1]):
        lists = good.clone()
        lists[0] = torch.tensor(row)
        with pytest.raises(InputError, match="lists: every row must name other images, 0 to 3"):
            list(ops.msm_parts(z, [(0, 4)], lists=lists))
    with pytest.raises(InputError, match="lists: found"):
        list(ops.msm_parts(z, [(0, 4)], lists=good[:3]))
    with pytest.raises(InputError, match="parts"):
        list(ops.msm_parts(z, [(2, 5)]))
    kept = ops.KeptReferences(2, 37, 40)
    with pytest.raises(InputError, match="references to score against"):
        kept.msm(z)
    with pytest.raises(InputError, match="slot 1 of 0"):
        kept.put(1, z[0])
