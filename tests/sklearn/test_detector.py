"""`MuScDetector` on features: scikit-learn's own checks, its conventions, its tools, bad input."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from musc_fast import InputError, MuscFastWarning, score_batch
from musc_fast.sklearn import MuScDetector

# Checks of scikit-learn that cannot hold, and why.
EXPECTED_TO_FAIL = {
    "check_outliers_train": "its samples have two features, of which LNAMD, which standardises "
    "each sample, keeps the sign of their difference: nothing can stand apart"
}
CONVENTION = {"degrees": (1, 3, 5), "degree_fusion": "features"}  # of the default recipe


def features(count: int = 12, odd: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """[count, 9, 24] patches of a product; the first `odd` images have two patches of their own."""
    rng = np.random.default_rng(seed)
    product = np.random.default_rng(99).normal(size=(9, 24))
    found = product + 0.05 * rng.normal(size=(count, 9, 24))
    found[:odd, 4:6] += rng.normal(size=(odd, 2, 24))
    return found.astype(np.float32)


@pytest.mark.parametrize("novelty", [False, True])
def test_checks_of_scikit_learn(novelty: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            MuScDetector(novelty=novelty),
            expected_failed_checks=EXPECTED_TO_FAIL if novelty else {},
            on_skip=None,
        )
    failed = {each["check_name"] for each in results if each["status"] == "xfail"}
    assert failed == (set(EXPECTED_TO_FAIL) if novelty else set())
    assert sum(each["status"] == "passed" for each in results) >= 40


def test_what_a_failed_check_asks_holds_with_more_features() -> None:
    """The parts of check_outliers_train that its two features keep from being tried."""
    good, new = features(30, odd=0), features(10, odd=3, seed=5)
    detector = MuScDetector(novelty=True).fit(good.tolist())
    labels, decision = detector.predict(new), detector.decision_function(new)
    assert labels.dtype.kind == "i"
    assert labels.tolist() == [-1] * 3 + [1] * 7
    assert np.array_equal(labels == 1, decision >= 0)
    assert np.array_equal(decision, detector.score_samples(new) - detector.offset_)
    assert decision.dtype == np.float64
    with pytest.raises(ValueError, match="features"):
        detector.predict(new.transpose(0, 2, 1))


def test_one_batch_has_the_scores_and_verdicts_of_score_batch() -> None:
    x = features()
    detector = MuScDetector()
    labels = detector.fit_predict(x)
    wanted = score_batch(x, **CONVENTION)
    assert np.array_equal(detector.negative_scores_, -wanted.raw_image_scores.double().numpy())
    assert torch.equal(detector.scores_.anomaly_maps, wanted.anomaly_maps)
    assert labels.tolist() == [-1] + [1] * 11
    assert (labels == -1).tolist() == [v == "flagged" for v in detector.scores_.verdicts]
    assert detector.n_features_in_ == 24
    assert detector.n_samples_fit_ == 12


def test_new_samples_have_the_scores_of_score_batch_against_the_bank() -> None:
    good, new = features(odd=0), features(5, seed=3)
    detector = MuScDetector(novelty=True).fit(good)
    wanted = score_batch(new, references=good, **CONVENTION).raw_image_scores.double().numpy()
    assert np.array_equal(detector.score_samples(new), -wanted)
    assert np.array_equal(detector.score_samples(new[2:3]), -wanted[2:3])  # by itself
    shown = detector.image_scores(new)
    assert shown.anomaly_maps.shape == (5, 3, 3)
    assert [v == "flagged" for v in shown.verdicts] == (detector.predict(new) == -1).tolist()


@given(st.data())
@settings(deadline=None, max_examples=10)
def test_a_threshold_labels_from_itself_on(data: st.DataObject) -> None:
    """At or above, as everywhere here; scikit-learn's labels are of what lies below the offset."""
    raw = -NEW.score_samples(QUERY)
    value = data.draw(st.sampled_from(sorted(raw)) | st.floats(0, 2, width=64))
    detector = copy.deepcopy(NEW).set_params(threshold=value).fit(BANK)
    assert np.array_equal(detector.predict(QUERY) == -1, raw >= value)
    batch = MuScDetector(threshold=value)
    labels = batch.fit_predict(QUERY)
    assert np.array_equal(labels == -1, -batch.negative_scores_ >= value)


