"""The layout of MVTec AD, and of the sets that follow it with changes of their own.

CATEGORY/test/DEFECT/IMAGE and CATEGORY/ground_truth/DEFECT/MASK, with the normal images under
`good` or another of `NORMAL_NAMES`: MVTec AD, MPDD, BTAD (`ok`/`ko`), KolektorSDD in that form.
Besides:

- images may lie in folders below DEFECT, and their masks in like folders or beside them;
- MVTec LOCO has a folder of masks for each image, AITEX several files, whose union counts;
- MVTec 3D has `rgb` and `gt` below DEFECT, of which the first holds the images;
- MVTec AD 2 has `test_public`, with pictures of each part in several lightings: each lighting is a
  category of its own, since a part's other pictures would be near twins that hide its defects;
- Real-IAD has no `test` but `OK` and `NG`, with the mask beside its image and five cameras, each of
  which is a category. All images are loaded, whatever the JSON files of its splits say.

A mask is paired with an image by name (STEM_mask.png, STEM.png, other endings and suffixes, in any
case, or a folder STEM), not by its place in a sorted list: a missing file then shifts no other
pair. Masks without an image are ignored. A category without any mask has labels alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import ImageError, MuscFastWarning
from .find_images import list_images, natural_key, walk_images
from .label_files import TRUTH_FOLDERS, split_labels, without_ending
from .samples import Category, Sample, check_folder, select_names

#: Names of folders of normal images, in any case.
NORMAL_NAMES = ("good", "ok", "normal", "nominal", "defect_free", "defect-free", "no_defect")
_TEST_FOLDERS = ("test", "test_public")
_LIGHTING = re.compile(r"\d+_(\w+)")  # MVTec AD 2: 000_regular, 000_overexposed, 000_shift_1
_CAMERA = re.compile(r".*_(C\d)_\d+")  # Real-IAD: audiojack_0001_OK_C1_20230922141159


def load_mvtec(
    root: Path | str, categories: Sequence[str] | None = None, *, masks: bool = True
) -> list[Category]:
    """Load the test images of a dataset in the layout of MVTec AD; see the text of this module.

    root: the dataset, in which each folder with a `test` folder is a category, or one category.
    categories: names to load, in this order; None loads all, natural sorted.
    masks: whether every defective image is paired with its mask, where the category has any; False
        leaves all masks None.
    Raises InputError where a category is unknown (the message lists the known ones), ImageError
    where the folder has another layout, a category has no images, or an image has no mask, though
    others have, or several.
    """
    root = check_folder(root)
    if _tests_of(root) is not None:
        folders = {root.resolve().name: root}
    else:
        entries = (entry for entry in root.iterdir() if not entry.name.startswith("."))
        found = (entry for entry in entries if entry.is_dir() and _tests_of(entry) is not None)
        folders = {entry.name: entry for entry in sorted(found, key=natural_key)}
    if not folders:
        hint = ""
        if any(root.glob("*.json")) or any(root.glob("*/*.json")):
            hint = "; of Real-IAD name the folder of the pictures, realiad_1024, not of the JSON"
        raise ImageError(
            f"{root}: no MVTec layout here (expected test/good, test/DEFECT and "
            f"ground_truth/DEFECT in it, or in folders named by category){hint}"
        )
    wanted = None if categories is None else list(categories)
    loaded: dict[str, list[Category]] = {}
    for name, folder in folders.items():
        if wanted is None or any(w == name or w.startswith(f"{name}_") for w in wanted):
            views = _views(_tests_of(folder) or folder, _category(name, folder, masks))
            loaded.update({view.name: [view] for view in views})
            loaded[name] = views
        else:
            loaded[name] = []
    names = select_names(loaded, wanted)
    return list({view.name: view for name in names for view in loaded[name]}.values())


def is_normal(name: str) -> bool:
    """Whether a folder of this name holds normal images."""
    return name.casefold() in NORMAL_NAMES


def _tests_of(folder: Path) -> Path | None:
    """The folder with the test images of a category; None where `folder` is no category."""
    inside = {entry.name.casefold(): entry for entry in _subfolders(folder)}
    for name in _TEST_FOLDERS:
        if name in inside:
            return inside[name]
    return folder if any(map(is_normal, inside)) and len(inside) > 1 else None


def _subfolders(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted((entry for entry in entries if entry.is_dir()), key=natural_key)


def _category(name: str, folder: Path, masks: bool) -> Category:
    tests = _tests_of(folder) or folder
    places = {folder, tests}
    truths = [e for p in places for e in _subfolders(p) if e.name.casefold() in TRUTH_FOLDERS]
    kinds = [entry for entry in _subfolders(tests) if entry not in truths]
    found = {kind: _photos_and_labels(kind) for kind in kinds}
    _say_what_is_left_out(tests, kinds)
    unlabelled = not truths and not any(
        labels for kind, (_, labels) in found.items() if not is_normal(kind.name)
    )
    samples: list[Sample] = []
    for kind, (photos, labels) in found.items():
        if is_normal(kind.name) or not masks or unlabelled:
            normal = is_normal(kind.name)
            samples += [Sample(image, not normal, kind.name, None) for image in photos]
            continue
        truth = [truth / kind.name for truth in truths] or [kind]
        candidates = [*labels, *(mask for each in truths for mask in _masks_in(each / kind.name))]
        samples += _paired(photos, kind, truth[0], candidates)
    if not samples:
        raise ImageError(f"{tests}: no images in its folders (expected test/good and test/DEFECT)")
    if not any(map(is_normal, (kind.name for kind in kinds))):
        warnings.warn(
            f"{tests}: no folder of normal images ({', '.join(NORMAL_NAMES[:3])}, ...) among "
            f"{', '.join(kind.name for kind in kinds)}; all images are taken for defective",
            MuscFastWarning,
            stacklevel=2,
        )
    return Category(name, tuple(samples))


def _photos_and_labels(kind: Path) -> tuple[list[Path], list[Path]]:
    """The images and labels below a folder of test images."""
    photos, labels = split_labels(sorted(walk_images(kind), key=natural_key), kind)
    if (kind / "rgb").is_dir():  # MVTec 3D: beside it `xyz` has coordinates
        photos = [photo for photo in photos if photo.is_relative_to(kind / "rgb")]
    return photos, labels


def _say_what_is_left_out(tests: Path, kinds: Sequence[Path]) -> None:
    loose = list_images(tests)
    if loose and kinds:
        warnings.warn(
            f"{loose[0]}{f' and {len(loose) - 1} more' if len(loose) > 1 else ''}: left out, since "
            f"no folder says whether they are normal; move them into {tests / 'good'} or another",
            MuscFastWarning,
            stacklevel=2,
        )


def _masks_in(truth: Path) -> list[Path]:
    """The mask files and folders of masks below a folder of the ground truth."""
    if not truth.is_dir():
        return []
    return [*sorted(walk_images(truth), key=natural_key), *_subfolders(truth)]


def _paired(
    images: Sequence[Path], kind: Path, truth: Path, candidates: Sequence[Path]
) -> Iterable[Sample]:
    """Yield a sample for each image, with the masks that bear its name.

    A folder STEM of masks counts for the image STEM of its folder; files in it for no other.
    """
    stems = {image.stem.casefold() for image in images}
    folders = {c for c in candidates if c.is_dir() and c.name.casefold() in stems}
    masks: dict[str, list[Path]] = {}
    for mask in candidates:
        if mask in folders:
            masks.setdefault(mask.name.casefold(), []).append(mask)
        elif not mask.is_dir() and mask.parent not in folders:
            for name in {mask.stem.casefold(), without_ending(mask.stem)[0]}:
                masks.setdefault(name, []).append(mask)
    image_of: dict[Path, Path] = {}
    for image in images:
        found = _nearest(masks.get(image.stem.casefold(), []), image.parent.relative_to(kind))
        if not found:
            raise ImageError(
                f"{image}: its mask is missing (looked for {truth / image.stem}_mask.png, "
                f"{image.stem}.png, the same with another ending or suffix, or a folder "
                f"{image.stem})"
            )
        endings = {without_ending(mask.stem)[1].casefold() for mask in found}
        if len(found) > 1 and (len(endings) < len(found) or "" in endings):
            raise ImageError(f"{image}: has several masks: {', '.join(map(str, found))}")
        first = image_of.setdefault(found[0], image)
        if first is not image:
            raise ImageError(f"{found[0]}: is the mask of both {first} and {image}")
        yield Sample(image, True, kind.name, found[0], tuple(found[1:]))


def _nearest(masks: list[Path], place: Path) -> list[Path]:
    """Those of several masks whose folders end as the image's does, where there are any."""
    if len(masks) < 2 or place == Path():
        return masks
    ends = [mask for mask in masks if mask.parent.parts[-len(place.parts) :] == place.parts]
    return ends or masks


def _views(tests: Path, category: Category) -> list[Category]:
    """One category for each lighting of MVTec AD 2 and each camera of Real-IAD; else `category`."""
    pattern = _LIGHTING if tests.name.casefold() == "test_public" else _CAMERA
    views: dict[str, list[Sample]] = {}
    for sample in category.samples:
        match = pattern.fullmatch(sample.image.stem)
        if match is None:
            return [category]
        views.setdefault(match[1], []).append(sample)
    if len(views) > 1:
        warnings.warn(
            f"{tests}: holds several views of each part ({', '.join(sorted(views))}); each is a "
            "category of its own",
            MuscFastWarning,
            stacklevel=2,
        )
    return [
        replace(category, name=f"{category.name}_{name}", samples=tuple(samples))
        for name, samples in sorted(views.items())
    ]
