"""Tokens that lie in files: mapped, so that a batch may be larger than memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import check_kind
from ..errors import InputError
from ..scratch import reserve


def open_layer(where: str, path: str | os.PathLike[str]) -> Tensor:
    """The tokens of a .npy or .safetensors file (one tensor) as a tensor mapped from it.

    Nothing is read until it is used, and the file is never written to. Raises InputError naming
    the file.
    """
    file = Path(path)
    if file.suffix not in (".npy", ".safetensors"):
        raise InputError(
            f"{where}: {file} is neither .npy nor .safetensors; images are scored by "
            "MuSc().score(images)"
        )
    # safetensors is imported here, so that scoring tensors needs PyTorch alone.
    from safetensors import safe_open

    try:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="c", allow_pickle=False)
            if array.dtype.kind == "f" and array.dtype.itemsize <= 8 and array.dtype.isnative:
                return torch.from_numpy(array)
            raise InputError(f"{where}: {file} holds {array.dtype}, wanted native floats")
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            if len(names) != 1:
                raise InputError(f"{where}: {file} holds {len(names)} tensors, wanted one")
            tensor: Tensor = stored.get_tensor(names[0])
            return tensor
    except InputError:
        raise
    except Exception as error:  # a damaged header raises whatever its parser does
        raise InputError(f"{where}: {file} cannot be read as tokens: {error}") from None


def write_dataset(name: str, dataset: Dataset[Any], folder: str) -> list[Path]:
    """Write the items of a dataset of tokens to .npy files of `folder`, one a layer; their paths.

    An item is one image: its tokens [prefix + P, C], or a sequence of them, one a layer. Raises
    InputError naming the item that differs from the first.
    """
    count = len(dataset)  # type: ignore[arg-type]
    files: list[NDArray[Any]] = []
    for index in range(count):
        item = dataset[index]
        layers = [item] if isinstance(item, Tensor | np.ndarray) else list(item)
        arrays = [_array(f"{name}: item {index}", layer) for layer in layers]
        if index == 0:
            for layer, array in enumerate(arrays):
                path = os.path.join(folder, f"{name}-{layer}.npy")
                shape = (count, *array.shape)
                files.append(_new_file(path, array.dtype, shape))
        shapes = [(array.shape, array.dtype) for array in arrays]
        wanted = [(file.shape[1:], file.dtype) for file in files]
        if shapes != wanted:
            raise InputError(
                f"{name}: item {index} of the dataset holds {_listed(shapes)}, item 0 "
                f"{_listed(wanted)}"
            )
        for file, array in zip(files, arrays, strict=True):
            file[index] = array
    return [Path(folder) / f"{name}-{layer}.npy" for layer in range(len(files))]


def _array(where: str, layer: Any) -> NDArray[Any]:
    """The tokens of a layer as an array of native floats; bfloat16, unknown to NumPy, widened."""
    if isinstance(layer, Tensor):
        layer = layer.detach()
        check_kind(where, layer)
        return np.asarray((layer.float() if layer.dtype == torch.bfloat16 else layer).cpu())
    if np.ma.is_masked(layer):
        raise InputError(f"{where} has masked values, which would count; fill or drop them")
    array = np.asarray(layer)
    if array.dtype.kind != "f":
        raise InputError(f"{where}: found an array of {array.dtype}, wanted floats")
    return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="))


def _new_file(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A mapped .npy file whose bytes are reserved."""
    with open(path, "wb") as file:
        header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        write_array_header_1_0(file, header)
        start = file.tell()
    reserve(path, start + dtype.itemsize * math.prod(shape))
    return open_memmap(path, mode="r+")


def _listed(shapes: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return " and ".join(f"{dtype} {list(shape)}" for shape, dtype in shapes) or "no tensors"
