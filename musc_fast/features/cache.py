"""Features of a batch on disk, under a key that changes whenever the features would."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import MuscFastWarning
from ..files import replacing
from ..progress import StageProgress
from ..registration import Alignment, Frames
from .extraction import BatchFeatures, Extractor

_FORMAT = 3  # part of the key; raise it when the layout of the file or the preprocessing changes


def extract_cached(
    extractor: Extractor,
    paths: Sequence[Path],
    folder: Path | None,
    *,
    skip_bad: bool = False,
    white: float | None = None,
    alignment: Alignment | None = None,
    progress: StageProgress | None = None,
) -> BatchFeatures:
    """Return `extractor.extract(paths)`, from the cache where it holds these features.

    A damaged cache file is replaced. Where the cache cannot be written, a warning says so. Features
    of which some images are missing, because they cannot be read, are not cached.

    folder: of the cache, which holds one safetensors file a batch; None caches nothing.
    skip_bad, white, alignment: as for `extract`.
    progress: called as progress("features", done, total).
    """
    extract = partial(
        extractor.extract, paths, skip_bad=skip_bad, alignment=alignment, progress=progress
    )
    if folder is None:
        return extract(white=white)
    white = extractor.white_of(paths) if white is None else white
    try:
        file = folder / f"{feature_key(extractor, paths, white, alignment)}.safetensors"
    except OSError:  # a file that cannot be read, which `extract` names or skips
        return extract(white=white)
    names = tuple(str(path) for path in paths)
    if file.is_file():
        try:
            features = replace(_load(file, names, extractor.backbone.device), white=white)
        except (SafetensorError, KeyError, ValueError):
            file.unlink()
        else:
            if progress is not None:
                progress("features", len(paths), len(paths))
            for note in features.notes:
                warnings.warn(note, MuscFastWarning, stacklevel=2)
            return features
    features = extract(white=white)
    if features.bad:
        return features
    tensors = {f"tokens.{k}": tokens.cpu() for k, tokens in enumerate(features.tokens)}
    if features.cls_tokens is not None:
        tensors["cls_tokens"] = features.cls_tokens.cpu()
    if features.frames is not None:
        tensors["frames"] = torch.from_numpy(features.frames.transforms)
    if features.valid is not None:
        tensors["valid"] = features.valid.cpu()
    sizes = ";".join(f"{height},{width}" for height, width in features.sizes)
    try:
        with replacing(file) as temporary:
            metadata = {"sizes": sizes, "notes": json.dumps(features.notes)}
            if features.frames is not None:
                metadata["frame"] = json.dumps([features.frames.name, *features.frames.left])
            save_file(tensors, temporary, metadata=metadata)
    except OSError as error:  # the features are good: next time they are extracted again, no more
        warnings.warn(f"the features are not cached: {error}", stacklevel=2)
    return features


def feature_key(
    extractor: Extractor,
    paths: Sequence[Path],
    white: float | None = None,
    alignment: Alignment | None = None,
) -> str:
    """Return the hexadecimal key of the features of these image files with this extractor.

    The key changes with the backbone's weights, architecture, size and blocks, with the device
    type, engine and precision, with the presence of class tokens, with the white level, with what
    images are brought onto and what is ignored, and with the contents and order of the images.
    """
    backbone = extractor.backbone
    parts = [_FORMAT, backbone.fingerprint, backbone.image_size, backbone.blocks, extractor.cls]
    parts += [backbone.device.type, backbone.engine, backbone.precision, white]
    if extractor.align != "off":  # the images alone decide on their frame where none is given
        frame = None if alignment is None or alignment.frame is None else alignment.frame.as_json()
        parts += [extractor.align, alignment is None, frame]
    parts += [] if extractor.ignored is None else [extractor.ignored.key]
    digest = hashlib.sha256(repr(parts).encode())
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:40]


def _load(file: Path, names: tuple[str, ...], device: torch.device) -> BatchFeatures:
    with safe_open(file, framework="pt") as stored:
        keys = set(stored.keys())
        layers = sorted(int(key.split(".")[1]) for key in keys if key.startswith("tokens."))
        sizes = [
            (int(height), int(width))
            for height, width in (size.split(",") for size in stored.metadata()["sizes"].split(";"))
        ]
        return BatchFeatures(
            tokens=tuple(stored.get_tensor(f"tokens.{k}").to(device) for k in layers),
            cls_tokens=(
                stored.get_tensor("cls_tokens").to(device) if "cls_tokens" in keys else None
            ),
            names=names,
            sources=tuple(range(len(names))),
            sizes=tuple(sizes),
            notes=tuple(json.loads(stored.metadata()["notes"])),
            frames=_frames(stored) if "frames" in keys else None,
            valid=stored.get_tensor("valid").to(device) if "valid" in keys else None,
        )


def _frames(stored: Any) -> Frames:
    name, *left = json.loads(stored.metadata()["frame"])
    return Frames(stored.get_tensor("frames").numpy(), name, tuple(left))
