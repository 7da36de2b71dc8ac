"""Every backend against the truth in float64, on inputs that hypothesis draws.

MUSC_FAST_FUZZ_EXAMPLES: examples of each law; by default a share that takes seconds. `make fuzz`
draws anew until its minutes are over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cases
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import InputError, ReferenceBank, ops, reference, score_batch
from musc_fast.backends.registry import BACKENDS
from musc_fast.neighbors import few_shot

_C = pytest.importorskip("musc_fast._C")
from musc_fast.backends.cpu.options import Outputs, SearchSettings  # noqa: E402
from musc_fast.backends.cpu.search import run_search  # noqa: E402

CPU = torch.device("cpu")
EXACT = [each.name for each in BACKENDS if each.name != "triton" and each.why_not(CPU) is None]
LAW = settings(
    max_examples=int(os.environ.get("MUSC_FAST_FUZZ_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
WORST = 2e-5  # of a distance of rows with norm 1


@contextmanager
def working_on(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@st.composite
def features(draw: Any, least: int = 2) -> Tensor:
    """[N, P, C] of norm 1: a distribution, then what real batches have on top."""
    images = draw(st.integers(least, 7))
    patches = draw(st.sampled_from([1, 2, 15, 16, 17, 37, 48, 63, 100]))
    channels = draw(st.sampled_from([1, 3, 16, 31, 40, 64, 100, 130, 257]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "product", "few", "hot", "near", "constant", "sparse"]))
    z = rng.normal(size=(images, patches, channels))
    if kind == "product":
        z = rng.normal(size=(patches, channels)) + 0.2 * z
    elif kind == "few":
        z = z[..., : max(1, channels // 8)] @ rng.normal(size=(max(1, channels // 8), channels))
    elif kind == "hot":
        z[..., rng.integers(channels)] *= 100
    elif kind == "near":
        z = z[:1] + 10.0 ** -rng.integers(2, 7) * z
    elif kind == "constant":
        z[:] = z[0, 0]
    elif kind == "sparse":
        z *= rng.random(z.shape) < 0.1
    if draw(st.booleans()):
        z[-1] = z[0]  # a duplicate image
    if draw(st.booleans()):
        z[0, 0] = 0.0
    return cases.unit(torch.from_numpy(z))


@st.composite
def layouts(draw: Any, z: Tensor) -> Tensor:
    """The same values in another dtype (only where that is exact) and layout."""
    if draw(st.booleans()):
        z = z.double()
    kind = draw(st.sampled_from(["plain", "transposed", "strided", "offset"]))
    if kind == "transposed":
        return z.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "strided":
        return torch.stack((z, z + 1), dim=3)[..., 0]
    if kind == "offset":
        return torch.cat((z[:1], z))[1:]
    return z


@LAW
@given(st.data())
def test_distances_are_those_of_the_truth(data: Any) -> None:
    z = data.draw(features())
    given_as = data.draw(layouts(z))
    references = data.draw(st.none() | st.just(z[: 1 + len(z) // 2].clone()))
    truth = cases.distances(z, references)
    count = truth.shape[2] - (references is None)
    topmin = data.draw(st.sampled_from([(0.0, 0.3), (0, 1), (0.2, 0.9), (1, 3), (0.0, 1e9)]))
    bounds = reference.interval(topmin, count)
    means = cases.interval_mean(truth, *bounds)
    finite = truth.isfinite()
    for backend in EXACT:
        found = ops.patch_to_image(given_as, references, backend=backend).double()
        assert torch.equal(found.isfinite(), finite), backend
        assert float((found - truth)[finite].abs().max()) <= WORST, backend
        scores = ops.msm(given_as, references, topmin, backend=backend).double()
        assert float((scores - means).abs().max()) <= WORST, backend
        k = data.draw(st.integers(1, count))
        nearest = ops.nearest_images(given_as, references, k, backend=backend)[0].double()
        assert float((nearest - truth.sort(dim=2).values[..., :k]).abs().max()) <= WORST, backend


@LAW
@given(st.data())
def test_instruction_sets_threads_limits_and_spaces_give_the_same_bits(data: Any) -> None:
    z = data.draw(features()).contiguous()
    k_max = data.draw(st.integers(1, len(z) - 1))
    k_min = data.draw(st.integers(0, k_max - 1))
    wanted: Tensor | None = None
    for isa in _C.instruction_sets():
        prefix = data.draw(st.sampled_from([None, z.shape[2], min(31, z.shape[2])]))
        chunk = data.draw(st.none() | st.integers(1, len(z)))
        segment = data.draw(st.sampled_from([None, 16, 48, 96]))
        limit = data.draw(st.sampled_from([None, 64 << 20, 1 << 30]))
        means = torch.empty(z.shape[:2], dtype=torch.float32)
        how = SearchSettings(isa=isa, prefix=prefix, chunk=chunk, segment=segment)
        with working_on(data.draw(st.integers(1, 4))):
            run_search(z, None, k_min, k_max, Outputs(means=means), how)
            again = ops.msm(z, None, (k_min, k_max), backend="cpu", memory_limit=limit)
        wanted = means if wanted is None else wanted
        assert torch.equal(means, wanted), (isa, prefix, chunk, segment)
        assert torch.equal(again, wanted), limit


@LAW
@given(st.data())
def test_every_way_to_score_gives_the_bits_of_one(data: Any) -> None:
    z = data.draw(features(least=3))
    backend = data.draw(st.sampled_from(["cpu", "torch"]))
    how: dict[str, Any] = {"backend": backend, "grid": (1, z.shape[1]), "degrees": (1, 3)}
    first = score_batch(z[:1], references=z[1:], **how)
    bank = ReferenceBank(len(z), **how)
    bank.add(z[1:])
    assert torch.equal(bank.score(z[:1]).patch_scores, first.patch_scores)
    assert torch.equal(score_batch([z], **how).image_scores, score_batch(z, **how).image_scores)
    parts = [(0, 1), (1, len(z))]
    whole = ops.msm(z, backend=backend)
    assert torch.equal(torch.cat(list(ops.msm_parts(z, parts, backend=backend))), whole)
    there, back = ops.between(z[:1], z[1:], backend=backend)
    assert torch.equal(there, ops.patch_to_image(z[:1], z[1:], backend=backend))
    assert torch.equal(back, ops.patch_to_image(z[1:], z[:1], backend=backend))


@LAW
@given(st.data())
def test_lnamd_is_that_of_the_truth(data: Any) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = 10.0 ** data.draw(st.integers(-3, 12))
    tokens = torch.from_numpy(rng.normal(size=(2, height * width, 24)) * scale)
    tokens = tokens.to(data.draw(st.sampled_from([torch.float32, torch.float64])))
    degrees = data.draw(st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3))
    truth = reference.lnamd(tokens.float().double(), (height, width), degrees)
    for backend in EXACT:
        found = ops.lnamd_all(tokens, (height, width), degrees, backend=backend)
        for each, wanted in zip(found, truth, strict=True):
            assert float((each.double() - wanted).abs().max()) < 1e-5, backend


@LAW
@given(st.data())
def test_any_values_give_right_scores_or_a_named_error(data: Any) -> None:
    """Finite out or refused: never NaN or Inf, whatever the size of the values."""
    values = st.sampled_from([0.0, 1.0, -3.5, 1e-300, 1e-30, 1e10, 1e15, 1e16, 1e30, 1e38, 1e300])
    drawn = data.draw(st.lists(values, min_size=36, max_size=36))
    z = torch.tensor(drawn, dtype=torch.float64).view(3, 4, 3)
    z = z.to(data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])))
    for backend in EXACT:
        for call in (ops.msm, ops.patch_to_image, few_shot_all, score_all):
            try:
                found = call(z, backend=backend)
            except InputError as error:
                assert "image" in str(error)  # noqa: PT017
                continue
            assert not found.isnan().any(), (backend, call)
            assert int(found.isinf().sum()) == (12 if call is ops.patch_to_image else 0)


def few_shot_all(z: Tensor, backend: str) -> Tensor:
    return few_shot(z, z[:2], backend=backend)


def score_all(z: Tensor, backend: str) -> Tensor:
    return score_batch(z, backend=backend).anomaly_maps
