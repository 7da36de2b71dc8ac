"""A batch whose copies are left out as references: which images are searched, and against which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..scratch import reserve
from .copies import Copy, without
from .repeats import Repeat
from .sampling import content_order


class Run(Protocol):
    """Patch scores [N, P] float64 of layers [N, P, C], and the defects that repeat among them.

    references: [M, P, C] a layer; None: the batch itself. lists: [N, K], the references that each
    is scored against; None: all. valid, reference_valid: [N, P] and [M, P] bool, the patches that
    count; None: all. main: whether a checkpoint keeps the scores.
    """

    def __call__(
        self,
        layers: list[Tensor],
        references: list[Tensor] | None,
        lists: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        reference_valid: Tensor | None = None,
        main: bool = True,
    ) -> tuple[Tensor, tuple[Repeat, ...]]: ...


@dataclass(frozen=True)
class Distinct:
    """A batch and its copies.

    layers: [N, P, C] a layer. references: [M, P, C] a layer, or None: the batch itself.
    copies: from `find_copies` of these.
    most: how many references an image is scored against at most; None: all.
    folder: where images that are chosen from mapped layers go; None holds them in memory.
    valid, reference_valid: [N, P] and [M, P] bool, the patches that count; None: all.
    """

    layers: list[Tensor]
    references: list[Tensor] | None
    copies: Sequence[Copy]
    most: int | None
    folder: str | None
    valid: Tensor | None = None
    reference_valid: Tensor | None = None

    def scores(self, run: Run) -> tuple[Tensor, tuple[Repeat, ...]]:
        """Patch scores [N, P] float64 and repeats, by runs on images without their copies.

        Of copies the first is a reference of the others, the rest of none. An exact copy has the
        scores of its first; a near one is scored against all references but that.
        Raises InputError where an image has no references left.
        """
        if not self.copies:
            return run(
                self.layers,
                self.references,
                valid=self.valid,
                reference_valid=self.reference_valid,
            )
        return self._of_batch(run) if self.references is None else self._of_references(run)

    def _of_batch(self, run: Run) -> tuple[Tensor, tuple[Repeat, ...]]:
        images = len(self.layers[0])
        kept = without(images, self.copies)
        if len(kept) < 2:
            raise InputError(
                f"tokens: all {images} images are copies of one, so that there is none to be "
                'scored against; give other images, or copies="off"'
            )
        distinct = self._chosen(self.layers, kept, "distinct")
        counted = _rows(self.valid, kept)
        means, repeats = run(distinct, None, valid=counted)
        scores = means.new_empty(images, means.shape[1])
        scores[kept] = means
        near = [copy for copy in self.copies if not copy.exact]
        if near:
            lists = self._others(distinct, [kept.index(copy.of) for copy in near])
            places = [copy.image for copy in near]
            own = [layer[places] for layer in self.layers]
            valid = _rows(self.valid, places)
            scores[places] = run(
                own, distinct, lists, valid=valid, reference_valid=counted, main=False
            )[0]
        repeats = tuple(
            replace(each, images=tuple(kept[place] for place in each.images)) for each in repeats
        )
        for copy in self.copies:
            _take_over(scores, copy, repeats)
        return scores, repeats

    def _of_references(self, run: Run) -> tuple[Tensor, tuple[Repeat, ...]]:
        assert self.references is not None  # the caller looks
        images = len(self.layers[0])
        kept = without(
            len(self.references[0]), [copy for copy in self.copies if copy.among == "references"]
        )
        references = self._chosen(self.references, kept, "references")
        held = {copy.image: copy.of for copy in self.copies if copy.among == "image of reference"}
        if held and len(kept) < 2:
            raise InputError(
                f"references: image {min(held)} is a copy of the only one; give other references, "
                'or copies="off"'
            )
        others = [image for image in range(images) if image not in held]
        scores = self.layers[0].new_empty(images, self.layers[0].shape[1], dtype=torch.float64)
        counted = _rows(self.reference_valid, kept)
        if others:
            own = self._chosen(self.layers, others, "distinct")
            valid = _rows(self.valid, others)
            scores[others] = run(own, references, valid=valid, reference_valid=counted)[0]
        if held:
            lists = self._others(references, [kept.index(of) for of in held.values()])
            own = [layer[list(held)] for layer in self.layers]
            valid = _rows(self.valid, list(held))
            scores[list(held)] = run(
                own, references, lists, valid=valid, reference_valid=counted, main=False
            )[0]
        return scores, ()

    def _others(self, references: list[Tensor], left_out: Sequence[int]) -> Tensor:
        """For each image the references but one, as many as are wanted -> [n, K], ascending."""
        count = len(references[0])
        order = list(range(count))
        if self.most is not None and self.most < count - 1:
            order = content_order(references[0])[: self.most + 1]
        rows = [[place for place in order if place != own] for own in left_out]
        most = min(len(row) for row in rows)
        chosen = [sorted(row[:most]) for row in rows]
        return torch.tensor(chosen, dtype=torch.int64, device="cpu")

    def _chosen(self, layers: list[Tensor], places: list[int], name: str) -> list[Tensor]:
        """Some images of layers, in a mapped file where the layers are mapped."""
        if len(places) == len(layers[0]):
            return layers
        if self.folder is None:
            return [layer[places] for layer in layers]
        chosen = []
        for index, layer in enumerate(layers):
            file = os.path.join(self.folder, f"{name}-{index}.kept")
            shape = (len(places), *layer.shape[1:])
            size = len(places) * layer[0].numel()
            reserve(file, size * layer.element_size())
            found = torch.from_file(file, shared=True, size=size, dtype=layer.dtype, device="cpu")
            for row, place in zip(found.view(shape), places, strict=True):
                row.copy_(layer[place])
            chosen.append(found.view(shape))
        return chosen


def _rows(valid: Tensor | None, images: list[int]) -> Tensor | None:
    """The patches of some images that count; None: all."""
    return None if valid is None else valid[images]


def _take_over(scores: Tensor, copy: Copy, repeats: Sequence[Repeat]) -> None:
    """Give a copy the scores of its first: all of an exact one, else those of repeated defects."""
    if copy.exact:
        scores[copy.image] = scores[copy.of]
        return
    for repeat in repeats:
        if copy.of in repeat.images:
            places = list(repeat.patches)
            scores[copy.image, places] = torch.maximum(
                scores[copy.image, places], scores[copy.of, places]
            )
