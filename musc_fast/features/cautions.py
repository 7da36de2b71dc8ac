"""What a user of a timm model should know of its features, since nothing else tells."""

from __future__ import annotations

from typing import Any

import torch


def timm_cautions(architecture: str, model: Any, config: dict[str, Any]) -> list[str]:
    """Sentences about a timm model: tokens without a final norm, GELU under QuickGELU weights.

    config: the model's pretrained_cfg.
    """
    found = []
    if isinstance(model.norm, torch.nn.Identity):
        found.append(f"{architecture} has no final norm of its tokens; they are raw block outputs")
    if variant := _quick_gelu_variant(config):
        found.append(
            "it runs GELU, though its weights were trained with QuickGELU; "
            f"timm:{variant} runs QuickGELU"
        )
    return found


def _quick_gelu_variant(config: dict[str, Any]) -> str:
    """The timm model that runs the same weights with QuickGELU; "" where there is none."""
    import timm

    architecture, tag = str(config.get("architecture", "")), config.get("tag") or ""
    variant = architecture.replace("_clip_", "_clip_quickgelu_")
    if variant == architecture or "quickgelu" in architecture or not timm.is_model(variant):
        return ""
    name = f"{variant}.{tag}"
    try:
        other = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return ""
    same = other is not None and other.hf_hub_id == config.get("hf_hub_id")
    return name if same and config.get("hf_hub_id") else ""
