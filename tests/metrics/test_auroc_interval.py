"""How sure the AUROC of few images is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_fast.errors import InputError
from musc_fast.metrics import auroc_interval, image_metrics

COUNTS = st.integers(1, 300)


@settings(deadline=None)
@given(auroc=st.floats(0, 1), defective=COUNTS, good=COUNTS)
def test_laws(auroc: float, defective: int, good: int) -> None:
    low, high = auroc_interval(auroc, defective, good)
    assert 0 <= low <= auroc <= high <= 1
    assert high - low > 1e-6
    turned = auroc_interval(1 - auroc, defective, good)  # the other class is called defective
    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-6)
    more = auroc_interval(auroc, 4 * defective, 4 * good)
    assert more[1] - more[0] < high - low
    surer = auroc_interval(auroc, defective, good, confidence=0.99)
    assert surer[0] <= low + 1e-9  # of the ends' own precision
    assert surer[1] >= high - 1e-9


@pytest.mark.parametrize(("auroc", "defective", "good"), [(0.9, 6, 18), (0.5, 1, 1), (1, 6, 18)])
def test_the_ends_are_so_many_standard_deviations_away(
    auroc: float, defective: int, good: int
) -> None:
    for end in auroc_interval(auroc, defective, good):
        # The variance of Hanley and McNeil, with the mean of both counts.
        q1, q2 = end / (2 - end), 2 * end * end / (1 + end)
        pairs = (defective + good) / 2 - 1
        variance = (end * (1 - end) + pairs * (q1 - end * end) + pairs * (q2 - end * end)) / (
            defective * good
        )
        assert abs(end - auroc) == pytest.approx(1.959964 * math.sqrt(max(variance, 0)), abs=1e-6)


@pytest.mark.parametrize("shift", [0.7, 1.5, 2.5])
def test_it_holds_the_auroc_of_the_product_as_often_as_it_says(shift: float) -> None:
    rng = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(shift / 2))  # of normal scores a `shift` apart
    labels = np.arange(24) < 6
    inside = 0
    for _ in range(400):
        scores = rng.normal(size=24) + shift * labels
        low, high = auroc_interval(image_metrics(labels, scores).auroc, 6, 18)
        inside += low <= truth <= high
    assert 0.92 <= inside / 400 <= 0.99


@pytest.mark.parametrize("auroc", [0, 1e-300, 1.0001e-12, 1e-12, 0.5, 1 - 1e-13, 1])
@pytest.mark.parametrize("count", [1, 10**8, 10**12])
@pytest.mark.parametrize("confidence", [1e-9, 0.95, 1 - 1e-16])
def test_extremes(auroc: float, count: int, confidence: float) -> None:
    low, high = auroc_interval(auroc, count, count, confidence)
    assert 0 <= low <= auroc <= high <= 1


def test_a_perfect_auroc_of_few_images_is_not_sure() -> None:
    low, high = auroc_interval(1.0, 6, 18)
    assert high == 1.0
    assert low == pytest.approx(0.78, abs=0.005)
    assert all(map(math.isnan, auroc_interval(math.nan, 0, 5)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1.1, 2, 2), "auroc"), ((0.5, 0, 2), "both classes"), ((0.5, 2, 2, 1.0), "confidence")],
)
def test_wrong_arguments(arguments: tuple[float, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        auroc_interval(*arguments)  # type: ignore[arg-type]
