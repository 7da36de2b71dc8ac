"""Locks of files: one holder at a time, in any process, and gone with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from musc_fast.errors import InputError
from musc_fast.files import locked

HOLD = """
import sys
from pathlib import Path
from musc_fast.files import locked
with locked(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_has_one_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    line = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use"), locked(lock, "in use"):
            pass
        child.kill()
        child.wait()
    with (
        locked(lock, "in use"),
        pytest.raises(InputError, match="in use"),
        locked(lock, "in use"),
    ):
        pass
    with locked(lock, "in use"):
        pass
