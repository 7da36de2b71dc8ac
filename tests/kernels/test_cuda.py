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
RANGE = 128  # patches of the other image that share an entry of `least`


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return emulated_cuda.build()


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
        ranges = -(-y.shape[1] // RANGE)
        self.least = np.full((len(x), self.all, ranges, x.shape[1]), 0xFFFF, np.uint16)

    def right_least(self) -> NDArray[np.uint16]:
        """The least distance to each range, float32 rounded down to its upper half."""
        least = np.full_like(self.least, 0xFFFF)
        for i, j in self.pairs():
            for r in range(least.shape[2]):
                found = self.squared[i, j][:, r * RANGE : (r + 1) * RANGE].min(1)
                least[i, self.first + j, r] = found.astype(np.float32).view(np.uint32) >> 16
        return least

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
            *(self.x, self.y, self.norms, self.keys, self.least),
            first=self.first,
            triangle=self.triangle,
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
    ((35, 1, 9, 5), 64, False, 20),  # two blocks of images of the second pass
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
    np.testing.assert_array_equal(case.least, case.right_least())
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


def sum_as_refine(x: NDArray[np.float32], y: NDArray[np.float32]) -> np.float32:
    """The squared distance of two rows in the order of sums of kernels/refine.py."""
    padded = -len(x) % 128
    difference = np.pad(x - y, (0, padded)).reshape(-1, 128)
    sums = np.zeros(128, np.float32)
    for part in difference:  # a product of floats is exact in float64, so this rounds once
        sums = (part.astype(np.float64) ** 2 + sums.astype(np.float64)).astype(np.float32)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    found: np.float32 = sums[0]
    return found


@pytest.mark.parametrize("channels", [68, 128, 300, 1024])
@pytest.mark.parametrize(
    ("bound", "images"), [("none", 2), ("certified", 2), ("certified", 9), ("searched", 9)]
)
def test_winners(kernels: ctypes.CDLL, channels: int, bound: str, images: int) -> None:
    generator = np.random.default_rng(0)
    held, others, patches, other_patches, first = 35, 40, 9, 7, 3
    x = generator.standard_normal((images, patches, channels), np.float32)
    y = generator.standard_normal((held, other_patches, channels), np.float32)
    distance = generator.integers(1, 1000, (images, others, patches))
    keys = distance << 32 | generator.integers(0, other_patches, distance.shape)
    keys[0, 5, 2] = UNSET
    kth = generator.uniform(10, 25, (images, patches)).astype(np.float32)
    if bound == "searched":
        kth = kth**2
    x_errors = generator.uniform(0, 2, (images, patches)).astype(np.float32)
    y_errors = generator.uniform(0, 2, others).astype(np.float32)
    error, out = np.full(1, 7, np.float32), np.full(distance.shape, np.nan, np.float32)
    address = emulated_cuda.address
    arguments = emulated_cuda.Winners(
        *(address(x), address(y), address(keys), None if bound == "none" else address(kth)),
        *(address(each) for each in (x_errors, y_errors, error, out)),
        *(images, held, others, patches, other_patches, channels, first),
        *(1.0, True, bound == "certified"),
    )
    assert kernels.winners(ctypes.byref(arguments)) == 0
    slack = x_errors[:, None] + y_errors[None, :, None]
    lower = np.sqrt(np.maximum(distance - 7.0, 0)) - slack
    compared = {"none": 0 * distance, "certified": lower, "searched": distance}[bound]
    wanted = (compared <= kth[:, None]) & (keys != UNSET)
    for i, j, p in np.ndindex(*distance.shape):
        if not first <= j < first + held:
            assert np.isnan(out[i, j, p])  # of another block of references
        elif wanted[i, j, p]:
            q = keys[i, j, p] & 0x7FFFFFFF
            assert out[i, j, p] == sum_as_refine(x[i, p], y[j - first, q])
        else:
            assert out[i, j, p] == np.inf
