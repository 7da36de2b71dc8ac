"""The file of a ReferenceBank: safetensors with the tokens, and the rest as JSON in its header."""

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

_VERSION = 1
_NOT_COMPARED = ("engine",)  # recorded in the source of a bank, see `stream.source_of`
# What banks had of which a file of an earlier musc_fast says nothing.
_EARLIER = {"feature_precision": "fp32", "degree_fusion": "scores"}


@dataclass(frozen=True)
class Entry:
    """An image of the bank: its id, raw image score (None: never scored) and running number."""

    id: str
    score: float | None
    number: int


def save_bank(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    entries: Sequence[Entry],
    added: int,
    tokens: Sequence[Tensor],
) -> None:
    """Write tokens [len, P, C] a layer, and what else makes up a bank; atomic."""
    tensors = {f"tokens.{index:03}": layer.cpu().contiguous() for index, layer in enumerate(tokens)}
    contents = json.dumps(
        {
            "settings": dict(settings),
            "entries": [[entry.id, entry.score, entry.number] for entry in entries],
            "added": added,
        }
    )
    metadata = {
        "musc_fast_bank": str(_VERSION),
        "about": contents,
        "sha256": _checksum(contents, [tensors[name] for name in sorted(tensors)]),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # before the rename, so that a crash leaves the old or new


def load_bank(
    path: str | os.PathLike[str], source: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[Entry], int, list[Tensor]]:
    """Settings, entries, added and tokens; BankError where they are not what is wanted."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            version = metadata.get("musc_fast_bank")
            if version is None:
                raise BankError(f"{path} is no reference bank")
            if version != str(_VERSION):
                raise BankError(
                    f"{path} is a bank of version {version}, this is musc_fast with version "
                    f"{_VERSION}; make the bank anew"
                )
            tokens = [stored.get_tensor(name) for name in sorted(stored.keys())]
        contents = metadata["about"]
        if metadata["sha256"] != _checksum(contents, tokens):
            raise BankError(f"{path} is damaged (its checksum differs); make the bank anew")
        return _parsed(path, json.loads(contents), tokens, source)
    except BankError:
        raise
    except FileNotFoundError:
        raise BankError(f"{path}: there is no such bank") from None
    except Exception as error:  # a file with a right checksum may say anything
        raise BankError(f"{path} cannot be read as a bank: {error}") from None


def _parsed(
    path: str | os.PathLike[str], found: Any, tokens: list[Tensor], source: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[Entry], int, list[Tensor]]:
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
    return settings, entries, added, tokens


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
