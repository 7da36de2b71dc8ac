"""What patches tell beside the score: peaks apart from each other, reliefs, and their use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from musc_fast.errors import InputError
from musc_fast.threshold import LOOK_SHARE, ReferenceScale, find_threshold, judge_by_references
from musc_fast.threshold.peaks import NEXT_PEAKS, next_peaks, reliefs
from musc_fast.threshold.tail import fit_tail

Floats = NDArray[np.float64]
GRID = (20, 20)


def maps(count: int, seed: int, level: float = 0.0) -> Floats:
    """Patch scores of good images, independent; `level` is the spread of whole images."""
    rng = np.random.default_rng(seed)
    found = 0.3 + 0.02 * rng.gumbel(size=(count, *GRID))
    return found + level * rng.gumbel(size=count)[:, None, None]


def scores_of(patches: Floats) -> Floats:
    return np.asarray(patches.max(axis=(1, 2)))


def test_peaks_lie_apart() -> None:
    one = np.zeros((1, 12, 12))
    one[0, 4, 4], one[0, 4, 6], one[0, 9, 9], one[0, 0, 11] = 0.9, 0.8, 0.7, 0.6
    np.testing.assert_array_equal(next_peaks(one, np.array([0.9])), [[0.7, 0.6]])
    np.testing.assert_array_equal(next_peaks(one, np.array([0.65])), [[0.65, 0.6]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 5)])
def test_an_image_with_few_peaks_has_no_more(shape: tuple[int, int]) -> None:
    one = np.zeros((2, *shape))
    one[:, 0, 0] = 0.5
    found = next_peaks(one, scores_of(one))
    assert found.shape == (2, NEXT_PEAKS)
    assert set(found.ravel().tolist()) <= {0.0, -np.inf}
    assert np.isfinite(reliefs(one)).all()


@pytest.mark.parametrize("seed", range(6))
def test_one_patch_tells_no_more_than_the_score(seed: int) -> None:
    raw = np.random.default_rng(seed).gumbel(0.3, 0.05, 24).clip(0.01)
    raw[0] += 0.1 * seed
    with_patch, alone = (
        find_threshold(raw, patch_scores=patches) for patches in (raw[:, None, None], None)
    )
    np.testing.assert_array_equal(with_patch.verdicts, alone.verdicts)
    assert with_patch.p_value == pytest.approx(alone.p_value, rel=1e-6)
    assert with_patch.reason == alone.reason


def test_a_relief_is_local() -> None:
    """An image that is high all over has none; neither ignored areas nor edges make one."""
    flat, high, fault, ignored = np.full((4, *GRID), 0.3)
    high += 0.5
    fault[10, 10] += 0.2
    ignored[:, :10] = 0.0
    found = reliefs(np.stack([flat, high, fault, ignored, np.zeros(GRID)]))
    np.testing.assert_allclose(found, [0, 0, 0.2 * 120 / 121, 0, 0], atol=1e-9)


def test_many_images_are_taken_in_blocks() -> None:
    many = maps(150, 0)
    alone = np.concatenate([next_peaks(each[None], scores_of(each[None])) for each in many])
    np.testing.assert_array_equal(next_peaks(many, scores_of(many)), alone)
    np.testing.assert_array_equal(reliefs(many), np.concatenate([reliefs(m[None]) for m in many]))


def test_three_peaks_tell_the_tail_better() -> None:
    """Beyond the highest of 15 images: nearer to the truth than by the scores alone."""
    truth = stats.genextreme(0.0, loc=1.0, scale=0.1)
    at = truth.isf([1e-3])
    errors: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(12):
        rate = np.cumsum(np.random.default_rng(seed).exponential(size=(15, 3)), axis=1)
        peaks = 1.0 - 0.1 * np.log(rate)  # the highest of a Poisson process with Gumbel maxima
        peaks = peaks[np.argsort(peaks[:, 0])]
        for known in errors:
            model = fit_tail(peaks[:, 0], 0, peaks[:, 1:] if known else None)
            errors[known].append(abs(float(np.log10(model.survival(at)[0]) + 3)))
    assert np.mean(errors[True]) < np.mean(errors[False])


@pytest.mark.parametrize("level", [0.0, 0.03])
def test_good_batches_are_flagged_no_oftener_than_stated(level: float) -> None:
    """Also where images differ as wholes, so that their peaks are alike."""
    batches = [maps(15, seed, level) for seed in range(25)]
    flags = [find_threshold(scores_of(m), patch_scores=m).flagged.any() for m in batches]
    assert np.sum(flags) <= stats.binom.ppf(0.99, 25, 0.1)


def test_peaks_of_another_kind_do_not_bend_the_tail() -> None:
    """Parts that lie still have a place that is always high; the peaks below are far below all."""
    patches = np.full((30, *GRID), 0.3)
    patches[:, 10, 10] = np.r_[np.full(25, 0.4), 0.401, 0.402, 0.403, 0.404, 0.405]
    got = find_threshold(scores_of(patches), patch_scores=patches, look_share=0)
    assert (got.verdicts == "clear").all()


def test_an_undecided_batch_has_a_tenth_to_look_at() -> None:
    """The highest score, and the highest relief that a high image hides."""
    patches = np.random.default_rng(3).uniform(0.29, 0.31, (30, *GRID))
    patches += np.linspace(0, 0.2, 30)[:, None, None]
    patches[4, 8, 8] += 0.06
    raw = scores_of(patches)
    got = find_threshold(raw, patch_scores=patches)
    assert not got.flagged.any()
    assert got.look.sum() == round(LOOK_SHARE * 30)
    assert got.verdicts[raw.argmax()] == "look"
    assert got.verdicts[4] == "look"
    assert got.reason.startswith("none flagged: look at 3 yourself")
    assert "far above those around it" in got.reason
    alone = find_threshold(raw)
    assert alone.verdicts[4] == "clear"
    np.testing.assert_array_equal(np.flatnonzero(alone.look), [27, 28, 29])
    assert "around it" not in alone.reason


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 3), (0.5, 15), (1.0, 30)])
def test_the_share_to_look_at_is_the_one_asked_for(share: float, count: int) -> None:
    raw = np.linspace(0.3, 0.5, 30)
    got = find_threshold(raw, look_share=share)
    assert got.look.sum() == count
    assert got.look[30 - count :].all()


def test_equal_scores_do_not_all_become_looks() -> None:
    raw = np.r_[np.full(25, 0.4), 0.401, 0.402, 0.403, 0.404, 0.405]
    got = find_threshold(raw, patch_scores=np.full((30, 3, 3), 0.3), look_share=0.3)
    assert np.flatnonzero(got.look).tolist() == [25, 26, 27, 28, 29]
    assert not find_threshold(np.r_[raw[:25], 0.3], look_share=0.3).look.any()


def test_where_images_are_flagged_no_share_is_looked_at() -> None:
    patches = maps(30, 5)
    patches[7, 3, 3] = 2.0
    got = find_threshold(scores_of(patches), patch_scores=patches)
    assert np.flatnonzero(got.verdicts != "clear").tolist() == [7]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 24), st.floats(0, 0.2))
def test_laws(seed: int, count: int, level: float) -> None:
    """Neither order nor unit matters, and the highest score is never clear beside a look."""
    patches = np.abs(maps(count, seed, level))
    raw = scores_of(patches)
    got = find_threshold(raw, patch_scores=patches)
    order = np.random.default_rng(seed).permutation(count)
    turned = find_threshold(raw[order], patch_scores=patches[order])
    np.testing.assert_array_equal(turned.verdicts, got.verdicts[order])
    unit = find_threshold(4 * raw, patch_scores=4 * patches)
    np.testing.assert_array_equal(unit.verdicts, got.verdicts)
    assert got.verdicts[raw.argmax()] != "clear"


def test_flags_by_references_with_patches_begin_at_their_level() -> None:
    for seed in range(4):
        patches = maps(10, 40 + seed)
        raw = scores_of(patches)
        level = ReferenceScale(raw, patches).level()
        assert level is not None
        assert level != ReferenceScale(raw).level()
        for score, flagged in ((level, True), (0.999 * level, False)):
            got = judge_by_references([score], raw, reference_patch_scores=patches)
            assert got.flagged.tolist() == [flagged]


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (np.ones((3, 2)), r"must be \[3, H, W\].*\[3, 2\]"),
        (np.ones((2, 2, 2)), r"must be \[3, H, W\].*\[2, 2, 2\]"),
        (np.ones((3, 0, 2)), r"must be \[3, H, W\]"),
        (np.ones((3, 2, 2), np.int64), "found int64, wanted floats"),
        (np.where(np.arange(12).reshape(3, 2, 2) == 6, np.nan, 1.0), r"\[1\] has values"),
        (np.full((3, 2, 2), -0.5), "distances, 0 or more, but hold -0.5"),
    ],
)
def test_bad_patch_scores(patches: Floats, message: str) -> None:
    with pytest.raises(InputError, match=f"^patch_scores.*{message}"):
        find_threshold([0.1, 0.2, 0.3], patch_scores=patches)
    with pytest.raises(InputError, match=f"^reference_patch_scores.*{message}"):
        judge_by_references([0.1], [0.1, 0.2, 0.3], reference_patch_scores=patches)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_bad_look_share(share: float) -> None:
    with pytest.raises(InputError, match="look_share: found"):
        find_threshold([0.1, 0.2], look_share=share)
