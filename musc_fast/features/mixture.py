"""Whether the images of a batch visibly differ in kind: grey among colour, tiny ones, other shapes.

Images of several products, or cut otherwise, make normal patches look rare. Nothing is refused:
the user is told once a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..datasets.deep import DeepImage

TINY = 16  # pixels a side, a patch of the backbones
_OTHER_SHAPE = 1.25  # ratio of the aspect ratios from which on two images have other shapes
_SAMPLE = 32  # pixels a side that are looked at for colour
_GREY = 2  # levels of 255 that the channels of grey pixels may differ by


def is_grey(image: Image.Image | DeepImage) -> bool:
    """Whether an image has no colours, judged by a sample of its pixels."""
    if isinstance(image, DeepImage):
        return image.values.ndim == 2
    if image.mode != "RGB":
        return image.mode in ("1", "L", "LA", "I", "F")
    small = image.resize((_SAMPLE, _SAMPLE), Image.Resampling.NEAREST)
    return bool(np.ptp(np.asarray(small), axis=2).max() <= _GREY)


def mixture_note(
    names: Sequence[str], sizes: Sequence[tuple[int, int]], grey: Sequence[bool]
) -> str:
    """The sentence about a batch that looks mixed, "" for one that does not.

    names, sizes, grey: [N], of each image its name, (height, width) and whether it has no colours.
    """
    if len(names) < 3:
        return ""
    tiny = [min(size) < TINY for size in sizes]
    ratios = np.log([height / width for height, width in sizes])
    usual = float(np.median(ratios))
    others = [
        not small and abs(ratio - usual) > np.log(_OTHER_SHAPE)
        for small, ratio in zip(tiny, ratios, strict=True)
    ]
    is_few = 2 * sum(grey) <= len(grey)
    kinds = (
        ("without colours" if is_few else "with colours", grey, is_few),
        (f"smaller than {TINY} pixels", tiny, True),
        ("of another shape", others, True),
    )
    found = []
    for what, members, wanted in kinds:
        which = [k for k, member in enumerate(members) if member == wanted]
        if 0 < len(which) < len(names):
            height, width = sizes[which[0]]
            found.append(f"{len(which)} {what} ({names[which[0]]}, {width} x {height})")
    if not found:
        return ""
    return (
        f"the batch looks mixed, of {len(names)} images {', '.join(found)}; where kinds are mixed, "
        "good parts look rare: give one product in one view"
    )
