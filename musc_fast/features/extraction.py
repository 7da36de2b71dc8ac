"""From images in any form to the features of a batch, read ahead in threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter

import torch
from PIL import Image
from torch import Tensor

from ..datasets.deep import DeepImage
from ..datasets.ignored import IgnoredRegions
from ..datasets.read_images import white_level
from ..errors import ImageError, InputError, MuscFastWarning
from ..progress import StageProgress
from ..registration import Alignment, Frame, Frames, Place, frames_of
from ..scratch import require_memory
from ..settings import Align, ReadSettings, checked_align
from .alignment import align_batch
from .backbone import Backbone, Features
from .batch_images import ImageLike, Images, as_sequence, peekable, picture_of, unreadable
from .mixture import is_grey, mixture_note
from .tiling import Tiling, checked_tiling, extract_tiled


@dataclass(frozen=True)
class BatchFeatures:
    """Features of N images, ready for `score_batch`.

    tokens: one [N, prefix + P, C] float32 tensor a layer.
    cls_tokens: [N, D] float32, or None where the backbone has none.
    names: [N], the name of each image in messages and results: its path, or "image 3".
    sources: [N], the place of each image among the images given.
    sizes: [N], (height, width) of each image in pixels as read from its file.
    tiling: how the images were cut; P patches lie on `grid`, maps are as large as `image_size`.
    bad: (name, reason) of each image that could not be read and was skipped.
    seconds: duration of the extraction; 0 for features from a cache.
    white: the white level of the images of more than 8 bits; None where there is none.
    notes: what was decided while reading them, a sentence a kind.
    frames: where the images lie on the frame that they were brought onto; None: on none.
    valid: [N, P] bool, the patches that count; None: all. See `score_batch`.
    """

    tokens: tuple[Tensor, ...]
    cls_tokens: Tensor | None
    names: tuple[str, ...]
    sources: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    tiling: Tiling
    bad: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    white: float | None = None
    notes: tuple[str, ...] = ()
    frames: Frames | None = None
    valid: Tensor | None = None

    def __repr__(self) -> str:
        layers, count = len(self.tokens), len(self.names)
        height, width = self.grid
        return (
            f"<BatchFeatures of {count} image{'' if count == 1 else 's'}, {layers} "
            f"layer{'' if layers == 1 else 's'} of {height} x {width} patches>"
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of an image."""
        return self.tiling.grid

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels to which the images were resized."""
        return self.tiling.image_size


def join_valid(parts: Sequence[BatchFeatures]) -> Tensor | None:
    """The patches that count of several parts of a batch as one [N, P] bool; None: all."""
    known = [part.valid for part in parts if part.valid is not None]
    if not known:
        return None
    return torch.cat(
        [
            known[0].new_ones(len(part.names), known[0].shape[1])
            if part.valid is None
            else part.valid
            for part in parts
        ]
    )


@dataclass(frozen=True)
class _Input:
    """One image as the backbone's input; `source` and `size` as in `BatchFeatures`.

    notes: what was decided while reading it. grey: whether it has no colours.
    place: where it lies on the frame; None without one.
    """

    source: int
    name: str
    size: tuple[int, int]
    pixels: Tensor
    notes: tuple[str, ...]
    grey: bool
    place: Place | None


# Name of an image that cannot be read, and the reason.
_Unreadable = tuple[str, str]


class _Store:
    """Features of a known number of images; their tokens are written into their place."""

    def __init__(self, extractor: Extractor, count: int) -> None:
        self.count = count
        self.filled = 0
        self.layers: list[Tensor] = []
        self.classes: Tensor | None = None
        self._extractor, self._backbone = extractor, extractor.backbone

    def extract(self, pixels: list[Tensor]) -> None:
        """Extract the features of the next images, each [3, h, w]."""
        if not self._extractor.tiling.is_whole:
            for picture in pixels:
                self._extract_tiled(picture)
            return
        end = self.filled + len(pixels)
        features = self._backbone.extract(
            torch.stack(pixels), cls=self._extractor.cls, out=partial(self._places, end)
        )
        self._take_classes(features, end)

    def _extract_tiled(self, picture: Tensor) -> None:
        """Extract the features of the next image, tile by tile."""
        of, end = self._extractor, self.filled + 1
        features = extract_tiled(of.backbone, of.tiling, picture, of.batch_size, cls=of.cls)
        places = self._places(end, [layer.shape[1:] for layer in features.tokens])
        for place, layer in zip(places, features.tokens, strict=True):
            place.copy_(layer)
        self._take_classes(features, end)

    def _take_classes(self, features: Features, end: int) -> None:
        """Keep the class tokens of the images up to `end`, which are then extracted."""
        if features.cls_tokens is not None:
            if self.classes is None:
                self.classes = self._allocate(features.cls_tokens.shape[1:])
            self.classes[self.filled : end] = features.cls_tokens
        self.filled = end

    def _places(self, end: int, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Where the tokens of the images up to `end` belong."""
        if not self.layers:
            if self._backbone.device.type == "cpu":
                each = 4 * sum(shape.numel() for shape in shapes)
                tiles = self._extractor.tiling.in_words
                require_memory(f"the features of {self.count} images{tiles}", self.count * each)
            self.layers = [self._allocate(shape) for shape in shapes]
        return [layer[self.filled : end] for layer in self.layers]

    def _allocate(self, shape: torch.Size) -> Tensor:
        shape = torch.Size((self.count, *shape))
        return torch.empty(shape, dtype=torch.float32, device=self._backbone.device)


