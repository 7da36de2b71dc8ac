"""What waits for the pictures: size and tiles of a backbone's input, where they are "auto"."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar, cast

from ..errors import MuscFastWarning
from ..settings import ScoringSettings
from .backbone import Backbone
from .batch_images import Images, as_sequence
from .extraction import Extractor
from .fit import Fit, Open, shapes_of

_F = TypeVar("_F", bound="FitsImages")


class FitsImages:
    """A backbone with its extractor and settings, of which another can be made for pictures.

    notes: what was chosen for the pictures, a sentence a kind.
    timings: seconds by stage.
    """

    backbone: Backbone
    settings: ScoringSettings
    extractor: Extractor
    notes: tuple[str, ...]
    timings: dict[str, float]
    _open: Open
    _load: Callable[..., Backbone]
    _fitted: FitsImages | None

    @property
    def is_fitted(self) -> bool:
        """Whether neither size nor tiles are "auto", so that `extract` and banks can be used."""
        return not self._open.any

    @property
    def size_text(self) -> str:
        """Height and width of the backbone's input, and the tiles, in words."""
        size = "auto" if self._open.size else "x".join(map(str, self.backbone.image_size))
        if self._open.tiles or self.settings.tiles is None:
            return f"{size} in auto tiles" if self._open.tiles else size
        return f"{size} in {self.settings.tiles[0]}x{self.settings.tiles[1]} tiles"

    def fitted(self: _F, images: Images, *others: Images) -> _F:
        """This with the size and tiles that suit a batch, where they are "auto"; else itself.

        images, others: all that is scored together, as for `score`. What is chosen follows from the
        shapes of the images alone; a warning says it, and `notes` of what is returned.
        """
        if not self._open.any:
            return self
        reading = self.extractor.reading
        shapes = [
            shape for some in (images, *others) for shape in shapes_of(as_sequence(some), reading)
        ]
        found = self._open.fit(shapes, self.backbone, self.settings.tiles)
        for note in found.notes:
            warnings.warn(note, MuscFastWarning, stacklevel=2)
        return self._sized(found)

    def fitted_to_bank(self: _F, source: Mapping[str, Any]) -> _F:
        """This object with the size and tiles of a bank (its `source`), where they are "auto"."""
        if not self._open.any:
            return self
        return self._sized(self._open.fit_to_bank(source, self.backbone, self.settings.tiles))

    def _sized(self: _F, found: Fit) -> _F:
        """This with the size and tiles that were found; kept for the next batch like this."""
        kept = self._fitted
        if kept is not None and (kept.backbone.image_size, kept.settings.tiles) == found.choice:
            same: _F = copy(cast(_F, kept))
            same.notes, same.timings = found.notes, dict(kept.timings)
            return same
        start = perf_counter()
        musc = copy(self)
        if found.image_size != self.backbone.image_size:
            musc.backbone = self._load(image_size=found.image_size)
        musc.settings = replace(self.settings, tiles=found.tiles)
        musc.extractor = self.extractor.like(musc.backbone, tiles=found.tiles or (1, 1))
        musc._open, musc.notes = Open(False, False), found.notes
        loading = self.timings["loading"] + perf_counter() - start
        musc.timings = {"loading": loading}
        self._fitted = musc
        return musc
