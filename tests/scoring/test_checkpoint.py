"""Token files and checkpoints: the bits of a run in memory, whatever happens on the way."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import killed_run
import numpy as np
import pytest
import torch
from forked import CONTEXT
from mutations import KINDS, damage
from safetensors.torch import save_file
from torch.utils.data import Dataset

from musc_fast import InputError, score_batch
from musc_fast.backends import BACKENDS
from musc_fast.scoring import checkpoint, layer_passes


def batch(n: int, c: int = 24, layers: int = 2, p: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 1 + p, c + k, generator=generator) for k in range(layers)]


def files(folder: Path, layers: list[torch.Tensor]) -> list[Path]:
    """The first layer as .npy, the others as .safetensors."""
    np.save(folder / "layer0.npy", layers[0].numpy())
    paths = [folder / "layer0.npy"]
    for k, layer in enumerate(layers[1:], 1):
        paths.append(folder / f"layer{k}.safetensors")
        save_file({"tokens": layer}, paths[-1])
    return paths


def same(found: Any, expected: Any) -> bool:
    names = ("patch_scores", "anomaly_maps", "raw_image_scores", "image_scores")
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in names)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_PART", 4)
    monkeypatch.setattr(layer_passes, "_BLOCK", 4096)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_files_and_checkpoints_give_the_same_bits(tmp_path: Path, backend: str) -> None:
    if next(b for b in BACKENDS if b.name == backend).why_not(torch.device("cpu")):
        pytest.skip(f"{backend} cannot run here")
    layers = batch(13)
    paths = files(tmp_path, layers)
    before = [path.read_bytes() for path in paths]
    how: dict[str, Any] = {"prefix_tokens": 1, "image_size": 9, "backend": backend}
    expected = score_batch(layers, **how)
    assert same(score_batch(paths, **how), expected)
    assert same(score_batch(layers, checkpoint=tmp_path / "memory", **how), expected)
    kept = tmp_path / "mapped"
    assert same(score_batch(paths, checkpoint=kept, **how), expected)
    parts = sorted(kept.glob("part-*.npy"))
    assert len(parts) == 3 * 6  # three parts of six steps
    assert not list(kept.glob(".*"))  # scratch files are gone
    stamps = [part.stat().st_mtime_ns for part in parts]
    parts[4].unlink()
    assert same(score_batch(paths, checkpoint=kept, **how), expected)
    assert [p.stat().st_mtime_ns for k, p in enumerate(parts) if k != 4] == [
        stamp for k, stamp in enumerate(stamps) if k != 4
    ]  # finished parts are not done again
    assert [path.read_bytes() for path in paths] == before
    one = score_batch(paths[0], **how)
    assert same(one, score_batch(layers[0], **how))


@pytest.mark.usefixtures("small_parts")
def test_references_and_samples(tmp_path: Path) -> None:
    layers = batch(10)
    query, others = [t[:3] for t in layers], [t[3:] for t in layers]
    (tmp_path / "q").mkdir()
    paths = files(tmp_path / "q", query)
    expected = score_batch(query, references=others, prefix_tokens=1)
    found = score_batch(paths, references=others, prefix_tokens=1, checkpoint=tmp_path / "kept")
    assert same(found, expected)
    expected = score_batch(layers, prefix_tokens=1, max_references=4)
    found = score_batch(layers, prefix_tokens=1, max_references=4, checkpoint=tmp_path / "sample")
    assert same(found, expected)


def test_another_run_and_wrong_files_are_refused(tmp_path: Path) -> None:
    layers = batch(4)
    kept = tmp_path / "kept"
    score_batch(layers, prefix_tokens=1, checkpoint=kept)
    for other in ({"degrees": (1,)}, {"topmin": (0, 2)}, {"precision": "fast"}):
        with pytest.raises(InputError, match="belongs to a run with other tokens or settings"):
            score_batch(layers, prefix_tokens=1, checkpoint=kept, **other)
    layers[1][0, 1, 0] += 1
    with pytest.raises(InputError, match="other tokens"):
        score_batch(layers, prefix_tokens=1, checkpoint=kept)
    np.save(tmp_path / "nan.npy", np.full((3, 4, 5), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="image 0 holds NaN"):
        score_batch([tmp_path / "nan.npy"])
    (tmp_path / "text.npy").write_text("no array")
    save_file({"a": layers[0], "b": layers[1]}, tmp_path / "two.safetensors")
    for name, message in (
        ("none.npy", "none.npy cannot be read"),
        ("text.npy", "text.npy cannot be read"),
        ("two.safetensors", "holds 2 tensors, wanted one"),
        ("tokens.pt", "neither .npy nor .safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            score_batch([tmp_path / name])


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_kill_at_any_point_and_go_on(tmp_path: Path) -> None:
    """SIGKILL eight times at random points; parts found once are never made again."""
    layers = batch(24, c=32, p=49)
    paths = files(tmp_path, layers)
    expected = score_batch(layers, prefix_tokens=1).patch_scores
    generator = random.Random(0)
    kills, rounds, stamps = 0, 0, dict[str, int]()
    while kills < 8:
        kept, out = tmp_path / f"kept{rounds}", tmp_path / f"scores{rounds}.npy"
        rounds += 1
        while not out.exists():
            child = CONTEXT.Process(target=killed_run.score, args=(paths, kept, out))
            child.start()
            child.join(timeout=generator.uniform(0.02, 0.4))
            if child.is_alive():
                child.kill()
                kills += 1
            child.join()
            for part in kept.glob("part-*.npy"):
                stamp = part.stat().st_mtime_ns
                assert stamps.setdefault(str(part), stamp) == stamp
        assert np.array_equal(np.load(out), expected.numpy())


SCRIPT = """
import sys
from itertools import product
import torch
from musc_fast import score_batch
def anonymous():  # bytes now; file pages of the mapping are not counted
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
path, limit = sys.argv[1], int(sys.argv[2])
score_batch(torch.randn(3, 16, 8))
before, most = anonymous(), 0
def look(done, total):
    global most
    most = max(most, anonymous())
