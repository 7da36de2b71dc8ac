"""MuSc for images: read -> backbone -> score_batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from .backends.registry import resolve
from .bank.bank import Eviction, ReferenceBank
from .bank.stream import StreamScore, new_bank, stream
from .datasets.images import find_images, read_image, to_rgb
from .errors import ImageError, InputError
from .features import Backbone, load_backbone
from .progress import StageProgress, stage_bars
from .scoring.batch import BatchScores, score_batch
from .settings import ScoringSettings

DEFAULT_BACKBONE = "dinov2-vit-s-14"

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
Images = str | os.PathLike[str] | Sequence[ImageLike] | Tensor


@dataclass(frozen=True)
class BatchFeatures:
    """Features of N images, ready for `score_batch`.

    tokens: one [N, prefix + P, C] float32 tensor a layer. cls_tokens: [N, D] or None.
    names: [N], what each row is called in messages and results (the path, or "image 3").
    sources: [N], the place of each row in the images given. bad: the (name, reason) of images that
    could not be read and were skipped. sizes: [N], (h, w) of the images as read. seconds: what the
    extraction took (0 from a cache).
    """

    tokens: tuple[Tensor, ...]
    cls_tokens: Tensor | None
    names: tuple[str, ...]
    sources: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    bad: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


class MuSc:
    """Zero-shot anomaly scores of a batch of images.

        scores = MuSc("dinov2-vit-s-14").score(["a.png", "b.png", "c.png"])

    backbone: a name from `musc_fast.features.available_backbones()`, `open_clip:NAME/PRETRAINED`,
        `timm:NAME`, or a loaded `Backbone`.
    image_size: int or (h, w), a multiple of the patch; images are squashed to it. None takes the
        backbone's own.
    blocks: 0-based blocks whose tokens are used; None takes the backbone's own.
    weights: a local weight file. offline: never ask a hub or a package index.
    device: "auto" takes CUDA where there is one. batch_size: images a forward pass.
    use_cls: False leaves RsCIN out. notify: called with a line before a download or conversion.
    The others are those of `score_batch`.
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
        use_cls: bool = True,
        degrees: Sequence[int] = (1, 3, 5),
        topmin: tuple[float, float] = (0.0, 0.3),
        neighbors: Sequence[int] = (1, 2, 3),
        backend: str = "auto",
        precision: str = "exact",
        memory_limit: int | None = None,
        max_references: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, wanted 1 or more")
        start = perf_counter()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        ScoringSettings(
            degrees, topmin, neighbors, backend, precision, memory_limit, max_references
        )
        if isinstance(backbone, Backbone):
            given = {"image_size": image_size, "blocks": blocks, "weights": weights}
            for name, value in given.items():
                if value is not None:
                    raise InputError(f"{name} is that of the loaded backbone; give it to one only")
            self.backbone = backbone
        else:
            self.backbone = load_backbone(
                backbone,
                image_size=image_size,
                blocks=blocks,
                weights=None if weights is None else Path(weights),
                device=device,
                offline=offline,
                progress=notify,
            )
        resolve(backend, self.backbone.device)
        self.batch_size = batch_size
        self.use_cls = use_cls
        self.settings: dict[str, Any] = {
            "degrees": tuple(degrees),
            "topmin": topmin,
            "neighbors": tuple(neighbors),
            "backend": backend,
            "precision": precision,
            "memory_limit": memory_limit,
            "max_references": max_references,
        }
        self.timings: dict[str, float] = {"loading": perf_counter() - start}

    def score(
        self,
        images: Images,
        *,
        references: Images | None = None,
        progress: bool | StageProgress = False,
    ) -> BatchScores:
        """Score images against each other, or against `references`.

        images: a folder, or a sequence of paths, PIL images or arrays (h, w[, 3], uint8 or floats
            in 0..1, which are rounded to 8 bits), or one tensor [N, 3, h, w] of floats in 0..1.
            The maps have the backbone's `image_size`.
        progress: True draws bars, a function is called with (stage, done, total).
        Raises ImageError listing every unreadable image, InputError for a wrong argument.
        """
        stages = nullcontext(progress) if callable(progress) else stage_bars(progress)
        with stages as report:
            if references is not None:
                images, references = _listed(images), _listed(references)
                check_apart(images, references)
            query = self.extract(images, progress=report)
            others = None if references is None else self.extract(references, progress=report)
            return self.score_features(query, others, progress=report)

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
            **self.settings,
        )
        self.timings["features"] = query.seconds + (references.seconds if references else 0.0)
        self.timings["scoring"] = perf_counter() - start
        return result

    def new_bank(self, capacity: int = 200, *, evict: Eviction = "oldest") -> ReferenceBank:
        """An empty `ReferenceBank` for this backbone and these settings."""
        return new_bank(self, capacity, evict=evict)

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
        yield from stream(self, images, bank=bank, start=start)

    def extract(
        self,
        images: Images,
        *,
        skip_bad: bool = False,
        progress: StageProgress | None = None,
    ) -> BatchFeatures:
        """Features of the images, read ahead in threads while the backbone runs.

        Unreadable images are skipped and reported in `bad` with `skip_bad`; otherwise one
        ImageError lists them all.
        """
        images = _listed(images)
        if len(images) == 0:
            raise InputError("images: found none, wanted at least one")
        start = perf_counter()
        rows: list[tuple[int, str, tuple[int, int]]] = []
        bad: list[tuple[str, str]] = []
        layers: list[Tensor] = []
        classes: Tensor | None = None
        filled, done = 0, 0
        for batch in self._read_ahead(images):
            good = [item for item in batch if isinstance(item, _Read)]
            bad += [item for item in batch if not isinstance(item, _Read)]
            done += len(batch)
            if good and (skip_bad or not bad):
                features = self.backbone.extract(torch.stack([item.pixels for item in good]))
                if not layers:
                    layers = [_room(len(images), t) for t in features.tokens]
                    if features.cls_tokens is not None:
                        classes = _room(len(images), features.cls_tokens)
                for room, tokens in zip(layers, features.tokens, strict=True):
                    room[filled : filled + len(good)] = tokens
                if classes is not None and features.cls_tokens is not None:
                    classes[filled : filled + len(good)] = features.cls_tokens
                filled += len(good)
                rows += [(item.source, item.name, item.size) for item in good]
            if progress is not None:
                progress("features", done, len(images))
        if bad and (not skip_bad or not rows):
            raise unreadable(bad, len(images), can_skip=bool(rows) or not skip_bad)
        seconds = perf_counter() - start
        return BatchFeatures(
            tokens=tuple(room[:filled] for room in layers),
            cls_tokens=None if classes is None else classes[:filled],
            names=tuple(name for _, name, _ in rows),
            sources=tuple(source for source, _, _ in rows),
            sizes=tuple(size for _, _, size in rows),
            bad=tuple(bad),
            seconds=seconds,
        )

    def _read_ahead(
        self, images: Sequence[ImageLike] | Tensor
    ) -> Iterator[list[_Read | tuple[str, str]]]:
        """Batches of read images in order; two batches are read while one is worked on."""
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            todo = iter(range(len(images)))
            waiting: list[Future[_Read | tuple[str, str]]] = []
            try:
                while True:
                    waiting += [
                        pool.submit(self._read, index, images[index])
                        for index in islice(todo, 3 * self.batch_size - len(waiting))
                    ]
                    if not waiting:
                        return
                    batch, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
                    yield [future.result() for future in batch]
            finally:
                for future in waiting:
                    future.cancel()

    def _read(self, index: int, image: ImageLike) -> _Read | tuple[str, str]:
        name = str(image) if isinstance(image, str | os.PathLike) else f"image {index}"
        try:
            picture = _picture(image)
        except ImageError as error:
            return name, str(error)
        pixels = self.backbone.preprocess(picture)
        return _Read(index, name, (picture.height, picture.width), pixels)


