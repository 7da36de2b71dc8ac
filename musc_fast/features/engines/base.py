"""What an engine is: a module with `make_model`, which gives a backbone's forward pass.

A model gives float32 tokens of the blocks asked for, in their order, and class tokens before their
normalisation. Sizes and devices have been checked when a model is made or called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..towers import Tower
from ..weights import Notify


@dataclass(frozen=True)
class ModelSpec:
    """What a model computes.

    tower: the loaded vision transformer, on `device`.
    image_size: (height, width) of every input in pixels.
    blocks: 0-based blocks whose tokens are returned, in this order.
    fingerprint: changes with weights, architecture, variant and preprocessing.
    precision: "fp32", "bf16" or "fp16".
    """

    tower: Tower
    image_size: tuple[int, int]
    blocks: tuple[int, ...]
    fingerprint: str
    device: torch.device
    precision: str


# Called with the shape [prefix + P, C] of one image's tokens of each block; gives the float32
# tensors [N, prefix + P, C] into which the tokens of N images are written.
Out = Callable[[Sequence[torch.Size]], Sequence[Tensor]]


class Model(Protocol):
    """The forward pass of one backbone."""

    def __call__(
        self, images: Tensor, cls: bool, out: Out | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens [N, prefix + P, C] of each block, and class tokens [N, D] or None.

        images: [N, 3, h, w] float32 on the model's device.
        cls: False gives no class tokens and leaves out the blocks after the last one asked for.
        out: gives contiguous tensors for the tokens; None: new ones.
        """


class MakeModel(Protocol):
    """Makes a model.

    notify: called with a line of text before anything that may take long.

    Raises BackendError where the engine cannot compute in the precision of `spec`.
    """

    def __call__(self, spec: ModelSpec, notify: Notify | None) -> Model: ...
