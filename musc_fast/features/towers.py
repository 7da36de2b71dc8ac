"""The vision transformers behind a backbone: open_clip's image towers and timm's models.

A tower is built at its native size without trained weights, loads a state that must have exactly
its tensors, and is then set to the wanted input size. Position embeddings are resized bicubically
with antialiasing, as both libraries (and so the official code) do.
"""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from ..errors import InputError, MuscFastWarning, WeightsError
from .cautions import timm_cautions
from .spec import BackboneSpec
from .timm_size import set_input_size
from .weights.convert import (
    State,
    hf_clip_to_open_clip,
    hf_dinov2_to_timm,
    is_hf_clip,
    is_hf_dinov2,
)
from .weights.hub import FILE_NAMES, HubLocation

Size = tuple[int, int]


class Tower(Protocol):
    """What `Backbone` needs of a vision transformer.

    module: the model.
    patch_size: side of a patch in pixels.
    native_size: input (height, width) in pixels at which the weights were trained.
    depth: number of blocks.
    prefix_tokens: tokens before those of the patches.
    has_class_token: whether `forward` can give class tokens.
    rotary: whether positions are rotary; such activations exceed float16.
    mean, std: of the input's channels on the scale 0..1.
    variant: what changes the output besides the architecture, such as "gelu".
    hub: the hub file of the weights; None if the library names none.
    """

    patch_size: int
    native_size: Size
    depth: int
    prefix_tokens: int
    has_class_token: bool
    rotary: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    variant: str
    hub: HubLocation | None

    @property
    def module(self) -> torch.nn.Module: ...

    def convert(self, state: State) -> State:
        """Return the tensors of `state` under the names of this tower's module."""

    def load(self, state: State, source: str) -> None:
        """Load a converted state.

        source: where the state came from, for messages.
        Raises WeightsError where tensors are missing, unknown, or of another shape.
        """

    def set_size(self, size: Size) -> None:
        """Resize the position embedding to inputs of `size`."""

    def forward(
        self, images: torch.Tensor, blocks: Sequence[int], cls: bool
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """Return the tokens [N, prefix + P, C] of each block, and class tokens [N, D] or None."""


def build_tower(spec: BackboneSpec) -> Tower:
    """Build the tower of `spec` without trained weights.

    Raises InputError where the library of `spec` has no such vision transformer.
    """
    return _open_clip_tower(spec) if spec.family == "open_clip" else TimmTower(spec)


def _open_clip_tower(spec: BackboneSpec) -> Tower:
    import open_clip

    config = open_clip.get_model_config(spec.architecture)
    if config is None:
        raise InputError(_unknown(spec, spec.architecture, open_clip.list_models()))
    tag = spec.hub_tag or ""
    pretrained = open_clip.get_pretrained_cfg(spec.architecture, tag)
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(spec.architecture)
        raise InputError(
            f"backbone {spec.name!r}: open_clip has no weights {tag!r} of {spec.architecture}; "
            f"it has {', '.join(tags) or 'none'}"
        )
    if isinstance(config["vision_cfg"].get("layers"), list):
        raise InputError(f"backbone {spec.name!r} is a ResNet; a vision transformer is needed")
    if config["vision_cfg"].get("timm_model_name"):
        return _ClipTimmTower(spec, config, pretrained)
    return ClipTower(spec, config, pretrained)


class ClipTower:
    """open_clip's own VisionTransformer: raw block outputs, and the projected image embedding."""

    def __init__(self, spec: BackboneSpec, config: dict[str, Any], pretrained: Any) -> None:
        from open_clip.model import CLIPVisionCfg

        vision = CLIPVisionCfg(**config["vision_cfg"])
        # The weights decide, not the configuration: open_clip alone would run ViT-L-14-336/openai
        # with GELU, though these weights were trained with QuickGELU.
        weights_quick_gelu = bool(config.get("quick_gelu") or pretrained.get("quick_gelu"))
        quick_gelu = weights_quick_gelu if spec.quick_gelu is None else spec.quick_gelu
        self.variant = "quickgelu" if quick_gelu else "gelu"
        self.module = _image_tower(config, quick_gelu)
        self.patch_size = _square_patch(spec, vision.patch_size)
        self.native_size = _pair(vision.image_size)
        self.depth = int(vision.layers)
        self.prefix_tokens = 1
        self.has_class_token = True
        self.rotary = False
        self.mean, self.std = _triple(pretrained["mean"]), _triple(pretrained["std"])
        self.hub = _open_clip_hub(pretrained)

    def convert(self, state: State) -> State:
        """Accept a CLIP of transformers, a whole open_clip model or its image tower alone."""
        if is_hf_clip(state):
            return hf_clip_to_open_clip(state)
        visual = {
            name.removeprefix("visual."): tensor
            for name, tensor in state.items()
            if name.startswith("visual.")
        }
        return visual or state

    def load(self, state: State, source: str) -> None:
        """See `Tower.load`."""
        _load_strict(self.module, state, source, assign=True)

    def set_size(self, size: Size) -> None:
        """Resize the position embedding of the patches; call this once."""
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        visual: Any = self.module
        old = visual.positional_embedding.detach()
        resized = resize_position_embedding(old, self._grid(), grid)
        visual.positional_embedding = torch.nn.Parameter(resized)
        visual.grid_size, visual.image_size = grid, size

    def forward(
        self, images: torch.Tensor, blocks: Sequence[int], cls: bool
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """Return raw block outputs and the projected image embedding."""
        visual: Any = self.module
        output = visual.forward_intermediates(
            images,
            indices=sorted(blocks),
            stop_early=not cls,
            intermediates_only=not cls,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        patches = output["image_intermediates"]
        prefixes = output.get("image_intermediates_prefix") or [None] * len(patches)
        tokens = _with_prefixes(blocks, patches, prefixes)
        return tokens, output["image_features"] if cls else None

    def _grid(self) -> Size:
        return self.native_size[0] // self.patch_size, self.native_size[1] // self.patch_size


class _ClipTimmTower(ClipTower):
    """An open_clip model whose image tower is a timm ViT (SigLIP, EVA-CLIP)."""

    def __init__(self, spec: BackboneSpec, config: dict[str, Any], pretrained: Any) -> None:
        config["vision_cfg"]["timm_model_pretrained"] = False
        self.module = _image_tower(config, False, meta=False)
        trunk: Any = self.module.trunk
        _require_vit(spec, trunk)
        self.variant = "gelu"
        self.patch_size = _square_patch(spec, trunk.patch_embed.patch_size)
        self.native_size = _pair(trunk.patch_embed.img_size)
        self.depth = len(trunk.blocks)
        self.prefix_tokens = int(trunk.num_prefix_tokens)
        self.has_class_token = True  # the projected embedding, also of a pooled tower
        self.rotary = getattr(trunk, "rope", None) is not None
        self.mean, self.std = _triple(pretrained["mean"]), _triple(pretrained["std"])
        self.hub = _open_clip_hub(pretrained)

    def load(self, state: State, source: str) -> None:
        """See `Tower.load`."""
        _load_strict(self.module, state, source)

    def set_size(self, size: Size) -> None:
        """Let timm resize the position embedding."""
        set_input_size(self.module.trunk, size)


class TimmTower:
    """A timm ViT: block outputs after the final norm, and the normed class token if it has one.

    Some models have no final norm of their tokens (`model.norm` is Identity; they norm the pooled
    feature): then block outputs are raw, and so is the class token. A warning says so, and one says
    where the weights were trained with QuickGELU, but the model runs GELU.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        import timm

        try:
            model: Any = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
        except RuntimeError as error:
            known = timm.list_models(pretrained=True) + timm.list_models()
            raise InputError(_unknown(spec, spec.architecture, known)) from error
        _require_vit(spec, model)
        self.module: torch.nn.Module = model
        config = model.pretrained_cfg
        self.variant = ""
        for caution in timm_cautions(spec.architecture, model, config):
            warnings.warn(f"backbone {spec.name!r}: {caution}", MuscFastWarning, stacklevel=2)
        self.patch_size = _square_patch(spec, model.patch_embed.patch_size)
        self.native_size = _pair(model.patch_embed.img_size)
        self.depth, self.prefix_tokens = len(model.blocks), int(model.num_prefix_tokens)
        self.mean, self.std = _triple(config["mean"]), _triple(config["std"])
        self.hub = _timm_hub(config)
        self.has_class_token = getattr(model, "cls_token", None) is not None
        self.rotary = getattr(model, "rope", None) is not None

    def convert(self, state: State) -> State:
        """Accept a DINOv2 of transformers, or any state that timm reads into this model."""
        if is_hf_dinov2(state):
            return hf_dinov2_to_timm(state)
        family = sys.modules[type(self.module).__module__]
        convert = getattr(family, "checkpoint_filter_fn", None)
        try:
            converted: State = convert(state, self.module) if convert else state
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            converted = state  # weights of another model: `load` says what does not fit
        # This model has no head, and the mask token serves training only.
        unused = ("head.", "head_dist.", "fc_norm.", "mask_token")
        wanted = self.module.state_dict()
        return {
            name: tensor
            for name, tensor in converted.items()
            if name in wanted or not name.startswith(unused)
        }

    def load(self, state: State, source: str) -> None:
        """See `Tower.load`."""
        _load_strict(self.module, state, source)

    def set_size(self, size: Size) -> None:
        """Let timm resize the position embedding or set the rotary grid."""
        set_input_size(self.module, size)

    def forward(
        self, images: torch.Tensor, blocks: Sequence[int], cls: bool
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """Return block outputs and the class token, normed where the model has a final norm."""
        model: Any = self.module
        cls = cls and self.has_class_token
        output = model.forward_intermediates(
            images,
            indices=sorted(blocks),
            return_prefix_tokens=self.prefix_tokens > 0,
            norm=True,
            stop_early=not cls,
            output_fmt="NLC",
            intermediates_only=not cls,
        )
        intermediates = output[1] if cls else output
        pairs = [item if isinstance(item, tuple) else (item, None) for item in intermediates]
        tokens = _with_prefixes(blocks, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return tokens, output[0][:, 0] if cls else None


def resize_position_embedding(embedding: torch.Tensor, old: Size, new: Size) -> torch.Tensor:
    """Resize a position embedding, bicubic with antialiasing, as open_clip and timm do.

    embedding: [1 + h * w, C], the entry of the class token first; that one is not changed.
    old, new: (height, width) of the grids in patches.
    """
    if old == new:
        return embedding
    head, body = embedding[:1], embedding[1:]
    image = body.reshape(1, old[0], old[1], -1).permute(0, 3, 1, 2)
    image = functional.interpolate(
        image, size=new, mode="bicubic", antialias=True, align_corners=False
    )
    body = image.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)
    return torch.cat([head, body]).contiguous()


def _image_tower(config: dict[str, Any], quick_gelu: bool, meta: bool = True) -> torch.nn.Module:
    # open_clip's public constructor also builds the text tower, which for ViT-L takes another
    # 500 MB. A module on the meta device has no memory and draws no random weights.
    from open_clip.model import _build_vision_tower

    with torch.device("meta" if meta else "cpu"):
        tower: torch.nn.Module = _build_vision_tower(
            config["embed_dim"], config["vision_cfg"], quick_gelu
        )
    return tower


def _load_strict(module: torch.nn.Module, state: State, source: str, assign: bool = False) -> None:
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    misfits = [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{what}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("tensors missing", missing),
            ("tensors unknown", unknown),
            ("tensors of another shape", misfits),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"{source} does not fit the model: {'; '.join(problems)}")
    module.load_state_dict(state, strict=True, assign=assign)


def _with_prefixes(
    blocks: Sequence[int], patches: Sequence[torch.Tensor], prefixes: Sequence[Any]
) -> dict[int, torch.Tensor]:
    return {
        block: patch if prefix is None else torch.cat([prefix, patch], dim=1)
        for block, patch, prefix in zip(sorted(blocks), patches, prefixes, strict=True)
    }


def _require_vit(spec: BackboneSpec, model: Any) -> None:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, (VisionTransformer, Eva)):
        raise InputError(
            f"backbone {spec.name!r} is a {type(model).__name__}; a plain vision transformer "
            "(timm's VisionTransformer or Eva families: ViT, DeiT, DINO, DINOv2, DINOv3, EVA) "
            "is needed"
        )


def _open_clip_hub(pretrained: Any) -> HubLocation | None:
    repo, _, filename = pretrained.get("hf_hub", "").rpartition("/")
    if not repo:
        return None
    return HubLocation(repo, (filename,) if filename else FILE_NAMES["open_clip"])


def _timm_hub(config: dict[str, Any]) -> HubLocation | None:
    repo = config.get("hf_hub_id")
    if not repo:
        return None
    filename = config.get("hf_hub_filename")
    return HubLocation(repo, (filename,) if filename else FILE_NAMES["timm"])


def _unknown(spec: BackboneSpec, architecture: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"backbone {spec.name!r}: {spec.family} has no model {architecture!r}{hint}"


def _square_patch(spec: BackboneSpec, patch: Any) -> int:
    height, width = _pair(patch)
    if height != width:
        raise InputError(f"backbone {spec.name!r} has {height} x {width} patches, not square ones")
    return height


def _pair(value: Any) -> Size:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _triple(value: Any) -> tuple[float, float, float]:
    first, second, third = value
    return float(first), float(second), float(third)


def quarter_depths(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter: 5, 11, 17, 23 of 24 (the paper's choice)."""
    return tuple(sorted({max(math.ceil(depth * part / 4) - 1, 0) for part in (1, 2, 3, 4)}))
