"""Weights from the model hub that open_clip and timm use, without waiting on a dead network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from . import Notify, first_line

# File names of the weights in a repository of each library, safe formats first.
FILE_NAMES = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "timm": ("model.safetensors", "pytorch_model.bin"),
}
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class HubLocation:
    """Where a hub has the weights of a model.

    repo: "owner/name" or "owner/name@revision".
    filenames: names of the weight file to try, best first.
    """

    repo: str
    filenames: tuple[str, ...]


def cached_hub_file(hub: HubLocation) -> Path | None:
    """Return the first of the files of `hub` that the hub's cache holds, or None."""
    from huggingface_hub import try_to_load_from_cache

    repo_id, revision = _split(hub.repo)
    for filename in hub.filenames:
        found = try_to_load_from_cache(repo_id, filename, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch_hub_file(
    hub: HubLocation,
    *,
    offline: bool = False,
    progress: Notify | None = None,
) -> Path:
    """Return the local path of the first file of `hub` that exists, downloaded if need be.

    The hub client never leaves a partial download under the name of a complete file. The hub gets
    five seconds to answer, since the client alone would retry for half a minute.

    offline: use the hub's cache alone.
    progress: called with a line of text before a download.
    Raises WeightsError where the file is not cached and `offline` or HF_HUB_OFFLINE forbids the
    network, where the hub does not answer, or where it has none of the files.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo = hub.repo
    cached = cached_hub_file(hub)
    if cached is not None:
        return cached
    if offline or constants.HF_HUB_OFFLINE:
        reason = "offline was asked for" if offline else "HF_HUB_OFFLINE is set"
        raise WeightsError(f"hub {repo}: not in the hub's cache, and {reason}")
    _probe(constants.ENDPOINT, repo)
    repo_id, revision = _split(repo)
    if progress:
        progress(f"fetching {repo} from the hub")
    for filename in hub.filenames:
        try:
            return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision))
        except EntryNotFoundError as error:
            # A subclass of EntryNotFoundError also stands for a lost connection.
            if isinstance(error, LocalEntryNotFoundError):
                raise WeightsError(f"hub {repo}: {first_line(error)}") from error
        except Exception as error:  # errors of the client have no common base in all versions
            raise WeightsError(f"hub {repo}: {first_line(error)}") from error
    raise WeightsError(f"hub {repo}: holds none of {', '.join(hub.filenames)}")


def _probe(endpoint: str, repo: str) -> None:
    """Raise WeightsError unless the hub answers, with whatever status."""
    from huggingface_hub import utils

    client: Any = utils

    try:
        client.get_session().head(endpoint, timeout=_PROBE_SECONDS)
    except Exception as error:  # of requests or of httpx, depending on the client's version
        message = f"hub {repo}: {endpoint} does not answer ({first_line(error)})"
        raise WeightsError(message) from error


def _split(repo: str) -> tuple[str, str | None]:
    repo_id, _, revision = repo.partition("@")
    return repo_id, revision or None
