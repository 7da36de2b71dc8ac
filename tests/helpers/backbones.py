"""Small backbones with random weights of every family: no test needs a network."""

from __future__ import annotations

from typing import Any

import open_clip
import timm
import torch
from open_clip.model import _build_vision_tower

from musc_fast.features import Backbone, get_spec
from musc_fast.features.towers import ClipTower
from musc_fast.features.weights.find import tensors_digest

# Six blocks of 64 channels, 16-pixel patches, a class token, learned positions.
TINY = "timm:test_vit"
# Twelve blocks of 192 channels, rotary positions, a class token and four registers.
ROTARY = "timm:vit_tiny_patch16_dinov3_qkvb"
TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 32, "head_width": 16, "layers": 4},
}
OPENAI = open_clip.get_pretrained_cfg("ViT-B-16", "openai")


def randomise(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random values for every tensor, also for those that a new model fills with one constant."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.2 + (0.5 if "norm" in name else 0)
        for name, tensor in module.state_dict().items()
    }


def timm_model(architecture: str) -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
    return model.eval()


def noise(n: int, backbone: Backbone) -> torch.Tensor:
    return torch.randn(n, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))


def clip_backbone(name: str, size: tuple[int, int], **arguments: Any) -> Backbone:
    """A small CLIP with random weights under a named spec; `arguments` are those of Backbone."""
    spec = get_spec(name)
    tower = ClipTower(spec, TINY_CLIP, OPENAI)
    module = _build_vision_tower(TINY_CLIP["embed_dim"], TINY_CLIP["vision_cfg"], True)
    state = tower.convert({f"visual.{k}": v for k, v in randomise(module).items()})
    tower.load(state, "test")
    tower.set_size(size)
    tower.module.eval()
    return Backbone(
        spec,
        tower,
        image_size=size,
        blocks=(0, 1, 3),
        source="random tensors of a test",
        digest=tensors_digest(state),
        device=torch.device("cpu"),
        **arguments,
    )