class Extractor:
    """Extracts features with one backbone while threads read the next images.

    backbone: a loaded `Backbone`.
    batch_size: images in one forward pass, 1 or more; OpenVINO takes them one by one.
    reading: how files are read.
    cls: whether class tokens are extracted, for which all blocks of the backbone run; without,
        those after the last block asked for do not.
    align: whether images are brought onto one of them, see `MuSc`.
    ignored: what is left out of every picture; None: nothing.
    tiles: (rows, columns) into which each image is cut; each tile is an input of the backbone.
        None: one.

    tiling: how images are cut.
    Raises InputError where no patch would be left, or the backbone's input is too small for tiles.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch_size: int,
        reading: ReadSettings | None = None,
        *,
        cls: bool = True,
        align: Align = "off",
        ignored: IgnoredRegions | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> None:
        self.align = checked_align(align)
        self.ignored = ignored
        self.backbone = backbone
        self.tiling = checked_tiling(backbone, tiles)
        if ignored is not None:
            ignored.patches(self.tiling.grid)
        self.batch_size = batch_size
        self.reading = reading or ReadSettings()
        self.cls = cls

    def like(
        self,
        backbone: Backbone,
        *,
        batch_size: int | None = None,
        cls: bool | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> Extractor:
        """An extractor with this backbone and what is given, otherwise with what this one has."""
        return Extractor(
            backbone,
            self.batch_size if batch_size is None else batch_size,
            self.reading,
            cls=self.cls if cls is None else cls,
            align=self.align,
            ignored=self.ignored,
            tiles=tiles or self.tiling.tiles,
        )

    def white_of(self, images: Images, *others: Images) -> float | None:
        """The one white level of images that are scored together, said where it was guessed.

        Raises InputError where files contradict each other; the way out is to give a level.
        """
        sides = [as_sequence(some) for some in (images, *others)]
        together = [
            peekable(each) for some in sides if not isinstance(some, Tensor) for each in some
        ]
        white, note = white_level([each for each in together if each is not None], self.reading)
        if note:
            warnings.warn(note, MuscFastWarning, stacklevel=2)
        return white

    def alignment_of(
        self, images: Images, references: Images = (), *, white: float | None = None
    ) -> Alignment:
        """The one frame of images that are scored together, one of the references if there are any.

        white: as for `extract`. Nothing is read where `align` is "off".
        """
        sides = as_sequence(images), as_sequence(references)
        return align_batch(*sides, self.align, self.reading, white)

    def extract(
        self,
        images: Images,
        *,
        skip_bad: bool = False,
        white: float | None = None,
        alignment: Alignment | None = None,
        progress: StageProgress | None = None,
    ) -> BatchFeatures:
        """Return the features of the images, in their order.

        images: as for `MuSc.score`.
        skip_bad: unreadable images are left out and listed in `bad`.
        white: the white level of the batch that they belong to; None: they are the batch.
        alignment: of the batch that they belong to; None: they are the batch.
        progress: called as progress("features", images read, images in all).
        Raises ImageError that lists every unreadable image where `skip_bad` is off or no image can
        be read, InputError where there is no image.
        """
        images = as_sequence(images)
        if len(images) == 0:
            raise InputError("images: found none, wanted at least one")
        start = perf_counter()
        white = self.white_of(images) if white is None else white
        alignment = self.alignment_of(images, white=white) if alignment is None else alignment
        store = _Store(self, len(images))
        rows: list[tuple[int, str, tuple[int, int], bool, Place | None]] = []
        bad: list[_Unreadable] = []
        notes: dict[str, list[str]] = {}
        done = 0
        for batch in self._read_ahead(images, white, alignment.frame):
            good = [item for item in batch if isinstance(item, _Input)]
            bad += [item for item in batch if not isinstance(item, _Input)]
            done += len(batch)
            if good and (skip_bad or not bad):
                store.extract([item.pixels for item in good])
                rows += [(i.source, i.name, i.size, i.grey, i.place) for i in good]
            for item in good:
                if self.ignored is not None:
                    self.ignored.check_size(item.name, item.size)
                for note in item.notes:
                    notes.setdefault(note, []).append(item.name)
            if progress is not None:
                progress("features", done, len(images))
        if bad and (not skip_bad or not rows):
            raise unreadable(bad, len(images))
        sources, read, sizes, grey, places = zip(*rows, strict=True)
        frames = None if alignment.frame is None else frames_of(alignment.frame, read, places)
        sentences = tuple(_sentence(note, names) for note, names in notes.items())
        of_batch = (mixture_note(read, sizes, grey), self.tiling.note(sizes), alignment.note)
        sentences += tuple(note for note in of_batch if note)
        sentences += frames.notes() if frames else ()
        for sentence in sentences:
            warnings.warn(sentence, MuscFastWarning, stacklevel=2)
        return BatchFeatures(
            tokens=tuple(layer[: store.filled] for layer in store.layers),
            cls_tokens=None if store.classes is None else store.classes[: store.filled],
            names=read,
            sources=sources,
            sizes=sizes,
            tiling=self.tiling,
            bad=tuple(bad),
            seconds=perf_counter() - start,
            white=white,
            notes=sentences,
            frames=frames,
            valid=self._valid(store, frames),
        )

    def _valid(self, store: _Store, frames: Frames | None) -> Tensor | None:
        """The patches that count, [N, P], those of the frame that each image shows; None: all."""
        shown = None if frames is None else frames.covered(self.tiling.grid)
        valid = None if shown is None else torch.from_numpy(shown).to(self.backbone.device)
        if self.ignored is None:
            return valid
        counts = torch.from_numpy(self.ignored.patches(self.tiling.grid)).flatten()
        kept = counts.to(self.backbone.device).repeat(store.filled, 1)
        return kept if valid is None else kept & valid

    def _read_ahead(
        self, images: Sequence[ImageLike] | Tensor, white: float | None, frame: Frame | None
    ) -> Iterator[list[_Input | _Unreadable]]:
        """Yield batches of read images in order; two more batches are read meanwhile.

        Of images in tiles, which are large, a batch is one.
        """
        size = self.batch_size if self.tiling.is_whole else 1
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            indices = iter(range(len(images)))
            waiting: list[Future[_Input | _Unreadable]] = []
            try:
                while True:
                    waiting += [
                        pool.submit(self._read, index, images[index], white, frame)
                        for index in islice(indices, 3 * size - len(waiting))
                    ]
                    if not waiting:
                        return
                    batch, waiting = waiting[:size], waiting[size:]
                    yield [future.result() for future in batch]
            finally:
                for future in waiting:
                    future.cancel()

    def _read(
        self, index: int, image: ImageLike, white: float | None, frame: Frame | None
    ) -> _Input | _Unreadable:
        name = str(image) if isinstance(image, str | os.PathLike) else f"image {index}"
        try:
            read, notes = picture_of(image, self.reading)
            grey, size = is_grey(read), _size_of(read)
            self.tiling.check(size)
            picture = read.unit(white) if isinstance(read, DeepImage) else read
        except ImageError as error:
            text = str(error)
            return name, text if name in text else f"{name}: {text}"
        place = None
        if frame is not None:
            picture, place = frame.bring(picture)
        pixels = self.backbone.preprocess(picture, self.tiling.image_size)
        return _Input(index, name, size, pixels, notes, grey, place)


def _size_of(picture: Image.Image | DeepImage) -> tuple[int, int]:
    return picture.size if isinstance(picture, DeepImage) else (picture.height, picture.width)


def _sentence(note: str, names: Sequence[str]) -> str:
    """A note about images, with the first of them."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}: {note}"
