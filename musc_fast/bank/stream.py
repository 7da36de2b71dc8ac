"""Images one after another, each against a bank of those before it.

RsCIN needs the class tokens of a whole batch, so these are raw image scores. Features are extracted
one image at a time: they, and so the scores, do not depend on how images arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BankError, InputError
from ..features.backbone import Backbone
from ..features.batch_images import ImageLike, refuse_one_image
from ..features.extraction import Extractor
from ..scoring.batch import score_batch
from ..settings import ScoringSettings
from .arguments import free_id
from .file import differing
from .reference_bank import Eviction, ReferenceBank


@dataclass(frozen=True)
class StreamScore:
    """The score of one image.

    name: its path, or "image K". number: how many images the bank had been given before it.
    raw_score: the maximum of anomaly_map [h, w] float32. references: images it was scored against.
    """

    name: str
    number: int
    raw_score: float
    anomaly_map: Tensor
    references: int


def source_of(backbone: Backbone, settings: ScoringSettings) -> dict[str, Any]:
    """What decides the tokens and scores: a bank made with anything else is refused.

    The engine is recorded and not compared: in one precision, engines differ by rounding alone.
    """
    return {
        "backbone": backbone.spec.name,
        "fingerprint": backbone.fingerprint,
        "size": list(backbone.image_size),
        "blocks": list(backbone.blocks),
        "engine": backbone.engine,
        "feature_precision": backbone.precision,
        "degrees": list(settings.degrees),
        "topmin": list(settings.topmin),
        "degree_fusion": settings.degree_fusion,
        "place": settings.place,
    }


def check_source(bank: ReferenceBank, source: dict[str, Any]) -> None:
    """Raise BankError unless the bank's tokens are of this source; the white level is apart."""
    if differing(bank.source, {**source, "white": None}):
        raise BankError(
            f"bank: made for {bank.source or 'an unknown source'}, wanted {source}; make "
            "it with new_bank"
        )


def white_of_bank(bank: ReferenceBank, extractor: Extractor, images: Sequence[ImageLike]) -> None:
    """Give the bank a white level with the first images of more than 8 bits; it keeps that level.

    Raises BankError where the bank's level is another than the one asked for.
    """
    wanted, held = extractor.reading.white, bank.source.get("white")
    if held is None:
        held = extractor.white_of(images)
        if held is not None:
            bank.source["white"] = held
    elif wanted is not None and wanted != held:
        raise BankError(
            f"white: found {wanted:g}, the bank was made with {held:g}; use that, or another bank"
        )


def new_bank(
    backbone: Backbone,
    settings: ScoringSettings,
    capacity: int = 200,
    *,
    evict: Eviction = "oldest",
) -> ReferenceBank:
    """An empty bank for the tokens of `backbone` and these settings."""
    return ReferenceBank(
        capacity,
        evict=evict,
        source=source_of(backbone, settings),
        grid=backbone.grid,
        prefix_tokens=backbone.prefix_tokens,
        image_size=backbone.image_size,
        degrees=settings.degrees,
        topmin=settings.topmin,
        neighbors=settings.neighbors,
        backend=settings.backend,
        precision=settings.precision,
        memory_limit=settings.memory_limit,
        degree_fusion=settings.degree_fusion,
        place=settings.place,
    )


def score_first(
    bank: ReferenceBank, names: list[str], tokens: list[tuple[Tensor, ...]]
) -> list[StreamScore]:
    """Score the first images, two or more, against each other, and put them into the empty bank."""
    layers = [torch.cat(layer) for layer in zip(*tokens, strict=True)]
    found = score_batch(
        layers,
        grid=bank.grid,
        prefix_tokens=bank.prefix_tokens,
        image_size=bank.image_size,
        **bank.scoring.keywords(),
    )
    before, ids = bank.added, list[str]()
    for name in names:
        ids.append(free_id(name, ids))
    bank.add(layers, ids, scores=found.raw_image_scores)
    return [
        StreamScore(name, number, float(raw), anomaly_map, len(names) - 1)
        for number, (name, raw, anomaly_map) in enumerate(
            zip(names, found.raw_image_scores, found.anomaly_maps, strict=True), before
        )
    ]


def score_next(bank: ReferenceBank, name: str, tokens: tuple[Tensor, ...]) -> StreamScore:
    """Score one image against the bank, and put it there."""
    number, references = bank.added, len(bank)
    found = bank.score_and_add(tokens, [free_id(name, bank.ids)])
    return StreamScore(
        name, number, float(found.raw_image_scores[0]), found.anomaly_maps[0], references
    )


def stream(
    extractor: Extractor,
    settings: ScoringSettings,
    images: Iterable[ImageLike],
    *,
    bank: ReferenceBank | None = None,
    start: int = 10,
) -> Iterator[StreamScore]:
    """See `MuSc.stream`."""
    if not isinstance(start, int) or start < 2:
        raise InputError(f"start: found {start!r}, wanted a whole number, 2 or more")
    source = source_of(extractor.backbone, settings)
    bank = new_bank(extractor.backbone, settings) if bank is None else bank
    if bank.capacity < start and len(bank) == 0:
        raise InputError(f"start: found {start}, the bank holds at most {bank.capacity}")
    check_source(bank, source)
    refuse_one_image(images)
    first: list[ImageLike] = []
    names: list[str] = []
    for index, image in enumerate(images):
        name = str(image) if _is_path(image) else f"image {index}"
        if len(bank):
            yield score_next(bank, name, tokens_of(bank, extractor, image))
            continue
        first.append(image)
        names.append(name)
        if len(first) == start:
            yield from _score_start(bank, extractor, names, first)
            first.clear()
    if len(bank) == 0 and names:
        if len(names) == 1:
            raise InputError(
                "images: found one and an empty bank; one image has no others to be scored against"
            )
        yield from _score_start(bank, extractor, names, first)


def tokens_of(bank: ReferenceBank, extractor: Extractor, image: ImageLike) -> tuple[Tensor, ...]:
    """The tokens of one image, read with the white level of the bank."""
    white_of_bank(bank, extractor, [image])
    return extractor.extract([image], white=bank.source.get("white")).tokens


def _score_start(
    bank: ReferenceBank, extractor: Extractor, names: list[str], images: list[ImageLike]
) -> list[StreamScore]:
    white_of_bank(bank, extractor, images)
    return score_first(bank, names, [tokens_of(bank, extractor, image) for image in images])


def _is_path(image: object) -> bool:
    return isinstance(image, str) or hasattr(image, "__fspath__")
