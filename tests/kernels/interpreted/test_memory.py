"""The plan of device memory against what a search allocates."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from musc_fast.backends.rounded_images import fit_space
from musc_fast.backends.triton import few_channels, planning, search


class Peak(TorchDispatchMode):
    """The most bytes held at a time by tensors that are made within, `inputs` apart."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.inputs = {each.untyped_storage().data_ptr() for each in inputs}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.inputs:
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: each for key, each in self.live.items() if not each[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return result


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_peak_is_as_planned(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Constants that a small search does not fill would hide its own share.
    for name, value in (("GROUP_BYTES", 20_000), ("_ROUNDING", 10_000), ("_SAMPLES", 0)):
        monkeypatch.setattr(planning, name, value)

    def list_candidates(*args: Any, **kwargs: Any) -> Any:
        gc.collect()  # the interpreter (alone) leaves arguments of earlier launches in cycles
        return real(*args, **kwargs)

    real = few_channels.list_candidates
    monkeypatch.setattr(few_channels, "list_candidates", list_candidates)
    n, p, c = 4, 48, 40
    z = torch.nn.functional.normalize(torch.randn(n, p, c), dim=2)
    space = fit_space(z, None, torch.int8)
    shape = planning.Shape(
        images=n, patches=p, others=n, other_patches=p, channels=c, symmetric=True
    )
    limit = 1 << 30
    if chunks > 1:
        whole = planning.plan_search(shape, limit, row_bytes=space.depth)
        limit = whole.bytes - 2 * planning.image_bytes(shape)
    planned = planning.plan_search(shape, limit, row_bytes=space.depth)
    assert -(-n // planned.chunk) == chunks
    with Peak(z) as peak:
        made = search.Search(z, None, k_max=3, memory_limit=limit, space=space)
        for _, _, squared in made.chunks():
            del squared
    assert made.plan == planned
    assert peak.bytes == pytest.approx(planned.bytes, rel=0.05)