BANK, QUERY = features(8, odd=0), features(6, odd=2, seed=7)
NEW = MuScDetector(novelty=True).fit(BANK)


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.25, 3), (0.5, 6), (0.01, 0)])
def test_contamination_is_the_share_below_the_offset(share: float, count: int) -> None:
    x = features()
    batch = MuScDetector(contamination=share)
    assert (batch.fit_predict(x) == -1).sum() == count
    bank = MuScDetector(contamination=share, novelty=True).fit(x)
    assert (bank.negative_scores_ < bank.offset_).sum() == count
    assert np.isfinite(bank.offset_)


def test_false_alarms_move_the_offset() -> None:
    good = features(40, odd=0)
    offsets = [
        MuScDetector(novelty=True, false_alarms=rate).fit(good).offset_
        for rate in (0.001, 0.01, 0.1, 0.5)
    ]
    assert offsets == sorted(offsets)
    assert offsets[0] < offsets[-1]
    often = MuScDetector(novelty=True, false_alarms=0.5).fit(good)
    assert (often.negative_scores_ < often.offset_).mean() == pytest.approx(0.5, abs=0.05)


def test_pipeline_and_cross_validation() -> None:
    x = features(24, odd=0)
    flat = x[:, 0]
    pipeline = make_pipeline(StandardScaler(), MuScDetector(novelty=True))
    assert pipeline.fit(flat[:20]).predict(flat[20:]).shape == (4,)
    detector = MuScDetector(novelty=True)
    found = cross_val_predict(detector, x, cv=3, method="decision_function")
    by_hand = clone(detector).fit(x[8:]).decision_function(x[:8])
    assert np.array_equal(found[:8], by_hand)
    patches = make_pipeline(FunctionTransformer(np.tanh), MuScDetector())
    assert patches.fit_predict(x).shape == (24,)


def test_grid_search_by_labels() -> None:
    x = features(20, odd=5)
    y = np.array([-1] * 5 + [1] * 15)
    order = np.random.default_rng(0).permutation(20)
    search = GridSearchCV(
        MuScDetector(novelty=True, contamination=0.25),
        {"degrees": [(1,), (1, 3, 5)]},
        scoring="roc_auc",
        cv=2,
    )
    search.fit(x[order], y[order])
    assert search.best_score_ > 0.9
    assert search.best_estimator_.get_params()["degrees"] in [(1,), (1, 3, 5)]


@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_copies_score_the_same(through: Callable[[MuScDetector], MuScDetector]) -> None:
    again = through(NEW)
    assert np.array_equal(again.score_samples(QUERY), NEW.score_samples(QUERY))
    assert again.offset_ == NEW.offset_
    assert again.bank_.ids == NEW.bank_.ids
    with pytest.warns(MuscFastWarning, match="1 of 1 samples were in fit"):
        again.predict(BANK[:1])


def test_fit_again_in_the_other_mode_leaves_nothing() -> None:
    x = features(odd=0)
    detector = MuScDetector(novelty=True).fit(x)
    detector.set_params(novelty=False).fit(x)
    assert not hasattr(detector, "bank_")
    assert detector.set_params(novelty=True).fit(x[:, 0]).n_features_in_ == 24
    assert not hasattr(detector, "scores_")


def test_a_fit_that_failed_is_none() -> None:
    detector = MuScDetector(novelty=True).fit(BANK)
    with pytest.raises(ValueError, match="NaN"):
        detector.fit(np.full_like(BANK, np.nan))
    with pytest.raises(NotFittedError):
        detector.predict(QUERY)
    with pytest.raises(NotFittedError):
        MuScDetector().fit(BANK).set_params(novelty=True).predict(QUERY)


def test_torch_tensors_and_grids() -> None:
    x = features()
    with_prefix = np.concatenate([np.ones((12, 1, 24), np.float32), x[:, :6]], axis=1)
    plain = MuScDetector(grid=(2, 3)).fit(x[:, :6])
    tensor = torch.from_numpy(with_prefix)
    prefixed = MuScDetector(grid=(2, 3), prefix_tokens=1, image_size=(8, 12)).fit(tensor)
    assert prefixed.scores_.anomaly_maps.shape == (12, 8, 12)
    assert torch.equal(plain.scores_.patch_scores, prefixed.scores_.patch_scores)
    assert MuScDetector(grid=(2, 3)).fit(tensor[:, 1:].bfloat16()).offset_ < 0


