"""Metrics against the official code's figures, scikit-learn and plain loops; bad input."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import golden_files
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from musc_fast.errors import InputError
from musc_fast.metrics import image_metrics, pixel_metrics

CASES = tuple(case for case in golden_files.CASES if case != "four_images")  # NaN officially


def random_set(
    seed: int, count: int = 4, size: tuple[int, int] = (17, 23), levels: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks of random boxes, none on the first image, and noisy maps that are higher there.

    levels: rounds the maps to multiples of 1 / levels, which makes ties.
    """
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks[1:]:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
            mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    maps = rng.random((count, *size)) + 0.4 * masks
    if levels is not None:
        maps = np.round(maps * levels) / levels
    return masks, maps.astype(np.float32)


def regions_of(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Connected components with 8 neighbours, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        regions.append(region)
    return regions


def pro_point(
    masks: NDArray[np.bool_], flagged: NDArray[np.bool_], regions: list[tuple[int, list]]
) -> tuple[float, float]:
    """(false positive rate, mean overlap of the regions) of flagged pixels."""
    overlaps = [np.mean([flagged[index, y, x] for y, x in region]) for index, region in regions]
    return float(flagged[~masks].mean()), float(np.mean(overlaps))


def all_regions(masks: NDArray[np.bool_]) -> list[tuple[int, list[tuple[int, int]]]]:
    return [(index, region) for index, mask in enumerate(masks) for region in regions_of(mask)]


def plain_pro_mvtec(masks: NDArray[np.bool_], maps: NDArray[np.floating]) -> float:
    regions = all_regions(masks)
    thresholds = np.unique(maps)[::-1]
    points = [pro_point(masks, maps >= threshold, regions) for threshold in thresholds]
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise([(0.0, 0.0), *points]):
        if x1 > 0.3:
            y1 = y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0)
            return (area + (0.3 - x0) * (y0 + y1) / 2) / 0.3
        area += (x1 - x0) * (y0 + y1) / 2
    raise AssertionError("the curve ends at a false positive rate of 1")


def plain_pro_musc(masks: NDArray[np.bool_], maps: NDArray[np.floating]) -> float:
    regions = all_regions(masks)
    lowest, highest = float(maps.min()), float(maps.max())
    curve = []
    for threshold in np.arange(lowest, highest, (highest - lowest) / 200):
        rate, overlap = pro_point(masks, maps.astype(np.float64) > threshold, regions)
        if rate < 0.3:
            curve.append((rate, overlap))
    rates = np.array([rate for rate, _ in curve])
    rates = (rates - rates.min()) / (rates.max() - rates.min())
    heights = [overlap for _, overlap in curve]
    return sum(
        (rates[k] - rates[k + 1]) * (heights[k] + heights[k + 1]) / 2 for k in range(len(curve) - 1)
    )


