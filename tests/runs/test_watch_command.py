"""The command that a watch runs for flagged images: what it gets, and that it holds nothing up."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from musc_fast.errors import InputError
from musc_fast.runs import watch_command
from musc_fast.runs.watch_command import FlaggedCommand

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs shell scripts")


def script(folder: Path, text: str) -> Path:
    path = folder / "a lamp.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_path_and_score_come_last_and_no_shell_reads_them(tmp_path: Path) -> None:
    said: list[str] = []
    seen = tmp_path / "seen"
    program = script(tmp_path, f"printf '%s|' \"$@\" >>'{seen}'; cat; echo >>'{seen}'")
    command = FlaggedCommand(f"'{program}' red '*  $HOME'", 10, said.append)
    evil = os.fsdecode(b"/x/$(touch hacked); `id` \xff.png")
    command.run(evil, "0.5")
    command.run("/x/b.png", "0.25")
    command.end()
    lines = seen.read_bytes().split(b"\n")
    assert lines[0] == b"red|*  $HOME|" + os.fsencode(evil) + b"|0.5|"
    assert lines[1] == b"red|*  $HOME|/x/b.png|0.25|"
    assert said == []
    assert command.failed == 0


def test_a_failing_command_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    program = script(tmp_path, 'case "$1" in *a.png) exit 7;; *b.png) kill -9 $$;; esac')
    command = FlaggedCommand(f"'{program}'", 10, said.append)
    for name in ("a.png", "b.png", "c.png"):
        command.run(f"/x/{name}", "1")
    command.end()
    assert [line.rpartition(": ")[2] for line in said] == [
        "ended with status 7",
        "ended by signal 9",
    ]
    assert "/x/a.png" in said[0]
    assert command.failed == 2
    program.unlink()
    command = FlaggedCommand("true", 10, said.append)
    command._words = [str(program)]  # removed while the watch runs
    command.run("/x/d.png", "1")
    command.end()
    assert "could not be run (No such file or directory)" in said[-1]


def test_a_hanging_command_is_killed_with_its_children_and_delays_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    pids = tmp_path / "pids"
    program = script(tmp_path, f"echo $$ >'{pids}'; sleep 1000 & echo $! >>'{pids}'; wait")
    command = FlaggedCommand(f"'{program}'", 1.0, said.append)
    start = time.monotonic()
    command.run("/x/a.png", "1")
    assert time.monotonic() - start < 0.5
    command.end()
    assert any("a.png: killed after 1 s" in line for line in said)
    for pid in pids.read_text().split():
        end = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
            assert time.monotonic() < end, pid
            time.sleep(0.05)


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_waiting_commands_are_limited_and_those_left_out_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_command, "MOST_WAITING", 2)
    said: list[str] = []
    command = FlaggedCommand(f"'{script(tmp_path, 'sleep 1000')}'", 60, said.append)
    command.run("/x/0.png", "1")
    end = time.monotonic() + 5
    while command._waiting.qsize():
        assert time.monotonic() < end
        time.sleep(0.01)
    for k in range(1, 5):
        command.run(f"/x/{k}.png", "1")
    assert [line.split(" for ", 1)[1] for line in said] == [
        f"/x/{k}.png: not run, since 2 others wait for their turn" for k in (3, 4)
    ]
    start = time.monotonic()
    command.end(wait=False)
    assert time.monotonic() - start < 5
    assert [line.rpartition(": ")[2] for line in said[2:]] == [
        "killed after the watch had ended",
        "not run, since the watch has ended",
        "not run, since the watch has ended",
    ]
    assert command.failed == 5


@pytest.mark.parametrize(
    ("line", "seconds", "message"),
    [
        ("", 10, "wanted a program that can be run"),
        ("no-such-program-here --red", 10, "found 'no-such-program-here --red'"),
        ("'unclosed", 10, "No closing quotation"),
        ("true", 0, "--on-flagged-timeout: found 0"),
        ("true", float("nan"), "--on-flagged-timeout: found nan"),
    ],
)
def test_what_is_no_command_is_refused(line: str, seconds: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlaggedCommand(line, seconds, print)
