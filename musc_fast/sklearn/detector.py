"""`MuScDetector`: mutual scoring with the methods of scikit-learn's `LocalOutlierFactor`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..bank.arguments import free_id
from ..errors import InputError, MuscFastWarning
from ..image_scores import ImageScores, Judge, with_verdicts
from ..musc import DEFAULT_BACKBONE
from ..progress import stages_of
from ..recipes import DEFAULT_RECIPE, get_recipe
from ..scoring.batch import score_batch
from ..scoring.leave_one_out import leave_one_out
from ..scoring.scores import BatchScores
from ..settings import ScoringSettings
from ..threshold import FALSE_ALARMS, ReferenceScale, Rule, find_threshold
from .pickled import bank_of, bytes_of
from .readers import FeatureReader, ImageReader
from .samples import digests, forget_features, images_among, value_errors

Floats = NDArray[np.float64]


def _for_new_samples(estimator: MuScDetector) -> bool:
    if not estimator.novelty:
        raise AttributeError(
            "predict, decision_function and score_samples are for new samples and need "
            "novelty=True; with novelty=False, fit_predict labels the samples of one batch, and "
            "negative_scores_ holds their scores"
        )
    return True


def _for_one_batch(estimator: MuScDetector) -> bool:
    if estimator.novelty:
        raise AttributeError(
            "fit_predict labels the samples of one batch and needs novelty=False; with "
            "novelty=True, use predict on new samples"
        )
    return True


class MuScDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Mutual scoring (MuSc) as an outlier detector of scikit-learn.

        labels = MuScDetector().fit_predict(paths)  # -1: stands apart, 1: does not
        detector = MuScDetector(novelty=True).fit(good_paths)
        detector.predict(new_paths), detector.score_samples(new_paths)

    The samples X are images (paths, PIL images or arrays in a list; an array [N, h, w, 3]) or
    features: [N, P, C], P patches an image on a grid, or [N, C], one patch. LNAMD (paper, 3.1)
    standardises each sample over its patches and channels and gives each patch the length 1:
    features are channels of a network, not columns of a table with units of their own.
    Conventions are those of `LocalOutlierFactor`: the higher a score the more normal,
    `decision_function` is `score_samples` less `offset_`, and -1 is the label of what lies below 0.

    novelty: False scores the samples of `fit` against each other (`fit_predict`). True keeps them
        as a bank, against which new samples are scored one by one. Give new samples new images: an
        image of the bank finds itself there and scores too well, of which a warning tells.
    contamination: "auto", or the share of the samples of `fit`, in (0, 0.5], that lies below the
        offset (`--expected-defect-rate` of the command).
    threshold: the raw score, 0 or more, from which on (>=) a sample is labelled -1.
    false_alarms: in (0, 0.5]. With `novelty`, the share of good samples that may be labelled -1
        (None: 0.01); otherwise that of good batches with such a sample (None: 0.1).
    rule: of `threshold.RULES`, for novelty=False; None: the usual one.
    recipe: sets `degrees` (unless given) and how they are averaged, and the backbone's blocks.
    degrees, topmin, backend, precision, memory_limit: as for `score_batch`.
    device: "auto" takes CUDA where there is one.
    grid, prefix_tokens: of features [N, P, C], as for `score_batch`.
    image_size: of images, the backbone's input; of features, the size of the maps.
    backbone, weights, offline, engine, feature_precision, white, max_pixels: of images, as for
        `MuSc`. Image scores are the raw ones, without RsCIN.
    verbose: draw progress bars.

    After `fit`: `negative_scores_` [N], the opposite of the raw scores of its samples, each against
    the others; `offset_`, below which a label is -1 (-inf where novelty=False flags none);
    `n_samples_fit_`; `n_features_in_`, C of features. With novelty=False `scores_`, an ImageScores
    with maps and verdicts; with novelty=True `bank_`, a ReferenceBank.

    Wrong arguments and samples are ValueErrors (InputError), raised by `fit` and the like.
    """

    def __init__(
        self,
        *,
        novelty: bool = False,
        contamination: float | Literal["auto"] = "auto",
        threshold: float | None = None,
        false_alarms: float | None = None,
        rule: Rule | None = None,
        recipe: str = DEFAULT_RECIPE,
        degrees: Sequence[int] | None = None,
        topmin: tuple[float, float] = (0.0, 0.3),
        backend: str = "auto",
        precision: str = "exact",
        memory_limit: int | None = None,
        device: str = "auto",
        grid: tuple[int, int] | None = None,
        prefix_tokens: int = 0,
        image_size: int | tuple[int, int] | None = None,
        backbone: str = DEFAULT_BACKBONE,
        weights: str | os.PathLike[str] | None = None,
        offline: bool = False,
        engine: str = "auto",
        feature_precision: str = "auto",
        white: float | None = None,
        max_pixels: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.novelty = novelty
        self.contamination = contamination
        self.threshold = threshold
        self.false_alarms = false_alarms
        self.rule = rule
        self.recipe = recipe
        self.degrees = degrees
        self.topmin = topmin
        self.backend = backend
        self.precision = precision
        self.memory_limit = memory_limit
        self.device = device
        self.grid = grid
        self.prefix_tokens = prefix_tokens
        self.image_size = image_size
        self.backbone = backbone
        self.weights = weights
        self.offline = offline
        self.engine = engine
        self.feature_precision = feature_precision
        self.white = white
        self.max_pixels = max_pixels
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> MuScDetector:
        """Score the samples of one batch, or take them as the bank for new ones.

        X: samples, two or more, mostly good; see the class. y: ignored.

        Raises InputError or scikit-learn's ValueError where an argument or a sample is wrong.
        """
        judge, settings = self._judge(), self._settings()
        for name in ("scores_", "bank_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        with value_errors(), stages_of(bool(self.verbose)) as on_progress:
            images = images_among(X)
            if images is not None:
                forget_features(self)
                image_reader = ImageReader(self._musc_arguments())
                tokens = image_reader.fit(images, on_progress)
                self._reader: FeatureReader | ImageReader = image_reader
            else:
                shape = {"grid": self.grid, "prefix_tokens": self.prefix_tokens}
                feature_reader = FeatureReader(
                    {**shape, "image_size": self.image_size}, settings, self.device
                )
                tokens = feature_reader.fit(self, X)
                if tokens.layers[0].shape[1] == 1 and tokens.layers[0].shape[2] < 3:
                    self._warn(
                        "X: of so few features a sample mutual scoring keeps a sign at most, since "
                        "it standardises each; give features of a network, of many channels"
                    )
                self._reader = feature_reader
            score = leave_one_out if self.novelty else _score
            scores = score(
                tokens.layers,
                settings,
                valid=tokens.valid,
                progress=lambda done, total: on_progress("scoring", done, total),
                **self._reader.shape,
            )
        layers, names, valid = tokens
        self.n_samples_fit_ = len(names)
        self.negative_scores_ = _negative(scores)
        if self.novelty:
            self.offset_ = self._offset(judge, names)
            self.bank_ = self._reader.new_bank(len(names))
            self.bank_.add(layers, _ids(names), scores=scores.raw_image_scores, valid=valid)
            self._digests = frozenset(digests(layers))
        else:
            self.scores_ = with_verdicts(scores, names, judge(scores), self._reader.reading)
            level = self.scores_.threshold.value
            self.offset_ = -np.inf if level is None else _below(level)
        return self

    @available_if(_for_one_batch)  # type: ignore[untyped-decorator]
    def fit_predict(self, X: Any, y: Any = None, **keywords: Any) -> NDArray[np.int64]:
        """The labels [N] of the samples of one batch: -1 for those that stand apart, else 1.

        X, y: as for `fit`. Only with novelty=False.
        """
        self.fit(X, y, **keywords)
        return _labels(self.negative_scores_ < self.offset_)

    @available_if(_for_new_samples)  # type: ignore[untyped-decorator]
    def predict(self, X: Any) -> NDArray[np.int64]:
        """The labels [N] of new samples: -1 below the offset, else 1. Only with novelty=True."""
        return _labels(self.decision_function(X) < 0)

    @available_if(_for_new_samples)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Floats:
        """Scores [N] of new samples less `offset_`: below 0 for -1. Only with novelty=True."""
        scores: Floats = self.score_samples(X) - self.offset_
        return scores

    @available_if(_for_new_samples)  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any) -> Floats:
        """Scores [N] of new samples against the bank; higher is more normal, 0 the highest.

        Each is scored by itself: no score depends on the other samples. Only with novelty=True.
        """
        return _negative(self.image_scores(X))

    @available_if(_for_new_samples)  # type: ignore[untyped-decorator]
    def image_scores(self, X: Any) -> ImageScores:
        """Scores of new samples with anomaly maps and names. Only with novelty=True.

        Raises NotFittedError before `fit`, InputError where the samples are not as in `fit`.
        """
        check_is_fitted(self, "bank_")
        images = images_among(X)
        with value_errors(), stages_of(bool(self.verbose)) as on_progress:
            if isinstance(self._reader, ImageReader):
                layers, names, valid = self._reader.read(images, self.bank_, on_progress)
            else:
                layers, names, valid = self._reader.read(self, X, images)
            self._tell_twins(layers)
            scores = self.bank_.score(layers, valid=valid)
        raw = scores.raw_image_scores.cpu().numpy()
        value = -float(np.nextafter(self.offset_, -np.inf))
        return with_verdicts(scores, names, find_threshold(raw, value=value), self._reader.reading)

    def _judge(self) -> Judge:
        """What decides; InputError where an option is wrong, or idle beside another."""
        for name in ("novelty", "offline"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise InputError(f"{name}: found {getattr(self, name)!r}, wanted True or False")
        share = self.contamination
        auto = isinstance(share, str) and share == "auto"
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not auto and not (number and 0 < float(share) <= 0.5):
            raise InputError(f"contamination: found {share!r}, wanted 'auto' or one in (0, 0.5]")
        if not auto and self.threshold is not None:
            raise InputError("give a threshold or a contamination, not both")
        judge = Judge(self.rule, self.false_alarms, self.threshold, None if auto else float(share))
        if self.novelty:
            judge.check_references()
        return judge

    def _settings(self) -> ScoringSettings:
        recipe = get_recipe(self.recipe)
        return ScoringSettings(
            recipe.degrees if self.degrees is None else self.degrees,
            self.topmin,
            backend=self.backend,
            precision=self.precision,
            memory_limit=self.memory_limit,
            degree_fusion=recipe.degree_fusion,
        )

    def _musc_arguments(self) -> dict[str, Any]:
        names = "backbone image_size weights offline device recipe degrees topmin backend"
        names += " precision memory_limit engine feature_precision white max_pixels"
        given = {name: getattr(self, name) for name in names.split()}
        # A sample that is given twice is two samples, as everywhere in scikit-learn.
        return {**given, "use_cls": False, "copies": "off"}

    def _offset(self, judge: Judge, names: tuple[str, ...]) -> float:
        """The offset for new samples, by the scores of those of `fit`, each without itself."""
        raw = -self.negative_scores_
        if judge.asks_references:
            scale = ReferenceScale(raw)
            rate = FALSE_ALARMS if self.false_alarms is None else self.false_alarms
            level = scale.level(rate)
            if scale.suspects.size:
                some = ", ".join(names[index] for index in scale.suspects[:3])
                more = f" and {scale.suspects.size - 3} more" if scale.suspects.size > 3 else ""
                self._warn(
                    f"{some}{more}: stand apart from the other samples of fit and were not counted "
                    "for the offset; look whether they are good"
                )
            if level is None:
                self._warn(
                    f"{raw.size} samples cannot tell which scores {100 * rate:g}% of good ones "
                    "reach: the offset lies just below the least normal of them, which "
                    f"{100 / (raw.size + 1):.2g}% of good ones may do; fit more samples, or give a "
                    "threshold"
                )
        else:
            level = judge.value
            if level is None:
                level = find_threshold(raw, expected_defect_rate=judge.expected_defect_rate).value
        return _below(np.nextafter(raw.max(), np.inf) if level is None else level)

    def _tell_twins(self, layers: tuple[Tensor, ...]) -> None:
        """Warn of samples that the bank holds: they are their own nearest neighbours."""
        found = sum(each in self._digests for each in digests(layers))
        if found:
            self._warn(
                f"{found} of {len(layers[0])} samples were in fit, too: each finds itself in the "
                "bank and scores too well; the scores of fit are in negative_scores_"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(text, MuscFastWarning, stacklevel=4)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "bank_" in state:
            state["bank_"] = bytes_of(state["bank_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "bank_" in state:
            names = ("backend", "precision", "memory_limit")
            settings = {name: state[name] for name in names}
            bank = bank_of(state["bank_"], device=state["_reader"].device, **settings)
            state = {**state, "bank_": bank}
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _score(tokens: Sequence[Tensor], settings: ScoringSettings, **options: Any) -> BatchScores:
    """`score_batch` with the arguments of `leave_one_out`."""
    return score_batch(tokens, **options, **settings.keywords())


def _negative(scores: BatchScores) -> Floats:
    """Raw scores as scikit-learn has them, higher for the more normal."""
    return -scores.raw_image_scores.cpu().numpy().astype(np.float64)


def _below(level: float) -> float:
    """The offset below which the opposites of the raw scores >= level lie, and no others."""
    return float(np.nextafter(-level, np.inf))


def _labels(apart: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(apart, -1, 1).astype(np.int64)


def _ids(names: tuple[str, ...]) -> list[str]:
    """An id for each image of a bank: its name, made another where an earlier one has it."""
    ids: list[str] = []
    for name in names:
        ids.append(free_id(name, ids))
    return ids
