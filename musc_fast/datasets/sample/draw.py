"""Writing the demo sample: a small data set in the layout of MVTec AD.

The program draws the images itself, so that the demo needs neither a download nor a licence. Every
part is built from its geometry at twice the image's size (`part`), perhaps damaged (`defects`), lit
(`shading`) and photographed (`photo`). A defective part is also rendered without its defect: the
mask is where both pictures differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError, InputError
from ...files import replacing
from .photo import CYCLE, take_photo

DEFECT_TYPES = ("scratch", "dent", "stain", "missing_hole")
SMALLEST, LARGEST = 128, 2048

_LISTING = "sample.json"
_SAMPLE_FILE = re.compile(
    r"test/(good|scratch|dent|stain|missing_hole)/\d+\.png"
    r"|ground_truth/(scratch|dent|stain|missing_hole)/\d+_mask\.png"
)


@dataclass(frozen=True)
class SampleImage:
    """One image of the sample.

    path: the image file.
    label: 0 is good, 1 defective.
    mask: the mask file; None for a good part.
    defect: one of `DEFECT_TYPES`; None for a good part.
    """

    path: Path
    label: int
    mask: Path | None
    defect: str | None


def draw_sample(
    folder: Path,
    *,
    count: int = 24,
    defects: int = 6,
    size: int = 512,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[SampleImage]:
    """Draw images of machined parts below `folder`, the good ones first.

    The files are `test/good/000.png ...`, `test/{scratch,dent,stain,missing_hole}/000.png ...` and
    the masks `ground_truth/{type}/000_mask.png ...` (8-bit, 0 or 255). The same arguments give the
    same bytes (with the same versions of numpy, scipy and Pillow on the same machine), and good
    image i and defective image j do not depend on the counts. Files are replaced whole. Drawing
    again with other counts removes surplus images of the earlier drawing, and nothing else.

    count: images to draw.
    defects: how many of them are defective.
    size: side of the images in pixels, `SMALLEST` to `LARGEST`.
    seed: of all randomness.
    progress: called as progress(done, count) after each image.
    Raises InputError where an argument is out of range, ImageError where `folder` cannot be written
    or holds images that this function did not draw.
    """
    folder = Path(folder)
    _check_arguments(count, defects, size, seed)
    plan = _plan(folder, count, defects)
    _claim(folder, plan, {"count": count, "defects": defects, "size": size, "seed": seed})
    numbers = [*range(count - defects), *range(defects)]
    for done, (image, number) in enumerate(zip(plan, numbers, strict=True), start=1):
        photo = take_photo(number, defective=image.label == 1, size=size, seed=seed)
        # The mask is written first: an interrupted drawing then leaves no image without its mask.
        if image.mask is not None and photo.mask is not None:
            _save(image.mask, photo.mask.astype(np.uint8) * np.uint8(255))
        _save(image.path, photo.pixels)
        if progress is not None:
            progress(done, count)
    return plan


def _check_arguments(count: int, defects: int, size: int, seed: int) -> None:
    for name, value, low in (
        ("count", count, 1),
        ("defects", defects, 0),
        ("size", size, SMALLEST),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise InputError(f"{name}: found {value!r}, wanted a whole number of at least {low}")
    if size > LARGEST:
        raise InputError(f"size: found {size}, wanted at most {LARGEST} pixels")
    if defects > count:
        raise InputError(f"defects: found {defects}, wanted at most count = {count}")


def _plan(folder: Path, count: int, defects: int) -> list[SampleImage]:
    plan = [
        SampleImage(folder / "test" / "good" / f"{number:03d}.png", 0, None, None)
        for number in range(count - defects)
    ]
    counts = dict.fromkeys(DEFECT_TYPES, 0)
    for number in range(defects):
        kind = CYCLE[number % len(CYCLE)][0]
        stem = f"{counts[kind]:03d}"
        counts[kind] += 1
        mask = folder / "ground_truth" / kind / f"{stem}_mask.png"
        plan.append(SampleImage(folder / "test" / kind / f"{stem}.png", 1, mask, kind))
    return plan


def _claim(folder: Path, plan: list[SampleImage], settings: dict[str, int]) -> None:
    """List the files to draw in `folder`/sample.json and remove those of an earlier drawing.

    Only listed files are replaced or removed, so that a mistyped folder is safe: the images of
    MVTec AD have the same names.
    """
    files = [path for image in plan for path in (image.path, image.mask) if path is not None]
    names = {path.relative_to(folder).as_posix() for path in files}
    earlier = _read_listing(folder / _LISTING)
    for path in sorted(p for top in ("test", "ground_truth") for p in (folder / top).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in earlier:
            raise ImageError(f"{path}: not drawn by the demo; give an empty folder for the sample")
    # Until the surplus files are removed both lists are stored: an interruption loses no name.
    _write_listing(folder / _LISTING, settings, names | earlier)
    for name in earlier - names:
        (folder / name).unlink(missing_ok=True)
    _write_listing(folder / _LISTING, settings, names)


def _read_listing(path: Path) -> set[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name for name in content["files"] if _SAMPLE_FILE.fullmatch(name)}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{path}: not the listing of a drawn sample; remove it") from error


def _write_listing(path: Path, settings: dict[str, int], names: set[str]) -> None:
    content = {"drawn by": "musc_fast demo sample", **settings, "files": sorted(names)}
    with _writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    with _writing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=4)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror or error}); give a folder that can"
        ) from error
