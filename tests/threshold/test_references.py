"""Decisions by references: conformal p-values, the tail's model, defects among the references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from musc_fast.errors import InputError
from musc_fast.threshold import FALSE_DISCOVERIES, ReferenceScale, judge_by_references
from musc_fast.threshold.tail import fit_tail, standing_out

Floats = NDArray[np.float64]
SHAPES = {
    "gaussian": stats.norm(0.45, 0.06),
    "gumbel": stats.gumbel_r(0.45, 0.06),
    "lognormal": stats.lognorm(0.5, scale=0.4),
    "exponential": stats.expon(0.25, 0.1),
}
scores = st.floats(0.01, 10.0)


def references(count: int = 20, seed: int = 0) -> Floats:
    return np.asarray(np.random.default_rng(seed).normal(0.45, 0.06, count))


def test_conformal_p_values_count_the_references_that_reach_a_score() -> None:
    scale = ReferenceScale([0.1, 0.2, 0.3, 0.4])
    assert scale.p_values([0.05, 0.2, 0.25, 0.4, 0.5]).tolist() == [1.0, 0.8, 0.6, 0.4, 0.2]


def test_many_references_tell_the_rate_by_counting_alone() -> None:
    """Of 199 references one may score as high at 1%; the level is just above the second highest."""
    many = references(199)
    level = ReferenceScale(many).level(0.01)
    assert level == np.nextafter(np.sort(many)[-2], np.inf)
    assert judge_by_references([level], many).flagged.all()
    assert not judge_by_references([np.sort(many)[-2]], many).flagged.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_good_image_is_flagged_as_often_as_stated(shape: str) -> None:
    """The exact rate of a level is the distribution's survival there: no binomial error in it."""
    rng = np.random.default_rng(3)
    draw = SHAPES[shape]
    for count, limit in ((10, 0.025), (20, 0.02), (120, 0.0125)):
        levels = [
            ReferenceScale(np.abs(draw.rvs(count, random_state=rng))).level(0.01) for _ in range(24)
        ]
        assert np.mean([draw.sf(level) for level in levels]) <= limit


def test_a_batch_of_good_images_has_a_flag_at_the_stated_rate_at_most() -> None:
    rng = np.random.default_rng(4)
    draws = [SHAPES["gumbel"].rvs(60, random_state=rng) for _ in range(60)]
    flags = [judge_by_references(np.abs(x[20:]), np.abs(x[:20])).flagged.any() for x in draws]
    assert np.sum(flags) <= stats.binom.ppf(0.999, 60, FALSE_DISCOVERIES)


def test_one_new_image_is_flagged_by_twenty_references() -> None:
    """What is seen on metal plates: good ones about 0.46, rusty ones from 0.87 on."""
    rusty = [0.97, 0.93, 0.91, 0.87]
    for score in rusty:
        assert judge_by_references([score], references()).verdicts.tolist() == ["flagged"]
    got = judge_by_references([*rusty, 0.46, 0.44], references())
    assert got.verdicts.tolist() == ["flagged"] * 4 + ["clear"] * 2
    assert "by a model of the tail" in got.reason
    assert got.value == 0.87


def test_an_image_that_the_references_cannot_decide_on_is_to_be_looked_at() -> None:
    found = [
        str(judge_by_references([score], references()).verdicts[0])
        for score in np.linspace(0.4, 1, 61)
    ]
    assert found == sorted(found, key=["clear", "look", "flagged"].index)
    assert "look" in found


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_references_flag_nothing_and_clear_nothing_above_them(count: int) -> None:
    got = judge_by_references([0.9, 0.1], references(count))
    assert got.verdicts.tolist() == ["look", "clear"]
    assert "too few" in got.reason


