"""MuSc for images: read -> backbone -> score_batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from .backends.registry import resolve
from .bank.eviction import Eviction
from .bank.reference_bank import ReferenceBank
from .bank.stream import StreamScore, new_bank, stream
from .datasets.find_images import find_images
from .datasets.ignored import Ignore, IgnoredRegions
from .errors import InputError, MuscFastWarning
from .features import Backbone, load_backbone
from .features.backbone import checked_device, refuse_second
from .features.batch_images import ImageLike, Images, as_sequence, check_apart, refuse_one_image
from .features.extraction import BatchFeatures, Extractor
from .features.fit import Open, Tiles, asks_auto, check_tiles_alone
from .features.fits_images import FitsImages
from .image_scores import ImageScores, Judge, with_verdicts
from .progress import StageProgress, stages_of
from .recipes import DEFAULT_RECIPE, get_recipe
from .registration import Alignment, own_maps
from .scoring.batch import check_repeats, score_batch
from .scoring.findings import sentences
from .scoring.leave_one_out import leave_one_out
from .scoring.place import check_all_count
from .scoring.scores import BatchScores
from .settings import (
    Align,
    DegreeFusion,
    Place,
    PoolingName,
    ReadSettings,
    ScoringSettings,
    Similarity,
    Switch,
    check_similarity,
    checked_align,
    whole_number,
)
from .threshold import Rule

DEFAULT_BACKBONE = "dinov2-vit-s-14"


class MuSc(FitsImages):
    """Zero-shot anomaly scores of a batch of images.

        scores = MuSc("dinov2-vit-s-14").score(["a.png", "b.png", "c.png"])

    backbone: a name from `musc_fast.features.available_backbones()`, `open_clip:NAME/PRETRAINED`,
        `timm:NAME`, or a loaded `Backbone`.
    image_size: int or (h, w), a multiple of the patch; images are squashed to it. None takes the
        backbone's own. "auto" keeps the shape of the images of a batch with as many patches as
        that has, see `features.fit`.
    blocks: 0-based blocks whose tokens are used; None takes those of the recipe.
    weights: a local weight file.
    offline: never ask a hub or a package index.
    device: "auto" takes CUDA where there is one.
    batch_size: images a forward pass; OpenVINO takes them one by one.
    recipe: a name from `musc_fast.recipes.RECIPES`, which sets blocks, `degrees`, `degree_fusion`,
        `copies` and `use_cls` where these are None. "paper" is the official one.
    use_cls: False leaves RsCIN out, and with it the blocks after the last of `blocks`.
    engine: what computes the backbone: "auto", "openvino" or "torch", see `load_backbone`.
    feature_precision: in which it computes: "auto", "fp32" or "bf16".
    white: the value that is white in images of more than 8 bits a channel, as 4095; None: what
        their files state, else the smallest of 1023, 4095, 16383 and 65535 that holds the batch.
    max_pixels: images with more pixels are refused; None: 179 million.
    align: "rigid" or "similarity" bring every image onto one of the batch, the frame, before its
        features are taken: by shift and turn, and by scale, too; "auto" does so by shift and turn
        where the images show one thing in other places. Maps come back in each image's own frame.
    ignore: what is left out of every picture: the file of a mask (what is not black is left out), a
        bool array [h, w], a box "x,y,w,h%" in percent of the picture, or several of these. Patches
        of which more than a quarter is ignored are not scored, and nothing is compared with them.
    tiles: (rows, columns): images are resized to so many inputs of the backbone, cut into them, and
        searched tile by tile; for large images with small defects. "auto" takes tiles where images
        are four times as large as the input or more. None: none.
    notify: called with a line of text before a download or conversion.
    The other arguments are those of `score_batch`; `settings` holds them as ScoringSettings.

    Several threads may score with one MuSc; `timings` are then those of the call that ended last.

    Raises InputError for a wrong argument, WeightsError where the weights cannot be had,
    BackendError where the backend cannot run.
    """

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        *,
        image_size: int | tuple[int, int] | Literal["auto"] | None = None,
        blocks: Sequence[int] | None = None,
        weights: str | os.PathLike[str] | None = None,
        offline: bool = False,
        device: str = "auto",
        batch_size: int = 4,
        recipe: str = DEFAULT_RECIPE,
        use_cls: bool | None = None,
        degrees: Sequence[int] | None = None,
        topmin: tuple[float, float] = (0.0, 0.3),
        neighbors: Sequence[int] = (1, 2, 3),
        backend: str = "auto",
        precision: str = "exact",
        memory_limit: int | None = None,
        max_references: int | None = None,
        degree_fusion: DegreeFusion | None = None,
        place: Place = "off",
        pooling: PoolingName = "lnamd",
        temperature: float = 1.0,
        similarity: Similarity = "class",
        copies: Switch | None = None,
        repeats: Switch = "off",
        engine: str = "auto",
        feature_precision: str = "auto",
        white: float | None = None,
        max_pixels: int | None = None,
        align: Align = "off",
        ignore: Ignore | None = None,
        tiles: Tiles = None,
        tile_margin: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        batch_size = whole_number("batch_size", batch_size, 1, 1 << 20)
        align = checked_align(align)
        start = perf_counter()
        reading = ReadSettings(white) if max_pixels is None else ReadSettings(white, max_pixels)
        ignored = IgnoredRegions.of(ignore, reading)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = get_recipe(recipe)
        self.recipe = chosen.name
        self.settings = ScoringSettings(
            chosen.degrees if degrees is None else degrees,
            topmin,
            neighbors,
            backend,
            precision,
            memory_limit,
            max_references,
            degree_fusion=chosen.degree_fusion if degree_fusion is None else degree_fusion,
            place=place,
            pooling=pooling,
            temperature=temperature,
            similarity=similarity,
            copies=chosen.copies if copies is None else copies,
            repeats=repeats,
            tiles=None if isinstance(tiles, str) else tiles,
            tile_margin=tile_margin,
        )
        if place != "auto":
            check_all_count(self.settings, all_count=ignored is None)
        check_similarity(use_cls, similarity)
        check_tiles_alone(tiles, tile_margin, ignored is not None or align != "off")
        self._open = Open(asks_auto("image_size", image_size), asks_auto("tiles", tiles))
        if isinstance(backbone, Backbone):
            refuse_second(image_size, blocks, weights, engine, feature_precision)
            self.backbone = backbone
        else:
            resolve(backend, checked_device(device))  # before the model is loaded
            chosen_blocks = chosen.blocks(backbone) if blocks is None else blocks
            how: dict[str, Any] = {"device": device, "offline": offline, "progress": notify}
            load = partial(load_backbone, backbone, blocks=chosen_blocks, weights=weights, **how)
            self._load = partial(load, engine=engine, feature_precision=feature_precision)
            size = None if isinstance(image_size, str) else image_size
            self.backbone = self._load(image_size=size)
        resolve(backend, self.backbone.device)
        rscin = chosen.choice(self.backbone.spec.name).rscin
        self.use_cls = (rscin if use_cls is None else use_cls) and similarity == "class"
        self.extractor = Extractor(
            self.backbone,
            batch_size,
            reading,
            cls=self.use_cls,
            align=align,
            ignored=ignored,
            tiles=self.settings.tiles,
        )
        self.notes = ()
        self._fitted = None
        self.timings: dict[str, float] = {"loading": perf_counter() - start}

    def score(
        self,
        images: Images,
        *,
        references: Images | None = None,
        threshold: float | None = None,
        expected_defect_rate: float | None = None,
        false_alarms: float | None = None,
        rule: Rule | None = None,
        look_share: float | None = None,
        progress: bool | StageProgress = False,
    ) -> ImageScores:
        """Score images against each other, or against `references`, and decide which stand out.

        images: a folder, or a sequence of paths, PIL images or arrays (h, w[, 3], uint8, uint16 or
            floats in 0..1, which are rounded to 8 bits), or one tensor [N, 3, h, w] of floats in
            0..1. Colours are in the order RGB; arrays of OpenCV are BGR: turn each by
            `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)` or `image[:, :, ::-1]`.
            The maps have the backbone's `image_size`.
        references: images in the same form, most of them good; two or more also decide.
        threshold, expected_defect_rate, false_alarms, rule, look_share: how to decide, see
            `image_scores.Judge`.
        progress: True draws bars, a function is called with (stage, done, total).

        Raises ImageError listing every unreadable image, InputError for a wrong argument.
        """
        judge = Judge(rule, false_alarms, threshold, expected_defect_rate, look_share)
        with stages_of(progress) as on_progress:
            images = as_sequence(images)
            check_repeats(self.settings, references is not None)
            if references is not None:
                judge.check_references()
                references = as_sequence(references)
                check_apart(images, references)
            others = () if references is None else references
            musc = self.fitted(images, others)
            white = musc.extractor.white_of(images, others)
            extract = partial(
                musc.extract,
                white=white,
                alignment=musc.extractor.alignment_of(images, others, white=white),
                progress=on_progress,
            )
            query = extract(images)
            good = None if references is None else extract(references)
            scores = musc.score_features(query, good, progress=on_progress)
            scale = musc.scale_for(judge, good, scores, progress=on_progress)
            self.timings = musc.timings
            reading = replace(musc.extractor.reading, white=white)
            return with_verdicts(scores, query.names, judge(scores, scale), reading)

    def scale_for(
        self,
        judge: Judge,
        references: BatchFeatures | None,
        scores: BatchScores,
        *,
        progress: StageProgress | None = None,
    ) -> BatchScores | None:
        """Leave-one-out scores of two references or more, by which `judge` decides; else None.

        scores: of the images scored against them, whose patches were compared as far.
        """
        if references is None or len(references.names) < 2 or not judge.asks_references:
            return None
        place: Place = "off" if scores.place is None else scores.place
        return self.leave_one_out(references, place=place, progress=progress)

    def __repr__(self) -> str:
        backbone, settings = self.backbone, self.settings
        return (
            f"<MuSc {backbone.spec.name} at {self.size_text.replace('x', ' x ')}, "
            f"recipe {self.recipe}, "
            f"{backbone.engine} {backbone.precision} on {backbone.device}, "
            f"backend {settings.backend}>"
        )

    def score_features(
        self,
        query: BatchFeatures,
        references: BatchFeatures | None = None,
        *,
        progress: StageProgress | None = None,
    ) -> BatchScores:
        """`score_batch` on features from `extract`, timed as stage "scoring".

        The maps of images that were moved onto a frame come back in the images' own frames;
        `patch_scores` are on the grid of the frame. Warns of copies, and of defects that repeat, by
        name. Raises InputError where the references were resized or cut otherwise than the images.
        """
        start = perf_counter()
        if references is not None and references.tiling != query.tiling:
            raise InputError(
                f"references: found {references.image_size} in {references.tiling.tiles} tiles, "
                f"wanted {query.image_size} in {query.tiling.tiles}, as the images"
            )
        result = score_batch(
            query.tokens,
            cls_tokens=query.cls_tokens if self.use_cls else None,
            references=None if references is None else references.tokens,
            grid=query.grid,
            prefix_tokens=self.backbone.prefix_tokens,
            image_size=query.image_size,
            valid=query.valid,
            reference_valid=None if references is None else references.valid,
            progress=(lambda done, of: progress("scoring", done, of)) if progress else False,
            **replace(self.settings, tiles=query.tiling.tiles).keywords(),
        )
        result = in_own_frames(result, query)
        self.timings["features"] = query.seconds + (references.seconds if references else 0.0)
        self.timings["scoring"] = perf_counter() - start
        for sentence in sentences(
            result, query.names, () if references is None else references.names
        ):
            warnings.warn(sentence, MuscFastWarning, stacklevel=2)
        return result

    def leave_one_out(
        self,
        references: BatchFeatures,
        *,
        place: Place | None = None,
        progress: StageProgress | None = None,
    ) -> BatchScores:
        """Scores of n references against each other, as a scale for images scored against them.

        place: how far patches are compared; None: as in the settings.
        See `scoring.leave_one_out`. Raises InputError for fewer than two references.
        """
        settings = replace(self.settings, tiles=references.tiling.tiles)
        if place is not None:
            settings = replace(settings, place=place)
        return leave_one_out(
            references.tokens,
            settings,
            grid=references.grid,
            prefix_tokens=self.backbone.prefix_tokens,
            image_size=references.image_size,
            valid=references.valid,
            progress=(lambda done, of: progress("references", done, of)) if progress else False,
        )

    def new_bank(self, capacity: int = 200, *, evict: Eviction = "oldest") -> ReferenceBank:
        """An empty `ReferenceBank` for this backbone and these settings.

        Raises InputError where size or tiles are "auto" still: `fitted` decides them.
        """
        self._open.refuse("new_bank")
        return new_bank(self.extractor, self.settings, capacity, evict=evict)

    def stream(
        self,
        images: str | os.PathLike[str] | Iterable[ImageLike],
        *,
        bank: ReferenceBank | None = None,
        start: int = 10,
    ) -> Iterator[StreamScore]:
        """Score images one after another, each against the bank of those before it.

        images: a folder, or any iterable, also an endless one, of images as for `score`.
        bank: continues an earlier one (`new_bank`, `ReferenceBank.load`); it takes up every image
            that is scored. None: a new one of 200 images.
        start: with an empty bank, the first images are scored against each other, and yielded when
            there are so many; fewer, if `images` ends before.

        Yields raw scores (RsCIN needs a whole batch). Raises ImageError at an unreadable image,
        which ends the stream, InputError for a wrong argument, BankError for a bank of another
        backbone or other settings.
        """
        if isinstance(images, str | os.PathLike):
            images = find_images([Path(images)])
        musc: MuSc = self
        refuse_one_image(images)
        if self._open.any and bank is not None:
            musc = self.fitted_to_bank(bank.source)
        elif self._open.any and isinstance(start, int):
            rest = iter(images)
            first = list(islice(rest, max(start, 0)))
            musc, images = self.fitted(first), chain(first, rest)
        extractor = musc.extractor.like(musc.backbone, batch_size=1, cls=False)
        yield from stream(extractor, musc.settings, images, bank=bank, start=start)

    def extract(
        self,
        images: Images,
        *,
        skip_bad: bool = False,
        white: float | None = None,
        alignment: Alignment | None = None,
        progress: StageProgress | None = None,
    ) -> BatchFeatures:
        """Return the features of the images; see `features.extraction.Extractor.extract`.

        Raises InputError where size or tiles are "auto" still: `fitted` decides them.
        """
        self._open.refuse("extract")
        return self.extractor.extract(
            images, skip_bad=skip_bad, white=white, alignment=alignment, progress=progress
        )


def in_own_frames(scores: BatchScores, features: BatchFeatures) -> BatchScores:
    """The scores of images with their maps in the images' own frames, not in the batch's."""
    return replace(scores, anomaly_maps=own_maps(scores.anomaly_maps, features.frames))
