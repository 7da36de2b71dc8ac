from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from musc_fast.errors import InputError
from musc_fast.threshold import DEFAULT_ALPHA, MIN_IMAGES, RULES, Rule, find_threshold

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

NORMALS: dict[str, Draw] = {
    "gaussian": lambda rng, count: 0.45 + 0.06 * rng.standard_normal(count),
    "gumbel": lambda rng, count: 0.45 + 0.06 * rng.gumbel(size=count),
    "lognormal": lambda rng, count: 0.45 * np.exp(0.2 * rng.standard_normal(count)),
    "gamma": lambda rng, count: 0.1 * rng.gamma(4, size=count),
}


def batch(
    seed: int, count: int, share: float, distance: float = 9.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Gaussian normal scores and defects `distance` deviations higher that vary twice as much."""
    rng = np.random.default_rng([seed, count])
    truth = np.zeros(count, bool)
    truth[: max(1, round(share * count))] = True
    rng.shuffle(truth)
    sigmas = rng.standard_normal(count) * np.where(truth, 2, 1) + distance * truth
    return 0.45 + 0.05 * sigmas, truth


def f1(flagged: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (flagged & truth).sum() / max(1, flagged.sum() + truth.sum()))


@pytest.mark.parametrize("rule", ["split", "gap", "mad"])
@pytest.mark.parametrize("normals", NORMALS)
@pytest.mark.parametrize("count", [5, 12, 40, 100])
def test_strict_rules_leave_all_normal_batches_alone(rule: Rule, normals: str, count: int) -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(100):
        got = find_threshold(NORMALS[normals](rng, count), rule=rule)
        alarms += bool(got.flagged.any())
        assert (got.value is None) == (not got.flagged.any())
    # 2 expected at worst under the two simulated shapes; the gamma's tail is no longer than theirs.
    assert alarms <= 8


@pytest.mark.parametrize("rule", ["shorth", "auto"])
@pytest.mark.parametrize("count", [5, 12, 40, 100])
def test_the_default_says_none_of_most_gaussian_batches(rule: Rule, count: int) -> None:
    rng = np.random.default_rng(7)
    flags = [find_threshold(NORMALS["gaussian"](rng, count), rule=rule).flagged for _ in range(200)]
    assert np.mean([flag.any() for flag in flags]) < 0.17  # 0.1 is asked for
    assert np.mean([flag.mean() for flag in flags]) < 0.03


@pytest.mark.parametrize("normals", NORMALS)
@pytest.mark.parametrize("count", [20, 40, 100])
def test_the_default_flags_few_images_of_skewed_normal_batches(normals: str, count: int) -> None:
    rng = np.random.default_rng(7)
    flags = [find_threshold(NORMALS[normals](rng, count)).flagged.mean() for _ in range(100)]
    assert np.mean(flags) < 0.04


@pytest.mark.parametrize("rule", ["split", "gap"])
def test_the_false_alarm_rate_is_the_one_asked_for(rule: Rule) -> None:
    rng = np.random.default_rng(11)
    batches = [NORMALS["gumbel"](rng, 30) for _ in range(400)]
    rate = np.mean([find_threshold(x, rule=rule, alpha=0.3).flagged.any() for x in batches])
    assert 0.15 < rate < 0.37


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
def test_the_default_finds_any_share_of_defects(share: float) -> None:
    scores = []
    for seed in range(20):
        x, truth = batch(seed, 60, share)
        got = find_threshold(x)
        assert got.rule == "auto"
        scores.append(f1(got.flagged, truth))
        assert got.value is not None
        np.testing.assert_array_equal(got.flagged, x >= got.value)
        assert got.p_value is not None
        assert got.p_value <= max(DEFAULT_ALPHA.values())
        assert got.reason.startswith(f"{got.flagged.sum()} of 60 images stand apart")
    assert np.mean(scores) > 0.9


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.6), (0.1, 0.75), (0.2, 0.7), (0.3, 0.55)])
def test_the_default_finds_defects_that_overlap_with_normal_ones(
    share: float, least: float
) -> None:
    """Where the strict rules see one skewed group."""
    mean = {}
    rules: tuple[Rule, ...] = ("auto", "split", "gap", "mad")
    for rule in rules:
        pairs = [batch(seed, 40, share, distance=4.5) for seed in range(40)]
        mean[rule] = np.mean([f1(find_threshold(x, rule=rule).flagged, y) for x, y in pairs])
    assert mean["auto"] > least
    assert all(mean["auto"] > mean[rule] + 0.1 for rule in rules[1:])


def test_the_other_rules_find_few_and_clear_defects() -> None:
    for rule, least in (("gap", 0.9), ("mad", 0.8)):
        pairs = [batch(seed, 60, 0.05, distance=15) for seed in range(20)]
        got = [f1(find_threshold(x, rule=rule).flagged, truth) for x, truth in pairs]  # type: ignore[arg-type]
        assert np.mean(got) > least


@pytest.mark.parametrize("rule", RULES)
def test_five_images_with_one_that_is_far_off(rule: Rule) -> None:
    x = np.array([0.40, 0.43, 0.41, 9.0, 0.42])
    got = find_threshold(x, rule=rule)
    assert got.flagged.tolist() == [False, False, False, True, False]
    assert got.value is not None
    assert 0.43 < got.value <= 9.0


@pytest.mark.parametrize("rule", RULES)
def test_too_few_images(rule: Rule) -> None:
    for count in range(1, MIN_IMAGES):
        got = find_threshold([0.4] * (count - 1) + [9.0], rule=rule)
        assert got.value is None
        assert not got.flagged.any()
        assert f"{count} images are too few" in got.reason


@pytest.mark.parametrize("rule", RULES)
def test_equal_scores_and_rounding_noise(rule: Rule) -> None:
    for value in (0.0, 0.5):
        got = find_threshold([value] * 20, rule=rule)
        assert (got.value, got.p_value) == (None, None)
        assert got.reason == "none flagged: all scores are equal"
    assert not find_threshold([0.5] * 19 + [0.5001], rule=rule).flagged.any()


@pytest.mark.parametrize("rule", RULES)
def test_one_different_among_copies(rule: Rule) -> None:
    for value in (0.0, 0.2):
        got = find_threshold([value] * 19 + [0.9], rule=rule)
        assert got.flagged.tolist() == [False] * 19 + [True]


@pytest.mark.parametrize("rule", RULES)
def test_equal_scores_are_treated_alike(rule: Rule) -> None:
    x, _ = batch(3, 30, 0.1, distance=15)
    twice = np.r_[x, x]
    flagged = find_threshold(twice, rule=rule).flagged
    np.testing.assert_array_equal(flagged[:30], flagged[30:])
    levels = np.r_[np.full(20, 0.4), np.full(16, 0.45), np.full(4, 0.9)]
    flagged = find_threshold(levels, rule=rule).flagged
    for level in np.unique(levels):
        assert len(set(flagged[levels == level])) == 1


@pytest.mark.parametrize("rule", RULES)
def test_order_and_unit_do_not_matter(rule: Rule) -> None:
    x, _ = batch(5, 40, 0.1, distance=12)
    flagged = find_threshold(x, rule=rule).flagged
    assert flagged.any()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(find_threshold(x[order], rule=rule).flagged, flagged[order])
    np.testing.assert_array_equal(find_threshold(1000 * x, rule=rule).flagged, flagged)


@pytest.mark.parametrize("rule", RULES)
def test_low_scores_are_no_defects(rule: Rule) -> None:
    rng = np.random.default_rng(1)
    x = np.r_[NORMALS["gaussian"](rng, 30), [0.01, 0.02]]
    assert not find_threshold(x, rule=rule).flagged.any()


@pytest.mark.parametrize("rule", RULES)
def test_at_most_half_is_flagged(rule: Rule) -> None:
    for count in (5, 6, 31):
        for share in (0.5, 0.6, 0.8):
            x, _ = batch(0, count, share, distance=20)
            assert find_threshold(x, rule=rule, alpha=0.5).flagged.sum() <= count // 2


def test_a_given_value_overrides_the_rule() -> None:
    got = find_threshold([0.1, 0.5, 0.7], value=0.5)
    assert (got.value, got.rule, got.flagged.tolist()) == (0.5, "value", [False, True, True])
    assert got.reason == "2 of 3 images score 0.5 or more, the threshold given"
    got = find_threshold([0.1, 0.5], value=2)
    assert (got.value, got.flagged.any()) == (2.0, False)


@pytest.mark.parametrize(
    ("rate", "flagged"), [(0.0, 0), (0.04, 0), (0.05, 1), (0.1, 1), (0.34, 3), (0.5, 5), (1.0, 10)]
)
def test_an_expected_defect_rate_overrides_the_rule(rate: float, flagged: int) -> None:
    x = np.random.default_rng(0).permutation(10) / 10
    got = find_threshold(x, expected_defect_rate=rate)
    assert got.rule == "expected_defect_rate"
    assert np.flatnonzero(got.flagged).tolist() == sorted(np.argsort(-x)[:flagged].tolist())
    assert (got.value is None) == (flagged == 0)
    if got.value is not None:
        np.testing.assert_array_equal(got.flagged, x >= got.value)


def test_a_rate_that_falls_among_equal_scores_flags_them_all() -> None:
    got = find_threshold([0.1, 0.5, 0.5, 0.9], expected_defect_rate=0.5)
    assert got.flagged.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, r"scores must be \[N\]"),
        ([[0.1]], {}, r"scores must be \[N\] .*\[1, 1\]"),
        ([0.1, np.nan], {}, r"scores\[1\] is nan"),
        ([0.1], {"rule": "best"}, "unknown rule 'best'; known are auto, shorth, split, gap, mad"),
        ([0.1], {"alpha": 0.0}, "alpha must be in"),
        ([0.1], {"value": np.nan}, "threshold: found nan"),
        ([0.1], {"expected_defect_rate": 1.5}, "expected defect rate: found 1.5"),
        ([0.1], {"value": 0.5, "expected_defect_rate": 0.1}, "not both"),
    ],
)
def test_bad_input(scores: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_threshold(scores, **options)  # type: ignore[arg-type]