@dataclass(frozen=True)
class _Read:
    source: int
    name: str
    size: tuple[int, int]
    pixels: Tensor


def check_apart(
    images: Sequence[ImageLike] | Tensor, references: Sequence[ImageLike] | Tensor
) -> None:
    """Raise InputError where an image file is its own reference: it would score 0."""
    files = [
        {Path(image).resolve() for image in side if isinstance(image, str | os.PathLike)}
        for side in (images, references)
    ]
    both = files[0] & files[1]
    if both:
        listing = "\n".join(f"  {path}" for path in sorted(both)[:10])
        raise InputError(
            f"{len(both)} images are among their own references and would score 0; leave them out "
            f"of one side:\n{listing}"
        )


def _listed(images: Images) -> Sequence[ImageLike] | Tensor:
    """The images of a folder, or the sequence itself."""
    if isinstance(images, str | os.PathLike):
        return find_images([Path(images)])
    if not isinstance(images, Sequence | Tensor | np.ndarray):
        raise InputError(f"images: found one {type(images).__name__}, wanted a sequence")
    return images


def _room(count: int, like: Tensor) -> Tensor:
    return torch.empty((count, *like.shape[1:]), dtype=like.dtype, device=like.device)


def unreadable(bad: Sequence[tuple[str, str]], total: int, *, can_skip: bool) -> ImageError:
    """The error that lists (name, reason) of the images that cannot be read."""
    listing = "\n".join(f"  {reason}" for _, reason in bad)
    way_out = (
        "remove them, or skip them (skip_bad=True, --skip-bad)" if can_skip else "none is left"
    )
    return ImageError(f"{len(bad)} of {total} images cannot be read; {way_out}:\n{listing}")


def _picture(image: ImageLike) -> Image.Image:
    """Any accepted form of one image as an RGB picture."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"tensor image: found {list(image.shape)}, wanted [3, h, w]")
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"array image: found {list(array.shape)}, wanted (h, w) or (h, w, 3)")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ImageError(f"array image: found {array.dtype}, wanted uint8 or floats in 0..1")
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError("array image: floats must lie in 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