score_batch([path], memory_limit=limit, progress=look)
print(most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    tokens = 0.1 * generator.standard_normal((150, 196, 64), dtype=np.float32)
    tokens += generator.standard_normal((1, 196, 64), dtype=np.float32)
    np.save(tmp_path / "tokens.npy", tokens)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "tokens.npy"), str(60 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 4 << 20 < int(done.stdout) <= 60 << 20


class Images(Dataset[list[torch.Tensor]]):
    """A dataset of tokens: an item is the layers of one image."""

    def __init__(self, layers: list[torch.Tensor], odd: int | None = None) -> None:
        self.layers, self.odd, self.read = layers, odd, 0

    def __len__(self) -> int:
        return len(self.layers[0])

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        self.read += 1
        return [layer[index, int(index == self.odd) :] for layer in self.layers]


def test_a_dataset_of_tokens(tmp_path: Path) -> None:
    layers = batch(7)
    data = Images(layers)
    how: dict[str, Any] = {"prefix_tokens": 1, "image_size": 9}
    assert same(score_batch(data, checkpoint=tmp_path, **how), score_batch(layers, **how))
    assert data.read == 7
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix != ".npy") == [".json"]
    others = [layer + 1 for layer in layers]
    found = score_batch(layers, references=Images(others), **how)
    assert same(found, score_batch(layers, references=others, **how))


def test_wrong_datasets_are_refused() -> None:
    with pytest.raises(InputError, match=r"item 3 .* \[16, 24\] .* \[17, 24\]"):
        score_batch(Images(batch(5), odd=3))
    with pytest.raises(InputError, match="no layer"):
        score_batch(Images(batch(0)))


@pytest.mark.usefixtures("small_parts")
def test_damaged_parts_are_scored_again(tmp_path: Path) -> None:
    layers = batch(9, layers=1)
    how: dict[str, Any] = {"prefix_tokens": 1, "checkpoint": tmp_path / "run", "degrees": (1, 3)}
    expected = score_batch(layers, **how)
    whole = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert len(whole) == 1 + 2 * 2
    chance = random.Random(0)
    for path, kind in product(sorted(whole), KINDS):
        for _ in range(3 if kind in ("flip", "cut", "zeros") else 1):
            other = next(data for file, data in whole.items() if file != path)
            damage(path, kind, chance, other)
            if path.name == "run.json" and kind == "text":  # whole, and of something else
                with pytest.raises(InputError, match="an older version"):
                    score_batch(layers, **how)
                path.write_bytes(whole[path])
                continue
            found = score_batch(layers, **how)
            assert same(found, expected), (path.name, kind)
            assert path.read_bytes() == whole[path], "the damaged file is written anew"


def test_a_checkpoint_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", 7, "a\0b"):
        with pytest.raises(InputError, match=r"checkpoint: .* cannot be a folder"):
            score_batch(batch(3), prefix_tokens=1, checkpoint=wrong)
