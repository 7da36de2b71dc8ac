"""One scoring job: image files in, a results folder out, in one process or over several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from ..datasets.find_images import find_images
from ..distributed.launch import check_alone, extract_share, launched, score_share
from ..distributed.ranks import Ranks
from ..errors import ImageError, InputError
from ..features.batch_images import check_apart, check_headers
from ..features.cache import extract_cached
from ..features.extraction import BatchFeatures
from ..image_scores import Judge
from ..musc import MuSc, in_own_frames
from ..progress import StageProgress, stages_of
from ..registration import Alignment
from ..report.folder import check_target, check_writable, staged
from ..report.heatmap import MapScale, scale_of
from ..report.results import write_results, write_settings
from ..report.scored_batch import ScoredBatch
from ..scoring.batch import check_repeats
from ..scoring.scores import BatchScores
from ..settings import ReadSettings
from ..threshold import FALSE_ALARMS, Rule
from .record import how_seen, run_settings
from .watch_threshold import watch_settings


class ScoreJob:
    """The scoring of image files into a results folder; inputs and target are checked when made.

    images: files and folders, which are searched as by `find_images`; two images or more, unless
        there are references.
    out: the results folder (see `report.folder`): absent, empty, or an earlier run, which is
        replaced when the new one is complete.
    references: files and folders of other images, against which each image is scored instead of
        against the batch.
    cache: a folder for the features of the references, see `extract_cached`; None keeps none.
    maps: also write pictures and the report. map_scale: "batch" gives all pictures one scale of
        colours, "image" each picture its own.
    threshold, expected_defect_rate, false_alarms, rule, look_share: how to decide, see
        `image_scores.Judge`.
    skip_bad: skip unreadable images instead of raising ImageError.
    inputs: all files, those of the references too.
    reading: how files are read; None: as usual.

    Raises ImageError where a path is missing, a file is no image or a folder has none, InputError
    where an option is out of range, an image is its own reference or `out` cannot take the results.
    """

    def __init__(
        self,
        images: Sequence[Path],
        out: Path,
        *,
        references: Sequence[Path] | None = None,
        cache: Path | None = None,
        maps: bool = True,
        map_scale: MapScale = "batch",
        threshold: float | None = None,
        expected_defect_rate: float | None = None,
        false_alarms: float | None = None,
        rule: Rule | None = None,
        look_share: float | None = None,
        skip_bad: bool = False,
        reading: ReadSettings | None = None,
    ) -> None:
        self._judge = Judge(rule, false_alarms, threshold, expected_defect_rate, look_share)
        if references is not None:
            self._judge.check_references()
        scale_of(np.zeros((1, 1, 1)), map_scale)
        if cache is not None and references is None:
            raise InputError("cache: it keeps the features of references; give references, too")
        self.cache = cache
        self.images = find_images(images)
        self.references = None if references is None else find_images(references)
        folders = [path for path in references or () if path.is_dir()]
        self._reference_folder = folders[0] if folders and len(references or ()) == 1 else None
        if self.references is None and len(self.images) < 2:
            raise InputError(
                "one image has no others to be scored against; give at least two, or references"
            )
        check_apart(self.images, self.references or ())
        self.out, self.maps, self.map_scale, self.skip_bad = out, maps, map_scale, skip_bad
        self.inputs = [*self.images, *(self.references or ())]
        check_target(out, self.inputs)
        if launched()[0] == 0:  # the other ranks write nothing
            check_writable(out)
        if not skip_bad:
            check_headers(self.inputs, reading or ReadSettings())

    def run(self, musc: MuSc, *, progress: bool | StageProgress = True) -> ScoredBatch | None:
        """Score and write the results folder; `out` holds complete results or what it held before.

        Under torchrun every rank calls this, with torch.distributed initialised (see
        `distributed.launch.joined`): each extracts a share of the images and searches for it.
        Rank 0 writes, the other ranks get None.

        progress: True draws bars, a function is called with (stage, done, total).

        A size or tiles that are "auto" are fitted to the images and references.

        Raises ImageError listing the unreadable images unless `skip_bad`, and InputError where
        `out` has changed since the job was made and cannot take the results.
        """
        ranks = Ranks() if launched()[1] > 1 else None
        musc = musc.fitted(self.images, self.references or ())
        if ranks is not None and ranks.rank > 0:
            self._score(musc, ranks, lambda stage, done, total: None)
            return None
        with staged(self.out, self.inputs) as stage, stages_of(progress) as on_progress:
            batch = self._score(musc, ranks, on_progress)
            assert batch is not None  # rank 0 has the scores
            self._write(stage, batch, on_progress)
        return batch

    def _score(
        self, musc: MuSc, ranks: Ranks | None, on_progress: StageProgress
    ) -> ScoredBatch | None:
        """Extract, score and flag; None on ranks other than 0."""
        check_repeats(musc.settings, self.references is not None)
        if ranks is not None:
            check_alone(musc.settings)
        white = musc.extractor.white_of(self.images, self.references or ())
        alignment = self._alignment(musc, ranks, white)
        features, share = self._extract(musc, ranks, white, alignment, on_progress)
        references = self._extract_references(musc, white, alignment, on_progress)
        if references is None and len(features.sources) < 2:
            raise ImageError(
                f"only {len(features.sources)} of {len(self.images)} images can be read; 2 are "
                "needed"
            )
        start = perf_counter()
        scores: BatchScores | None
        if ranks is None:
            scores = musc.score_features(features, references, progress=on_progress)
        else:
            scores = score_share(musc, share, references, on_progress=on_progress)
            ranks.close()
        seconds = {
            "loading": musc.timings["loading"],
            "features": features.seconds + (references.seconds if references else 0.0),
            "scoring": perf_counter() - start,
        }
        if scores is None:
            return None
        if ranks is not None:  # rank 0 alone knows where all images lie
            scores = in_own_frames(scores, features)
        scale = musc.scale_for(self._judge, references, scores, progress=on_progress)
        threshold = self._judge(scores, scale)
        seconds["scoring"] = perf_counter() - start
        settings = run_settings(musc, features, references, scores=scores, seconds=seconds)
        own = scores if references is None else scale  # of images against each other
        if own is not None:
            rate = self._judge.false_alarms  # of a batch, without references, it is of batches
            raw, flagged = own.raw_image_scores.cpu().numpy(), threshold.flagged
            settings["watch"] = watch_settings(
                settings,
                raw[~flagged] if references is None else raw,
                flagged=scores.raw_image_scores.cpu().numpy()[flagged],
                decided=references is not None or bool(flagged.any()),
                references=self._reference_folder,
                false_alarms=rate if references is not None and rate else FALSE_ALARMS,
            )
        return ScoredBatch(
            paths=[self.images[source] for source in features.sources],
            image_scores=scores.image_scores.cpu().numpy(),
            raw_scores=scores.raw_image_scores.cpu().numpy(),
            anomaly_maps=scores.anomaly_maps.cpu().numpy(),
            settings=settings,
            threshold=threshold,
            **how_seen(musc, features),
        )

    def _extract(
        self,
        musc: MuSc,
        ranks: Ranks | None,
        white: float | None,
        alignment: Alignment,
        on_progress: StageProgress,
    ) -> tuple[BatchFeatures, BatchFeatures | None]:
        """The features of all images, and of this rank's share of them."""
        extract = partial(musc.extract, skip_bad=self.skip_bad, white=white, alignment=alignment)
        if ranks is None:
            features = extract(self.images, progress=on_progress)
            return features, features
        return extract_share(
            ranks,
            musc,
            self.images,
            skip_bad=self.skip_bad,
            white=white,
            alignment=alignment,
            on_progress=on_progress,
        )

    def _extract_references(
        self,
        musc: MuSc,
        white: float | None,
        alignment: Alignment,
        on_progress: StageProgress,
    ) -> BatchFeatures | None:
        if self.references is None:
            return None
        return extract_cached(
            musc.extractor,
            self.references,
            self.cache,
            skip_bad=self.skip_bad,
            white=white,
            alignment=alignment,
            progress=lambda _, done, total: on_progress("reference features", done, total),
        )

    def _alignment(self, musc: MuSc, ranks: Ranks | None, white: float | None) -> Alignment:
        """The frame of all images, as rank 0 sees it."""
        of = partial(musc.extractor.alignment_of, self.images, self.references or (), white=white)
        if ranks is None:
            return of()
        found: Alignment | None = None
        with ranks.together():
            found = of() if ranks.rank == 0 else None
        found = ranks.gather(found)[0]
        assert found is not None
        return found

    def _write(self, stage: Path, batch: ScoredBatch, on_progress: StageProgress) -> None:
        """Write the results into the empty folder `stage`, run.json last."""
        start = perf_counter()
        write_results(
            stage,
            batch,
            maps=self.maps,
            map_scale=self.map_scale,
            progress=lambda done, total: on_progress("pictures", done, total),
        )
        batch.settings["seconds"]["pictures"] = round(perf_counter() - start, 3)
        write_settings(stage, batch, self.map_scale)