def test_what_is_said() -> None:
    few = MuScDetector(novelty=True)
    with pytest.warns(MuscFastWarning, match="3 samples cannot tell which scores 1% of good ones"):
        few.fit(features(3, odd=0))
    assert few.offset_ == pytest.approx(few.negative_scores_.min())
    assert not (few.negative_scores_ < few.offset_).any()
    with pytest.warns(MuscFastWarning, match="image 0: stand apart from the other samples"):
        MuScDetector(novelty=True).fit(features(20, odd=1))
    with pytest.warns(MuscFastWarning, match="keeps a sign at most"):
        MuScDetector().fit(np.random.default_rng(0).normal(size=(9, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MuScDetector(novelty=True).fit(features(20, odd=0)).predict(features(3, seed=4))


BAD: list[tuple[dict[str, Any], Any, str]] = [
    ({"contamination": 0.7}, features(), "contamination: found 0.7"),
    ({"contamination": True}, features(), "contamination: found True"),
    ({"contamination": 0.1, "threshold": 0.3}, features(), "a threshold or a contamination"),
    ({"threshold": -1.0}, features(), "threshold: found -1.0"),
    ({"false_alarms": 2}, features(), "false_alarms: found 2"),
    ({"false_alarms": 0.1, "threshold": 0.3}, features(), "has no say"),
    ({"rule": "split", "novelty": True}, features(), "rule: has no say where references decide"),
    ({"rule": "best"}, features(), "unknown rule 'best'"),
    ({"recipe": "mine"}, features(), "recipe: found 'mine'"),
    ({"degrees": (2,)}, features(), "degrees: found"),
    ({"grid": (2, 2)}, features(), "grid: found"),
    ({"prefix_tokens": 9}, features(), "prefix"),
    ({}, features()[:, :5], "5 patches are no square"),
    ({}, features()[:1], "1 sample"),
    ({}, features()[:, :, :0], "no empty side|0 feature"),
    ({}, np.full((5, 9, 24), np.nan), "NaN"),
    ({}, np.zeros((0, 24)), "0 sample"),
    ({}, np.arange(5.0), "Reshape your data"),
    ({}, "photos", "X: found the one path 'photos'"),
    ({}, ["a.png", 3], r"X\[1\]: found int"),
    ({}, ["a.png", "b.png"], "a.png: no such file"),
    ({}, np.zeros((4, 8, 8, 7), np.uint8), "array image"),
    ({}, np.zeros((4, 16, 8), np.uint8), "found whole numbers .* grey images in a list"),
    ({}, iter(["a.png", "b.png"]), "X: found list_iterator, wanted an array, or a list"),
    ({}, {"image": "a.png"}, "X: found dict, wanted an array, or a list"),
    ({"backend": "gpu"}, features(), "unknown backend 'gpu'"),
    ({"device": "tpu"}, features(), "device 'tpu'"),
    ({"threshold": "auto"}, features(), "threshold: found 'auto', wanted a distance"),
    ({"contamination": np.array([0.1, 0.2])}, features(), "contamination: found array"),
    ({"novelty": "yes"}, features(), "novelty: found 'yes', wanted True or False"),
    ({"offline": None}, features(), "offline: found None, wanted True or False"),
    ({"weights": 3}, ["a.png", "b.png"], "weights: found 3, wanted the path of a file"),
    ({"weights": "gone.pt"}, ["a.png", "b.png"], "weights file gone.pt does not exist"),
    ({"backbone": None}, ["a.png", "b.png"], "backbone: found NoneType"),
    ({"backbone": "resnet"}, ["a.png", "b.png"], "resnet"),
]


@pytest.mark.parametrize(("options", "samples", "told"), BAD)
def test_bad_input_is_a_value_error(options: dict[str, Any], samples: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MuScDetector(**{"offline": True, **options}).fit(samples)


def test_methods_are_there_when_they_mean_something() -> None:
    batch = MuScDetector().fit(features())
    for name in ("predict", "decision_function", "score_samples"):
        assert not hasattr(batch, name)
    with pytest.raises(AttributeError) as error:
        batch.predict(features())
    assert "novelty=True" in f"{error.value} {error.value.__cause__}"
    assert not hasattr(NEW, "fit_predict")
    with pytest.raises(NotFittedError):
        MuScDetector(novelty=True).predict(features())
    with pytest.raises(InputError, match=r"found \[n_samples, C\], wanted \[n_samples, patches"):
        NEW.predict(features()[:, 0])
    with pytest.raises(InputError, match="found images, wanted features as in fit"):
        NEW.predict(["a.png"])
