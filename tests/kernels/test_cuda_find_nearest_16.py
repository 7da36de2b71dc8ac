"""The CUDA search of 16-bit rows, run on the CPU: keys of exact distances, ties included."""

from __future__ import annotations

import ctypes
import shutil

import emulated_cuda
import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
UNSET = 2**63 - 1


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return emulated_cuda.build()


def draw(shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Small integers, whose products add exactly in any order, and patches that repeat."""
    x = np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)
    x[:, : min(3, shape[1])] = x[-1, -1]
    x[:, ::50] = x[0, shape[1] // 2]
    return x


def bits_of(x: NDArray[np.float32], bfloat: bool) -> NDArray[np.uint16]:
    if bfloat:
        return np.ascontiguousarray((x.view(np.uint32) >> 16).astype(np.uint16))
    return x.astype(np.float16).view(np.uint16)


def right_keys(
    x: NDArray[np.float32], y: NDArray[np.float32], keys: NDArray[np.int64], first: int
) -> NDArray[np.int64]:
    """Keys of x against y as the header describes them; `keys` where no pair is."""
    right = keys.copy()
    for i, own in enumerate(x.astype(np.float64)):
        for j, other in enumerate(y.astype(np.float64)):
            squared = ((own[:, None] - other[None]) ** 2).sum(2).astype(np.float32)
            values = squared.view(np.int32).astype(np.int64) & ~255
            right[i, first + j] = (values << 32 | np.arange(len(other))).min(1)
    return right


def search(
    kernels: ctypes.CDLL,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    keys: NDArray[np.int64],
    first: int,
    *,
    triangle: bool,
    bfloat: bool,
) -> int:
    bits = [bits_of(each, bfloat) for each in (x, y)]
    norms = [(each**2).sum(2, dtype=np.float32) for each in (x, y)]
    pairs = emulated_cuda.Pairs16(
        *(emulated_cuda.address(each) for each in (*bits, *norms, keys)),
        *(len(x), len(y), x.shape[1], y.shape[1], x.shape[2], keys.shape[1], first),
        triangle,
        bfloat,
    )
    return int(kernels.nearest_16(ctypes.byref(pairs)))


@pytest.mark.parametrize(
    ("images", "patches", "channels", "bfloat"),
    [
        (2, 1, 8, False),
        (4, 37, 72, False),  # tiles of several images; channels that end within a stage
        (3, 150, 64, True),
        (3, 300, 16, False),  # several tiles a block
        (2, 150, 640, False),  # enough channels for the second group to lag
        (9, 256, 8, False),  # more than one strip; images as wide as tiles
    ],
)
def test_pairs_within_a_batch(
    kernels: ctypes.CDLL, images: int, patches: int, channels: int, bfloat: bool
) -> None:
    x = draw((images, patches, channels), patches)
    keys = np.full((images, images, patches), UNSET, np.int64)
    right = right_keys(x, x, keys, 0)
    right[range(images), range(images)] = UNSET
    assert search(kernels, x, x, keys, 0, triangle=True, bfloat=bfloat) == 0
    np.testing.assert_array_equal(keys, right)


@pytest.mark.parametrize(
    ("shape", "channels", "bfloat"),
    [((2, 3, 100, 290), 64, False), ((1, 2, 130, 20), 136, True), ((3, 1, 64, 256), 576, False)],
)
def test_images_against_references(
    kernels: ctypes.CDLL, shape: tuple[int, int, int, int], channels: int, bfloat: bool
) -> None:
    images, others, patches, other_patches = shape
    x, y = draw((images, patches, channels), 0), draw((others, other_patches, channels), 1)
    first = 2
    keys = np.full((images, others + 3, patches), UNSET, np.int64)
    right = right_keys(x, y, keys, first)
    assert search(kernels, x, y, keys, first, triangle=False, bfloat=bfloat) == 0
    np.testing.assert_array_equal(keys, right)


def test_keys_are_lowered_and_never_raised(kernels: ctypes.CDLL) -> None:
    x = draw((2, 70, 32), 0)
    keys = np.full((2, 2, 70), UNSET, np.int64)
    keys[0, 1, ::2] = -5
    right = right_keys(x, x, keys, 0)
    right[range(2), range(2)] = UNSET
    right[0, 1, ::2] = -5
    assert search(kernels, x, x, keys, 0, triangle=True, bfloat=False) == 0
    np.testing.assert_array_equal(keys, right)


def test_rows_that_the_copy_engine_cannot_take_are_refused(kernels: ctypes.CDLL) -> None:
    x = draw((2, 5, 12), 0)
    keys = np.full((2, 2, 5), UNSET, np.int64)
    assert search(kernels, x, x, keys, 0, triangle=True, bfloat=False) != 0
    assert (keys == UNSET).all()
