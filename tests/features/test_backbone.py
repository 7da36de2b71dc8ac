"""Backbones with random weights from a local file: sizes, blocks, tokens, errors. No network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from backbones import (
    ROTARY,
    TINY,
    TINY_CLIP,
    clip_backbone,
    noise,
    randomise,
    timm_model,
)
from open_clip.model import _build_vision_tower
from PIL import Image
from torch.nn import functional

from musc_fast.errors import BackendError, InputError, WeightsError
from musc_fast.features import Features, get_spec, load_backbone
from musc_fast.features.backbone import _fingerprint
from musc_fast.features.towers import resize_position_embedding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def tiny_file(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    safetensors.torch.save_file(randomise(timm_model("test_vit")), path)
    return path


@pytest.fixture(scope="module")
def rotary_file(folder: Path) -> Path:
    path = folder / "rotary.safetensors"
    safetensors.torch.save_file(randomise(timm_model("vit_tiny_patch16_dinov3_qkvb")), path)
    return path


def test_timm_tokens_are_block_outputs_after_the_final_norm(tiny_file):
    """The yardstick is timm's model, run block by block at the weights' own size."""
    backbone = load_backbone(TINY, weights=tiny_file)
    assert backbone.image_size == (160, 160)
    assert backbone.grid == (10, 10)
    assert backbone.blocks == (1, 2, 4, 5)
    assert backbone.prefix_tokens == 1
    assert backbone.source == f"local file {tiny_file}"
    x = noise(2, backbone)
    features = backbone.extract(x)

    model = timm_model("test_vit")
    model.load_state_dict(safetensors.torch.load_file(tiny_file))
    with torch.no_grad():
        h = model._pos_embed(model.patch_embed(x))
        expected = []
        for block in model.blocks:
            h = block(h)
            expected.append(model.norm(h))
    for tokens, block in zip(features.tokens, backbone.blocks, strict=True):
        assert tokens.shape == (2, 101, 64)
        torch.testing.assert_close(tokens, expected[block], rtol=0, atol=1e-5)
    class_token = functional.normalize(expected[-1][:, 0], dim=-1)
    assert features.cls_tokens is not None
    torch.testing.assert_close(features.cls_tokens, class_token, rtol=0, atol=1e-6)


def test_tokens_come_in_the_order_asked_for(tiny_file):
    x = torch.randn(1, 3, 160, 160)
    up = load_backbone(TINY, weights=tiny_file, blocks=(0, 3, 5)).extract(x)
    mixed = load_backbone(TINY, weights=tiny_file, blocks=[5, 0, 3]).extract(x)
    for one, other in zip(mixed.tokens, (up.tokens[i] for i in (2, 0, 1)), strict=True):
        assert torch.equal(one, other)


def test_without_class_tokens_later_blocks_are_not_run(tiny_file):
    backbone = load_backbone(TINY, weights=tiny_file, blocks=(0, 2), engine="torch")
    x = noise(2, backbone)
    executed = []
    for i, block in enumerate(backbone._tower.module.blocks):
        block.register_forward_hook(lambda *_, i=i: executed.append(i))
    full = backbone.extract(x)
    assert executed == [0, 1, 2, 3, 4, 5]
    executed.clear()
    short = backbone.extract(x, cls=False)
    assert executed == [0, 1, 2]
    assert short.cls_tokens is None
    assert all(map(torch.equal, short.tokens, full.tokens))


def test_registers_are_prefix_tokens_of_a_rotary_model(rotary_file):
    """DINOv3's form: one class token and four registers before a rectangular grid of patches."""
    backbone = load_backbone(ROTARY, weights=rotary_file, image_size=(48, 80), blocks=(3, 11))
    assert backbone.prefix_tokens == 5
    assert backbone.grid == (3, 5)
    x = noise(2, backbone)
    features = backbone.extract(x)

    model = timm_model("vit_tiny_patch16_dinov3_qkvb")
    model.load_state_dict(safetensors.torch.load_file(rotary_file))
    with torch.no_grad():  # this model takes any size as it is
        h, rope = model._pos_embed(model.patch_embed(x))
        # Before the first block h holds the class token, four registers, then the patches.
        assert torch.equal(h[:, :1], model.cls_token.expand(2, -1, -1))
        assert torch.equal(h[:, 1:5], model.reg_token.expand(2, -1, -1))
        for i, block in enumerate(model.blocks):
            h = block(h, rope=rope)
            if i == 3:
                expected = model.norm(h)
    assert features.tokens[0].shape == (2, 5 + 15, 192)
    torch.testing.assert_close(features.tokens[0], expected, rtol=0, atol=1e-4)
    class_token = functional.normalize(model.norm(h)[:, 0], dim=-1)
    torch.testing.assert_close(features.cls_tokens, class_token, rtol=0, atol=1e-5)


