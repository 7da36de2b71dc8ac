"""Batches larger than memory and runs that may be interrupted: token files, checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .. import ops
from ..errors import InputError
from ..files import replacing

_PART = 256  # images whose scores are kept together; fewer are done again after a kill
_BLOCK = 64 << 20  # bytes of tokens that LNAMD takes at a time


def open_layer(where: str, path: str | os.PathLike[str]) -> Tensor:
    """The tokens of a .npy or .safetensors file (one tensor) as a tensor mapped from it.

    Nothing is read until it is used, and the file is never written to. Raises InputError naming
    the file.
    """
    file = Path(path)
    if file.suffix not in (".npy", ".safetensors"):
        raise InputError(f"{where}: {file} is neither .npy nor .safetensors")
    # Here, so that scoring tensors needs PyTorch alone.
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="c", allow_pickle=False)
            return torch.from_numpy(array)
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            if len(names) != 1:
                raise InputError(f"{where}: {file} holds {len(names)} tensors, wanted one")
            tensor: Tensor = stored.get_tensor(names[0])
            return tensor
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(f"{where}: {file} cannot be read as tokens: {error}") from None


def dataset_files(name: str, dataset: Dataset[Any], folder: str) -> list[Path]:
    """The items of a dataset of tokens, written one by one to a .npy file of `folder` a layer.

    An item is one image: its tokens [prefix + P, C], or a sequence of them, one a layer. Raises
    InputError naming the item that differs from the first.
    """
    count = len(dataset)  # type: ignore[arg-type]
    files: list[NDArray[Any]] = []
    for index in range(count):
        item = dataset[index]
        layers = [item] if isinstance(item, Tensor | np.ndarray) else list(item)
        arrays = [
            np.asarray(layer.cpu() if isinstance(layer, Tensor) else layer) for layer in layers
        ]
        if index == 0:
            for layer, array in enumerate(arrays):
                path = os.path.join(folder, f"{name}-{layer}.npy")
                shape = (count, *array.shape)
                files.append(open_memmap(path, mode="w+", dtype=array.dtype, shape=shape))
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


def _listed(shapes: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return " and ".join(f"{dtype} {list(shape)}" for shape, dtype in shapes) or "no tensors"


def scratch(folder: Path | None) -> AbstractContextManager[str]:
    """A folder for scratch files, removed afterwards: in the checkpoint's, if there is one."""
    if folder is None:
        return tempfile.TemporaryDirectory(prefix="musc_fast-")
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder)


def pooled_file(
    folder: str, layer: Tensor, grid: tuple[int, int], degree: int, backend: str
) -> Tensor:
    """LNAMD of `layer` [N, P, C] in a file of `folder`, mapped; a block of images at a time."""
    images, patches, channels = layer.shape
    name = os.path.join(folder, "pooled")
    Path(name).unlink(missing_ok=True)  # the mapping of the step before keeps its own
    z = torch.from_file(name, shared=True, size=layer.numel()).view(images, patches, channels)
    step = max(1, _BLOCK // (4 * patches * channels))
    for first in range(0, images, step):
        z[first : first + step] = ops.lnamd(
            layer[first : first + step], grid, degree, backend=backend
        )
    return z


def parts_of(images: int, checkpointed: bool) -> list[tuple[int, int]]:
    """The parts of a run: one, or several that a checkpoint keeps one by one.

    Pairs of images in different parts are searched twice, so parts are not small.
    """
    count = max(1, images // _PART) if checkpointed else 1
    return [(images * k // count, images * (k + 1) // count) for k in range(count)]


class Checkpoint:
    """Finished parts of a run in a folder, each written completely or not at all.

    `settings` decide the scores besides the tokens; a folder of another run is refused.
    """

    def __init__(
        self, folder: str | os.PathLike[str], layers: Sequence[Tensor], settings: dict[str, Any]
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        key = json.dumps({**settings, "tokens": [digest(layer) for layer in layers]})
        file = self.folder / "run.json"
        if not file.exists():
            if any(self.folder.glob("part-*.npy")):
                raise InputError(f"checkpoint: {self.folder} holds parts but no run.json")
            with replacing(file) as temporary:
                temporary.write_text(key, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != key:
            raise InputError(
                f"checkpoint: {self.folder} belongs to a run with other tokens or settings; name "
                "another folder, or remove that one"
            )

    def _file(self, step: int, part: tuple[int, int]) -> Path:
        return self.folder / f"part-{step:03}-{part[0]}-{part[1]}.npy"

    def has(self, step: int, part: tuple[int, int]) -> bool:
        """Whether the part is there."""
        return self._file(step, part).is_file()

    def load(self, step: int, part: tuple[int, int]) -> Tensor:
        """The scores of a finished part, [last - first, P] float32."""
        return torch.from_numpy(np.load(self._file(step, part), allow_pickle=False))

    def save(self, step: int, part: tuple[int, int], scores: Tensor) -> None:
        """Keep the scores of a part."""
        with replacing(self._file(step, part)) as temporary, temporary.open("wb") as file:
            np.save(file, scores.cpu().numpy())
            file.flush()
            os.fsync(file.fileno())


def digest(layer: Tensor) -> str:
    """Of a layer's dtype, shape and values, in 32 hex digits."""
    digest = hashlib.blake2b(f"{layer.dtype} {list(layer.shape)}".encode(), digest_size=16)
    for image in layer:
        digest.update(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
