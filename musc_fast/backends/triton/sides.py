"""One side of a search on a GPU: its original rows, the rounded ones, and bounds of each image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...kernels.project import project_rows, split_basis
from ...kernels.quantise import quantise_rows
from ...kernels.refine import FineRows
from ..rounded_images import RoundedImages, RoundingSpace
from .rows import Rows


class RowRounding:
    """`rounded_images.round_rows` in a space, by kernels."""

    def __init__(self, space: RoundingSpace) -> None:
        self.space = space
        if space.basis is not None:
            self._basis = split_basis(space.basis, space.basis_error)
            self._no_mean = torch.zeros(space.depth, dtype=torch.float32, device=space.mean.device)

    def __call__(self, space: RoundingSpace, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows [R, C] -> values [R, K], norms, rounding errors and residual norms, [R] each."""
        return self._round(space, rows, few=False)

    def with_few(self, space: RoundingSpace, rows: Tensor) -> tuple[Tensor, ...]:
        """And values, norms and errors of the same components in float16, at `few_scale`."""
        return self._round(space, rows, few=True)

    def _round(self, space: RoundingSpace, rows: Tensor, *, few: bool) -> tuple[Tensor, ...]:
        rows = rows.contiguous()
        if space.basis is None:
            values, norms, errors = quantise_rows(
                rows, space.mean, space.dtype, space.scale, space.depth, spread=space.spread
            )
            return values, norms, errors, torch.zeros_like(errors)
        rows, residual_norm, projection_errors = project_rows(
            rows, space.mean, self._basis, space.residual_centre, space.depth, space.largest
        )
        values, norms, errors = quantise_rows(
            rows, self._no_mean, space.dtype, space.scale, space.depth, spread=space.spread
        )
        found = (values, norms, errors.add_(projection_errors), residual_norm)
        if not few:
            return found
        values, norms, errors = quantise_rows(
            rows, self._no_mean, torch.float16, few_scale(space), space.depth, spread=False
        )
        return *found, values, norms, errors.add_(projection_errors)


