"""Towers agree with the tables of open_clip and timm; what neither can serve is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from open_clip.transformer import QuickGELU

from musc_fast.errors import InputError, MuscFastWarning
from musc_fast.features import available_backbones, get_spec
from musc_fast.features.towers import build_tower, quarter_depths
from musc_fast.features.weights.hub import FILE_NAMES


@pytest.mark.parametrize("name", [info.name for info in available_backbones()])
def test_a_named_backbone_agrees_with_its_library(name):
    """Patch, depth, native hub repository and input statistics come from open_clip and timm."""
    spec = get_spec(name)
    tower = build_tower(spec)
    assert tower.patch_size == spec.patch_size
    assert spec.blocks is not None
    assert max(spec.blocks) < tower.depth
    assert spec.default_size is not None
    assert all(side % tower.patch_size == 0 for side in spec.default_size)
    assert tower.hub is not None
    assert tower.hub.repo == spec.hub_repo
    assert tower.hub.filenames == FILE_NAMES[spec.family]
    clip = name.startswith("clip")
    assert tower.mean[0] == (0.48145466 if clip else 0.485)
    assert tower.std[2] == (0.27577711 if clip else 0.225)
    assert spec.interpolation == ("bicubic" if clip else "bilinear")
    assert tower.prefix_tokens == 1


def test_openai_weights_run_with_quickgelu_unless_the_variant_is_named():
    for name in ("clip-vit-l-14-336", "open_clip:ViT-L-14-336/openai", "clip-vit-l-14-336-gelu"):
        kinds = {type(m) for m in build_tower(get_spec(name)).module.modules()}
        gelu = name.endswith("-gelu")
        assert (torch.nn.GELU in kinds, QuickGELU in kinds) == (gelu, not gelu)
    # LAION's weights of the same architecture were trained with GELU.
    laion = build_tower(get_spec("open_clip:ViT-B-16/laion400m_e32"))
    assert laion.variant == "gelu"


def test_the_paper_s_blocks_are_the_quarter_depths():
    assert quarter_depths(24) == get_spec("clip-vit-l-14-336").blocks == (5, 11, 17, 23)
    assert quarter_depths(12) == get_spec("clip-vit-b-16").blocks == (2, 5, 8, 11)
    assert quarter_depths(6) == (1, 2, 4, 5)
    assert quarter_depths(1) == (0,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:eva02_small_patch14_224.mim_in22k", "has no final norm of its tokens"),
        (
            "timm:vit_base_patch16_clip_224.openai",
            r"QuickGELU; timm:vit_base_patch16_clip_quickgelu_224\.openai runs QuickGELU",
        ),
    ],
)
def test_what_a_timm_model_does_otherwise_is_said(name, message):
    with pytest.warns(MuscFastWarning, match=message) as said:
        tower = build_tower(get_spec(name))
    assert len(said) == 1
    normed = tower.module.norm.__class__ is not torch.nn.Identity
    assert normed == ("norm" not in message)


@pytest.mark.parametrize(
    "name",
    [
        "timm:vit_base_patch16_clip_quickgelu_224.openai",
        "timm:vit_base_patch16_clip_224.laion2b",  # trained with GELU
        "timm:vit_small_patch14_dinov2.lvd142m",
    ],
)
def test_nothing_is_said_of_other_models(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MuscFastWarning)
        build_tower(get_spec(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_smal_patch14_dinov2", "did you mean.*vit_small_patch14_dinov2"),
        ("timm:resnet18", "is a ResNet; a plain vision transformer"),
        ("timm:swin_tiny_patch4_window7_224", "is a SwinTransformer; a plain vision"),
        ("open_clip:ViT-B-61/openai", "open_clip has no model 'ViT-B-61'; did you mean"),
        ("open_clip:ViT-B-16/nobody", "open_clip has no weights 'nobody' of ViT-B-16; it has open"),
        ("open_clip:RN50/openai", "is a ResNet; a vision transformer is needed"),
    ],
)
def test_a_generic_name_that_the_library_cannot_serve(name, message):
    with pytest.raises(InputError, match=message):
        build_tower(get_spec(name))
