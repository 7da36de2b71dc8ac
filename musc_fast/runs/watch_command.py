"""A command that is run for each image that a watch flags: a lamp, a label, a message.

The watch never waits for it: commands run one after another in a thread of their own, each for a
limited time. What goes wrong with one is said, and the watch goes on.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import InputError
from ..shown import shown

MOST_WAITING = 100  # commands that wait for their turn
LONGEST = 86400.0  # seconds that a command may be given
_STEP = 0.05  # seconds between two looks at a running command
_SOON = 0.5  # seconds of waiting at the end that need no word


class FlaggedCommand:
    """Runs a command with the path and the raw score of a flagged image as its last arguments.

    line: the command and its first arguments, quoted as for a shell; no shell runs it.
    seconds: after so long a command is killed, and the processes that it has started with it.
    say: takes a message about a command that failed; it is called in another thread.

    failed: how many commands failed, were killed or could not be run.

    The command has no input; what it prints goes to standard error.

    Raises InputError where `line` is no command that can be run, or `seconds` are out of range.
    """

    def __init__(self, line: str, seconds: float, say: Callable[[str], None]) -> None:
        self._words = _command(line)
        if not 0 < seconds <= LONGEST:
            raise InputError(
                f"--on-flagged-timeout: found {seconds:g}, wanted seconds, at most a day"
            )
        self._seconds, self._say = seconds, say
        self.failed = 0
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._stop_at = float("inf")  # time at which a running command is killed, whatever its own
        self._worker = threading.Thread(target=self._work, name="on-flagged", daemon=True)
        self._worker.start()

    def run(self, path: str, raw_score: str) -> None:
        """Have the command run for an image, soon; this returns at once.

        Where `MOST_WAITING` wait already, this image gets no command, and that is said.
        """
        if self._waiting.qsize() >= MOST_WAITING:
            self._fail(path, f"not run, since {MOST_WAITING} others wait for their turn")
            return
        self._waiting.put((path, raw_score))

    def end(self, *, wait: bool = True) -> None:
        """Wait for the commands that are due, no longer than one may take; say which did not run.

        wait: False kills the one that runs and drops the others.
        """
        if not self._worker.is_alive():
            return
        self._waiting.put(None)
        self._stop_at = time.monotonic() + (self._seconds if wait else 0.0)
        self._worker.join(timeout=_SOON if wait else None)
        if self._worker.is_alive():
            self._say(f"--on-flagged: waiting for commands, at most {self._seconds:g} s")
        try:
            self._worker.join()
        except BaseException:  # another signal: no more waiting
            self._stop_at = 0.0
            self._worker.join()
            raise

    def _work(self) -> None:
        while (image := self._waiting.get()) is not None:
            path, raw_score = image
            if time.monotonic() >= self._stop_at:
                self._fail(path, "not run, since the watch has ended")
            else:
                self._run_one(path, raw_score)

    def _run_one(self, path: str, raw_score: str) -> None:
        until = time.monotonic() + self._seconds
        try:
            process = subprocess.Popen(
                [*self._words, path, raw_score],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output may be taken by lines of JSON
                start_new_session=True,  # Ctrl-C ends the watch, not the command
            )
        except OSError as error:
            self._fail(path, f"could not be run ({error.strerror})")
            return
        while process.poll() is None:
            now = time.monotonic()
            if now >= until or now >= self._stop_at:
                _kill(process)
                why = f"{self._seconds:g} s" if now >= until else "the watch had ended"
                self._fail(path, f"killed after {why}")
                return
            time.sleep(_STEP)
        if process.returncode:
            self._fail(path, _ending(process.returncode))

    def _fail(self, path: str, what: str) -> None:
        self.failed += 1
        self._say(f"--on-flagged: {shown(self._words[0])} for {shown(path)}: {what}")


def _command(line: str) -> list[str]:
    """The words of a command line; the first one is the full path of the program."""
    try:
        words = shlex.split(line, posix=os.name != "nt")
    except ValueError as error:
        raise InputError(f"--on-flagged: found {line!r}: {error}") from None
    program = shutil.which(words[0]) if words else None
    if program is None:
        wanted = "wanted a program that can be run, and arguments"
        raise InputError(f"--on-flagged: found {line!r}, {wanted}")
    return [os.path.abspath(program), *words[1:]]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and what it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(status: int) -> str:
    if status < 0:
        return f"ended by signal {-status}"
    return f"ended with status {status}"
