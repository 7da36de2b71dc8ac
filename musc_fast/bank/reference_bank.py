"""ReferenceBank: score new images against earlier ones, with bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backends.base import KeptReferences, Operators
from ..backends.registry import resolve
from ..checks import describe
from ..errors import BackendError, BankError, InputError
from ..scoring.arguments import Tokens, class_tokens, grid_of, map_size, same_layers, token_layers
from ..scoring.layer_passes import Pooling, mean_over_passes
from ..scoring.leave_one_out import leave_one_out
from ..scoring.scores import BatchScores, make_scores
from ..settings import DegreeFusion, ScoringSettings, whole_number
from .arguments import check_ids, finite_scores, json_source, refuse_twice
from .file import Entry, load_bank, save_bank
from .search import BankSearch

Eviction = Literal["oldest", "anomalous"]
_POOLED_TOGETHER = 8  # images, so that the results of all that are added are never held
EVICTIONS: tuple[Eviction, ...] = ("oldest", "anomalous")


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _alone(
    method: Callable[Concatenate[ReferenceBank, _P], _R],
) -> Callable[Concatenate[ReferenceBank, _P], _R]:
    """The method, which one thread at a time runs on a bank."""

    @wraps(method)
    def call(self: ReferenceBank, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class ReferenceBank:
    """The last images of a production line, against which the next are scored.

        bank = ReferenceBank(capacity=200)
        bank.add(tokens_of_good_parts)
        scores = bank.score_and_add(tokens_of_a_new_part, ids=["part-0812"])

    `score` gives what `score_batch(tokens, references=...)` gives against the images of the bank,
    to the bit, without their LNAMD and (on the CPU) without rounding them again.

    capacity: images held at most; a full bank gives up one image for each that is added.
    evict: which image goes: "oldest", or "anomalous", the one with the highest raw score, so that
        defects do not settle in the bank. That may be the new image; images that were never scored
        go first, oldest first.
    source: what the tokens come from, as {"backbone": ..., "size": ...}; `load` refuses a file of
        another source.
    The other arguments are those of `score_batch`; `scoring` holds them as ScoringSettings.

    Several threads may use one bank: each call is whole before the next begins, and
    `score_and_add` lets nothing between its score and its addition.

    Memory: (layers x degrees + 2) x capacity x P x C x 4 bytes, touched as the bank fills.
    Raises InputError naming the argument.
    """

    def __init__(
        self,
        capacity: int = 200,
        *,
        evict: Eviction = "oldest",
        source: Mapping[str, Any] | None = None,
        grid: tuple[int, int] | None = None,
        prefix_tokens: int = 0,
        image_size: int | tuple[int, int] | None = None,
        degrees: Sequence[int] = (1, 3, 5),
        topmin: tuple[float, float] = (0.0, 0.3),
        neighbors: Sequence[int] = (1, 2, 3),
        backend: str = "auto",
        precision: str = "exact",
        memory_limit: int | None = None,
        degree_fusion: DegreeFusion = "scores",
    ) -> None:
        self.scoring = ScoringSettings(
            degrees,
            topmin,
            neighbors,
            backend,
            precision,
            memory_limit,
            degree_fusion=degree_fusion,
        )
        capacity = whole_number("capacity", capacity, 1)
        prefix_tokens = whole_number("prefix_tokens", prefix_tokens, 0)
        if not isinstance(evict, str) or evict not in EVICTIONS:
            raise InputError(f"evict: found {evict!r}, wanted one of {', '.join(EVICTIONS)}")
        self.capacity, self.evict = capacity, evict
        self.source = json_source(source)
        self.grid, self.prefix_tokens, self.image_size = grid, prefix_tokens, image_size
        self._lock = threading.RLock()
        self._entries: list[Entry] = []  # by slot
        self._added = 0
        self._tokens: list[Tensor] = []  # a layer: [capacity, P, C]
        self._references: list[list[KeptReferences]] = []  # a layer: one a search

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        backbone = self.source.get("backbone", "tokens of unknown source")
        return f"<ReferenceBank of {len(self)} of {self.capacity} images, {backbone}>"

    @property
    def entries(self) -> list[Entry]:
        """The images held, in the order in which they were added."""
        with self._lock:
            return sorted(self._entries, key=lambda entry: entry.number)

    @property
    def ids(self) -> list[str]:
        """The ids of the images held, in the order in which they were added."""
        return [entry.id for entry in self.entries]

    @property
    def added(self) -> int:
        """How many images were ever added."""
        return self._added

    @_alone
    def tokens(self) -> list[Tensor]:
        """The patch tokens held, [len, P, C] a layer, in the order of `ids`."""
        slots = sorted(range(len(self)), key=lambda slot: self._entries[slot].number)
        return [layer[slots] for layer in self._tokens]

    @_alone
    def score(
        self, tokens: Tokens, *, cls_tokens: Tensor | NDArray[Any] | None = None
    ) -> BatchScores:
        """Scores of `tokens` (as for `score_batch`) against the images of the bank.

        Raises InputError where the bank is empty or its images have another shape.
        """
        return self._scored(self._checked(tokens), cls_tokens)[0]

    @_alone
    def leave_one_out(self) -> BatchScores:
        """Scores of the images held against each other, in the order of `ids`.

        They are the scale for new images, see `scoring.leave_one_out`. The work is that of a batch
        of `len` images. Raises InputError where the bank holds fewer than two.
        """
        if len(self) < 2:
            raise InputError(f"the bank holds {len(self)} images; 2 or more can score each other")
        grid = grid_of(self.grid, self._tokens[0].shape[1], 0)
        return leave_one_out(self.tokens(), self.scoring, grid=grid, image_size=self.image_size)

    @_alone
    def add(
        self,
        tokens: Tokens,
        ids: Sequence[str] | None = None,
        *,
        scores: Sequence[float] | Tensor | NDArray[Any] | None = None,
    ) -> list[str]:
        """Add images; returns the ids of those that had to go.

        ids: a name for each image, none twice, "image 17" by default.
        scores: raw image scores, where they are known; with evict="anomalous" unknown ones are
            found by scoring against the bank.
        """
        layers = self._checked(tokens)
        refuse_twice(ids, self.ids)
        if scores is None and self.evict == "anomalous" and len(self):
            scores = self._scored(layers, None)[0].raw_image_scores
        return self._add(layers, ids, scores, None)

    @_alone
    def score_and_add(
        self,
        tokens: Tokens,
        ids: Sequence[str] | None = None,
        *,
        cls_tokens: Tensor | NDArray[Any] | None = None,
    ) -> BatchScores:
        """`score`, then `add` with the raw scores found."""
        layers = self._checked(tokens)
        check_ids(ids, len(layers[0]), self._added)
        refuse_twice(ids, self.ids)
        found, pooled = self._scored(layers, cls_tokens)
        self._add(layers, ids, found.raw_image_scores, pooled)
        return found

    @_alone
    def pass_over(self) -> None:
        """Count an image that cannot be read as added, so that the next keeps its number."""
        self._added += 1

    @_alone
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank as one file, complete or not at all."""
        save_bank(path, self.settings(), self.entries, self._added, self.tokens())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        source: Mapping[str, Any] | None = None,
        backend: str = "auto",
        precision: str = "exact",
        memory_limit: int | None = None,
        device: str | torch.device = "cpu",
    ) -> ReferenceBank:
        """The bank that `save` wrote.

        source: what the tokens to be scored come from. Raises BankError where the file is damaged,
        of a later version, or of another source.
        """
        own = ScoringSettings(backend=backend, precision=precision, memory_limit=memory_limit)
        settings, entries, added, tokens = load_bank(path, source)
        layers = [layer.to(device) for layer in tokens]
        try:
            bank = cls(
                **settings, backend=backend, precision=precision, memory_limit=own.memory_limit
            )
            if len(entries) > bank.capacity:
                raise InputError(f"{len(entries)} images, room for {bank.capacity}")
            if entries:
                checked = bank._checked(layers, prefix_tokens=0)
                bank._add(checked, [e.id for e in entries], None, None)
        except BackendError:
            raise
        except (InputError, TypeError, ValueError) as error:  # what the file says, not the caller
            raise BankError(f"{path} cannot be read as a bank: {error}") from None
        bank._entries, bank._added = entries, added
        return bank

    def settings(self) -> dict[str, Any]:
        """The arguments that `save` writes: all that decide the scores."""
        return {
            "capacity": self.capacity,
            "evict": self.evict,
            "source": self.source,
            "grid": self.grid,
            "prefix_tokens": self.prefix_tokens,
            "image_size": self.image_size,
            "degrees": self.scoring.degrees,
            "topmin": self.scoring.topmin,
            "neighbors": self.scoring.neighbors,
            "degree_fusion": self.scoring.degree_fusion,
        }

    def _checked(self, tokens: Tokens, prefix_tokens: int | None = None) -> list[Tensor]:
        """The layers of `tokens` without prefix, of the shape of those held."""
        prefix = self.prefix_tokens if prefix_tokens is None else prefix_tokens
        layers = token_layers("tokens", tokens, prefix)
        same_layers(layers)
        grid_of(self.grid, layers[0].shape[1], prefix)
        self._operators(layers[0])
        if self._tokens:
            for index, (layer, stored) in enumerate(zip(layers, self._tokens, strict=False)):
                same = layer.shape[1:] == stored.shape[1:] and layer.device == stored.device
                if not same or layer.dtype != stored.dtype:
                    raise InputError(
                        f"tokens (layer {index}): found {describe(layer)} on {layer.device}, "
                        f"the bank holds {describe(stored[0])} an image on {stored.device}"
                    )
            if len(layers) != len(self._tokens):
                raise InputError(
                    f"tokens: found {len(layers)} layers, the bank holds {len(self._tokens)}"
                )
        return layers

    def _scored(
        self, layers: list[Tensor], cls_tokens: Tensor | NDArray[Any] | None
    ) -> tuple[BatchScores, list[list[Tensor]]]:
        """The scores, and LNAMD's results by layer and degree."""
        if len(self) == 0:
            raise InputError("the bank is empty: add images before scoring against them")
        classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0])
        images, patches = layers[0].shape[:2]
        grid = grid_of(self.grid, patches, 0)
        search = BankSearch(self.scoring, images, self._references)
        means = mean_over_passes(
            layers,
            self._pooling(layers[0]),
            search,
            on_progress=lambda done, total: None,
        )
        size = map_size(self.image_size, grid, images)
        scores = make_scores(means.reshape(images, *grid), size, classes, self.scoring.neighbors)
        return scores, search.pooled

    def _operators(self, layer: Tensor) -> Operators:
        return resolve(self.scoring.backend, layer.device).operators()

    def _add(
        self,
        layers: list[Tensor],
        ids: Sequence[str] | None,
        scores: Sequence[float] | Tensor | NDArray[Any] | None,
        pooled: list[list[Tensor]] | None,
    ) -> list[str]:
        images = layers[0].shape[0]
        names = check_ids(ids, images, self._added)
        known = [None] * images if scores is None else finite_scores(scores, images)
        self._make_room(layers)
        entries, slots, gone = list(self._entries), dict[int, int](), []
        for image, (name, score) in enumerate(zip(names, known, strict=True)):
            new = Entry(name, score, self._added + image)
            slot = len(entries)
            if slot < self.capacity:
                entries.append(new)
            else:
                slot = self._victim([*entries, new])
                gone.append((entries[slot] if slot < len(entries) else new).id)
                if slot == len(entries):
                    continue  # the new image is the one to go
                entries[slot] = new
            slots[slot] = image
        for index, layer in enumerate(layers):
            self._keep(index, layer, slots, None if pooled is None else pooled[index])
        self._entries = entries
        self._added += images
        return gone

    @torch.no_grad()
    def _keep(
        self, index: int, layer: Tensor, slots: dict[int, int], pooled: list[Tensor] | None
    ) -> None:
        """Put images of layer [N, P, C] number `index` into slots, with LNAMD's results.

        slots: the image by its slot; of the others nothing is computed.
        pooled: LNAMD's results of the whole layer; None computes them, a few images at a time.
        """
        places = sorted(slots.items())
        for first in range(0, len(places), _POOLED_TOGETHER):
            some = places[first : first + _POOLED_TOGETHER]
            images = [image for _, image in some]
            tokens = layer[images]
            results = (
                self._pooling(layer).pool_in_memory(tokens)
                if pooled is None
                else [z[images] for z in pooled]
            )
            for place, (slot, _) in enumerate(some):
                self._tokens[index][slot] = tokens[place]
                for z, references in zip(results, self._references[index], strict=True):
                    references.put(slot, z[place])

    def _pooling(self, layer: Tensor) -> Pooling:
        grid = grid_of(self.grid, layer.shape[1], 0)
        return Pooling(self._operators(layer), grid, self.scoring)

    def _victim(self, entries: list[Entry]) -> int:
        """The place of the entry that goes."""

        def key(slot: int) -> tuple[float, int]:
            entry = entries[slot]
            if self.evict == "oldest":
                return 0.0, -entry.number
            return float("inf") if entry.score is None else entry.score, -entry.number

        return max(range(len(entries)), key=key)

    def _make_room(self, layers: list[Tensor]) -> None:
        """Memory for the tokens and operands, once the shapes are known."""
        if self._tokens:
            return
        for layer in layers:
            _, patches, channels = layer.shape
            self._tokens.append(layer.new_empty(self.capacity, patches, channels))
            operators = self._operators(layer)
            self._references.append(
                [
                    operators.keep_references(self.capacity, patches, channels, layer.device)
                    for _ in range(self.scoring.searches_a_layer)
                ]
            )
