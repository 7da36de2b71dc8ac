"""docs/formats.md: every file is read as it says, with NumPy, struct and json alone."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from musc_fast import ReferenceBank, score_batch
from musc_fast.report.results import write_results, write_settings
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.threshold import find_threshold

Array = NDArray[np.float64]
TYPES = {"F32": "<f4", "F16": "<f2", "BOOL": "?"}
GRID, CHANNELS, SIZE = (4, 6), 8, (28, 42)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, about in header.items():
        first, last = (8 + length + offset for offset in about["data_offsets"])
        found = np.frombuffer(data[first:last], TYPES[about["dtype"]])
        tensors[name] = found.reshape(about["shape"])
    return metadata, tensors


def pooled(x: Array, settings: dict[str, Any]) -> list[Array]:
    """Steps 1 and 2: one [P, C] a search."""
    height, width = settings["grid"]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    maps = x.reshape(height, width, -1)
    results = []
    for r in settings["degrees"]:
        padded = np.pad(maps, ((r // 2, r // 2), (r // 2, r // 2), (0, 0)))
        total = sum(padded[i : i + height, j : j + width] for i in range(r) for j in range(r))
        results.append(unit(np.asarray(total).reshape(x.shape) / r**2))
    return [unit(np.mean(results, axis=0))] if settings["degree_fusion"] == "features" else results


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def raw_score(new: list[Array], bank: dict[str, NDArray[Any]], settings: dict[str, Any]) -> float:
    """Steps 3 to 5."""
    means = []
    for layer, x in enumerate(new):
        images = [pooled(np.float64(y), settings) for y in bank[f"tokens.{layer:03}"]]
        for search, z in enumerate(pooled(x, settings)):
            distances = np.stack(
                [
                    np.linalg.norm(z[:, None] - each[search][None], axis=2).min(axis=1)
                    for each in images
                ],
                axis=1,
            )
            n = len(images)
            low, high = (int(n * b) if b < 1 else int(b) for b in settings["topmin"])
            high = max(high, 1)
            low = min(low, high - 1)
            means.append(np.sort(distances, axis=1)[:, low:high].mean(axis=1))
    scores = np.mean(means, axis=0).reshape(settings["grid"])
    return float(enlarged(scores, settings["image_size"]).max())


def enlarged(scores: Array, size: tuple[int, int]) -> Array:
    """Bilinear, corners on corners."""
    height, width = scores.shape
    y, x = np.linspace(0, height - 1, size[0]), np.linspace(0, width - 1, size[1])
    rows = np.stack([np.interp(x, np.arange(width), row) for row in scores])
    return np.stack([np.interp(y, np.arange(height), column) for column in rows.T], axis=1)


def layers(images: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 1 + math.prod(GRID), CHANNELS)
    return [torch.randn(shape, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("fusion", ["features", "scores"])
@pytest.mark.parametrize("topmin", [(0.0, 0.3), (1.0, 4.0)])
def test_a_bank_is_read_and_searched(tmp_path: Path, fusion: Any, topmin: Any) -> None:
    file = tmp_path / "bank.safetensors"
    bank = ReferenceBank(
        9, grid=GRID, prefix_tokens=1, image_size=SIZE, topmin=topmin, degree_fusion=fusion
    )
    given = layers(7, seed=0)
    bank.add(given, ids=[f"part {k}" for k in range(7)], scores=[0.5] * 7)
    bank.save(file)
    assert read_safetensors(file)[0]["musc_fast_bank"] == "1"
    own = bank.leave_one_out()
    bank.save(file)

    metadata, tensors = read_safetensors(file)
    assert metadata["musc_fast_bank"] == "2"
    about = json.loads(metadata["about"])
    assert about["added"] == 7
    assert about["entries"] == [[f"part {k}", 0.5, k] for k in range(7)]
    digest = hashlib.sha256(metadata["about"].encode())
    for name in sorted(tensors):
        digest.update(f"torch.float32{list(tensors[name].shape)}".encode())
        digest.update(tensors[name].tobytes())
    assert metadata["sha256"] == digest.hexdigest()

    settings = about["settings"]
    assert settings["prefix_tokens"] == 1
    for layer, tokens in enumerate(given):
        np.testing.assert_array_equal(tensors[f"tokens.{layer:03}"], tokens[:, 1:].numpy())
    searches = [name for name in tensors if name.startswith("distances.")]
    assert len(searches) == 2 * (1 if fusion == "features" else 3)
    distances = tensors["distances.001"]
    assert distances.shape == (7, math.prod(GRID), 7)
    assert np.isinf(distances[3, :, 3]).all()
    layer, search = (1, 0) if fusion == "features" else (0, 1)
    one, other = (pooled(np.float64(tensors[f"tokens.{layer:03}"][k]), settings) for k in (2, 5))
    nearest = np.linalg.norm(one[search][:, None] - other[search][None], axis=2).min(axis=1)
    np.testing.assert_allclose(distances[2, :, 5], nearest, atol=1e-5)
    assert len(own.raw_image_scores) == 7

    new = layers(1, seed=1)
    expected = float(bank.score(new).raw_image_scores[0])
    found = raw_score([np.float64(x[0, 1:].numpy()) for x in new], tensors, settings)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_bank_with_patches_that_do_not_count(tmp_path: Path) -> None:
    bank = ReferenceBank(9, grid=GRID, prefix_tokens=1, image_size=SIZE)
    valid = torch.ones(7, math.prod(GRID), dtype=torch.bool)
    valid[2, :6] = False
    bank.add(layers(7, seed=0), valid=valid)
    bank.save(tmp_path / "bank")
    metadata, tensors = read_safetensors(tmp_path / "bank")
    assert metadata["musc_fast_bank"] == "3"
    np.testing.assert_array_equal(tensors["valid"], valid.numpy())


def test_maps_of_a_results_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "images" / f"part{k}.png" for k in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.new("RGB", (3 * SIZE[1], 3 * SIZE[0]), (90, 90, 90)).save(path)
    maps = np.random.default_rng(0).random((3, *SIZE)).astype(np.float32)
    raw = maps.max(axis=(1, 2))
    settings: dict[str, Any] = {"seconds": {}}
    batch = ScoredBatch(paths, raw, raw, maps, settings, find_threshold(raw, value=0.0))
    out = tmp_path / "out"
    out.mkdir()
    write_results(out, batch)
    write_settings(out, batch)
    scale = json.loads((out / "run.json").read_text())["map_scale"]
    assert scale["of"] == "batch"
    for record in json.loads((out / "results.json").read_text())["images"]:
        index = paths.index(Path(record["path"]))
        data = (out / record["map"]).read_bytes()
        assert data[:8] == b"\x93NUMPY\x01\x00"
        (length,) = struct.unpack("<H", data[8:10])
        header = ast.literal_eval(data[10 : 10 + length].decode("latin1"))
        assert header == {"descr": "<f4", "fortran_order": False, "shape": SIZE}
        found = np.frombuffer(data[10 + length :], "<f4").reshape(SIZE)
        np.testing.assert_array_equal(found, maps[index])
        assert record["raw_score"] == pytest.approx(float(found.max()), rel=1e-6)
        grey = np.asarray(Image.open(out / "maps_grey" / f"{paths[index].stem}.png"))
        assert (grey.dtype, grey.shape) == (np.uint8, (3 * SIZE[0], 3 * SIZE[1]))
        step = (scale["high"] - scale["low"]) / 255
        # (x + 0.5) w / W - 0.5 is a whole number in the middle of every three pixels.
        np.testing.assert_allclose(scale["low"] + grey[1::3, 1::3] * step, found, atol=0.51 * step)


def test_tokens_of_ones_own(tmp_path: Path) -> None:
    """Files written by hand give the scores of the tensors."""
    tokens = layers(4, seed=2)
    npy, safetensors = tmp_path / "one.npy", tmp_path / "two.safetensors"
    values = [each.numpy().astype("<f4") for each in tokens]
    header = repr({"descr": "<f4", "fortran_order": False, "shape": values[0].shape}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    npy.write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values[0].tobytes()
    )
    data = values[1].tobytes()
    about = {"x": {"dtype": "F32", "shape": values[1].shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(about).encode()
    safetensors.write_bytes(struct.pack("<Q", len(text)) + text + data)
    keywords: dict[str, Any] = {"grid": GRID, "prefix_tokens": 1, "image_size": SIZE}
    from_files = score_batch([npy, safetensors], **keywords)
    from_tensors = score_batch(tokens, **keywords)
    assert torch.equal(from_files.anomaly_maps, from_tensors.anomaly_maps)
