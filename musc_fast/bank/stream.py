"""Images one after another, each against a bank of those before it.

RsCIN needs the class tokens of a whole batch, so these are raw image scores. Features are extracted
one image at a time: they, and so the scores, do not depend on how images arrive.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BankError, InputError, MuscFastWarning
from ..features.alignment import frames_of_image
from ..features.batch_images import ImageLike, refuse_one_image
from ..features.extraction import BatchFeatures, Extractor, join_valid
from ..registration import Alignment, Frame, Frames, own_maps
from ..scoring.batch import score_batch
from ..scoring.place import check_all_count
from ..settings import ScoringSettings
from .arguments import free_id
from .eviction import Eviction
from .file import differing
from .reference_bank import ReferenceBank


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

    def __repr__(self) -> str:
        height, width = self.anomaly_map.shape
        count = f"{self.references} reference{'' if self.references == 1 else 's'}"
        return (
            f"<StreamScore of {self.name!r}, raw score {self.raw_score:.4g} against {count}, map "
            f"{height} x {width}>"
        )


def source_of(extractor: Extractor, settings: ScoringSettings) -> dict[str, Any]:
    """What decides the tokens and scores: a bank made with anything else is refused.

    The engine is recorded and not compared: in one precision, engines differ by rounding alone.
    What is ignored is there where anything is.
    """
    backbone, ignored = extractor.backbone, extractor.ignored
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
        "align": extractor.align,
        **settings.unusual(),
        **({} if ignored is None else {"ignore": ignored.key}),
    }


def check_source(bank: ReferenceBank, source: dict[str, Any]) -> None:
    """Raise BankError unless the bank's tokens are of this source; the white level is apart."""
    if differing(bank.source, {**source, "white": None}):
        made = {key: value for key, value in bank.source.items() if key != "frame"}
        raise BankError(
            f"bank: made for {made or 'an unknown source'}, wanted {source}; make it with new_bank"
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


def alignment_of_bank(
    bank: ReferenceBank, extractor: Extractor, images: Sequence[ImageLike]
) -> Alignment:
    """The frame of the bank, chosen from its first images; it keeps that frame, or keeps to none.

    Raises BankError where the bank holds images that were brought onto no frame.
    """
    if extractor.align == "off":
        return Alignment(None, "")
    held = bank.source.get("frame")
    if held is None:
        if len(bank):
            raise BankError(
                f"align: found {extractor.align!r}, the bank holds images that were never "
                "aligned; leave align out, or begin another bank"
            )
        chosen = extractor.alignment_of(images, white=bank.source.get("white"))
        if chosen.note:
            warnings.warn(chosen.note, MuscFastWarning, stacklevel=2)
        bank.source["frame"] = {} if chosen.frame is None else chosen.frame.as_json()
        return Alignment(chosen.frame, "")
    return Alignment(Frame.of_json(held) if held else None, "")


def frames_in_bank(bank: ReferenceBank, extractor: Extractor, image: ImageLike) -> Frames | None:
    """Where an image lies on the bank's frame, for which it is read again; None without a frame.

    Raises ImageError where it cannot be read.
    """
    frame = alignment_of_bank(bank, extractor, [image]).frame
    if frame is None:
        return None
    return frames_of_image(image, frame, extractor.reading, bank.source.get("white"))


def new_bank(
    extractor: Extractor,
    settings: ScoringSettings,
    capacity: int = 200,
    *,
    evict: Eviction = "oldest",
) -> ReferenceBank:
    """An empty bank for the tokens that `extractor` gives and these settings.

    Raises InputError where images would be aligned and patches be compared near their own place.
    """
    all_count = extractor.align == "off" and extractor.ignored is None
    check_all_count(settings, all_count=all_count)
    return ReferenceBank(
        capacity,
        evict=evict,
        source=source_of(extractor, settings),
        grid=extractor.tiling.grid,
        prefix_tokens=extractor.backbone.prefix_tokens,
        image_size=extractor.tiling.image_size,
        degrees=settings.degrees,
        topmin=settings.topmin,
        neighbors=settings.neighbors,
        backend=settings.backend,
        precision=settings.precision,
        memory_limit=settings.memory_limit,
        degree_fusion=settings.degree_fusion,
        copies=settings.copies,
        repeats=settings.repeats,
        **settings.unusual(),
    )


def joined(features: Sequence[BatchFeatures]) -> tuple[list[Tensor], Tensor | None]:
    """The layers of some features as one batch, and the patches that count; None: all."""
    layers = [torch.cat(layer) for layer in zip(*(each.tokens for each in features), strict=True)]
    return layers, join_valid(features)


def score_first(
    bank: ReferenceBank, names: list[str], features: Sequence[BatchFeatures]
) -> list[StreamScore]:
    """Score the first images, two or more, against each other, and put them into the empty bank."""
    layers, valid = joined(features)
    found = score_batch(
        layers,
        grid=bank.grid,
        prefix_tokens=bank.prefix_tokens,
        image_size=bank.image_size,
        valid=valid,
        **bank.scoring.keywords(),
    )
    maps = own_maps(found.anomaly_maps, Frames.join([each.frames for each in features]))
    before, ids = bank.added, list[str]()
    for name in names:
        ids.append(free_id(name, ids))
    bank.add(layers, ids, scores=found.raw_image_scores, valid=valid)
    return [
        StreamScore(name, number, float(raw), anomaly_map, len(names) - 1)
        for number, (name, raw, anomaly_map) in enumerate(
            zip(names, found.raw_image_scores, maps, strict=True), before
        )
    ]


def score_next(bank: ReferenceBank, name: str, features: BatchFeatures) -> StreamScore:
    """Score one image against the bank, and put it there."""
    number, references = bank.added, len(bank)
    ids = [free_id(name, bank.ids)]
    found = bank.score_and_add(features.tokens, ids, valid=features.valid)
    references -= len(found.copies)
    maps = own_maps(found.anomaly_maps, features.frames)
    return StreamScore(name, number, float(found.raw_image_scores[0]), maps[0], references)


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
    source = source_of(extractor, settings)
    bank = new_bank(extractor, settings) if bank is None else bank
    if bank.capacity < start and len(bank) == 0:
        raise InputError(f"start: found {start}, the bank holds at most {bank.capacity}")
    check_source(bank, source)
    refuse_one_image(images)
    first: list[ImageLike] = []
    names: list[str] = []
    for index, image in enumerate(images):
        name = str(image) if _is_path(image) else f"image {index}"
        if len(bank):
            yield score_next(bank, name, features_of(bank, extractor, image))
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


def features_of(bank: ReferenceBank, extractor: Extractor, image: ImageLike) -> BatchFeatures:
    """The features of one image, read with the white level and on the frame of the bank."""
    white_of_bank(bank, extractor, [image])
    alignment = alignment_of_bank(bank, extractor, [image])
    return extractor.extract([image], white=bank.source.get("white"), alignment=alignment)


def _score_start(
    bank: ReferenceBank, extractor: Extractor, names: list[str], images: list[ImageLike]
) -> list[StreamScore]:
    white_of_bank(bank, extractor, images)
    alignment_of_bank(bank, extractor, images)
    return score_first(bank, names, [features_of(bank, extractor, image) for image in images])


def _is_path(image: object) -> bool:
    return isinstance(image, str) or hasattr(image, "__fspath__")
