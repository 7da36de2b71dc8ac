"""Copies among the first images of a watch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..bank.stream import joined
from ..errors import MuscFastWarning
from ..scoring.copies import find_copies

if TYPE_CHECKING:
    from ..bank.reference_bank import ReferenceBank
    from ..features.extraction import BatchFeatures


def drop_copies(
    bank: ReferenceBank, features: dict[str, BatchFeatures], *, references: bool
) -> list[tuple[int, str]]:
    """Take the copies out of the features of the first images, by path; their places and paths.

    They are scored when the bank has the others; copies of references are named in a warning.
    """
    if bank.scoring.copies == "off" or not features:
        return []
    names, prefix = list(features), bank.prefix_tokens
    copies = find_copies([layer[:, prefix:] for layer in joined(list(features.values()))[0]])
    for copy in copies:
        del features[names[copy.image]]
        if references:
            warnings.warn(
                f"references: {names[copy.image]} is a copy of {names[copy.of]}, which counts once",
                MuscFastWarning,
                stacklevel=2,
            )
    return [(copy.image, names[copy.image]) for copy in copies]
