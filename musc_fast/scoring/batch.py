"""From patch tokens to anomaly maps and image scores: LNAMD -> MSM -> maps -> RsCIN."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .. import reference
from ..backends.registry import resolve
from ..errors import InputError
from ..progress import Progress, scoring_progress
from ..scratch import require_room, scratch_folder
from ..settings import DegreeFusion, Place, PoolingName, ScoringSettings, Similarity, Switch
from .all_distances import AllDistances
from .arguments import Tokens, check_layers, class_tokens, grid_of, in_files, map_size, token_layers
from .checkpoint import Checkpoint, checkpoint_folder, digest, parts_of
from .copies import find_copies
from .distinct import Distinct
from .layer_passes import Part, Pass, Pooling, mean_over_passes
from .place import decide_place
from .repeats import Repeat, merged, scores_without_links
from .salient import salient_features
from .sampling import sample_others, sample_references
from .scores import BatchScores, make_scores
from .tiles import tiled
from .token_files import write_dataset
from .valid import Valid, valid_patches, valid_references


@torch.no_grad()
def score_batch(
    tokens: Tokens | Dataset[Any],
    *,
    cls_tokens: Tensor | NDArray[Any] | None = None,
    references: Tokens | Dataset[Any] | None = None,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int = 0,
    image_size: int | tuple[int, int] | None = None,
    valid: Valid | None = None,
    reference_valid: Valid | None = None,
    degrees: Sequence[int] = (1, 3, 5),
    topmin: tuple[float, float] = (0.0, 0.3),
    neighbors: Sequence[int] = (1, 2, 3),
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    max_references: int | None = None,
    degree_fusion: DegreeFusion = "scores",
    place: Place = "off",
    pooling: PoolingName = "lnamd",
    temperature: float = 1.0,
    similarity: Similarity = "class",
    copies: Switch = "off",
    repeats: Switch = "off",
    tiles: tuple[int, int] | None = None,
    tile_margin: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Progress = False,
) -> BatchScores:
    """Score the images of a batch against each other, or against `references`.

    tokens: patch tokens of one layer [N, prefix + P, C], or a sequence of such arrays, one a layer
        (C may differ by layer); torch or numpy, any floating dtype, finite. A layer may also be
        the path of a .npy or .safetensors file: it is mapped, not loaded, and LNAMD's results are
        scratch files then, so that memory does not grow with N P C. Or a torch Dataset whose items
        are single images, [prefix + P, C] or a sequence of them, one a layer: it is read once, one
        image at a time, into such files.
    cls_tokens: [N, D] class tokens for RsCIN; None leaves the raw image scores.
    references: tokens of other images in the same form as `tokens`, scored against instead of the
        batch itself; needed for N = 1.
    grid: (H, W) with H W = P; None takes a square.
    prefix_tokens: leading tokens (class and register tokens) that are dropped.
    image_size: int or (h, w) of the anomaly maps; None keeps the grid.
    valid: [N, P] bool, the patches that count; None: all. The others are references of no patch,
        are pooled with none, score 0, and are 0 in the maps.
    reference_valid: [M, P] bool, those of the references.
    degrees: odd neighbourhood sides of LNAMD.
    topmin: interval of the sorted distances that MSM averages; fractions below 1, counts from 1.
    neighbors: the k of RsCIN.
    backend: "auto" or a name from `musc_fast.backends`.
    precision: "exact" (within 1e-5 of fp64) or "fast".
    memory_limit: bytes beyond input and output; None takes a share of what is free.
    max_references: score each image against this many others (or references) only, drawn by
        content with a fixed seed; N K work instead of N^2. None: all.
    degree_fusion: "scores" averages the scores of the degrees (the paper); "features" averages
        LNAMD's results over the degrees, normalises them again and searches once a layer.
    place: compare patches with those of the other images within so many places (patches) of their
        own alone, for parts that lie still; "off": with all; "auto": within a window where a few
        images show that it costs little, see `scoring.place`. Not where some patches do not count.
    pooling, temperature, similarity: parts of MuSc-V2, see `settings.ScoringSettings`; with
        similarity "salient" scores are smoothed (RsCon) without class tokens.
    copies: "auto" finds images that are there twice, exactly or nearly (as JPEG saved again; not
        looked for in mapped layers): all but the first are no references, and none is one of its
        copies. The result tells which they are.
    repeats: "auto" finds images that share a defect, by the jump in the distances of its patches,
        and scores that place against the other images alone. It searches all distances, of which a
        bounded part is held. Not with references, which a defect of the batch cannot hide behind,
        nor with max_references or checkpoint.
    tiles: (rows, columns): the grid is of so many tiles, and a patch is compared with the patches
        of about the same place of the other images: all that lie within `tile_margin` rows and
        columns of its own, and some up to three times as far. Less work on large grids, for parts
        that lie still. None: with all patches.
    tile_margin: None: a quarter of a tile's shorter side.
    checkpoint: a folder for finished parts; the same call goes on where a killed one was, and
        gives the same bits. The folder stays when the run is complete.
    progress: True draws a bar, a function is called with (done, total).

    Raises InputError naming the argument (and image and layer), what was found and what is wanted.
    Source: Li et al., MuSc, ICLR 2024.
    """
    settings = ScoringSettings(
        degrees,
        topmin,
        neighbors,
        backend,
        precision,
        memory_limit,
        max_references,
        degree_fusion,
        place,
        pooling,
        temperature,
        similarity,
        copies,
        repeats,
        tiles,
        tile_margin,
    )
    check_repeats(settings, references is not None, checkpoint is not None)
    with scratch_folder(None if checkpoint is None else checkpoint_folder(checkpoint)) as folder:
        if isinstance(tokens, Dataset):
            tokens = write_dataset("tokens", tokens, folder)
        if isinstance(references, Dataset):
            references = write_dataset("references", references, folder)
        layers = token_layers("tokens", tokens, prefix_tokens)
        others = (
            None if references is None else token_layers("references", references, prefix_tokens)
        )
        check_layers(layers, others)
        counted = valid_patches("valid", valid, layers[0])
        others_counted = valid_references(reference_valid, others)
        shape = grid_of(grid, layers[0].shape[1], prefix_tokens)
        size = map_size(image_size, shape, layers[0].shape[0])
        classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0])
        operators = resolve(backend, layers[0].device).operators()
        all_count = counted is None and others_counted is None
        settings = decide_place(settings, layers, others, operators, shape, all_count=all_count)
        operators = tiled(operators, shape, settings)
        mapped = folder if in_files(tokens) else None
        twice = [] if copies == "off" else find_copies(layers, others, near=mapped is None)
        if mapped is not None:  # LNAMD's results of one pass and of the next
            require_room(mapped, 8 * max(layer.numel() for layer in layers))
        pools = Pooling(operators, shape, settings, mapped)
        counts = {"valid": counted, "reference_valid": others_counted}
        store = _checkpoint(checkpoint, [*layers, *(others or ())], counts, shape, settings)
        with scoring_progress(progress) as on_progress:
            run = partial(run_passes, pools, settings, store, on_progress)
            batch = Distinct(layers, others, twice, max_references, mapped, counted, others_counted)
            means, found = batch.scores(run)
        if similarity == "salient":
            classes = salient_features(layers, pools, means, counted)
        shaped, reach = means.reshape(-1, *shape), settings.reach
        scores = make_scores(shaped, size, classes, settings.neighbors, counted, reach)
        return replace(scores, copies=tuple(twice), repeats=found)


def check_repeats(settings: ScoringSettings, with_references: bool, kept: bool = False) -> None:
    """Raise InputError where repeats are asked for and cannot be found, or can do no harm.

    kept: whether a checkpoint keeps the scores.
    """
    if settings.repeats == "off":
        return
    if with_references:
        raise InputError(
            "repeats: with references the images do not score each other, and a defect that "
            "repeats among them cannot hide; leave repeats out"
        )
    if kept:
        raise InputError(
            "repeats: a checkpoint does not keep what they are found by; leave one of both out"
        )


def run_passes(
    pooling: Pooling,
    settings: ScoringSettings,
    store: Checkpoint | None,
    on_progress: Progress,
    layers: list[Tensor],
    references: list[Tensor] | None,
    lists: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    reference_valid: Tensor | None = None,
    main: bool = True,
) -> tuple[Tensor, tuple[Repeat, ...]]:
    """A `distinct.Run` with its pooling, settings, checkpoint and progress given first."""
    if lists is None:
        references, reference_valid, lists = _sample_references(
            layers, references, reference_valid, settings.max_references
        )
    store = store if main else None
    parts = parts_of(layers[0].shape[0], store is not None)
    search = _BatchSearch(pooling, settings, parts, references, reference_valid, lists)
    means = mean_over_passes(
        layers, pooling, search, valid=valid, checkpoint=store, on_progress=on_progress
    )
    return means, merged(search.repeats)


def _sample_references(
    layers: list[Tensor],
    others: list[Tensor] | None,
    valid: Tensor | None,
    max_references: int | None,
) -> tuple[list[Tensor] | None, Tensor | None, Tensor | None]:
    """The references, which of their patches count, and the images that each is scored against
    where those are not all.
    """
    if max_references is None:
        return others, valid, None
    if others is None:
        return None, None, sample_others(layers[0], max_references)
    chosen = sample_references(others[0], max_references)
    if chosen is None:
        return others, valid, None
    return [layer[chosen] for layer in others], None if valid is None else valid[chosen], None


def _checkpoint(
    folder: str | os.PathLike[str] | None,
    layers: list[Tensor],
    valid: dict[str, Tensor | None],
    grid: tuple[int, int],
    settings: ScoringSettings,
) -> Checkpoint | None:
    """The checkpoint of a run on these layers, references included; None without a folder."""
    if folder is None:
        return None
    decisive: dict[str, Any] = {
        "grid": list(grid),
        "degrees": list(settings.degrees),
        "degree_fusion": settings.degree_fusion,
        "topmin": list(settings.topmin),
        "precision": settings.precision,
        "max_references": settings.max_references,
        "backend": resolve(settings.backend, layers[0].device).name,
        **settings.unusual(),
        **{name: digest(each) for name, each in valid.items() if each is not None},
    }
    if settings.copies != "off":  # so that folders of earlier versions are gone on with
        decisive["copies"] = settings.copies
    return Checkpoint(folder, layers, decisive)


class _BatchSearch:
    """MSM of a batch in this process, against itself or against references.

    parts: the images that are scored together.
    references: [M, Q, C] a layer; None: the batch itself.
    reference_valid: [M, Q] bool, their patches that count; None: all.
    lists: [N, K], the images that each is scored against; None: all others.
    """

    def __init__(
        self,
        pooling: Pooling,
        settings: ScoringSettings,
        parts: list[Part],
        references: list[Tensor] | None,
        reference_valid: Tensor | None,
        lists: Tensor | None,
    ) -> None:
        self.parts = parts
        self._reference_valid = reference_valid
        self.repeats: list[Repeat] = []  # of the passes searched
        self._pooling, self._settings = pooling, settings
        self._references, self._lists = references, lists
        self._pooled_layer = -1
        self._pooled: list[Tensor] = []

    def missing(self, absent: list[int]) -> list[int]:
        """The parts to search: those that the checkpoint lacks."""
        return absent

    def scores(
        self, place: Pass, z: Tensor, todo: list[int], on_progress: Progress
    ) -> Iterator[Tensor]:
        """MSM of z [N, P, C] -> [last - first, P] for each part."""
        if self._settings.repeats != "off" and self._references is None:
            return self._without_links(z, todo, on_progress)
        others = self._pooled_references(place)
        if self._lists is not None:
            count = self._lists.shape[1]
        else:
            count = z.shape[0] - 1 if others is None else others.shape[0]
        return self._pooling.operators.msm_parts(
            z,
            others,
            *reference.interval(self._settings.topmin, count),
            [self.parts[part] for part in todo],
            self._settings.search(self._pooling.grid, on_progress),
            self._lists,
        )

    def _without_links(self, z: Tensor, todo: list[int], on_progress: Progress) -> Iterator[Tensor]:
        """`scores` without links between images that share a defect."""
        operators, topmin = self._pooling.operators, self._settings.topmin
        options = self._settings.search(self._pooling.grid, on_progress)
        distances = AllDistances(z, operators, options)
        bounds = reference.interval(topmin, len(z) - 1)
        scores, found = scores_without_links(
            distances.rows, len(z), self._pooling.grid, operators, topmin, bounds
        )
        self.repeats += found
        for first, last in (self.parts[part] for part in todo):
            yield scores[first:last]

    def _pooled_references(self, place: Pass) -> Tensor | None:
        """The result of LNAMD of the references that the pass needs; a layer is pooled once."""
        if self._references is None:
            return None
        if self._pooled_layer != place.layer:
            self._pooled = []  # the memory of the layer before is free before the next is pooled
            layer = self._references[place.layer]
            self._pooled = self._pooling.pool_in_memory(layer, self._reference_valid)
            self._pooled_layer = place.layer
        return self._pooled[place.degree]
