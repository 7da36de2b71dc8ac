"""Metrics of image scores, and how sure the AUROC of few images is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .checks import Protocol, as_bools, check_protocol, f1, one_class


@dataclass(frozen=True)
class ImageMetrics:
    """Image-level results; the metrics are in [0, 1], or NaN where undefined.

    auroc: area under the ROC curve.
    f1_max: best F1 over all thresholds.
    ap: average precision.
    threshold_at_f1_max: score from which on (>=) an image is flagged at `f1_max`; the highest such
        threshold if several are as good.
    reason: why values are NaN; None where no value is.
    """

    auroc: float
    f1_max: float
    ap: float
    threshold_at_f1_max: float
    reason: str | None = None


def image_metrics(
    labels: npt.ArrayLike, scores: npt.ArrayLike, protocol: Protocol = "musc"
) -> ImageMetrics:
    """Metrics of image scores against labels.

    labels: [N] bool or 0/1, True is defective.
    scores: [N] finite numbers, higher is more anomalous.
    protocol: "musc" or "mvtec"; no effect on the result, since the protocols differ in PRO only.
        `pixel_metrics` takes the same argument.

    Raises InputError where lengths differ, labels are not 0/1, a score is NaN or Inf, or the
    protocol is unknown.
    """
    check_protocol(protocol)
    truth = as_bools(labels, "labels")
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or values.shape != truth.shape:
        raise InputError(
            f"labels and scores must both be [N], but are {list(truth.shape)} and "
            f"{list(values.shape)}"
        )
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"scores[{index}] is {values[index]}; scores must be finite")
    reason = one_class(int(truth.sum()), int((~truth).sum()), "image")
    if reason is not None:
        return ImageMetrics(math.nan, math.nan, math.nan, math.nan, reason)
    from sklearn import metrics as sk  # here, since its import takes a second and more

    precision, recall, thresholds = sk.precision_recall_curve(truth, values)
    # The last point (precision 1, recall 0) has no threshold; its F1 is 0.
    values_of_f1 = f1(precision[:-1], recall[:-1])
    best = len(values_of_f1) - 1 - int(np.argmax(values_of_f1[::-1]))
    return ImageMetrics(
        auroc=float(sk.roc_auc_score(truth, values)),
        f1_max=float(values_of_f1[best]),
        ap=float(sk.average_precision_score(truth, values)),
        threshold_at_f1_max=float(thresholds[best]),
    )


def auroc_interval(
    auroc: float, defective: int, good: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The AUROCs of the product that an AUROC of some of its images may come from: (low, high).

    auroc: of `defective` and `good` images, which are taken as drawn at random; in [0, 1].
    confidence: the share of such draws whose interval holds the AUROC of all images, about.

    The method is number 5 of Newcombe, Statistics in Medicine 25 (2006) 559-573: the variance is
    that of exponential scores, taken at the interval's end and not at `auroc`, so that the interval
    of an AUROC of 1 has a width, too: (0.78, 1) for 6 and 18 images. NaN gives (NaN, NaN).

    Raises InputError where `auroc` or `confidence` is out of range or a class is empty.
    """
    if math.isnan(auroc):
        return math.nan, math.nan
    if not 0 <= auroc <= 1:
        raise InputError(f"auroc must be in [0, 1], but is {auroc}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, but is {confidence}")
    if defective < 1 or good < 1:
        raise InputError(f"an AUROC has images of both classes, not {defective} and {good}")
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.isf((1 - confidence) / 2))
    pairs = (defective + good) / 2 - 1

    def too_far(value: float) -> float:
        """Above 0 where `value` lies farther from `auroc` than z standard deviations."""
        more = pairs * ((1 - value) / (2 - value) + value / (1 + value))
        variance = value * (1 - value) * (1 + more) / (defective * good)
        return abs(value - auroc) - z * math.sqrt(variance)

    def end(inner: float, outer: float) -> float:
        """Where it becomes too far; `auroc` where it is so at once."""
        return auroc if too_far(inner) >= 0 else float(brentq(too_far, inner, outer))

    least = 1e-12  # at 0 and 1 themselves the variance is 0
    low = 0.0 if auroc <= least else min(auroc, end(min(auroc, 1 - least), 0.0))
    high = 1.0 if auroc >= 1 - least else max(auroc, end(max(auroc, least), 1.0))
    return low, high
