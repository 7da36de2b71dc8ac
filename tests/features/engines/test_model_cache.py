"""Converted models on disk: the key, damage, a full disk, two processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backbones import TINY, noise
from tiny import tiny_weights

from musc_fast.features import Backbone, load_backbone
from musc_fast.features.engines import ENGINES, model_cache

if reason := ENGINES[0].why_not("cpu"):
    pytest.skip(reason, allow_module_level=True)

CONVERTING = "converting the backbone for OpenVINO; the result is kept"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of the test."""
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path)
    return tmp_path / "openvino"


def extract(weights: Path, messages: list[str], **arguments: object) -> torch.Tensor:
    """The tokens of one image by a backbone that is loaded anew; `messages` gets its notices."""
    backbone: Backbone = load_backbone(
        TINY,
        weights=weights,
        engine="openvino",
        progress=messages.append,
        **{"image_size": 64, "blocks": (1, 3), **arguments},  # type: ignore[arg-type]
    )
    return backbone.extract(noise(1, backbone)).tokens[0]


def test_a_model_is_converted_once_for_its_weights_size_and_blocks(
    weights: Path, folder: Path, tmp_path: Path
) -> None:
    messages: list[str] = []
    first = extract(weights, messages)
    assert messages == [CONVERTING]
    assert torch.equal(extract(weights, messages), first)
    assert messages == [CONVERTING]
    (kept,) = folder.iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["model.bin", "model.xml", "sha256"]
    extract(weights, messages, image_size=96)
    extract(weights, messages, blocks=(1,))
    torch.manual_seed(1)
    import safetensors.torch

    changed = safetensors.torch.load_file(weights)
    changed["blocks.0.mlp.fc1.bias"][3] += 1e-3
    safetensors.torch.save_file(changed, tmp_path / "changed.safetensors")
    extract(tmp_path / "changed.safetensors", messages)
    assert messages == [CONVERTING] * 4


@pytest.mark.parametrize("damage", ["cut", "changed", "no checksum"])
def test_a_damaged_model_is_made_again(weights: Path, folder: Path, damage: str) -> None:
    messages: list[str] = []
    first = extract(weights, messages)
    (kept,) = folder.iterdir()
    file = kept / "model.bin"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:1000])
    elif damage == "changed":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        (kept / "sha256").unlink()
    messages.clear()
    assert torch.equal(extract(weights, messages), first)
    assert len(messages) == 2
    assert "is damaged" in messages[0]
    assert messages[1] == CONVERTING
    messages.clear()
    assert torch.equal(extract(weights, messages), first)
    assert messages == []


def test_a_cache_that_cannot_be_written_is_said(weights: Path, folder: Path) -> None:
    messages: list[str] = []
    folder.write_bytes(b"")  # a file where the folder should be
    tokens = extract(weights, messages)
    assert tokens.shape == (1, 17, 64)
    assert len(messages) == 2
    assert "could not keep the converted model" in messages[1]


def test_what_a_killed_conversion_left_goes(weights: Path, folder: Path) -> None:
    left = folder / ".musc_fast-abcdefgh"
    (left / "whole").mkdir(parents=True)
    (left / ".owner").write_bytes(b"")
    (left / "whole" / "model.bin").write_bytes(b"half")
    os.utime(left, (1, 1))
    extract(weights, [])
    (kept,) = folder.iterdir()
    assert kept.name != left.name


def test_two_processes_that_convert_at_once(weights: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; from backbones import TINY, noise;"
        "from musc_fast.features import load_backbone;"
        f"b = load_backbone(TINY, weights={str(weights)!r}, image_size=64, engine='openvino');"
        "torch.save(b.extract(noise(2, b)).tokens, sys.argv[1])"
    )
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "helpers"), *sys.path]),
    }
    files = [tmp_path / f"{k}.pt" for k in range(3)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment)
        for file in files[:2]
    ]
    assert [process.wait() for process in running] == [0, 0]
    subprocess.run([sys.executable, "-c", code, str(files[2])], env=environment, check=True)
    first, second, third = (torch.load(file) for file in files)
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, first, third))
    (kept,) = (tmp_path / "cache" / "musc_fast" / "openvino").iterdir()
    assert (kept / "sha256").is_file()
