"""The lines of a watch's record, from what was found."""

from __future__ import annotations

from pathlib import Path

from ..errors import ImageError
from .watch_judge import Judgement
from .watch_record import FileState, Row


def row_of_image(
    path: str,
    number: int,
    raw_score: float,
    references: int,
    said: Judgement,
    time: str,
    state: FileState,
) -> Row:
    """The row of a scored image, without its place in the bank."""
    return Row(
        path=path,
        number=str(number),
        raw_score=repr(raw_score),
        references=str(references),
        flagged=str(int(said.verdict == "flagged")),
        time=time,
        reason="",
        size=state.size,
        modified=state.modified,
        sha256=state.sha256,
        verdict=said.verdict,
        threshold="" if said.threshold is None else repr(said.threshold),
        p_value="" if said.p_value is None else f"{said.p_value:.4g}",
    )


def row_of_unreadable(path: Path, error: ImageError, time: str, state: FileState) -> Row:
    """The row of a file that cannot be read."""
    reason = str(error).rpartition(f"{path}: ")[2]  # the path has a column of its own
    return Row(
        path=str(path),
        number="",
        raw_score="",
        references="",
        flagged="",
        time=time,
        reason=" ".join(reason.split()),
        size=state.size,
        modified=state.modified,
        sha256=state.sha256,
    )
