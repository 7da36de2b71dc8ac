"""Renaming of transformers' tensors: every tensor arrives, q, k and v in that order."""

from __future__ import annotations

import torch

from musc_fast.features.weights.convert import (
    hf_clip_to_open_clip,
    hf_dinov2_to_timm,
    is_hf_clip,
    is_hf_dinov2,
)


def numbered(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Distinct random tensors under the given names."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def hf_clip(width: int = 4, layers: int = 2) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, 2, 2),
        "vision_model.embeddings.position_embedding.weight": (5, width),
        "visual_projection.weight": (3, width),
        "text_projection.weight": (3, 3),
        "text_model.final_layer_norm.weight": (3,),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"vision_model.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for layer in range(layers):
        prefix = f"vision_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.self_attn.{part}.weight"] = (width, width)
            shapes[f"{prefix}.self_attn.{part}.bias"] = (width,)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{prefix}.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        shapes |= {f"{prefix}.mlp.fc1.weight": (8, width), f"{prefix}.mlp.fc1.bias": (8,)}
        shapes |= {f"{prefix}.mlp.fc2.weight": (width, 8), f"{prefix}.mlp.fc2.bias": (width,)}
    return numbered(shapes)


def test_clip_names():
    state = hf_clip()
    out = hf_clip_to_open_clip(state)
    assert is_hf_clip(state)
    assert not is_hf_clip(out)
    layer = "vision_model.encoder.layers.1"
    stacked = torch.cat([state[f"{layer}.self_attn.{p}_proj.weight"] for p in "qkv"])
    assert torch.equal(out["transformer.resblocks.1.attn.in_proj_weight"], stacked)
    stacked = torch.cat([state[f"{layer}.self_attn.{p}_proj.bias"] for p in "qkv"])
    assert torch.equal(out["transformer.resblocks.1.attn.in_proj_bias"], stacked)
    assert torch.equal(out["proj"], state["visual_projection.weight"].T)
    assert torch.equal(
        out["transformer.resblocks.1.mlp.c_proj.weight"], state[f"{layer}.mlp.fc2.weight"]
    )
    assert torch.equal(out["ln_pre.bias"], state["vision_model.pre_layrnorm.bias"])
    # The result has 12 tensors a layer and 8 outside the layers, and no text tensor.
    assert len(out) == 2 * 12 + 8


def test_clip_names_match_open_clips_own_tower():
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(
        image_size=4, patch_size=2, width=4, layers=2, heads=1, mlp_ratio=2, output_dim=3
    )
    tower.load_state_dict(hf_clip_to_open_clip(hf_clip()), strict=True)


def test_a_missing_query_is_left_missing():
    state = hf_clip()
    del state["vision_model.encoder.layers.0.self_attn.k_proj.weight"]
    out = hf_clip_to_open_clip(state)
    assert "transformer.resblocks.0.attn.in_proj_weight" not in out
    assert "transformer.resblocks.0.attn.in_proj_bias" in out


def hf_dinov2(prefix: str, width: int = 4, layers: int = 2) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 5, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 2, 2),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    for layer in range(layers):
        start = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes[f"{start}.attention.attention.{part}.weight"] = (width, width)
            shapes[f"{start}.attention.attention.{part}.bias"] = (width,)
        shapes[f"{start}.attention.output.dense.weight"] = (width, width)
        shapes[f"{start}.attention.output.dense.bias"] = (width,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{start}.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        for scale in ("layer_scale1", "layer_scale2"):
            shapes[f"{start}.{scale}.lambda1"] = (width,)
        shapes |= {f"{start}.mlp.fc1.weight": (8, width), f"{start}.mlp.fc1.bias": (8,)}
        shapes |= {f"{start}.mlp.fc2.weight": (width, 8), f"{start}.mlp.fc2.bias": (width,)}
    return {
        **{prefix + name: tensor for name, tensor in numbered(shapes).items()},
        "decoder.final_conv.weight": torch.ones(1),
    }


def test_dinov2_names_match_timms_own_model():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=4,
        patch_size=2,
        embed_dim=4,
        depth=2,
        num_heads=1,
        mlp_ratio=2,
        init_values=1e-5,
        num_classes=0,
    )
    for prefix in ("backbone.", "dinov2.", ""):
        state = hf_dinov2(prefix)
        assert is_hf_dinov2(state)
        out = hf_dinov2_to_timm(state)
        model.load_state_dict(out, strict=True)
        start = f"{prefix}encoder.layer.1.attention.attention"
        parts = [state[f"{start}.{p}.weight"] for p in ("query", "key", "value")]
        assert torch.equal(model.blocks[1].attn.qkv.weight, torch.cat(parts))
        scale = state[f"{prefix}encoder.layer.0.layer_scale2.lambda1"]
        assert torch.equal(model.blocks[0].ls2.gamma, scale)
        assert not is_hf_dinov2(out)
