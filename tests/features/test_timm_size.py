"""The input size of a timm model."""

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import vision_transformer

from musc_fast.features.timm_size import set_input_size


def test_another_package_s_resizing_is_not_used(monkeypatch):
    """As anomalib 2.7 replaces it: the position embedding would lose its antialiasing."""
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)  # 10 x 10 patches
    torch.nn.init.normal_(model.pos_embed)
    wanted = resample_abs_pos_embed(model.pos_embed, new_size=[4, 6], old_size=[10, 10])
    other = resample_abs_pos_embed(
        model.pos_embed, new_size=[4, 6], old_size=[10, 10], antialias=False
    )
    assert not torch.allclose(wanted, other)

    def without_antialias(*args, **kwargs):
        return resample_abs_pos_embed(*args, **{**kwargs, "antialias": False})

    monkeypatch.setattr(vision_transformer, "resample_abs_pos_embed", without_antialias)
    set_input_size(model, (64, 96))
    torch.testing.assert_close(model.pos_embed, wanted, rtol=0, atol=0)
    assert vision_transformer.resample_abs_pos_embed is without_antialias
