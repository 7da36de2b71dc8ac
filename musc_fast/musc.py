"""MuSc for images: read -> backbone -> score_batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch

from .backends.registry import resolve
from .bank.reference_bank import Eviction, ReferenceBank
from .bank.stream import StreamScore, new_bank, stream
from .datasets.find_images import find_images
from .errors import InputError
from .features import Backbone, load_backbone
from .features.backbone import checked_device
from .features.batch_images import ImageLike, Images, as_sequence, check_apart
from .features.extraction import BatchFeatures, Extractor
from .image_scores import ImageScores, Judge, with_verdicts
from .progress import StageProgress, stages_of
from .recipes import DEFAULT_RECIPE, get_recipe
from .scoring.batch import score_batch
from .scoring.leave_one_out import leave_one_out
from .scoring.scores import BatchScores
from .settings import DegreeFusion, Place, ReadSettings, ScoringSettings, whole_number
from .threshold import Rule

DEFAULT_BACKBONE = "dinov2-vit-s-14"


class MuSc:
    """Zero-shot anomaly scores of a batch of images.

        scores = MuSc("dinov2-vit-s-14").score(["a.png", "b.png", "c.png"])

    backbone: a name from `musc_fast.features.available_backbones()`, `open_clip:NAME/PRETRAINED`,
        `timm:NAME`, or a loaded `Backbone`.
    image_size: int or (h, w), a multiple of the patch; images are squashed to it. None takes the
        backbone's own.
    blocks: 0-based blocks whose tokens are used; None takes those of the recipe.
    weights: a local weight file.
    offline: never ask a hub or a package index.
    device: "auto" takes CUDA where there is one.
    batch_size: images a forward pass; OpenVINO takes them one by one.
    recipe: a name from `musc_fast.recipes.RECIPES`, which sets blocks, `degrees`, `degree_fusion`
        and `use_cls` where these are None. "paper" is the official one.
    use_cls: False leaves RsCIN out, and with it the blocks after the last of `blocks`.
    engine: what computes the backbone: "auto", "openvino" or "torch", see `load_backbone`.
    feature_precision: in which it computes: "auto", "fp32" or "bf16".
    white: the value that is white in images of more than 8 bits a channel, as 4095; None: what
        their files state, else the smallest of 1023, 4095, 16383 and 65535 that holds the batch.
    max_pixels: images with more pixels are refused; None: 179 million.
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
        image_size: int | tuple[int, int] | None = None,
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
        engine: str = "auto",
        feature_precision: str = "auto",
        white: float | None = None,
        max_pixels: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        batch_size = whole_number("batch_size", batch_size, 1, 1 << 20)
        start = perf_counter()
        reading = ReadSettings(white) if max_pixels is None else ReadSettings(white, max_pixels)
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
        )
        if isinstance(backbone, Backbone):
            _refuse_second(image_size, blocks, weights, engine, feature_precision)
            self.backbone = backbone
        else:
            resolve(backend, checked_device(device))  # before the model is loaded
            self.backbone = load_backbone(
                backbone,
                image_size=image_size,
                blocks=chosen.blocks(backbone) if blocks is None else blocks,
                weights=None if weights is None else Path(weights),
                device=device,
                offline=offline,
                progress=notify,
                engine=engine,
                feature_precision=feature_precision,
            )
        resolve(backend, self.backbone.device)
        rscin = chosen.choice(self.backbone.spec.name).rscin
        self.use_cls = rscin if use_cls is None else use_cls
        self.extractor = Extractor(self.backbone, batch_size, reading, cls=self.use_cls)
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
        progress: bool | StageProgress = False,
    ) -> ImageScores:
        """Score images against each other, or against `references`, and decide which stand out.

        images: a folder, or a sequence of paths, PIL images or arrays (h, w[, 3], uint8, uint16 or
            floats in 0..1, which are rounded to 8 bits), or one tensor [N, 3, h, w] of floats in
            0..1. Colours are in the order RGB; arrays of OpenCV are BGR: turn each by
            `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)` or `image[:, :, ::-1]`.
            The maps have the backbone's `image_size`.
        references: images in the same form, most of them good; two or more also decide.
        threshold, expected_defect_rate, false_alarms, rule: how to decide, see
            `image_scores.Judge`.
        progress: True draws bars, a function is called with (stage, done, total).

        Raises ImageError listing every unreadable image, InputError for a wrong argument.
        """
        judge = Judge(rule, false_alarms, threshold, expected_defect_rate)
        with stages_of(progress) as on_progress:
            images = as_sequence(images)
            if references is not None:
                judge.check_references()
                references = as_sequence(references)
                check_apart(images, references)
            white = self.extractor.white_of(images, () if references is None else references)
            query = self.extract(images, white=white, progress=on_progress)
            others = (
                None
                if references is None
                else self.extract(references, white=white, progress=on_progress)
            )
            scores = self.score_features(query, others, progress=on_progress)
            scale = self.scale_for(judge, others, progress=on_progress)
            return with_verdicts(scores, query.names, judge(scores, scale))

    def scale_for(
        self,
        judge: Judge,
        references: BatchFeatures | None,
        *,
        progress: StageProgress | None = None,
    ) -> BatchScores | None:
        """Leave-one-out scores of two references or more, by which `judge` decides; else None."""
        if references is None or len(references.names) < 2 or not judge.asks_references:
            return None
        return self.leave_one_out(references, progress=progress)

    def __repr__(self) -> str:
        backbone, settings = self.backbone, self.settings
        size = " x ".join(map(str, backbone.image_size))
        return (
            f"<MuSc {backbone.spec.name} at {size}, recipe {self.recipe}, {backbone.engine} "
            f"{backbone.precision} on {backbone.device}, backend {settings.backend}>"
        )

    def score_features(
        self,
        query: BatchFeatures,
        references: BatchFeatures | None = None,
        *,
        progress: StageProgress | None = None,
    ) -> BatchScores:
        """`score_batch` on features from `extract`, timed as stage "scoring"."""
        start = perf_counter()
        result = score_batch(
            query.tokens,
            cls_tokens=query.cls_tokens if self.use_cls else None,
            references=None if references is None else references.tokens,
            grid=self.backbone.grid,
            prefix_tokens=self.backbone.prefix_tokens,
            image_size=self.backbone.image_size,
            progress=(lambda done, of: progress("scoring", done, of)) if progress else False,
            **self.settings.keywords(),
        )
        self.timings["features"] = query.seconds + (references.seconds if references else 0.0)
        self.timings["scoring"] = perf_counter() - start
        return result

    def leave_one_out(
        self, references: BatchFeatures, *, progress: StageProgress | None = None
    ) -> BatchScores:
        """Scores of n references against each other, as a scale for images scored against them.

        See `scoring.leave_one_out`. Raises InputError for fewer than two references.
        """
        return leave_one_out(
            references.tokens,
            self.settings,
            grid=self.backbone.grid,
            prefix_tokens=self.backbone.prefix_tokens,
            image_size=self.backbone.image_size,
            progress=(lambda done, of: progress("references", done, of)) if progress else False,
        )

    def new_bank(self, capacity: int = 200, *, evict: Eviction = "oldest") -> ReferenceBank:
        """An empty `ReferenceBank` for this backbone and these settings."""
        return new_bank(self.backbone, self.settings, capacity, evict=evict)

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
        extractor = Extractor(self.backbone, 1, self.extractor.reading, cls=False)
        yield from stream(extractor, self.settings, images, bank=bank, start=start)

    def extract(
        self,
        images: Images,
        *,
        skip_bad: bool = False,
        white: float | None = None,
        progress: StageProgress | None = None,
    ) -> BatchFeatures:
        """Return the features of the images; see `features.extraction.Extractor.extract`."""
        return self.extractor.extract(images, skip_bad=skip_bad, white=white, progress=progress)


def _refuse_second(
    image_size: object, blocks: object, weights: object, engine: str, feature_precision: str
) -> None:
    """Raise InputError where an argument that a loaded backbone has decided is given, too."""
    given = {
        "image_size": image_size,
        "blocks": blocks,
        "weights": weights,
        "engine": None if engine == "auto" else engine,
        "feature_precision": None if feature_precision == "auto" else feature_precision,
    }
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} is that of the loaded backbone; give it to one only")
