"""Ctrl-C ends a long search between two chunks of work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SEARCH = """
import signal
import torch
from musc_fast.backends.cpu import operators as native
from musc_fast.settings import SearchOptions
# A job in the background of a shell inherits that it ignores the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
generator = torch.Generator().manual_seed(0)
# Seconds of work, so that the signal comes in time.
z = torch.nn.functional.normalize(torch.randn(192, 1024, 256, generator=generator), dim=2)
def progress(done, total):
    if 0 < done < total // 2:
        print("under way", flush=True)
try:
    native.msm(z, None, 0, 23, SearchOptions(on_progress=progress))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT reaches a process only on POSIX")
def test_interrupt_ends_the_search() -> None:
    with subprocess.Popen([sys.executable, "-c", SEARCH], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "under way\n"
        run.send_signal(signal.SIGINT)
        rest, _ = run.communicate(timeout=60)
    assert rest.endswith("interrupted\n")
    assert run.returncode == 0
