"""Mutual scoring of prepared images, against a bank or among themselves, without anomalib."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bank.reference_bank import ReferenceBank
from ..datasets.find_images import natural_key
from ..errors import BankError
from ..features.extraction import BatchFeatures
from ..musc import MuSc
from ..scoring.scores import BatchScores
from ..threshold import FALSE_ALARMS, ReferenceScale

logger = logging.getLogger(__name__)

_Layers = tuple[Tensor, ...]
_FILE = "bank.safetensors"


class Scorer:
    """Features of images, the bank made of those of a training set, and scores.

    musc: backbone and settings.
    bank_size: images in the bank at most; of more, those whose names have the smallest hashes are
        kept, so that the same images are kept in whatever order they come. None keeps all.

    bank: the references, in natural order of their names; empty until `finish`.
    scale: leave-one-out raw scores of the bank's images [n]; None where they were not measured.
    """

    def __init__(self, musc: MuSc, bank_size: int | None = None) -> None:
        if bank_size is not None and (not isinstance(bank_size, int) or bank_size < 1):
            raise ValueError(f"bank_size: found {bank_size!r}, wanted 1 or more images, or None")
        self.musc = musc
        self.bank_size = bank_size
        self.bank: ReferenceBank | None = None
        self.scale: Tensor | None = None
        self._kept: dict[str, tuple[str, _Layers]] = {}
        self._seen: set[str] = set()

    def features(self, images: Tensor, *, cls: bool = False) -> BatchFeatures:
        """Features of images [N, 3, h, w] in 0..1 of the backbone's size.

        Raises ValueError where the images have another size or range.
        """
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(f"images: found shape {tuple(images.shape)}, wanted [N, 3, h, w]")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images: found values from {low:g} to {high:g}, wanted 0 to 1: the model "
                "normalises them itself; leave Normalize out of the pre-processor"
            )
        backbone = self.musc.backbone
        found = backbone.extract(backbone.normalise(images), cls=cls)
        return _features(found.tokens, found.cls_tokens)

    def collect(self, images: Tensor, names: Sequence[str]) -> None:
        """Take images for the bank; a name that was collected before is not taken again."""
        tokens = self.features(images).tokens
        for row, name in enumerate(names):
            self._seen.add(name)
            key = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
            self._kept[name] = key, tuple(layer[row].clone() for layer in tokens)
            if self.bank_size is not None and len(self._kept) > self.bank_size:
                del self._kept[max(self._kept, key=lambda each: self._kept[each][0])]

    def begin(self) -> None:
        """Forget the bank and what was collected."""
        self._kept, self._seen = {}, set()
        self.bank = self.scale = None

    def finish(self, *, measure: bool) -> None:
        """Make the bank of what was collected; raises ValueError where that is nothing.

        measure: find `scale`, too, where there are two images or more.
        """
        if not self._kept:
            raise ValueError("the bank has no images: fit the model on good or unlabelled images")
        names = sorted(self._kept, key=lambda name: natural_key(Path(name)))
        layers = tuple(
            torch.stack([self._kept[name][1][place] for name in names])
            for place in range(len(self._kept[names[0]][1]))
        )
        if len(names) < len(self._seen):
            logger.warning(
                "the bank holds %d of the %d training images, by bank_size",
                len(names),
                len(self._seen),
            )
        self.bank = self.musc.new_bank(len(names))
        self.bank.add(layers, names)
        self._kept = {}
        if measure and len(names) > 1:
            self.scale = self.musc.leave_one_out(_features(layers)).raw_image_scores

    def level(self, false_alarms: float | None) -> tuple[float | None, float]:
        """The raw score from which on one new image is flagged, and a score to show as 0.5.

        The first is None where the references cannot tell at this rate of false alarms (see
        `ReferenceScale.level`); the second is then their highest score.
        """
        if self.scale is None:
            return None, 1.0
        rate = FALSE_ALARMS if false_alarms is None else false_alarms
        scale = ReferenceScale(self.scale.cpu().numpy())
        if len(scale.suspects) and self.bank is not None:
            names = [self.bank.ids[place] for place in scale.suspects]
            logger.warning(
                "%d of the %d images of the bank stand apart from the others and may be "
                "defective: %s",
                len(names),
                len(self.bank),
                ", ".join(names[:5]),
            )
        level = scale.level(rate)
        return level, float(scale.scores[-1]) if level is None else level

    def against_bank(self, images: Tensor) -> BatchScores:
        """Scores of images [N, 3, h, w] against the bank; raises ValueError where there is none."""
        bank = self._filled()
        return bank.score(self.features(images).tokens)

    def among_themselves(self, batches: Sequence[BatchFeatures]) -> BatchScores:
        """Mutual scores of all images of some features, in their order."""
        tokens = tuple(
            torch.cat(layers) for layers in zip(*(each.tokens for each in batches), strict=True)
        )
        classes = [each.cls_tokens for each in batches if each.cls_tokens is not None]
        count = len(tokens[0])
        if count < 2:
            raise ValueError(
                f"images: found {count}, wanted 2 or more (ten or more for useful scores): "
                "zero_shot scores the images of a test against each other"
            )
        return self.musc.score_features(_features(tokens, torch.cat(classes) if classes else None))

    def state(self) -> dict[str, Any]:
        """The bank's file as bytes, and the scale: what torch loads with weights_only=True."""
        if self.bank is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            self.bank.save(Path(folder) / _FILE)
            file = np.fromfile(Path(folder) / _FILE, np.uint8)
        scale = None if self.scale is None else self.scale.cpu()
        return {"bank": torch.from_numpy(file), "scale": scale}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a bank; raises ValueError where it was made with another backbone or settings."""
        self.begin()
        if not state:
            return
        musc = self.musc
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _FILE
            state["bank"].cpu().numpy().tofile(path)
            try:
                self.bank = ReferenceBank.load(
                    path,
                    source=musc.new_bank(1).source,
                    backend=musc.settings.backend,
                    precision=musc.settings.precision,
                    memory_limit=musc.settings.memory_limit,
                    device=musc.backbone.device,
                )
            except BankError as error:
                raise ValueError(str(error).replace(str(path), "the bank of the checkpoint")) from (
                    error
                )
        self.scale = state["scale"]

    def _filled(self) -> ReferenceBank:
        if self.bank is None or len(self.bank) == 0:
            raise ValueError(
                "the bank is empty: fit the model on good or unlabelled images, load a checkpoint, "
                "or score the images of the test among themselves with zero_shot=True"
            )
        return self.bank


def _features(tokens: _Layers, cls_tokens: Tensor | None = None) -> BatchFeatures:
    """Features of images that came as tensors, without names and files."""
    count = len(tokens[0])
    names = tuple(f"image {k}" for k in range(count))
    return BatchFeatures(tokens, cls_tokens, names, tuple(range(count)), ((0, 0),) * count)