def test_a_model_without_class_token_gives_none(folder):
    path = folder / "registers.safetensors"
    safetensors.torch.save_file(randomise(timm_model("test_vit2")), path)
    backbone = load_backbone("timm:test_vit2", weights=path)
    features = backbone.extract(noise(1, backbone))
    assert features.cls_tokens is None
    assert features.tokens[0].shape == (1, backbone.prefix_tokens + 100, 64)


def test_timm_s_position_embedding_is_resized_for_rectangles(tiny_file):
    """timm resizes the position embedding of a rectangle as `resize_position_embedding` does."""
    backbone = load_backbone(TINY, weights=tiny_file, image_size=(96, 240), blocks=(0,))
    assert backbone.grid == (6, 15)
    position = safetensors.torch.load_file(tiny_file)["pos_embed"][0]
    resized = backbone._tower.module.pos_embed[0]
    expected = resize_position_embedding(position, (10, 10), (6, 15))
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-6)
    assert backbone.extract(noise(1, backbone)).tokens[0].shape == (1, 1 + 90, 64)


@pytest.mark.parametrize("name", [TINY, ROTARY])
def test_an_image_s_features_do_not_depend_on_its_batch(name, tiny_file, rotary_file):
    weights = tiny_file if name == TINY else rotary_file
    backbone = load_backbone(name, weights=weights, image_size=(64, 96))
    x = noise(5, backbone)
    together = backbone.extract(x)
    for i in range(5):
        alone = backbone.extract(x[i : i + 1])
        for one, many in zip(alone.tokens, together.tokens, strict=True):
            torch.testing.assert_close(one[0], many[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.cls_tokens[0], together.cls_tokens[i], atol=1e-5, rtol=0)


def test_clip_tokens_are_raw_block_outputs_and_the_class_token_is_projected():
    backbone = clip_backbone("clip-vit-b-16", (64, 64))
    x = noise(3, backbone)
    features = backbone.extract(x)
    official = _build_vision_tower(TINY_CLIP["embed_dim"], TINY_CLIP["vision_cfg"], True)
    official.load_state_dict(randomise(official))
    official.eval()
    with torch.no_grad():
        h = official._embeds(x)
        expected = []
        for block in official.transformer.resblocks:
            h = block(h)
            expected.append(h)
        embedding = official(x)
    for tokens, block in zip(features.tokens, backbone.blocks, strict=True):
        assert tokens.shape == (3, 17, 32)
        torch.testing.assert_close(tokens, expected[block], rtol=1e-5, atol=1e-5)
    assert features.cls_tokens.shape == (3, 12)
    torch.testing.assert_close(
        features.cls_tokens, functional.normalize(embedding, dim=-1), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(features.cls_tokens.norm(dim=-1), torch.ones(3))


def test_clip_s_position_embedding_is_resized_as_open_clip_does():
    """The yardstick is open_clip's loader, which knows square grids alone."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = {**TINY_CLIP["vision_cfg"], "image_size": 112}
            self.visual = _build_vision_tower(TINY_CLIP["embed_dim"], config, True)

    backbone = clip_backbone("clip-vit-b-16", (112, 112))
    small = _build_vision_tower(TINY_CLIP["embed_dim"], TINY_CLIP["vision_cfg"], True)
    state = {f"visual.{k}": v for k, v in randomise(small).items()}
    open_clip.model.resize_pos_embed(state, Model())
    assert torch.equal(
        backbone._tower.module.positional_embedding, state["visual.positional_embedding"]
    )


def test_a_rectangle_with_as_many_patches_is_still_resized():
    """4 x 4 and 2 x 8 grids hold 16 patches each; the embedding must not be kept as it is."""
    square, flat = (clip_backbone("clip-vit-b-16", size) for size in ((64, 64), (32, 128)))
    assert flat.grid == (2, 8)
    before, after = (b._tower.module.positional_embedding for b in (square, flat))
    assert torch.equal(before[0], after[0])
    assert (before[1:] - after[1:]).abs().max() > 0.01
    assert flat.extract(noise(1, flat)).tokens[0].shape == (1, 17, 32)


def test_the_gelu_variant_computes_something_else_and_says_so():
    trained, variant = (clip_backbone(n, (64, 64)) for n in ("clip-vit-b-16", "clip-vit-b-16-gelu"))
    x = noise(1, trained)
    difference = trained.extract(x).tokens[0] - variant.extract(x).tokens[0]
    assert 1e-4 < difference.abs().max() < 1
    assert trained.fingerprint != variant.fingerprint


def test_a_transformers_clip_file_fits_a_clip_tower():
    """The converter's target names are the tower's own."""
    backbone = clip_backbone("clip-vit-b-16", (64, 64))
    bare = backbone._tower.module.state_dict()
    assert backbone._tower.convert(bare) == bare


def test_the_fingerprint_changes_with_the_weights_and_not_with_size_or_blocks(tiny_file, folder):
    one = load_backbone(TINY, weights=tiny_file)
    other = load_backbone(TINY, weights=tiny_file, image_size=64, blocks=(1,))
    assert one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 32
    changed = safetensors.torch.load_file(tiny_file)
    changed["blocks.0.mlp.fc1.bias"][3] += 1e-3
    path = folder / "changed.safetensors"
    safetensors.torch.save_file(changed, path)
    assert load_backbone(TINY, weights=path).fingerprint != one.fingerprint
    assert _fingerprint(get_spec("timm:test_vit3"), one._tower, "0") != _fingerprint(
        one.spec, one._tower, "0"
    )


def test_preprocess_then_extract(tiny_file):
    """A PIL image is normalised with the model's mean and std, and has float32 features."""
    backbone = load_backbone(TINY, weights=tiny_file, image_size=(32, 48))
    image = Image.fromarray(np.full((20, 10, 3), 128, np.uint8))
    pixels = backbone.preprocess(image)
    mean = torch.tensor(timm_model("test_vit").pretrained_cfg["mean"]).view(3, 1, 1)
    std = torch.tensor(timm_model("test_vit").pretrained_cfg["std"]).view(3, 1, 1)
    expected = ((128 / 255 - mean) / std).expand(3, 32, 48)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    features = backbone.extract(pixels[None])
    assert isinstance(features, Features)
    assert all(t.dtype == torch.float32 for t in features.tokens)
    assert not features.tokens[0].requires_grad


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("clip-vit-b-16", 390, "390 is no multiple of the 16-pixel patch.*are 384 or 400"),
        ("dinov2-vit-s-14", (392, 400), "400 is no multiple of the 14-pixel.*are 392 or 406"),
        ("dinov2-vit-s-14", 5, "nearest sizes are 14 or 28"),
        ("clip-vit-l-14-336", 0, "nearest sizes are 14 or 28"),
        ("dinov2-vit-s-14", -14, "nearest sizes are 14 or 28"),
        ("dinov2-vit-s-14", (392,), r"wanted an int or \(height, width\)"),
        ("dinov2-vit-s-14", 392.0, r"wanted an int or \(height, width\)"),
    ],
)
def test_a_wrong_size_is_refused_before_anything_is_fetched(cache, index, name, size, message):
    messages: list[str] = []
    with pytest.raises(InputError, match=message):
        load_backbone(name, image_size=size, progress=messages.append)
    assert messages == []


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((), "wanted distinct block indices"),
        ((1, 1), "wanted distinct block indices"),
        ((0, 12), r"\[12\] out of range; clip-vit-b-16 has blocks 0 to 11"),
        ((-1,), r"\[-1\] out of range"),
    ],
)
def test_wrong_blocks_are_refused(cache, index, blocks, message):
    with pytest.raises(InputError, match=message):
        load_backbone("clip-vit-b-16", blocks=blocks)


