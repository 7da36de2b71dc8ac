"""What image and pixel metrics share: types, F1, and checks of their arguments."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Protocol = Literal["musc", "mvtec"]
Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def f1(precision: Float64s, recall: Float64s) -> Float64s:
    """F1 at each threshold; 0 where both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def one_class(positives: int, negatives: int, unit: str) -> str | None:
    """Why the metrics are undefined; None where both classes are present."""
    if positives == 0 and negatives == 0:
        return f"no {unit}s"
    if positives == 0:
        return f"no defective {unit}"
    return f"every {unit} is defective" if negatives == 0 else None


def check_protocol(protocol: str) -> None:
    if protocol not in ("musc", "mvtec"):
        raise InputError(f'protocol must be "musc" or "mvtec", but is {protocol!r}')


def as_bools(values: Any, name: str) -> Bools:
    array = np.asarray(values)
    if array.dtype != np.bool_ and array.size and not ((array == 0) | (array == 1)).all():
        raise InputError(f"{name} must be bool or 0/1 (threshold it first)")
    return array.astype(np.bool_, copy=False)


def shape_text(array: npt.NDArray[Any]) -> str:
    return str(list(array.shape))
