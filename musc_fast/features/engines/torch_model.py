"""PyTorch computes the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights import Notify
from .base import Model, ModelSpec, Out

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchModel:
    """The tower as PyTorch runs it: in fp32, or under autocast."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def __call__(
        self, images: Tensor, cls: bool, out: Out | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """See `Model`."""
        spec = self._spec
        dtype = _DTYPES.get(spec.precision)
        # A disabled autocast, too, refuses float16 on a CPU.
        with torch.autocast(
            spec.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None
        ):
            tokens, class_tokens = spec.tower.forward(images, spec.blocks, cls)
        found = tuple(tokens[block].float() for block in spec.blocks)
        if out is not None:
            targets = tuple(out([layer.shape[1:] for layer in found]))
            for target, layer in zip(targets, found, strict=True):
                target.copy_(layer)
            found = targets
        return found, None if class_tokens is None else class_tokens.float()


def make_model(spec: ModelSpec, notify: Notify | None) -> Model:
    """See `MakeModel`."""
    return TorchModel(spec)
