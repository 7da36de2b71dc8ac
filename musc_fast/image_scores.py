"""Scores of named images with verdicts: what `MuSc.score` returns, and how it decides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, InputError
from .scoring.scores import BatchScores
from .settings import ReadSettings
from .threshold import FALSE_ALARMS, Rule, Threshold, find_threshold, judge_by_references

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

    from .features.batch_images import ImageLike
    from .report.scored_batch import ScoredBatch


@dataclass(frozen=True)
class Judge:
    """How images are judged by their scores.

    rule: of `threshold.RULES`; judges a batch that has no references. None: the usual one.
    false_alarms: in (0, 0.5]; by references, the share of good images that may be flagged (None:
        0.01), by a rule, the share of good batches of which images may be flagged (None: 0.1).
    value: flag raw scores >= this value instead.
    expected_defect_rate: flag this share of the batch instead.
    look_share: in [0, 1], the share to look at of a batch without references in which nothing is
        flagged (None: 0.1).

    Raises InputError where an option is out of range, or would be idle beside another.
    """

    rule: Rule | None = None
    false_alarms: float | None = None
    value: float | None = None
    expected_defect_rate: float | None = None
    look_share: float | None = None

    def __post_init__(self) -> None:
        rate = self.false_alarms
        number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (number and 0 < rate <= 0.5):
            raise InputError(f"false_alarms: found {rate!r}, wanted a share in (0, 0.5]")
        self._by_batch(np.zeros(1))
        if not self.asks_references:
            named = (("rule", self.rule), ("false_alarms", rate), ("look_share", self.look_share))
            for name, idle in named:
                if idle is not None:
                    raise InputError(
                        f"{name}: has no say where a threshold or an expected defect rate is "
                        "given; leave one of them out"
                    )

        if self.look_share is not None and self.rule not in (None, "auto", "tail"):
            raise InputError(
                f"look_share: the rule {self.rule} leaves nothing to look at; leave one of them out"
            )

    @property
    def asks_references(self) -> bool:
        """Whether references decide, where there are any: no threshold and no share is given."""
        return self.value is None and self.expected_defect_rate is None

    def check_references(self) -> None:
        """Raise InputError where references would leave an option idle."""
        for name, idle in (("rule", self.rule), ("look_share", self.look_share)):
            if idle is not None:
                raise InputError(
                    f"{name}: has no say where references decide; leave out the "
                    f"{name.replace('_', ' ')} or the references"
                )

    def __call__(self, scores: BatchScores, references: BatchScores | None = None) -> Threshold:
        """Decide on the images of `scores`.

        references: leave-one-out scores of the images that they were scored against.
        """
        raw = scores.raw_image_scores.cpu().numpy()
        if references is None or not self.asks_references:
            return self._by_batch(raw, scores.patch_scores.cpu().numpy())
        return judge_by_references(
            raw,
            references.raw_image_scores.cpu().numpy(),
            reference_patch_scores=references.patch_scores.cpu().numpy(),
            false_alarms=FALSE_ALARMS if self.false_alarms is None else self.false_alarms,
        )

    def _by_batch(
        self,
        raw: NDArray[np.floating[Any]],
        patch_scores: NDArray[np.floating[Any]] | None = None,
    ) -> Threshold:
        given: dict[str, Any] = {
            "rule": self.rule,
            "alpha": self.false_alarms,
            "look_share": self.look_share,
        }
        return find_threshold(
            raw,
            patch_scores=patch_scores,
            value=self.value,
            expected_defect_rate=self.expected_defect_rate,
            **{name: value for name, value in given.items() if value is not None},
        )


@dataclass(frozen=True, repr=False)
class ImageScores(BatchScores):
    """Scores of N images, with their names and verdicts; tensors as in `BatchScores`.

    In a notebook they show themselves: a table, and the most anomalous images with their heat
    maps where the images are files.

    names: [N], paths, or "image 3" for images that are no files.
    threshold: what decided.
    reading: how the image files are read, for pictures.
    """

    names: tuple[str, ...]
    threshold: Threshold
    reading: ReadSettings = field(default_factory=ReadSettings)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """[N] of "flagged", "look" (the scores cannot tell, a person should look) or "clear"."""
        return tuple(str(verdict) for verdict in self.threshold.verdicts)

    @property
    def reason(self) -> str:
        """The sentence that says why images are flagged, or why none is."""
        return self.threshold.reason

    def show(self, image: int | str, picture: ImageLike | None = None) -> Image.Image:
        """One image, its heat map over it and the colour bar as a picture, which a notebook shows.

        image: its place in the batch, or its name.
        picture: the image, where it is no file; without it the map is shown alone.

        Raises InputError where the batch has no such image, ImageError where `picture` cannot be
        read.
        """
        from .report.notebook import picture_of_one

        index = self._place(image)
        found = self._picture(index) if picture is None else _read(picture, self.reading)
        return picture_of_one(self._batch(), index, found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """A chart of the raw scores with verdicts and threshold, drawn by matplotlib.

        ax: axes to draw on; None makes a figure. Returns the axes.

        Raises ImportError where matplotlib is not installed.
        """
        from .report.notebook import chart

        return chart(self._batch(), ax)

    def __repr__(self) -> str:
        highest = int(self.image_scores.argmax())
        return f"<{self._summary()}; {self._counts()}; highest {self.names[highest]!r}>"

    def _repr_html_(self) -> str:
        from .report.notebook import summary_html

        title = f"{self._summary()}; {self._counts()}"
        return summary_html(self._batch(), title, self._picture)

    def _counts(self) -> str:
        verdicts = self.verdicts
        return ", ".join(f"{verdicts.count(v)} {v}" for v in ("flagged", "look", "clear"))

    def _place(self, image: int | str) -> int:
        """The place of an image that is named or numbered, negative from the end."""
        count = len(self.names)
        if isinstance(image, str | os.PathLike):
            if os.fspath(image) not in self.names:
                raise InputError(
                    f"image: found {os.fspath(image)!r}, wanted one of the names, as "
                    f"{self.names[0]!r}, or a place from 0 to {count - 1}"
                )
            return self.names.index(os.fspath(image))
        whole = isinstance(image, int | np.integer) and not isinstance(image, bool)
        if not whole or not -count <= image < count:
            raise InputError(f"image: found {image!r}, wanted a name, or 0 to {count - 1}")
        return int(image) % count

    def _picture(self, index: int) -> Image.Image | None:
        """The image as a picture; None where it is no file, or one that cannot be read any more."""
        path = Path(self.names[index])
        try:
            return _read(path, self.reading) if path.is_file() else None
        except (ImageError, OSError):
            return None

    def _batch(self) -> ScoredBatch:
        """These scores as the report takes them."""
        from .report.scored_batch import ScoredBatch

        return ScoredBatch(
            paths=[Path(name) for name in self.names],
            image_scores=self.image_scores.cpu().numpy(),
            raw_scores=self.raw_image_scores.cpu().numpy(),
            anomaly_maps=self.anomaly_maps.cpu().numpy(),
            settings={},
            threshold=self.threshold,
            reading=self.reading,
        )


def with_verdicts(
    scores: BatchScores,
    names: tuple[str, ...],
    threshold: Threshold,
    reading: ReadSettings | None = None,
) -> ImageScores:
    """The scores of named images with what decided on them."""
    return ImageScores(
        scores.patch_scores,
        scores.anomaly_maps,
        scores.raw_image_scores,
        scores.image_scores,
        names,
        threshold,
        reading or ReadSettings(),
        place=scores.place,
        copies=scores.copies,
        repeats=scores.repeats,
    )


def judge_batch(
    scores: BatchScores,
    names: Sequence[str | os.PathLike[str]] | None = None,
    *,
    references: BatchScores | None = None,
    threshold: float | None = None,
    expected_defect_rate: float | None = None,
    false_alarms: float | None = None,
    rule: Rule | None = None,
    look_share: float | None = None,
) -> ImageScores:
    """Give scores of `score_batch` names and verdicts, so that they show themselves in a notebook.

    names: [N], of image files, whose pictures are shown; None: "image 0" and so on.
    references: leave-one-out scores of the images that these were scored against.
    threshold, expected_defect_rate, false_alarms, rule, look_share: how to decide, see `Judge`.

    Raises InputError where there is not one name an image, or an option is wrong.
    """
    judge = Judge(rule, false_alarms, threshold, expected_defect_rate, look_share)
    if references is not None:
        judge.check_references()
    count = len(scores.raw_image_scores)
    if names is None:
        names = [f"image {index}" for index in range(count)]
    if isinstance(names, str | os.PathLike) or len(names) != count:
        found = "one" if isinstance(names, str | os.PathLike) else len(names)
        raise InputError(f"names: found {found}, wanted {count}, one an image")
    shown_as = tuple(os.fspath(name) for name in names)
    return with_verdicts(scores, shown_as, judge(scores, references))


def _read(image: ImageLike, reading: ReadSettings) -> Image.Image:
    """An image in any form as an RGB picture."""
    from .datasets.deep import DeepImage
    from .features.batch_images import picture_of

    picture = picture_of(image, reading)[0]
    return picture.rgb(reading.white) if isinstance(picture, DeepImage) else picture