def _round_all_channels(space: RoundingSpace, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows [R, C] -> values [R, K] and rounding errors [R] in a space without components."""
    values, _, errors = quantise_rows(
        rows.contiguous(), space.mean, space.dtype, space.scale, space.depth, spread=space.spread
    )
    return values, errors


def few_scale(space: RoundingSpace) -> float:
    """What a float16 value of 1 stands for beside int8 values of `space`: about the largest."""
    return 127 * space.scale


def round_rows(space: RoundingSpace, rows: Tensor) -> tuple[Tensor, ...]:
    """`rounded_images.round_rows` by kernels."""
    return RowRounding(space)(space, rows)


@dataclass(frozen=True)
class Spaces:
    """What a search rounds in.

    coarse: for the search over all pairs.
    fine: float16 rows of all channels, by which most candidates need no recomputation; or None.
    few_wanted: False rounds no float16 rows in the coarse space.
    """

    coarse: RoundingSpace
    fine: RoundingSpace | None
    few_wanted: bool = True

    @staticmethod
    def of(coarse: RoundingSpace) -> Spaces:
        """With fine rows where the search is in a subspace."""
        return Spaces(coarse, None if coarse.basis is None else coarse.fine())

    @property
    def few(self) -> bool:
        """Whether float16 rows in the coarse space too exclude candidates first."""
        return self.few_wanted and self.fine is not None and self.coarse.dtype == torch.int8

    def without_fine(self) -> Spaces:
        return replace(self, fine=None)

    def without_few(self) -> Spaces:
        return replace(self, few_wanted=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of a row, and of the errors of its float16 values."""
        size = self.coarse.depth * self.coarse.dtype.itemsize
        if self.fine is not None:
            size += 2 * self.fine.depth + 4
        return size + 2 * self.coarse.depth + 4 if self.few else size


@dataclass(frozen=True)
class Side:
    """Images [N, P, C] of a search.

    rounded: in the coarse space; fine: in the fine one, or None; few: in float16 in the coarse one,
        or None.
    few_norm: [N], the largest squared norm of the `few` rows of each image, or None.

    Bounds are found when they are first asked for, and kept: nothing may be `put` into images whose
    bounds are known.
    """

    rows: Rows
    rounded: RoundedImages
    fine: FineRows | None
    few: FineRows | None
    few_norm: Tensor | None

    @staticmethod
    def of(z: Tensor, spaces: Spaces, rows: Rows, rounding: RowRounding | None = None) -> Side:
        """The images z [N, P, C], rounded on the device of the spaces."""
        rounding, coarse = rounding or RowRounding(spaces.coarse), spaces.coarse
        few = few_norm = None
        if not spaces.few:
            rounded = coarse.apply(z, rounding)
        else:
            found = coarse.round(z, rounding.with_few)
            values, norms, errors, residuals, few_values, few_norms, few_errors = found
            rounded = RoundedImages(
                values, norms, errors, residuals, coarse.scale, coarse.basis_error
            )
            few = FineRows(few_values, few_errors, few_scale(coarse))
            few_norm = few_norms.amax(dim=1)
        fine = None if spaces.fine is None else _fine_rows(z, spaces.fine)
        return Side(rows, rounded, fine, few, few_norm)

    def __len__(self) -> int:
        return self.rounded.values.shape[0]

    @cached_property
    def error(self) -> Tensor:
        """[N], the largest rounding error of each image."""
        return self.rounded.rounding_error.amax(dim=1)

    @cached_property
    def residual(self) -> Tensor:
        """[N], the largest norm of a residual of each image."""
        return self.rounded.residual_norm.amax(dim=1)

    @cached_property
    def largest_norm(self) -> Tensor:
        """The largest squared norm of a rounded row, without dimension."""
        return self.rounded.norms.amax()

    @cached_property
    def largest_few_norm(self) -> Tensor:
        """The largest squared norm of the `few` rows, without dimension."""
        assert self.few_norm is not None  # where there are `few` rows
        return self.few_norm.amax()

    def images(self, first: int, last: int, rows: Rows | None = None) -> Side:
        """Images first to last - 1, sharing memory; `rows`: theirs, else those of all images."""
        if rows is None and first == 0 and last == len(self):
            return self
        part = slice(first, last)
        fine, few = self.fine, self.few
        if fine is not None:
            fine = FineRows(fine.values[part], fine.errors[part], fine.scale)
        if few is not None:
            few = FineRows(few.values[part], few.errors[part], few.scale)
        few_norm = None if self.few_norm is None else self.few_norm[part]
        return Side(rows or self.rows, self.rounded.images(first, last), fine, few, few_norm)

    def with_room(self, capacity: int) -> Side:
        """These images and room for more, `capacity` in all; `rows` stay those of these images."""
        if len(self) == capacity:
            return self

        def larger(tensor: Tensor) -> Tensor:
            room = tensor.new_empty(capacity, *tensor.shape[1:])
            room[: len(tensor)] = tensor
            return room

        rounded = replace(
            self.rounded,
            values=larger(self.rounded.values),
            norms=larger(self.rounded.norms),
            rounding_error=larger(self.rounded.rounding_error),
            residual_norm=larger(self.rounded.residual_norm),
        )
        fine, few = self.fine, self.few
        if fine is not None:
            fine = FineRows(larger(fine.values), larger(fine.errors), fine.scale)
        if few is not None:
            few = FineRows(larger(few.values), larger(few.errors), few.scale)
        few_norm = None if self.few_norm is None else larger(self.few_norm)
        return Side(self.rows, rounded, fine, few, few_norm)

    def put(self, first: int, other: Side) -> None:
        """Overwrite the images from `first` on by those of `other`, but for `rows`."""
        part = slice(first, first + len(other))
        for mine, new in zip(self._tensors(), other._tensors(), strict=True):
            mine[part] = new

    def _tensors(self) -> list[Tensor]:
        rounded, fine, few = self.rounded, self.fine, self.few
        return [
            rounded.values,
            rounded.norms,
            rounded.rounding_error,
            rounded.residual_norm,
            *(() if fine is None else (fine.values, fine.errors)),
            *(() if few is None else (few.values, few.errors)),
            *(() if self.few_norm is None else (self.few_norm,)),
        ]


def _fine_rows(z: Tensor, space: RoundingSpace) -> FineRows:
    values, errors = space.round(z, _round_all_channels)
    return FineRows(values, errors, space.scale)
