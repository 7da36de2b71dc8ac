"""Renaming tensors of the transformers library to the names of open_clip and timm.

The ONNX files of both wheels use the names of transformers, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]

_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_OUTER = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # transformers spells it so
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_DINO_LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
_DINO_OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}


def is_hf_clip(names: Mapping[str, object]) -> bool:
    """Whether these are the tensor names of a transformers CLIP model or image tower."""
    return any(name.startswith("vision_model.encoder.layers.") for name in names)


def is_hf_dinov2(names: Mapping[str, object]) -> bool:
    """Whether these are the tensor names of a transformers DINOv2 model."""
    return any(".attention.attention.query." in name for name in names)


def hf_clip_to_open_clip(state: Mapping[str, torch.Tensor]) -> State:
    """Return the state of an open_clip image tower from that of a transformers CLIP.

    Linear weights are [out, in] in both libraries; open_clip joins q, k and v, and stores the
    projection of the class token as [in, out]. Text weights are dropped.
    """
    out: State = {}
    for name, tensor in state.items():
        if name == "visual_projection.weight":
            out["proj"] = tensor.T.contiguous()
            continue
        if not name.startswith("vision_model."):
            continue
        name = name.removeprefix("vision_model.")
        if name in _CLIP_OUTER:
            out[_CLIP_OUTER[name]] = tensor
        elif name.startswith("encoder.layers."):
            index, module, leaf = _split_layer(name.removeprefix("encoder.layers."))
            if module in _CLIP_LAYER:
                out[f"transformer.resblocks.{index}.{_CLIP_LAYER[module]}.{leaf}"] = tensor
            elif module == "self_attn.q_proj":
                parts = [name.replace("q_proj", f"{p}_proj") for p in "qkv"]
                joined = _join(state, [f"vision_model.{part}" for part in parts])
                if joined is not None:
                    out[f"transformer.resblocks.{index}.attn.in_proj_{leaf}"] = joined
    return out


def hf_dinov2_to_timm(state: Mapping[str, torch.Tensor]) -> State:
    """Return the state of a timm VisionTransformer from that of a transformers DINOv2.

    The mask token, which only training uses, and decoder or classifier heads are dropped.
    """
    out: State = {}
    unprefixed = {_strip_prefix(name): tensor for name, tensor in state.items()}
    for name, tensor in unprefixed.items():
        if name in _DINO_OUTER:
            out[_DINO_OUTER[name]] = tensor
        elif name.startswith("encoder.layer."):
            index, module, leaf = _split_layer(name.removeprefix("encoder.layer."))
            if module in _DINO_LAYER:
                leaf = "gamma" if leaf == "lambda1" else leaf
                out[f"blocks.{index}.{_DINO_LAYER[module]}.{leaf}"] = tensor
            elif module == "attention.attention.query":
                parts = [name.replace("query", part) for part in ("query", "key", "value")]
                joined = _join(unprefixed, parts)
                if joined is not None:
                    out[f"blocks.{index}.attn.qkv.{leaf}"] = joined
    return out


def _strip_prefix(name: str) -> str:
    return name.removeprefix("backbone.").removeprefix("dinov2.")


def _split_layer(name: str) -> tuple[str, str, str]:
    """Split "3.mlp.fc1.weight" into ("3", "mlp.fc1", "weight")."""
    index, _, rest = name.partition(".")
    module, _, leaf = rest.rpartition(".")
    return index, module, leaf


def _join(state: Mapping[str, torch.Tensor], names: list[str]) -> torch.Tensor | None:
    """Stack q, k and v along the outputs; None if one is missing, which loading then reports."""
    if any(name not in state for name in names):
        return None
    return torch.cat([state[name] for name in names])
