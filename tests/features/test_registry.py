"""The table of backbones: names, suggestions, weights at hand, no heavy import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from musc_fast.errors import InputError
from musc_fast.features import available_backbones, get_spec
from musc_fast.features.weights.cache import cache_path

NAMED = [
    "dinov2-vit-s-14",
    "clip-vit-b-16",
    "clip-vit-l-14-336",
    "clip-vit-b-16-gelu",
    "clip-vit-l-14-336-gelu",
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("clip-vit-b16", "clip-vit-b-16"),
        ("CLIP-ViT-L-14-336", "clip-vit-l-14-336"),
        ("dinov2", "dinov2-vit-s-14"),
    ],
)
def test_an_unknown_name_suggests_close_ones(typed, meant):
    with pytest.raises(InputError, match=f"unknown backbone '{typed}'.*Did you mean.*{meant}"):
        get_spec(typed)


def test_an_unknown_name_far_from_all_lists_them():
    with pytest.raises(InputError) as caught:
        get_spec("zzz")
    for name in (*NAMED, "open_clip:NAME/PRETRAINED", "timm:NAME"):
        assert name in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["open_clip:ViT-B-16", "open_clip:/openai", "open_clip:", "timm:"])
def test_half_a_generic_name_says_how_to_write_it(name):
    with pytest.raises(InputError, match=r"write (open_clip|timm):NAME"):
        get_spec(name)


def test_generic_names_keep_slashes_and_tags():
    spec = get_spec("open_clip:ViT-B-16/openai")
    assert (spec.architecture, spec.hub_tag, spec.blocks) == ("ViT-B-16", "openai", None)
    assert get_spec("timm:vit_base_patch16_dinov3.lvd1689m").family == "timm"


def test_available_backbones_tell_what_is_at_hand(cache):
    infos = {info.name: info for info in available_backbones()}
    assert list(infos) == NAMED
    assert not any(info.at_hand for info in infos.values())
    kinds = [source.kind for source in infos["clip-vit-b-16"].sources]
    assert kinds == ["cache", "wheel", "hub"] == list(infos["clip-vit-b-16"].spec.sources)
    assert [source.kind for source in infos["clip-vit-l-14-336"].sources] == ["hub"]

    wheel = get_spec("clip-vit-b-16").wheel
    assert wheel is not None
    cache_path(wheel).parent.mkdir(parents=True)
    cache_path(wheel).write_bytes(b"")
    at_hand = [info.name for info in available_backbones() if info.at_hand]
    assert at_hand == ["clip-vit-b-16", "clip-vit-b-16-gelu"]


def test_the_table_needs_neither_torch_nor_a_library():
    heavy = ["torch", "open_clip", "timm", "torchvision", "onnx"]
    code = (
        "import sys, musc_fast.features as f; f.available_backbones(); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