def sklearn_three(
    truth: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[float, float, float]:
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    return (
        sk.roc_auc_score(truth, scores),
        float(np.nanmax(f1)),
        sk.average_precision_score(truth, scores),
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_image_metrics(case: str) -> None:
    data = golden_files.golden(case)
    got = image_metrics(data["masks"].any(axis=(1, 2)), data["image_scores_raw"])
    np.testing.assert_allclose(
        [got.auroc, got.f1_max, got.ap], data["image_metrics"], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_pixel_metrics(case: str) -> None:
    # The golden numbers were taken before the maps were rounded to float32: 3e-7 is that.
    data = golden_files.golden(case)
    got = pixel_metrics(data["masks"], data["anomaly_maps"], protocol="musc")
    np.testing.assert_allclose(
        [got.auroc, got.f1_max, got.ap, got.pro], data["pixel_metrics"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("seed", range(5))
def test_image_level_agrees_with_scikit_learn(seed: int, levels: int | None) -> None:
    masks, maps = random_set(seed, levels=levels)
    truth, scores = masks.ravel(), maps.ravel().astype(np.float64)
    got = image_metrics(truth, scores)
    np.testing.assert_allclose(
        [got.auroc, got.f1_max, got.ap], sklearn_three(truth, scores), rtol=0, atol=1e-12
    )
    flagged = scores >= got.threshold_at_f1_max
    assert sk.f1_score(truth, flagged) == pytest.approx(got.f1_max, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixel_level_agrees_with_scikit_learn(
    seed: int, levels: int | None, dtype: type[np.floating]
) -> None:
    masks, maps = random_set(seed, levels=levels)
    maps = maps.astype(dtype)
    got = pixel_metrics(masks, maps, pro=False)
    np.testing.assert_allclose(
        [got.auroc, got.f1_max, got.ap],
        sklearn_three(masks.ravel(), maps.ravel()),
        rtol=0,
        atol=1e-12,
    )
    assert math.isnan(got.pro)
    flagged = maps.ravel() >= dtype(got.threshold_at_f1_max)
    assert sk.f1_score(masks.ravel(), flagged) == pytest.approx(got.f1_max, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("seed", range(4))
def test_pro_mvtec_agrees_with_a_plain_loop(seed: int, levels: int | None) -> None:
    masks, maps = random_set(seed, count=3, levels=levels)
    got = pixel_metrics(masks, maps, protocol="mvtec").pro
    assert got == pytest.approx(plain_pro_mvtec(masks, maps), abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("seed", range(4))
def test_pro_musc_agrees_with_a_plain_loop(
    seed: int, levels: int | None, dtype: type[np.floating]
) -> None:
    masks, maps = random_set(seed, count=3, levels=levels)
    maps = maps.astype(dtype)
    got = pixel_metrics(masks, maps, protocol="musc").pro
    assert got == pytest.approx(plain_pro_musc(masks, maps), abs=1e-10)


def test_pro_of_a_small_curve_by_hand() -> None:
    # Two regions: one pixel, and two pixels that touch at a corner; 14 negatives.
    masks = [np.eye(1, 13, dtype=bool), np.eye(2, dtype=bool)]
    maps = [np.array([[9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]]), np.array([[8.5, -1], [-1, 4.5]])]
    # Descending: 9 finds region one, overlap 1/2; 8.5 half of region two, 3/4; the negatives 8, 7,
    # 6 and 5 lead to a rate of 4/14; 4.5 completes region two, and the overlap is 1 from there on.
    expected = (0.75 * 4 / 14 + 1.0 * (0.3 - 4 / 14)) / 0.3
    assert pixel_metrics(masks, maps, protocol="mvtec").pro == pytest.approx(expected, abs=1e-12)


def test_perfect_and_inverted_maps() -> None:
    masks, _ = random_set(0)
    for protocol in ("musc", "mvtec"):
        perfect = pixel_metrics(masks, masks.astype(np.float32), protocol=protocol)
        assert (perfect.auroc, perfect.f1_max, perfect.ap) == (1, 1, 1)
        if protocol == "mvtec":  # "musc" has fewer than two false positive rates to integrate over
            assert perfect.pro == pytest.approx(1, abs=1e-12)
        assert perfect.threshold_at_f1_max == 1
        inverted = pixel_metrics(masks, 1 - masks.astype(np.float32), protocol=protocol)
        assert inverted.auroc == 0


def test_sizes_may_differ_by_image() -> None:
    masks, maps = random_set(3, count=3)
    cut = [(slice(None), slice(None)), (slice(2, 15), slice(1, 20)), (slice(0, 9), slice(None))]
    some_masks = [mask[part] for mask, part in zip(masks, cut, strict=True)]
    some_maps = [values[part] for values, part in zip(maps, cut, strict=True)]
    got = pixel_metrics(some_masks, some_maps, protocol="mvtec")
    truth = np.concatenate([mask.ravel() for mask in some_masks])
    scores = np.concatenate([values.ravel() for values in some_maps])
    np.testing.assert_allclose(
        [got.auroc, got.f1_max, got.ap], sklearn_three(truth, scores), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("protocol", ["musc", "mvtec"])
def test_ignored_pixels_are_as_if_they_were_not_there(protocol: Any) -> None:
    masks, maps = random_set(3)
    masks[:, :, 4] = False  # no region reaches over what is taken out
    ignored = np.zeros(masks.shape, dtype=np.bool_)
    ignored[:, :, :5] = True
    found = pixel_metrics(masks, maps, protocol, ignored=list(ignored))
    assert found == pixel_metrics(masks[:, :, 5:], maps[:, :, 5:], protocol)
    assert found != pixel_metrics(masks, maps, protocol)
    every = [np.ones_like(each) for each in ignored]
    assert pixel_metrics(masks, maps, protocol, ignored=every).reason == "no pixels"


def test_input_is_left_alone() -> None:
    masks, maps = random_set(4)
    before = masks.copy(), maps.copy()
    pixel_metrics(masks, maps)
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(maps, before[1])


@pytest.mark.parametrize("protocol", ["musc", "mvtec"])
@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ([False] * 3, "no defective"),
        ([True] * 3, "is defective"),
        ([], "no"),
    ],
)
def test_degenerate_sets_are_nan_with_a_reason(
    truth: list[bool], reason: str, protocol: str
) -> None:
    rng = np.random.default_rng(0)
    images = image_metrics(np.array(truth, bool), rng.random(len(truth)), protocol)
    assert images.reason is not None
    assert reason in images.reason
    assert "image" in images.reason
    assert all(map(math.isnan, (images.auroc, images.f1_max, images.ap)))
    assert math.isnan(images.threshold_at_f1_max)
    masks = np.array(truth, bool)[:, None, None] & np.ones((4, 5), bool)
    pixels = pixel_metrics(masks, rng.random(masks.shape), protocol)
    assert pixels.reason is not None
    assert reason in pixels.reason
    assert "pixel" in pixels.reason
    assert all(map(math.isnan, (pixels.auroc, pixels.f1_max, pixels.ap, pixels.pro)))


@pytest.mark.parametrize("protocol", ["musc", "mvtec"])
@pytest.mark.parametrize("regions", [3, 7, 10, 49])
def test_the_pro_of_a_perfect_map_is_not_above_one(regions: int, protocol: str) -> None:
    """Weights of 1 / (area x regions) sum up to 1 + 2e-16 for some numbers of regions."""
    masks = np.zeros((1, 40, 40), bool)
    for k in range(regions):
        row, column = divmod(k, 7)
        masks[0, 5 * row : 5 * row + 1 + k % 3, 5 * column : 5 * column + 2] = True
    noise = np.random.default_rng(0).random(masks.shape)
    found = pixel_metrics(masks, masks + 0.5 * noise, protocol).pro
    assert 0.99 < found <= 1.0


def test_constant_maps() -> None:
    masks, maps = random_set(0)
    flat = np.full_like(maps, 0.5)
    musc = pixel_metrics(masks, flat, protocol="musc")
    assert musc.auroc == 0.5
    assert musc.ap == pytest.approx(masks.mean())
    assert math.isnan(musc.pro)
    assert musc.reason == "PRO: all pixels have the same score"
    # One threshold flags everything: the curve is the diagonal, its mean height up to 0.3 is 0.15.
    assert pixel_metrics(masks, flat, protocol="mvtec").pro == pytest.approx(0.15)


def test_musc_pro_without_a_kept_threshold_has_a_reason() -> None:
    mask = np.zeros((1, 1, 10), bool)
    mask[..., 0] = True
    maps = np.ones((1, 1, 10), np.float32)
    maps[..., 0] = 0  # at every threshold all negatives are flagged
    got = pixel_metrics(mask, maps, protocol="musc")
    assert math.isnan(got.pro)
    assert got.reason is not None
    assert "false positive rates below 0.3" in got.reason
    assert got.auroc == 0


def test_bad_input_names_what_is_wrong() -> None:
    masks, maps = random_set(0)
    for bad in (np.nan, np.inf):
        broken = maps.copy()
        broken[2, 3, 4] = bad
        with pytest.raises(InputError, match=r"image 2: .* NaN or Inf"):
            pixel_metrics(masks, broken)
        with pytest.raises(InputError, match=r"scores\[1\] is"):
            image_metrics([True, False], [0.0, bad])
    with pytest.raises(InputError, match="4 masks for 3 maps"):
        pixel_metrics(masks, maps[:3])
    with pytest.raises(InputError, match=r"image 0: .*\[17, 23\] and \[17, 22\]"):
        pixel_metrics(masks, maps[:, :, :-1])
    with pytest.raises(InputError, match=r"masks\[0\] must be bool or 0/1"):
        pixel_metrics(np.full(masks.shape, 255, np.uint8), maps)
    with pytest.raises(InputError, match=r"maps must be \[N, h, w\]"):
        pixel_metrics(masks, maps[0])
    with pytest.raises(InputError, match=r"are \[3\] and \[2\]"):
        image_metrics([True, False, True], [0.0, 1.0])
    with pytest.raises(InputError, match='protocol must be "musc" or "mvtec"'):
        pixel_metrics(masks, maps, protocol="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match='protocol must be "musc" or "mvtec"'):
        image_metrics([True], [0.0], protocol="best")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["musc", "mvtec"])
def test_time_and_memory_of_many_maps(protocol: str) -> None:
    """40 maps of 518 x 518, a fifth of what must take under 10 s and 2 GB."""
    script = f"""
import resource, time
import numpy as np
from musc_fast.metrics import pixel_metrics
rng = np.random.default_rng(0)
maps = rng.random((40, 518, 518), dtype=np.float32)
masks = np.zeros(maps.shape, bool)
masks[::2, 100:200, 150:300] = True
maps[masks] += 0.3
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
before, start = peak(), time.perf_counter()
result = pixel_metrics(masks, maps, {protocol!r})
print(time.perf_counter() - start, peak() - before, result.pro)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )
    seconds, gigabytes, pro = map(float, done.stdout.split())
    assert seconds < 10  # about 0.6 s when nothing else runs
    assert gigabytes < 0.3
    # Uniform scores, raised by 0.3 on the defect: overlap is rate + 0.3, on average 0.45.
    assert pro == pytest.approx(0.45, abs=0.005)
