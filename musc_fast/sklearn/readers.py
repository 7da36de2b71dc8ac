"""From the samples of an estimator to tokens: features as they are, images by a backbone.

A reader is made by `fit` and kept, so that new samples are read as those were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..bank.reference_bank import ReferenceBank
from ..bank.stream import white_of_bank
from ..errors import InputError
from ..features.backbone import checked_device
from ..features.batch_images import ImageLike
from ..musc import MuSc
from ..progress import StageProgress
from ..settings import ReadSettings, ScoringSettings
from .samples import checked_features


class Tokens(NamedTuple):
    """What is scored of N samples.

    layers: [N, prefix + P, C] each. names: [N]. valid: [N, P], the patches that count; None: all.
    """

    layers: tuple[Tensor, ...]
    names: tuple[str, ...]
    valid: Tensor | None = None


class FeatureReader:
    """Reads features.

    shape: grid, prefix_tokens and image_size, as `score_batch` takes them; it belongs to samples of
        patches, a sample of one vector has no use for a grid.
    device: where they are scored.
    """

    def __init__(self, shape: dict[str, Any], settings: ScoringSettings, device: str) -> None:
        self._shape, self._settings = shape, settings
        self._vectors = False
        self.reading = ReadSettings()  # nothing is read
        self.device = _device(device)

    @property
    def shape(self) -> dict[str, Any]:
        """Grid, prefix tokens and size of the maps."""
        return {"image_size": self._shape["image_size"]} if self._vectors else self._shape

    def fit(self, estimator: BaseEstimator, samples: Any) -> Tokens:
        """The tokens and names of the samples of `fit`, two or more."""
        tokens, self._vectors = checked_features(estimator, samples, reset=True, at_least=2)
        return self._tokens(tokens)

    def read(
        self, estimator: BaseEstimator, samples: Any, images: Sequence[ImageLike] | None
    ) -> Tokens:
        """The tokens and names of new samples; InputError where they are not as in `fit`."""
        if images is not None:
            raise InputError("X: found images, wanted features as in fit")
        tokens, vectors = checked_features(estimator, samples, reset=False, at_least=1)
        if vectors != self._vectors:
            forms = ("[n_samples, patches, C]", "[n_samples, C]")
            raise InputError(f"X: found {forms[vectors]}, wanted {forms[self._vectors]} as in fit")
        return self._tokens(tokens)

    def new_bank(self, capacity: int) -> ReferenceBank:
        """An empty bank for these features."""
        settings = self._settings.keywords()
        del settings["max_references"]  # a bank has no use for it
        return ReferenceBank(capacity, **self.shape, **settings)

    def _tokens(self, features: Any) -> Tokens:
        tokens = torch.from_numpy(features).to(self.device)
        return Tokens((tokens,), tuple(f"image {index}" for index in range(len(tokens))))


class ImageReader:
    """Reads images by a backbone.

    arguments: of `MuSc`; the backbone is loaded at once, and again where a copy of this reader,
        which takes none with it, first needs one.
    reading: how the images read last were read.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        if not isinstance(arguments["backbone"], str):
            raise InputError(
                f"backbone: found {type(arguments['backbone']).__name__}, wanted a name; "
                "estimators are cloned, and a loaded backbone cannot be"
            )
        self._arguments = arguments
        self._white: float | None = None
        self._musc: MuSc | None = MuSc(**arguments)
        self.device = str(self._musc.backbone.device)
        self.reading = self._musc.extractor.reading

    @property
    def musc(self) -> MuSc:
        """The MuSc of these arguments."""
        if self._musc is None:
            self._musc = MuSc(**self._arguments)
        return self._musc

    @property
    def shape(self) -> dict[str, Any]:
        """Grid, prefix tokens and size of the maps."""
        backbone = self.musc.backbone
        return {
            "grid": backbone.grid,
            "prefix_tokens": backbone.prefix_tokens,
            "image_size": backbone.image_size,
        }

    def fit(self, images: Sequence[ImageLike], on_progress: StageProgress) -> Tokens:
        """The tokens and names of the samples of `fit`."""
        self._white = self.musc.extractor.white_of(images)
        return self._tokens(images, self._white, on_progress)

    def read(
        self, images: Sequence[ImageLike] | None, bank: ReferenceBank, on_progress: StageProgress
    ) -> Tokens:
        """The tokens and names of new samples, read with the white level of the bank."""
        if images is None:
            raise InputError("X: found features or nothing, wanted paths or images as in fit")
        white_of_bank(bank, self.musc.extractor, images)
        return self._tokens(images, bank.source.get("white"), on_progress)

    def new_bank(self, capacity: int) -> ReferenceBank:
        """An empty bank for images read like these."""
        bank = self.musc.new_bank(capacity)
        if self._white is not None:
            bank.source["white"] = self._white
        return bank

    def _tokens(
        self, images: Sequence[ImageLike], white: float | None, on_progress: StageProgress
    ) -> Tokens:
        self.reading = replace(self.reading, white=white)
        features = self.musc.extract(images, white=white, progress=on_progress)
        return Tokens(features.tokens, features.names, features.valid)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_musc": None}


def _device(name: str) -> str:
    """The device called `name`; raises BackendError where it cannot be used."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(checked_device(name))