def test_images_of_another_shape_are_refused(tiny_file):
    backbone = load_backbone(TINY, weights=tiny_file)
    for shape in ((3, 160, 160), (2, 3, 160, 176), (2, 1, 160, 160)):
        with pytest.raises(InputError, match=r"wanted \(N, \*\(3, 160, 160\)\)"):
            backbone.extract(torch.zeros(shape))


def test_an_unusable_device_is_refused(tiny_file):
    with pytest.raises(BackendError, match="device 'nonsense'"):
        load_backbone(TINY, weights=tiny_file, device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no CUDA device here; use 'cpu'"):
            load_backbone(TINY, weights=tiny_file, device="cuda")


def test_weights_of_another_model_say_what_does_not_fit(tiny_file, rotary_file):
    with pytest.raises(WeightsError) as caught:
        load_backbone(ROTARY, weights=tiny_file)
    message = str(caught.value)
    assert message.startswith(f"local file {tiny_file} does not fit the model")
    assert "tensors missing" in message
    with pytest.raises(WeightsError, match=r"tensors unknown|of another shape"):
        load_backbone(TINY, weights=rotary_file)


def test_weights_that_timm_cannot_convert_say_what_does_not_fit(tiny_file, folder):
    state = safetensors.torch.load_file(tiny_file)
    path = folder / "flat.safetensors"
    safetensors.torch.save_file({**state, "patch_embed.proj.weight": torch.ones(7)}, path)
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight is \(7,\), wanted"):
        load_backbone(TINY, weights=path)


def test_one_missing_tensor_is_named(tiny_file, folder):
    state = safetensors.torch.load_file(tiny_file)
    del state["blocks.2.attn.qkv.bias"]
    path = folder / "incomplete.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(WeightsError, match=r"tensors missing: 1 \(blocks\.2\.attn\.qkv\.bias\)"):
        load_backbone(TINY, weights=path)


def test_a_classifier_head_and_mask_token_in_the_file_are_ignored(tiny_file, folder):
    state = safetensors.torch.load_file(tiny_file)
    path = folder / "head.safetensors"
    safetensors.torch.save_file({**state, "head.weight": torch.ones(9, 64)}, path)
    one, other = (load_backbone(TINY, weights=p) for p in (tiny_file, path))
    assert one.fingerprint == other.fingerprint
