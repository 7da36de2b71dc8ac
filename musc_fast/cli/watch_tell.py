"""What a watch tells programs: lines of JSON, a command for each flagged image, an exit status."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import InputError
from .console import errors, print_plain, printing_to_errors
from .exit_status import status_of

if TYPE_CHECKING:
    from ..runs.watch_record import Row


class Tell:
    """Takes each row of a watch; a context that ends what it has begun.

    record: the file of the record. others: further files of the watch, which `json` may not be.
    json: as `--json`. command, seconds: as `--on-flagged` and its limit; None runs nothing.

    Raises InputError where the file or the command cannot be used.
    """

    def __init__(
        self,
        record: Path,
        others: Sequence[Path | None],
        json: str | None,
        command: str | None,
        seconds: float,
    ) -> None:
        from ..runs.watch_command import FlaggedCommand
        from ..runs.watch_json import row_lines

        self._verdicts: set[str] = set()  # empty for unreadable files
        self._unreadable: set[str] = set()  # files, as long as they are
        self._to_errors = json == "-"
        used = {os.path.realpath(file) for file in (record, *others) if file is not None}
        if json not in (None, "-") and os.path.realpath(json) in used:
            raise InputError(
                f"--json: {json} is another file of this watch; name a file of its own"
            )
        self._command = None
        if command is not None:
            self._command = FlaggedCommand(command, seconds, _say)
        self._lines = row_lines(json, record)
        self._stack = ExitStack()

    def __enter__(self) -> Tell:
        with ExitStack() as stack:
            if self._to_errors:
                stack.enter_context(printing_to_errors())
            self._write = stack.enter_context(self._lines).write
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if self._command is not None:
                # After a second Ctrl-C nobody wants to wait; after an error the lamp still counts.
                self._command.end(wait=kind is None or issubclass(kind, Exception))
                if self._command.failed:
                    _say(f"--on-flagged: the command failed {self._command.failed} times")

    def __call__(self, row: Row) -> None:
        """Tell of a row; references are no images of the line."""
        self._write(row)
        if row.is_reference:
            return
        self._verdicts.add(row.verdict)
        if row.raw_score:
            self._unreadable.discard(row.path)
        else:
            self._unreadable.add(row.path)
        if row.verdict == "flagged" and self._command is not None:
            self._command.run(row.path, row.raw_score)

    @property
    def status(self) -> int:
        """The exit status of --fail-on-flagged."""
        return status_of(self._verdicts, unreadable=bool(self._unreadable))


def _say(text: str) -> None:
    print_plain(text, to=errors, wrap=False)
