"""The operators in PyTorch's registry, as `torch.ops.musc_fast.*`: opaque to `torch.compile`.

`musc_fast.ops` looks at values (NaN, Inf), at which a traced graph breaks. These take valid input,
know the shapes of their results without running (fake kernels), and so stay in one graph with what
is around them. `backend` is "auto" or a name from `musc_fast.backends`.

    torch.ops.musc_fast.lnamd(tokens, [H, W], [1, 3, 5], "auto") -> [Z, Z, Z]
    torch.ops.musc_fast.patch_to_image(z, None, "exact", "auto") -> D
    torch.ops.musc_fast.interval_mean(D, k_min, k_max, "auto") -> scores
    torch.ops.musc_fast.msm(z, None, k_min, k_max, "exact", "auto") -> scores

`patch_to_image` and `msm` take memory_limit=None besides: bytes beyond input and output, as in
`musc_fast.ops`. There is no progress: a schema has no type for functions. Shapes as in
`musc_fast.reference`; results are float32. Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends.registry import resolve
from .settings import SearchOptions


def _lnamd(
    tokens: Tensor, grid: Sequence[int], degrees: Sequence[int], backend: str
) -> list[Tensor]:
    height, width = grid
    operators = resolve(backend, tokens.device).operators()
    return operators.lnamd(tokens, (height, width), tuple(degrees))


def _lnamd_fake(
    tokens: Tensor, grid: Sequence[int], degrees: Sequence[int], backend: str
) -> list[Tensor]:
    return [tokens.new_empty(tokens.shape, dtype=torch.float32) for _ in degrees]


def _patch_to_image(
    z: Tensor,
    references: Tensor | None,
    precision: str,
    backend: str,
    memory_limit: int | None = None,
) -> Tensor:
    options = SearchOptions(precision, memory_limit)
    return resolve(backend, z.device).operators().patch_to_image(z, references, options)


def _patch_to_image_fake(
    z: Tensor,
    references: Tensor | None,
    precision: str,
    backend: str,
    memory_limit: int | None = None,
) -> Tensor:
    others = z if references is None else references
    return z.new_empty((z.shape[0], z.shape[1], others.shape[0]), dtype=torch.float32)


def _interval_mean(distances: Tensor, k_min: int, k_max: int, backend: str) -> Tensor:
    return resolve(backend, distances.device).operators().interval_mean(distances, k_min, k_max)


def _interval_mean_fake(distances: Tensor, k_min: int, k_max: int, backend: str) -> Tensor:
    return distances.new_empty(distances.shape[:2], dtype=torch.float32)


def _msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    precision: str,
    backend: str,
    memory_limit: int | None = None,
) -> Tensor:
    options = SearchOptions(precision, memory_limit)
    return resolve(backend, z.device).operators().msm(z, references, k_min, k_max, options)


def _msm_fake(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    precision: str,
    backend: str,
    memory_limit: int | None = None,
) -> Tensor:
    return z.new_empty(z.shape[:2], dtype=torch.float32)


lnamd = torch.library.custom_op(
    "musc_fast::lnamd",
    _lnamd,
    mutates_args=(),
    schema="(Tensor tokens, int[] grid, int[] degrees, str backend) -> Tensor[]",
)
lnamd.register_fake(_lnamd_fake)

patch_to_image = torch.library.custom_op(
    "musc_fast::patch_to_image",
    _patch_to_image,
    mutates_args=(),
    schema="(Tensor z, Tensor? references, str precision, str backend, int? memory_limit=None)"
    " -> Tensor",
)
patch_to_image.register_fake(_patch_to_image_fake)

interval_mean = torch.library.custom_op(
    "musc_fast::interval_mean",
    _interval_mean,
    mutates_args=(),
    schema="(Tensor distances, int k_min, int k_max, str backend) -> Tensor",
)
interval_mean.register_fake(_interval_mean_fake)

msm = torch.library.custom_op(
    "musc_fast::msm",
    _msm,
    mutates_args=(),
    schema="(Tensor z, Tensor? references, int k_min, int k_max, str precision, str backend,"
    " int? memory_limit=None) -> Tensor",
)
msm.register_fake(_msm_fake)
