"""The input size of a timm model, whatever another package has done to timm."""

from __future__ import annotations

import threading
from typing import Any

_RESIZE = "resample_abs_pos_embed"
_lock = threading.Lock()


def set_input_size(model: Any, size: tuple[int, int]) -> None:
    """`model.set_input_size(size)`, the position embedding resized as timm does: antialiased.

    A package in the same process may have replaced the function that timm's models resize with.
    anomalib 2.7 does so for good, with one that does not antialias, when it first makes a vision
    transformer (`anomalib.models.components.feature_extractors.timm`): features would differ.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    names = model.set_input_size.__func__.__globals__  # of the module that defines the method
    with _lock:
        found = names.get(_RESIZE)
        if found is not None:
            names[_RESIZE] = resample_abs_pos_embed
        try:
            model.set_input_size(size)
        finally:
            if found is not None:
                names[_RESIZE] = found
