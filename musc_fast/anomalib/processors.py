"""Pre- and post-processor of anomalib for MuSc."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import Tensor

from ..image_scores import Judge
from ..scoring.scores import BatchScores
from ..threshold import Threshold
from .judging import at_least, at_sensitivity, check_threshold, flagged, shown
from .squash import Squash

logger = logging.getLogger(__name__)


class MuScPreProcessor(PreProcessor):
    """Squashes images and masks to one size, see `Squash`; normalises nothing, the model does.

    image_size: (height, width) in pixels, the model's own.
    interpolation: of images: "bicubic" for CLIP, "bilinear" for the DINO family.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__(Squash(image_size, interpolation))

    def checkpoint_config(self) -> dict[str, Any]:
        """Nothing: the model makes its pre-processor of its own arguments."""
        return {}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Change nothing, see `checkpoint_config`."""


class MuScPostProcessor(PostProcessor):
    """Labels what is at or above a threshold, and shows scores in 0..1 without ties.

    anomalib's own post-processor finds a threshold from which on ("at or above") F1 is highest, a
    score of the validation set, and then labels what is above it: the defect with that score is
    not labelled. It cuts high scores to 1, where they tie. See `judging` for what is done here.

    threshold: "auto" flags without labels: by the bank at a rate of false alarms, or, zero-shot,
        by the rule that judges a batch; "f1" takes the F1-optimal thresholds of labelled
        validation images and, where these have masks, pixels; a number is a raw score.
    false_alarms: with "auto", in (0, 0.5]: against a bank, the share of good images that may be
        flagged (None: 0.01); zero-shot, the share of good batches (None: 0.1).
    image_sensitivity, pixel_sensitivity: in 0..1: scores shown as 1 - sensitivity are flagged.
    enable_normalization, enable_thresholding, enable_threshold_matching: as in anomalib. Without
        normalization scores are raw distances in 0..2.

    Raises ValueError where an argument is out of range.
    """

    def __init__(
        self,
        threshold: str | float = "auto",
        false_alarms: float | None = None,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
    ) -> None:
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self.threshold = check_threshold(threshold)
        self.false_alarms = false_alarms
        for sensitivity in (image_sensitivity, pixel_sensitivity):
            at_sensitivity(at_least(1.0), sensitivity)
        # What is shown as 0.5; the threshold, wherever there is one.
        self.register_buffer("middle", torch.tensor(math.nan, dtype=torch.float32, device="cpu"))
        self._smoothed = False  # whether image scores are in 0..1 already, by RsCIN
        self._said = False  # that scores are raw
        if isinstance(self.threshold, float):
            self.set_level(self.threshold, self.threshold)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "threshold", "false_alarms")

    @property
    def wants_validation(self) -> bool:
        """Whether a threshold is found by labelled validation images."""
        return self.enable_thresholding and self.threshold == "f1"

    def set_level(self, level: float | None, middle: float) -> None:
        """Take up the threshold of raw image scores and maps that was found without labels.

        level: at or above it images and pixels are flagged; None flags none.
        middle: what is shown as 0.5.
        """
        threshold = at_least(math.inf if level is None else level)
        self._image_threshold.copy_(threshold)
        self._pixel_threshold.copy_(threshold)
        self.middle.copy_(at_least(middle))

    def judge(self, scores: BatchScores) -> Threshold | None:
        """What flags images scored among themselves; None where validation images decide."""
        if self.threshold == "f1" or not (self.enable_thresholding or self.enable_normalization):
            return None
        value = self.threshold if isinstance(self.threshold, float) else None
        rate = self.false_alarms if value is None else None
        return Judge(false_alarms=rate, value=value)(scores)

    def judge_batch(
        self, batch: Any, scores: BatchScores, threshold: Threshold, rows: Sequence[int]
    ) -> None:
        """Prepare for a batch of images that were scored among themselves.

        batch: with the scores of `rows`. scores: of all images. threshold: from `judge`.

        Where RsCIN has smoothed the image scores, the raw scores decide, and labels are set here;
        the smoothed scores are in 0..1 as they are.
        """
        raw = scores.raw_image_scores
        highest = float(raw.max())
        above = float(np.nextafter(np.float32(highest), np.float32(np.inf)))
        level = threshold.value
        self.set_level(level, above if level is None else level)
        self._smoothed = not torch.equal(scores.image_scores, raw)
        if self._smoothed and self.enable_thresholding:
            limit = at_sensitivity(self._image_threshold, self.image_sensitivity)
            batch.pred_label = flagged(raw[list(rows)].to(batch.image.device), limit)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Take the raw scores of labelled images into the threshold, with "f1"."""
        if self.wants_validation:
            self._image_threshold_metric.update(outputs)
            self._pixel_threshold_metric.update(outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Find the thresholds, with "f1"."""
        if not self.wants_validation:
            return
        for metric, threshold in (
            (self._image_threshold_metric, self._image_threshold),
            (self._pixel_threshold_metric, self._pixel_threshold),
        ):
            if metric.update_called:
                found = metric.compute()
                # With good images alone anomalib gives their highest score: flag from above it.
                if not metric._has_anomalous_samples():
                    found = torch.nextafter(found, torch.full_like(found, math.inf))
                threshold.copy_(found)
                metric.reset()
        self.middle.copy_(self.image_threshold)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Label and show a batch; say once that raw scores would mislead some of the metrics."""
        super().on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        found = (outputs.pred_score, outputs.anomaly_map)
        if self._said or not any(each is not None and bool((each > 1).any()) for each in found):
            return
        self._said = True
        logger.warning(
            "scores are raw distances, some above 1: anomalib's AUROC and AUPR take a batch with "
            "such a score for logits, so that their figures depend on the batches; %s",
            "no threshold was found to show scores by: give `threshold` a number, or, with "
            "enable_thresholding, labelled validation images"
            if self.enable_normalization
            else "keep enable_normalization for these metrics",
        )

    def post_process_batch(self, batch: Any) -> None:
        """Label a batch by its raw scores, then show them in 0..1."""
        if self.enable_thresholding:
            self.threshold_batch(batch)
        if self.enable_normalization:
            self.normalize_batch(batch)

    def threshold_batch(self, batch: Any) -> None:
        """Label images and pixels that have no label yet; a threshold never found labels none."""
        if batch.pred_label is None:
            batch.pred_label = self._labels(
                batch.pred_score, self.image_threshold, self.image_sensitivity
            )
        if batch.pred_mask is None:
            batch.pred_mask = self._labels(
                batch.anomaly_map, self.pixel_threshold, self.pixel_sensitivity
            )

    def normalize_batch(self, batch: Any) -> None:
        """Show scores and maps in 0..1."""
        batch.anomaly_map = self._shown(batch.anomaly_map, self._finite(self.pixel_threshold))
        if not self._smoothed:
            batch.pred_score = self._shown(batch.pred_score, self._finite(self.image_threshold))

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Label and show predictions outside the Engine, as of an exported torch model."""
        scores, maps = predictions.pred_score, predictions.anomaly_map
        if scores is None and maps is None:
            raise ValueError("At least one of pred_score or anomaly_map must be provided.")
        if scores is None:
            scores = torch.amax(maps, dim=(-2, -1))
        labels = masks = None
        if self.enable_thresholding:
            labels = self._labels(scores, self.image_threshold, self.image_sensitivity)
            masks = self._labels(maps, self.pixel_threshold, self.pixel_sensitivity)
        if self.enable_normalization:
            scores = self._shown(scores, self._finite(self.image_threshold))
            maps = self._shown(maps, self._finite(self.pixel_threshold))
        return InferenceBatch(
            pred_label=labels, pred_score=scores, pred_mask=masks, anomaly_map=maps
        )

    def _finite(self, threshold: Tensor) -> Tensor:
        """The threshold where it is one, else what stands in for it."""
        return torch.where(torch.isfinite(threshold), threshold, self.middle)

    @staticmethod
    def _labels(raw: Tensor | None, threshold: Tensor, sensitivity: float) -> Tensor | None:
        if raw is None or torch.isnan(threshold):
            return None
        return flagged(raw, at_sensitivity(threshold, sensitivity))

    @staticmethod
    def _shown(raw: Tensor | None, middle: Tensor) -> Tensor | None:
        return raw if raw is None or torch.isnan(middle) else shown(raw, middle)
