"""The CUDA kernels, run on the CPU: keys and candidates are those of whole integer distances."""

from __future__ import annotations

import ctypes
import shutil
from typing import Any

import emulated_cuda
import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
UNSET = 2**63 - 1


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return emulated_cuda.build(tmp_path_factory.mktemp("cuda"))


def draw(shape: tuple[int, int, int], largest: int, seed: int) -> NDArray[np.int8]:
    """Values within `largest`; those of 127 are all at the ends of the range, where sums are."""
    generator = np.random.default_rng(seed)
    if largest == 127:
        return np.where(generator.random(shape) < 0.5, 127, -127).astype(np.int8)
    return generator.integers(-largest, largest + 1, shape).astype(np.int8)


def distances(x: NDArray[np.int8], y: NDArray[np.int8]) -> NDArray[np.int64]:
    """Squared distances [N, M, P, Q]."""
    a, b = x.astype(np.int64), y.astype(np.int64)
    products = np.einsum("ipk,jqk->ijpq", a, b)
    squares = (a**2).sum(2)[:, None, :, None] + (b**2).sum(2)[None, :, None, :]
    found: NDArray[np.int64] = squares - 2 * products
    return found


def squared_norms(x: NDArray[np.int8]) -> NDArray[np.int32]:
    found: NDArray[np.int32] = np.square(x, dtype=np.int32).sum(2, dtype=np.int32)
    return found


class Case:
    """Operands, the keys and candidates that are right, and those that the kernels find."""

    def __init__(
        self, shape: tuple[int, int, int, int], channels: int, *, triangle: bool, largest: int = 20
    ) -> None:
        images, others, patches, other_patches = shape
        x = draw((images, patches, channels), largest, 0)
        x[0, : min(5, patches)] = x[-1, :1]  # ties
        y = x if triangle else draw((others, other_patches, channels), largest, 1)
        self.triangle, self.first = triangle, 0 if triangle else 2
        self.all = len(y) + (0 if triangle else 3)
        self.x, self.y, self.squared = x, y, distances(x, y)
        self.norms = tuple(
            np.square(each, dtype=np.int32).sum(2, dtype=np.int32) for each in (x, y)
        )
        self.keys = self.new_keys()

    def new_keys(self) -> NDArray[np.int64]:
        return np.full((len(self.x), self.all, self.x.shape[1]), UNSET, np.int64)

    def pairs(self) -> list[tuple[int, int]]:
        number, others = len(self.x), len(self.y)
        every = [(i, j) for i in range(number) for j in range(others)]
        return [(i, j) for i, j in every if not self.triangle or i != j]

    def right_keys(self) -> NDArray[np.int64]:
        keys = self.new_keys()
        best = (self.squared << 32 | np.arange(self.y.shape[1])).min(3)
        for i, j in self.pairs():
            keys[i, self.first + j] = best[i, j]
        return keys

    def arguments(self) -> Any:
        made = emulated_cuda.make_pairs(
            self.x, self.y, self.norms, self.keys, first=self.first, triangle=self.triangle
        )
        return ctypes.byref(made)

    def limits(self) -> NDArray[np.float32]:
        """Limits a little above the least distance for about half of the patches."""
        wanted = np.random.default_rng(2).random(self.keys.shape) < 0.5
        wanted &= self.keys != UNSET
        near = (self.keys >> 32) * 1.08 + 3
        return np.where(wanted, near, -np.inf).astype(np.float32)

    def right_candidates(self, limits: NDArray[np.float32]) -> set[tuple[int, int]]:
        found = set()
        for i, j in self.pairs():
            row = self.first + j
            for p, q in np.argwhere(self.squared[i, j] <= limits[i, row][:, None]):
                if self.keys[i, row, p] & 0x7FFFFFFF != q:
                    found.add((int((i * self.all + row) * self.x.shape[1] + p), int(q)))
        return found


CASES = [
    ((2, 2, 1, 1), 128, True, 20),
    ((3, 3, 70, 70), 128, True, 20),
    ((2, 2, 70, 70), 128, True, 127),
    ((2, 3, 37, 90), 128, False, 20),
    ((2, 2, 300, 300), 128, True, 20),  # two blocks of rows, two ranges of packed indices
    ((1, 2, 17, 2100), 64, False, 20),  # two segments
    ((2, 2, 270, 270), 64, True, 20),
    ((2, 2, 80, 80), 256, True, 127),
    ((1, 2, 17, 200), 256, False, 20),
]


@pytest.mark.parametrize(("shape", "channels", "triangle", "largest"), CASES)
def test_keys_and_candidates(
    kernels: ctypes.CDLL,
    shape: tuple[int, int, int, int],
    channels: int,
    triangle: bool,
    largest: int,
) -> None:
    case = Case(shape, channels, triangle=triangle, largest=largest)
    assert kernels.nearest(case.arguments()) == 0
    np.testing.assert_array_equal(case.keys, case.right_keys())
    limits = case.limits()
    right = case.right_candidates(limits)
    for room in (100_000, 7):
        slots, patches = np.full(room, -1, np.int64), np.full(room, -1, np.int32)
        count = np.zeros(1, np.uint64)
        target = emulated_cuda.Candidates(
            *(emulated_cuda.address(each) for each in (limits, count, slots, patches)), room
        )
        assert kernels.candidates(case.arguments(), ctypes.byref(target)) == 0
        assert int(count[0]) == len(right)  # those beyond the room are counted too
        listed = set(zip(slots.tolist(), patches.tolist(), strict=True)) - {(-1, -1)}
        assert listed <= right
        assert len(listed) == min(room, len(right))


def test_channels_that_no_kernel_takes_are_refused(kernels: ctypes.CDLL) -> None:
    case = Case((2, 2, 5, 5), 96, triangle=True)
    assert kernels.nearest(case.arguments()) != 0
