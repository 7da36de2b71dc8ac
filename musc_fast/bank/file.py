"""The file of a ReferenceBank: safetensors with the tokens, and the rest as JSON in its header.

Version 2 also holds the distances among the images, version 3 also which patches count; a bank that
has none of these is written as version 1, one in which all patches count as version 1 or 2.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import BankError
from ..files import replacing

_VERSIONS = ("1", "2", "3")
# Recorded in the source of a bank, see `stream.source_of` and `stream.alignment_of_bank`.
_NOT_COMPARED = ("engine", "frame")
# What banks had of which a file of an earlier musc_fast says nothing.
_EARLIER = {"feature_precision": "fp32", "degree_fusion": "scores", "align": "off"}


@dataclass(frozen=True)
class Entry:
    """An image of the bank: its id, raw image score (None: never scored) and running number."""

    id: str
    score: float | None
    number: int


@dataclass(frozen=True)
class Contents:
    """What makes up a bank.

    settings: the arguments of `ReferenceBank`.
    entries: the images, in the order in which they were added; added: how many ever were.
    tokens: [len, P, C] a layer.
    distances: among the images, [len, P, len] float32 a search; none where they are not known.
    valid: [len, P] bool, the patches that count; None where all do.
    """

    settings: Mapping[str, Any]
    entries: list[Entry]
    added: int
    tokens: list[Tensor]
    distances: list[Tensor]
    valid: Tensor | None = None


def save_bank(path: str | os.PathLike[str], bank: Contents) -> None:
    """Write a bank; atomic."""
    tensors = {
        f"{name}.{index:03}": each.cpu().contiguous()
        for name in ("tokens", "distances")
        for index, each in enumerate(getattr(bank, name))
    }
    if bank.valid is not None:
        tensors["valid"] = bank.valid.cpu().contiguous()
    contents = json.dumps(
        {
            "settings": dict(bank.settings),
            "entries": [[entry.id, entry.score, entry.number] for entry in bank.entries],
            "added": bank.added,
        }
    )
    # Earlier releases read the versions that they know alone.
    version = "3" if bank.valid is not None else "2" if bank.distances else "1"
    metadata = {
        "musc_fast_bank": version,
        "about": contents,
        "sha256": _checksum(contents, [tensors[name] for name in sorted(tensors)]),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # before the rename, so that a crash leaves the old or new


def load_bank(path: str | os.PathLike[str], source: Mapping[str, Any] | None) -> Contents:
    """The bank of a file; BankError where it is not what is wanted."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            version = metadata.get("musc_fast_bank")
            if version is None:
                raise BankError(f"{path} is no reference bank")
            if version not in _VERSIONS:
                raise BankError(
                    f"{path} is a bank of version {version}, this is musc_fast with versions "
                    f"{', '.join(_VERSIONS)}; make the bank anew"
                )
            tensors = {name: stored.get_tensor(name) for name in sorted(stored.keys())}
        contents = metadata["about"]
        if metadata["sha256"] != _checksum(contents, list(tensors.values())):
            raise BankError(f"{path} is damaged (its checksum differs); make the bank anew")
        return _parsed(path, json.loads(contents), tensors, source)
    except BankError:
        raise
    except FileNotFoundError:
        raise BankError(f"{path}: there is no such bank") from None
    except Exception as error:  # a file with a right checksum may say anything
        raise BankError(f"{path} cannot be read as a bank: {error}") from None


def _parsed(
    path: str | os.PathLike[str],
    found: Any,
    tensors: dict[str, Tensor],
    source: Mapping[str, Any] | None,
) -> Contents:
    distances = [tensors.pop(name) for name in list(tensors) if name.startswith("distances.")]
    valid = tensors.pop("valid", None)
    tokens = list(tensors.values())
    settings: dict[str, Any] = dict(found["settings"])
    settings.setdefault("degree_fusion", _EARLIER["degree_fusion"])
    stored = settings.get("source")
    if isinstance(stored, dict) and stored.get("fingerprint"):  # made by `stream.source_of`
        settings["source"] = {**_EARLIER, **stored}
    if source is not None:
        _check_source(path, settings["source"], json.loads(json.dumps(dict(source))))
    for name in ("grid", "image_size", "topmin", "degrees", "neighbors"):
        if isinstance(settings[name], list):
            settings[name] = tuple(settings[name])
    entries = [Entry(*entry) for entry in found["entries"]]
    added = found["added"]
    images = {len(layer) for layer in tokens} or {0}
    if images != {len(entries)} or not isinstance(added, int):
        raise BankError(f"{path} lists {len(entries)} images and holds others")
    numbers = [entry.number for entry in entries]
    known = all(
        isinstance(entry.id, str)
        and isinstance(entry.number, int)
        and 0 <= entry.number < added
        and (entry.score is None or math.isfinite(entry.score))
        for entry in entries
    )
    if not known or len(set(numbers)) < len(numbers):
        raise BankError(f"{path} lists images that no bank could hold")
    for each in distances:
        if not _are_distances(each, len(entries)):
            raise BankError(f"{path} holds distances that are none")
    return Contents(settings, entries, added, tokens, distances, valid)


def _are_distances(found: Tensor, count: int) -> bool:
    """Whether these [len, P, len] can be distances among images: +inf to itself, else finite."""
    if found.dtype != torch.float32 or found.dim() != 3 or {*found.shape[::2]} != {count}:
        return False
    own = torch.eye(count, dtype=torch.bool, device=found.device)[:, None].expand_as(found)
    return bool((found >= 0).all()) and bool((found.isinf() == own).all())


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The keys by which a bank's source is not the one that is wanted.

    The white level becomes known with the images: without one wanted the bank's is taken.
    """
    apart = {*_NOT_COMPARED, *(() if wanted.get("white") else ("white",))}
    return [
        key
        for key in {**stored, **wanted}
        if key not in apart and stored.get(key) != wanted.get(key)
    ]


def _check_source(
    path: str | os.PathLike[str], stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    keys = differing(stored, wanted)
    if keys:
        listing = "; ".join(
            f"{key}: the bank has {stored.get(key)!r}, now {wanted.get(key)!r}" for key in keys
        )
        raise BankError(
            f"{Path(path)} was made with other settings ({listing}); use those, or another bank"
        )


def _checksum(contents: str, tokens: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(contents.encode())
    for layer in tokens:
        digest.update(f"{layer.dtype}{list(layer.shape)}".encode())
        digest.update(layer.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
