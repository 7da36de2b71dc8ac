"""`memory_limit` holds: the peak of a process of its own, beyond what it had before the call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from musc_fast import _C
from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu.rounded_images import default_isa
from musc_fast.backends.memory import free_memory
from musc_fast.errors import InputError
from musc_fast.settings import SearchOptions

SCRIPT = """
import ctypes, sys, torch
from musc_fast.backends.cpu import operators as native, scratch
from musc_fast.settings import SearchOptions
def peak():  # VmHWM: ru_maxrss starts at the size of the parent
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
images, mode, *limits = (int(value) for value in sys.argv[1:])
torch.set_num_threads(2)
z = torch.nn.functional.normalize(
    torch.randn(images, 100, 1024, generator=torch.Generator().manual_seed(0))
    * torch.arange(1, 1025).float().pow(-0.7), dim=2)
others = z[:10].clone() if mode else None
native.msm(z[:3], None, 0, 1)  # libraries and thread stacks
for limit in limits:
    scratch.release()  # what the call before left
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = peak()
    out = native.msm(z, others, 0, 8, SearchOptions(memory_limit=limit))
    print(peak() - before, float(out.sum()))
"""


def lines(script: str, references: int, limits: tuple[int, ...]) -> list[list[str]]:
    """What a process of its own prints for each limit."""
    done = subprocess.run(
        [sys.executable, "-c", script, "100", str(references), *map(str, limits)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system cannot measure a peak anew"
)
@pytest.mark.parametrize("references", [0, 1])
def test_peak_memory_stays_within_the_limit(references: int) -> None:
    """100 images: the first two limits leave room for larger segments or chunks only.

    Rounded rows lie in memory within all three: pages of a scratch file would count in the peak,
    though the system may drop them. Words of two elements take twice the memory of words of four.
    """
    sums = set()
    more = 0 if _C.instruction_sets()[default_isa()].elements == 4 else 32 << 20
    limits = (more + (80 << 20), more + (112 << 20), 1 << 30)
    for limit, (used, total) in zip(limits, lines(SCRIPT, references, limits), strict=True):
        assert 4 << 20 < int(used) <= limit, (used, limit)
        sums.add(total)
    assert len(sums) == 1  # and the result depends on none of it


MAPPED = """
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
def look(done, total):
    seen.append(anonymous())
    files.append("musc_fast-" in open("/proc/self/maps").read())
for limit in limits:
    scratch.release()
    before, seen, files = anonymous(), [], []
    out = native.msm(z, others, 0, 8, SearchOptions(memory_limit=limit, on_progress=look))
    print(max(seen) - before, float(out.sum()), any(files))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("references", [0, 1])
def test_operands_beyond_the_limit_lie_in_a_file(references: int) -> None:
    """The system may drop pages of a file; the memory beside them stays within the limit."""
    script = SCRIPT[: SCRIPT.index("for limit")] + MAPPED
    small, large = lines(script, references, (40 << 20, 1 << 30))
    assert (int(small[0]) <= 40 << 20, small[2]) == (True, "True")
    assert (int(large[0]) <= 1 << 30, large[2]) == (True, "False")
    assert small[1] == large[1]


def test_limit_that_nothing_fits_is_an_error_with_the_way_out() -> None:
    z = torch.nn.functional.normalize(torch.randn(4, 100, 40), dim=2)
    with pytest.raises(InputError, match=r"memory_limit.*at least \d+ MiB"):
        native.msm(z, None, 0, 1, SearchOptions(memory_limit=1000))


def test_default_limit_is_a_share_of_what_is_free() -> None:
    assert 0 < free_memory() < 1 << 50
