"""score_batch: golden parity end to end, forms of input, laws, degenerate batches, errors."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import CASES, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_fast import score_batch
from musc_fast.errors import InputError, MuscFastWarning
from musc_fast.scoring import BatchScores


def batch(n: int = 5, p: int = 16, c: int = 24, layers: int = 2, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, p, c + layer, generator=generator) for layer in range(layers)]


def tensors_of(scores: BatchScores) -> list[torch.Tensor]:
    return [value for value in vars(scores).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_golden_end_to_end(name: str) -> None:
    case = golden(name)
    scores = score_batch(
        list(case["tokens"]),
        cls_tokens=case["cls_tokens"],
        prefix_tokens=1,
        image_size=int(case["image_size"]),
        degrees=case["degrees"].tolist(),
        topmin=tuple(case["topmin"].tolist()),
    )
    size = int(case["image_size"])
    assert scores.anomaly_maps.shape == (case["tokens"].shape[1], size, size)
    assert scores.anomaly_maps.dtype == torch.float32
    if name == "four_images":  # NaN in the official code
        assert all(torch.isfinite(value).all() for value in tensors_of(scores))
        return
    for found, key in (
        (scores.patch_scores.flatten(1), "patch_scores"),
        (scores.anomaly_maps, "anomaly_maps"),
        (scores.raw_image_scores, "image_scores_raw"),
        (scores.image_scores, "rscin_k1_2_3"),
    ):
        if key in case or not key.startswith("rscin"):
            np.testing.assert_allclose(found.numpy(), case[key], atol=1e-5, rtol=0)


def test_numpy_tensors_one_layer_and_grids() -> None:
    tokens = batch(layers=1)[0]
    plain = score_batch(tokens)
    assert plain.patch_scores.shape == plain.anomaly_maps.shape == (5, 4, 4)
    assert torch.equal(score_batch(tokens.numpy()).patch_scores, plain.patch_scores)
    assert torch.equal(score_batch([tokens]).patch_scores, plain.patch_scores)
    wide = score_batch(tokens, grid=(2, 8), image_size=(10, 31))
    assert wide.patch_scores.shape == (5, 2, 8)
    assert wide.anomaly_maps.shape == (5, 10, 31)
    # align_corners: the corners of the map are the corners of the grid
    assert torch.equal(wide.anomaly_maps[:, ::9, ::30], wide.patch_scores[:, ::1, ::7])
    assert torch.equal(wide.raw_image_scores, wide.anomaly_maps.amax((1, 2)))
    assert torch.equal(wide.image_scores, wide.raw_image_scores)


def test_numpy_oddities_and_gradients() -> None:
    tokens = batch(layers=1)[0]
    plain = score_batch(tokens, image_size=8)
    flipped = tokens.numpy()[::-1]
    assert torch.equal(score_batch(flipped).patch_scores, score_batch(flipped.copy()).patch_scores)
    found = score_batch(
        tokens.clone().requires_grad_(), image_size=np.int64(8), backend="reference"
    )
    assert not found.anomaly_maps.requires_grad
    assert torch.allclose(found.anomaly_maps, plain.anomaly_maps, atol=1e-6)


def test_prefix_tokens_are_dropped() -> None:
    tokens = batch()
    with_prefix = [torch.cat([torch.full((5, 3, t.shape[2]), 9.0), t], dim=1) for t in tokens]
    assert torch.equal(
        score_batch(with_prefix, prefix_tokens=3).patch_scores, score_batch(tokens).patch_scores
    )


@given(st.randoms(use_true_random=False), st.integers(2, 7))
@settings(max_examples=15, deadline=None)
def test_a_permuted_batch_gives_permuted_scores(random: Any, n: int) -> None:
    tokens = batch(n=n, p=9)
    classes = torch.randn(n, 8, generator=torch.Generator().manual_seed(1))
    order = list(range(n))
    random.shuffle(order)
    scores = score_batch(tokens, cls_tokens=classes)
    permuted = score_batch([t[order] for t in tokens], cls_tokens=classes[order])
    assert torch.allclose(permuted.patch_scores, scores.patch_scores[order], atol=2e-6)
    assert torch.allclose(permuted.image_scores, scores.image_scores[order], atol=2e-5)


def test_references_take_the_place_of_the_batch() -> None:
    tokens = batch(n=6)
    rest = [t[1:] for t in tokens]
    alone = score_batch([t[:1] for t in tokens], references=rest)
    assert alone.patch_scores.shape == (1, 4, 4)
    assert torch.allclose(alone.patch_scores[0], score_batch(tokens).patch_scores[0], atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_small_batches_are_finite(n: int) -> None:
    scores = score_batch(batch(n=n), cls_tokens=torch.randn(n, 4), image_size=20)
    assert all(torch.isfinite(value).all() for value in tensors_of(scores))
    assert scores.raw_image_scores.min() > 0


def test_identical_images_score_zero() -> None:
    tokens = batch(n=1)
    scores = score_batch([t.expand(4, -1, -1) for t in tokens], cls_tokens=torch.ones(4, 3))
    assert all((value == 0).all() for value in tensors_of(scores))


def test_constant_and_hot_channel_images() -> None:
    tokens = batch(layers=1)[0]
    tokens[1] = 2.5
    tokens[..., 3] *= 100
    assert torch.isfinite(score_batch(tokens).patch_scores).all()


def test_a_defect_scores_highest() -> None:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(1, 36, 32, generator=generator)
    tokens = base + 0.05 * torch.randn(8, 36, 32, generator=generator)
    tokens[5, 14] = torch.randn(32, generator=generator)
    scores = score_batch(tokens, degrees=(1,))
    assert scores.raw_image_scores.argmax() == 5
    assert scores.patch_scores[5].flatten().argmax() == 14


def test_progress_function() -> None:
    calls: list[tuple[int, int]] = []
    score_batch(batch(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def broken(layer: int, image: int, value: float) -> list[Any]:
    tokens = batch()
    tokens[layer][image, 3, 2] = value
    return tokens


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tokens": batch(n=1)}, "one image has no others .* at least 2 images, or references"),
    ({"tokens": broken(1, 4, math.nan)}, r"tokens \(layer 1\): image 4 holds NaN"),
    ({"tokens": broken(0, 2, -math.inf)}, r"tokens \(layer 0\): image 2 holds Inf"),
    ({"tokens": broken(1, 3, -1e16)}, r"tokens \(layer 1\): image 3 holds 1e\+16; no value may be"),
    ({"tokens": []}, "tokens: found no layer"),
    ({"tokens": torch.rand(2, 5, 9, 3)}, r"found one array \[2, 5, 9, 3\].*pass list\(tokens\)"),
    ({"tokens": [3]}, r"tokens \(layer 0\): found int.*images are scored by MuSc\(\)"),
    ({"tokens": ["part.png"]}, r"part.png is neither .*images are scored by MuSc\(\)"),
    ({"tokens": [torch.rand(3, 8, 8)[None]]}, r"\[1, 3, 8, 8\].*images are scored by MuSc\(\)"),
    ({"tokens": torch.ones(3, 4, 5, dtype=torch.long)}, "found int64"),
    ({"tokens": torch.rand(5, 17, 3)}, r"17 patches are no square.*prefix_tokens=1 .* 4 x 4"),
    ({"tokens": torch.rand(5, 21, 3)}, r"21 patches are no square.*prefix_tokens=5 .* 4 x 4"),
    ({"tokens": batch(), "grid": 4}, "grid: found 4"),
    ({"tokens": batch(), "degrees": 3}, "degrees: found 3"),
    ({"tokens": batch(), "topmin": 0.3}, "topmin: found 0.3"),
    ({"tokens": batch(), "image_size": (8.5, 8)}, "image_size: found"),
    ({"tokens": batch(), "memory_limit": "4GB"}, "memory_limit: found '4GB'"),
    ({"tokens": batch(), "grid": (3, 5)}, r"grid: found \(3, 5\), wanted .* = 16"),
    ({"tokens": batch(), "prefix_tokens": 16}, "more than the 16 prefix tokens"),
    ({"tokens": batch(), "prefix_tokens": -1}, "prefix_tokens: found -1"),
    ({"tokens": [batch()[0], batch(n=4)[1]]}, r"tokens\[1\]: found \[4, 16, 25\]"),
    ({"tokens": batch(), "references": batch(layers=1)}, "references: found 1 layers, wanted 2"),
    ({"tokens": batch(), "references": batch(c=20)}, r"references\[0\]: found \[5, 16, 20\]"),
    ({"tokens": batch(), "cls_tokens": torch.rand(4, 3)}, r"cls_tokens: found float32 \[4, 3\]"),
    ({"tokens": batch(), "image_size": (0, 3)}, "image_size"),
    ({"tokens": batch(), "degrees": (2,)}, "degrees: found"),
    ({"tokens": batch(), "topmin": (0.1, math.nan)}, "topmin: found"),
    ({"tokens": batch(), "neighbors": (0,)}, "neighbors: found"),
    ({"tokens": batch(), "precision": "exactly"}, "precision: found"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_batch(**arguments)


def test_tensors_are_scored_without_the_packages_for_files_and_images() -> None:
    """`make gpu-check` runs on machines that have PyTorch, Triton and NumPy alone."""
    code = (
        "import sys\n"
        "for name in ('safetensors', 'PIL', 'scipy', 'sklearn', 'open_clip', 'timm', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from musc_fast import score_batch\n"
        "found = score_batch([torch.randn(4, 9, 8)], grid=(3, 3))\n"
        "assert found.patch_scores.isfinite().all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(40, 36, 3), (40, 36, 1), (3, 36, 40)])
def test_pictures_that_are_scored_as_tokens_are_said(shape: tuple[int, int, int]) -> None:
    pictures = [torch.rand(shape, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    with pytest.warns(MuscFastWarning, match=r"form of a picture.*images are scored by MuSc\(\)"):
        score_batch(pictures)


def test_tokens_are_no_pictures(recwarn: pytest.WarningsRecorder) -> None:
    score_batch(batch(n=3, p=36, c=40))
    score_batch(batch(n=40, p=1, c=3, layers=1))  # one vector an image
    assert not recwarn.list