@pytest.mark.parametrize("defects", [1, 2, 4])
def test_defects_among_the_references_do_not_count(defects: int) -> None:
    """Up to a fifth of the references here; the highest of them are found and told."""
    mixed = np.r_[references(20), np.linspace(1.1, 1.3, defects)]
    scale = ReferenceScale(mixed)
    assert scale.suspects.tolist() == list(range(20, 20 + defects))
    clean, level = ReferenceScale(references(20)).level(), scale.level()
    assert clean is not None
    assert level is not None
    assert clean < level < 1.1
    got = scale.judge([1.0])
    assert got.flagged.all()
    assert f"{defects} of {20 + defects} references stand" in got.reason


def test_good_references_are_kept() -> None:
    rng = np.random.default_rng(6)
    kept = [
        ReferenceScale(np.abs(shape.rvs(20, random_state=rng))).suspects.size == 0
        for shape in SHAPES.values()
        for _ in range(15)
    ]
    assert np.mean(kept) >= 0.95


def test_equal_references_and_zeros() -> None:
    assert judge_by_references([0.0, 0.5], np.zeros(20)).verdicts.tolist() == ["clear", "look"]
    assert judge_by_references([0.5, 0.9], np.full(20, 0.5)).verdicts.tolist() == [
        "clear",
        "flagged",
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(scores, min_size=1, max_size=30),
    st.lists(scores, min_size=1, max_size=40),
    st.integers(0, 29),
    st.floats(1.0, 3.0),
)
def test_laws(x: list[float], good: list[float], which: int, more: float) -> None:
    """Neither order nor unit matters; raising one score never makes its verdict milder."""
    order = ["clear", "look", "flagged"]
    got = judge_by_references(x, good).verdicts
    turned = judge_by_references(x[::-1], good[::-1]).verdicts[::-1]
    assert got.tolist() == turned.tolist()
    unit = judge_by_references(4 * np.array(x), 4 * np.array(good)).verdicts
    assert got.tolist() == unit.tolist()
    k = which % len(x)
    raised = [*x[:k], x[k] * more, *x[k + 1 :]]
    now = judge_by_references(raised, good).verdicts
    assert order.index(now[k]) >= order.index(got[k])
    for before, after in zip(got, now, strict=True):
        assert order.index(after) >= order.index(before)


def test_the_model_follows_a_known_tail() -> None:
    """Of many scores it gives the true survival, at most 2.5 times as much at 1 in 1000."""
    for shape in (-0.2, 0.0, 0.2):
        true = stats.genextreme(-shape, loc=5.0, scale=0.5)
        model = fit_tail(np.sort(true.rvs(2000, random_state=np.random.default_rng(1))))
        at = true.isf([0.1, 0.01, 0.001])
        ratio = model.survival(at) / [0.1, 0.01, 0.001]
        assert (ratio >= 0.7).all()
        assert (ratio <= [1.2, 1.4, 2.5]).all()


def test_fewer_scores_ask_for_a_wider_margin() -> None:
    levels = [ReferenceScale(references(count)).level(0.005) for count in (8, 20, 60)]
    assert levels == sorted(levels, reverse=True)  # type: ignore[type-var]


def test_standing_out_names_the_group() -> None:
    good = np.sort(references(30))
    assert standing_out(good)[0] > 0.3
    p_value, count = standing_out(np.r_[good, 1.2, 1.25, 1.3])
    assert p_value < 0.001
    assert count == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [0.1]), r"scores must be \[N\]"),
        (([0.1], []), r"reference_scores must be \[N\]"),
        (([0.1], [np.nan]), r"reference_scores\[0\] is nan"),
        (([-1.0], [0.1]), r"scores\[0\] is -1"),
    ],
)
def test_bad_scores(arguments: tuple[list[float], list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge_by_references(*arguments)


@pytest.mark.parametrize("rate", [0.0, 0.6, -1.0, float("nan")])
def test_bad_rates(rate: float) -> None:
    with pytest.raises(InputError, match="false_alarms: found"):
        judge_by_references([0.1], [0.1], false_alarms=rate)
    with pytest.raises(InputError, match="false_alarms: found"):
        ReferenceScale([0.1]).level(rate)
