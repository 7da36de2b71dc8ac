"""ReferenceBank: score new images against earlier ones, with bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BackendError, BankError, InputError
from ..progress import Progress
from ..scoring.arguments import Tokens, grid_of, map_size, same_layers, token_layers
from ..scoring.place import check_all_count
from ..scoring.scores import BatchScores
from ..scoring.valid import Valid, valid_patches
from ..settings import DegreeFusion, Place, PoolingName, ScoringSettings, Switch, whole_number
from .alone import alone
from .arguments import check_ids, check_like_held, finite_scores, json_source, refuse_twice
from .eviction import EVICTIONS, Eviction, places_of
from .file import Contents, Entry, load_bank, save_bank
from .own_distances import LeaveOneOut
from .scored import Held
from .slots import Slots

__all__ = ["EVICTIONS", "Eviction", "ReferenceBank"]
_KEPT = ("degrees", "topmin", "neighbors", "degree_fusion", "copies", "repeats")


class ReferenceBank:
    """The last images of a production line, against which the next are scored.

        bank = ReferenceBank(capacity=200)
        bank.add(tokens_of_good_parts)
        scores = bank.score_and_add(tokens_of_a_new_part, ids=["part-0812"])

    `score` gives what `score_batch(tokens, references=...)` gives against the images of the bank,
    to the bit, without their LNAMD and (on the CPU) without rounding them again.

    capacity: images held at most; a full bank gives up one image for each that is added.
    evict: which goes: "oldest", or "anomalous", that with the highest raw score, so that defects do
        not settle in the bank. It may be the new one; those never scored go first, oldest first.
    source: what the tokens come from, as {"backbone": ..., "size": ...}; `load` refuses a file of
        another source.
    copies: "auto" scores a copy of an image held without that one, and does not take it in.
    repeats: "auto" leaves links between images that share a defect out of `leave_one_out`.
    The other arguments are those of `score_batch`; `scoring` holds them as ScoringSettings.

    Several threads may use one bank: each call, `score_and_add` too, is whole before the next.

    Memory: (layers x degrees + 2) x capacity x P x C x 4 bytes, touched as the bank fills; with
    `tiles` (4 x layers x degrees + 2), since blocks of the grid are kept with their surroundings.
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
        place: Place = "off",
        pooling: PoolingName = "lnamd",
        temperature: float = 1.0,
        copies: Switch = "off",
        repeats: Switch = "off",
        tiles: tuple[int, int] | None = None,
        tile_margin: int | None = None,
    ) -> None:
        self.scoring = replace(
            ScoringSettings(degrees, topmin, neighbors, backend, precision, memory_limit),
            degree_fusion=degree_fusion,
            place=place,
            pooling=pooling,
            temperature=temperature,
            copies=copies,
            repeats=repeats,
            tiles=tiles,
            tile_margin=tile_margin,
        )
        capacity = whole_number("capacity", capacity, 1)
        prefix_tokens = whole_number("prefix_tokens", prefix_tokens, 0)
        if not isinstance(evict, str) or evict not in EVICTIONS:
            raise InputError(f"evict: found {evict!r}, wanted one of {', '.join(EVICTIONS)}")
        self.capacity, self.evict = capacity, evict
        self.source = json_source(source)
        self.grid, self.prefix_tokens, self.image_size = grid, prefix_tokens, image_size
        self._lock = threading.RLock()
        self._entries, self._added = list[Entry](), 0  # the entries by slot
        self._slots = Slots(capacity, grid, self.scoring)
        self._leave_one_out: LeaveOneOut | None = None  # of the images as they are

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

    @alone
    def tokens(self) -> list[Tensor]:
        """The patch tokens held, [len, P, C] a layer, in the order of `ids`."""
        return self._tokens_of(self._slots_in_order())

    @alone
    def valid(self) -> Tensor | None:
        """The patches that count, [len, P] bool in the order of `ids`; None where all do."""
        return self._slots.valid_of(self._slots_in_order())

    @alone
    def score(
        self,
        tokens: Tokens,
        *,
        cls_tokens: Tensor | NDArray[Any] | None = None,
        valid: Valid | None = None,
    ) -> BatchScores:
        """Scores of `tokens` (as for `score_batch`) against the images of the bank.

        valid: [N, P] bool, the patches that count; None: all. The bank keeps those of its images.

        `copies` of the result tells copies of images held, by their places in `entries`.
        Raises InputError where the bank is empty or its images have another shape.
        """
        layers = self._checked(tokens)
        return self._held().score(layers, cls_tokens, self._counted(valid, layers))[0]

    @alone
    def add(
        self,
        tokens: Tokens,
        ids: Sequence[str] | None = None,
        *,
        scores: Sequence[float] | Tensor | NDArray[Any] | None = None,
        valid: Valid | None = None,
    ) -> list[str]:
        """Add images; returns the ids of those that had to go, or were copies and not taken in.

        ids: a name for each image, none twice, "image 17" by default.
        scores: raw image scores, where they are known; with evict="anomalous" unknown ones are
            found by scoring against the bank.
        valid: as for `score`.
        """
        layers = self._checked(tokens)
        check_ids(ids, len(layers[0]), self._added)
        refuse_twice(ids, self.ids)
        counted = self._counted(valid, layers)
        if scores is None and self.evict == "anomalous" and len(self):
            scores = self._held().score(layers, None, counted)[0].raw_image_scores
        return self._add(layers, ids, scores, None, counted, self._held().copies_in(layers))

    @alone
    def score_and_add(
        self,
        tokens: Tokens,
        ids: Sequence[str] | None = None,
        *,
        cls_tokens: Tensor | NDArray[Any] | None = None,
        valid: Valid | None = None,
    ) -> BatchScores:
        """`score`, then `add` with the raw scores found."""
        layers = self._checked(tokens)
        check_ids(ids, len(layers[0]), self._added)
        refuse_twice(ids, self.ids)
        counted = self._counted(valid, layers)
        found, pooled = self._held().score(layers, cls_tokens, counted)
        copies = self._held().copies_in(layers)
        self._add(layers, ids, found.raw_image_scores, pooled, counted, copies)
        return found

    @alone
    def leave_one_out(self, *, on_progress: Progress = lambda done, total: None) -> LeaveOneOut:
        """What each image held scores against the others: the scale for new images.

        The interval mean is over the ranks that it has for a new image against all: these are the
        scores, to the bit, of `score_batch` of the images held with those ranks as `topmin`.
        The first call takes the work of that; from then on the bank keeps the distances among its
        images up to date and saves them. Each image added then takes two searches more, and the
        memory is searches x capacity x P x capacity x 4 bytes.

        Raises InputError where the bank holds fewer than two images.
        """
        count = len(self)
        if count < 2:
            raise InputError(f"the bank holds {count} images, wanted two or more to leave one out")
        if self._leave_one_out is None:
            means = self._slots.means(count, on_progress)
            grid, valid = grid_of(self.grid, means.shape[1], 0), self.valid()
            self._leave_one_out = LeaveOneOut.of(
                self.entries,
                means[self._slots_in_order()].reshape(count, *grid),
                map_size(self.image_size, grid, count),
                None if valid is None else valid.view(count, *grid),
            )
        return self._leave_one_out

    @property
    def knows_itself(self) -> bool:
        """Whether the distances among the images are kept, see `leave_one_out`."""
        return self._slots.distances is not None

    @alone
    def set_scores(self, scores: Mapping[int, float]) -> None:
        """Give images their raw scores, by running number (`Entry.number`)."""
        self._entries = [
            replace(entry, score=float(scores[entry.number])) if entry.number in scores else entry
            for entry in self._entries
        ]
        self._leave_one_out = None

    @alone
    def remove(self, numbers: Collection[int]) -> list[str]:
        """Take the images with these running numbers (`Entry.number`) out; returns their ids.

        Raises InputError where the bank does not hold one of them; it is then as before.
        """
        held = {entry.number: entry for entry in self.entries}
        absent = set(numbers) - set(held)
        if absent:
            raise InputError(f"numbers: found {min(absent)}, which the bank does not hold")
        gone = [entry for number, entry in held.items() if number in set(numbers)]
        if gone:
            slots = [s for s in self._slots_in_order() if self._entries[s] not in gone]
            self._start_anew(slots)
        return [entry.id for entry in gone]

    @alone
    def pass_over(self) -> None:
        """Count an image that cannot be read as added, so that the next keeps its number."""
        self._added += 1

    @alone
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank as one file, complete or not at all."""
        slots = self._slots_in_order()
        tokens, distances = self.tokens(), self._distances_of(slots)
        save_bank(
            path,
            Contents(self.settings(), self.entries, self._added, tokens, distances, self.valid()),
        )

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
        stored = load_bank(path, source)
        entries = stored.entries
        layers = [layer.to(device) for layer in stored.tokens]
        try:
            bank = cls(
                **stored.settings,
                backend=backend,
                precision=precision,
                memory_limit=own.memory_limit,
            )
            if len(entries) > bank.capacity:
                raise InputError(f"{len(entries)} images, room for {bank.capacity}")
            if entries:
                checked = bank._checked(layers, prefix_tokens=0)
                counted = bank._counted(stored.valid, checked)
                bank._add(checked, [e.id for e in entries], None, None, counted)
                bank._slots.take_distances([each.to(device) for each in stored.distances])
        except BackendError:
            raise
        except (InputError, TypeError, ValueError) as error:  # what the file says, not the caller
            raise BankError(f"{path} cannot be read as a bank: {error}") from None
        bank._entries, bank._added = entries, stored.added
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
            **{name: getattr(self.scoring, name) for name in _KEPT},
            **self.scoring.unusual(),
        }

    def _checked(self, tokens: Tokens, prefix_tokens: int | None = None) -> list[Tensor]:
        """The layers of `tokens` without prefix, of the shape of those held."""
        prefix = self.prefix_tokens if prefix_tokens is None else prefix_tokens
        layers = token_layers("tokens", tokens, prefix)
        same_layers(layers)
        grid_of(self.grid, layers[0].shape[1], prefix)
        self._slots.operators(layers[0])
        check_like_held(layers, self._slots.tokens)
        return layers

    def _counted(self, valid: Valid | None, layers: list[Tensor]) -> Tensor | None:
        """`valid` of layers [N, P, C], checked; None where all patches count."""
        counted = valid_patches("valid", valid, layers[0])
        check_all_count(self.scoring, all_count=counted is None)
        return counted

    def _held(self) -> Held:
        """The images held, as new ones are scored against them."""
        order = self._slots_in_order()
        return Held(self._slots, order, self.grid, self.image_size, self.scoring)

    def _add(
        self,
        layers: list[Tensor],
        ids: Sequence[str] | None,
        scores: Sequence[float] | Tensor | NDArray[Any] | None,
        pooled: list[list[Tensor]] | None,
        valid: Tensor | None,
        copies: Collection[int] = (),
    ) -> list[str]:
        images = layers[0].shape[0]
        names = check_ids(ids, images, self._added)
        known = [None] * images if scores is None else finite_scores(scores, images)
        new = [
            None if image in copies else Entry(name, score, self._added + image)
            for image, (name, score) in enumerate(zip(names, known, strict=True))
        ]
        places = places_of(self._entries, new, self.capacity, self.evict)
        copied = [names[image] for image in sorted(copies)]
        self._leave_one_out = None
        self._slots.put(layers, places.slots, len(places.entries), pooled, valid)
        self._entries = places.entries
        self._added += images
        return copied + places.gone

    def _slots_in_order(self) -> list[int]:
        """The slots filled, in the order in which their images were added."""
        return sorted(range(len(self)), key=lambda slot: self._entries[slot].number)

    def _tokens_of(self, slots: list[int]) -> list[Tensor]:
        return [layer[slots] for layer in self._slots.tokens]

    def _distances_of(self, slots: list[int]) -> list[Tensor]:
        """The distances among the images of some slots, [n, P, n] a search, where known."""
        known = self._slots.distances
        return [] if known is None else known.of(slots)

    def _start_anew(self, slots: list[int]) -> None:
        """Hold the images of some slots alone, in this order."""
        entries, added = [self._entries[slot] for slot in slots], self._added
        layers, distances = self._tokens_of(slots), self._distances_of(slots)
        valid = self._slots.valid_of(slots)
        self._slots = Slots(self.capacity, self.grid, self.scoring)
        self._entries, self._leave_one_out = [], None
        if entries:
            self._add(layers, [entry.id for entry in entries], None, None, valid)
            self._slots.take_distances(distances)
        self._entries, self._added = entries, added
