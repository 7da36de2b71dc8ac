"""Converted models on disk: the key, damage, a full disk, two processes at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from backbones import ROTARY, TINY, noise, randomise, timm_model
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


def test_the_module_is_let_go_once_its_converted_form_is_kept(weights: Path, folder: Path) -> None:
    backbone = load_backbone(TINY, weights=weights, engine="openvino", image_size=64, blocks=(1,))
    tower: Any = backbone._tower
    assert tower.loaded
    before = backbone.extract(noise(1, backbone), cls=False).tokens[0]
    assert not tower.loaded
    (kept,) = folder.iterdir()
    # Another model, with class tokens, is converted after the module has been loaded again.
    after = backbone.extract(noise(1, backbone)).tokens[0]
    assert len(list(folder.iterdir())) == 2
    assert not tower.loaded
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    assert (kept / "sha256").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_of_the_weights_takes_no_memory(tmp_path: Path) -> None:
    """Compiled, a model has its own copy of the weights."""
    code = (
        "import sys; from backbones import ROTARY, noise;"
        "from musc_fast.features import load_backbone;"
        "from musc_fast.features.engines.model_cache import cache_folder;"
        f"b = load_backbone(ROTARY, weights={str(tmp_path / 'w.safetensors')!r}, image_size=48,"
        " engine='openvino'); b.extract(noise(1, b));"
        "print(open('/proc/self/smaps').read())"
    )
    state = randomise(timm_model(ROTARY.removeprefix("timm:")))
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "helpers"), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    mappings = done.stdout.split("model.bin\n")[1:]  # the kernel may have cut one into several
    sizes = [dict(re.findall(r"^(\w+): +(\d+) kB", each, re.MULTILINE)[:4]) for each in mappings]
    mapped, resident = (sum(int(size[name]) for size in sizes) for name in ("Size", "Rss"))
    assert mapped > 10_000
    assert resident < mapped / 3  # norms and biases, and what the kernel reads around them


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
    files = [tmp_path / f"{k}.pt" for k in range(2)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment) for file in files
    ]
    assert [process.wait() for process in running] == [0, 0]
    first, second = (torch.load(file) for file in files)
    assert all(map(torch.equal, first, second))
    (kept,) = (tmp_path / "cache" / "musc_fast" / "openvino").iterdir()
    assert (kept / "sha256").is_file()
