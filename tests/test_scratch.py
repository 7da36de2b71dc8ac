"""Scratch files on a full disk, and the leftovers of killed processes.

A limit on the size of a file stands for a full disk: no file may grow beyond it.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musc_fast import scratch
from musc_fast.errors import StorageError
from musc_fast.files import replacing

pytest.importorskip("fcntl")
pytest.importorskip("resource")

LIMITED = """
import resource, sys, tempfile
import numpy as np
import torch
torch.set_num_threads(1)
folder = sys.argv[1]
tempfile.tempdir = folder
z = torch.randn(24, 400, 64, generator=torch.Generator().manual_seed(0))
np.save(folder + "/z.npy", z.numpy())
from musc_fast import MuscFastError, ReferenceBank, ops, score_batch
class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return len(z)
    def __getitem__(self, index):
        assert index == 0, "the room is looked for before the work"
        return z[index]
bank = ReferenceBank(24)
bank.add(z, scores=[0.0] * len(z))
wide = torch.randn(60, 400, 512)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    CODE
except MuscFastError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("code", "bytes_needed"),
    [
        ("score_batch(folder + '/z.npy')", "2,457,600 bytes are needed, "),
        ("score_batch(Tokens())", "2,457,728 bytes are needed, "),
        ("ops.msm(wide, memory_limit=52 << 20)", " bytes are needed, "),
        ("bank.save(folder + '/bank.safetensors')", ""),
    ],
)
def test_a_full_disk_is_told_with_its_folder(code: str, bytes_needed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("CODE", code), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.strip()
    assert told.startswith(f"StorageError {tmp_path}")
    assert "the disk has no room" in told
    assert bytes_needed in told
    assert told.endswith("bytes are free")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["z.npy"]


def test_room_is_asked_for_before_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="1,000,000,000,000,000,000 bytes are needed"):
        scratch.require_room(tmp_path, 10**18)
    scratch.require_room(tmp_path, 1)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(StorageError, match="no room"), replacing(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


SCRATCH = """
import sys, time
from pathlib import Path
from musc_fast import scratch
from musc_fast.files import replacing
scratch._SECONDS = 0.0
folder = Path(sys.argv[1])
with scratch.scratch_folder(folder) as own, replacing(folder / "kept.json") as temporary:
    Path(own, "pooled").write_bytes(bytes(10))
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_leftovers_of_killed_processes_go_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRATCH, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    strangers = [tmp_path / ".kept-abcdefgh.json", tmp_path / "musc_fast-notes", tmp_path / "a"]
    for stranger in strangers:
        stranger.mkdir()
    linked = tmp_path / ".x-musc_fast-abcdefgh.json"
    linked.symlink_to(tmp_path / "a")
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        before = set(tmp_path.iterdir())
        assert len(before) == 4 + 4
        children[0].kill()
        children[0].wait()
        monkeypatch.setattr(scratch, "_SECONDS", 0.0)
        monkeypatch.setattr(scratch, "_tidied", set())
        time.sleep(0.05)
        scratch.tidy(tmp_path)
        left = set(tmp_path.iterdir())
        assert len(before - left) == 2
        assert {*strangers, linked} <= left
        with replacing(tmp_path / "kept.json") as temporary:
            temporary.write_text("whole")
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert (tmp_path / "kept.json").read_text() == "whole"


def test_young_files_stay_even_without_a_lock(tmp_path: Path) -> None:
    young = tmp_path / ".a-musc_fast-abcdefgh.csv"
    young.touch()
    old = tmp_path / ".b-musc_fast-abcdefgh.csv"
    old.touch()
    os.utime(old, (0, 0))
    scratch.tidy(tmp_path)
    assert young.exists()
    assert not old.exists()


def test_sigterm_ends_a_command_cleanly(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from musc_fast import scratch
from musc_fast.cli import app
def work():
    import time
    with scratch.scratch_folder(Path(sys.argv[1])) as folder:
        print("ready", flush=True)
        time.sleep(600)
app.app = work
app.main()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    child.stdout.close()
    assert not list(tmp_path.iterdir())
