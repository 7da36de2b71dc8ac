"""ReferenceBank: the bits of score_batch with references, eviction, files."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import TINY, product, tiny_weights
from torch import Tensor

from musc_fast import BankError, InputError, MuSc, ReferenceBank, score_batch


def batch(n: int, seed: int = 0, p: int = 16, c: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, p, c + layer, generator=generator) for layer in range(2)]


def pick(layers: list[Tensor], images: list[int]) -> list[Tensor]:
    return [layer[images] for layer in layers]


def same(found: Any, expected: Any) -> bool:
    names = ("patch_scores", "anomaly_maps", "raw_image_scores", "image_scores")
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in names)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_a_growing_queue_gives_the_bits_of_score_batch(backend: str) -> None:
    everything = batch(9)
    bank = ReferenceBank(5, backend=backend, image_size=20)
    bank.add(pick(everything, [0, 1]), ["0", "1"])
    for image in range(2, 9):
        query = pick(everything, [image])
        held = [int(name) for name in bank.ids]
        assert held == list(range(max(0, image - 5), image))
        expected = score_batch(
            query, references=pick(everything, held), image_size=20, backend=backend
        )
        assert same(bank.score(query), expected)
        assert same(bank.score_and_add(query, [str(image)]), expected)


def test_queries_of_several_images_and_class_tokens() -> None:
    held, query = batch(6), batch(4, seed=1)
    classes = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    bank = ReferenceBank(10, neighbors=(1, 2), topmin=(1, 4), degrees=(1, 3))
    bank.add(held)
    expected = score_batch(
        query, references=held, cls_tokens=classes, neighbors=(1, 2), topmin=(1, 4), degrees=(1, 3)
    )
    assert same(bank.score(query, cls_tokens=classes), expected)
    assert bank.ids == [f"image {k}" for k in range(6)]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    capacity=st.integers(1, 5),
    evict=st.sampled_from(["oldest", "anomalous"]),
)
@settings(max_examples=20, deadline=None)
def test_any_sequence_of_additions(sizes: list[int], capacity: int, evict: Any) -> None:
    everything = batch(sum(sizes), p=4, c=5)
    bank = ReferenceBank(capacity, evict=evict, degrees=(1,), backend="torch")
    model: list[tuple[float, int]] = []  # score, number: what should be held
    done = 0
    for size in sizes:
        images = list(range(done, done + size))
        scores = [float((7 * image) % 5) for image in images]
        gone = bank.add(pick(everything, images), [str(i) for i in images], scores=scores)
        expected_gone = []
        for image, score in zip(images, scores, strict=True):
            model.append((score, image))
            if len(model) > capacity:
                worst = max(model, key=lambda e: (0 if evict == "oldest" else e[0], -e[1]))
                model.remove(worst)
                expected_gone.append(str(worst[1]))
        done += size
        assert gone == expected_gone
        assert bank.ids == [str(number) for _, number in sorted(model, key=lambda e: e[1])]
        held = [int(name) for name in bank.ids]
        for found, wanted in zip(bank.tokens(), pick(everything, held), strict=True):
            assert torch.equal(found, wanted)
    query = batch(1, seed=9, p=4, c=5)
    expected = score_batch(query, references=pick(everything, held), degrees=(1,), backend="torch")
    assert same(bank.score(query), expected)


def test_anomalous_images_do_not_settle() -> None:
    usual = batch(1, p=16)
    good = [layer.repeat(8, 1, 1) + 0.05 * torch.randn(8, *layer.shape[1:]) for layer in usual]
    bank = ReferenceBank(4, evict="anomalous")
    bank.add(pick(good, [0, 1, 2]), scores=[0.1, 0.1, 0.1])
    bank.score_and_add(batch(1, seed=5), ["defect"])
    assert "defect" in bank.ids  # there was room
    bank.add(pick(good, [3]), ["good"])  # scored on the way in
    assert "defect" not in bank.ids
    assert "good" in bank.ids
    unknown = ReferenceBank(2, evict="anomalous", backend="torch")
    unknown.add(pick(good, [0, 1]), ["a", "b"])
    assert unknown.add(pick(good, [2]), ["c"]) == ["a"]  # never scored: the oldest goes first


def test_save_and_load_go_on_alike(tmp_path: Path) -> None:
    everything = batch(8)
    bank = ReferenceBank(
        4, evict="anomalous", grid=(2, 8), source={"backbone": "b", "size": [1, 2]}
    )
    bank.add(pick(everything, [0, 1, 2]), scores=[0.5, 0.2, 0.9])
    for image in (3, 4):
        bank.score_and_add(pick(everything, [image]))
    bank.save(tmp_path / "bank.safetensors")
    other = ReferenceBank.load(
        tmp_path / "bank.safetensors", source={"size": (1, 2), "backbone": "b"}
    )
    assert other.entries == bank.entries
    assert other.settings() == bank.settings()
    for image in (5, 6, 7):
        query = pick(everything, [image])
        assert same(other.score_and_add(query), bank.score_and_add(query))
        assert other.ids == bank.ids
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]
    ReferenceBank(3).save(tmp_path / "empty.safetensors")
    assert len(ReferenceBank.load(tmp_path / "empty.safetensors")) == 0


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank = ReferenceBank(4, source={"backbone": "dinov2", "size": 392})
    bank.add(batch(2))
    bank.save(path)
    with pytest.raises(BankError, match=r"size: the bank has 392, now 518"):
        ReferenceBank.load(path, source={"backbone": "dinov2", "size": 518})
    with pytest.raises(BankError, match="there is no such bank"):
        ReferenceBank.load(tmp_path / "none")
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(BankError, match="damaged"):
        ReferenceBank.load(tmp_path / "damaged")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BankError, match="cannot be read as a bank"):
        ReferenceBank.load(tmp_path / "cut")
    with safe_open(path, framework="pt") as stored:
        metadata = dict(stored.metadata())
    for version, message in (("4", "version 4"), (None, "no reference bank")):
        metadata.pop("musc_fast_bank", None)
        save_file(
            {}, tmp_path / "v", metadata=metadata | ({"musc_fast_bank": version} if version else {})
        )
        with pytest.raises(BankError, match=message):
            ReferenceBank.load(tmp_path / "v")


def test_wrong_arguments() -> None:
    bank = ReferenceBank(3)
    with pytest.raises(InputError, match="the bank is empty"):
        bank.score(batch(1))
    bank.add(batch(2))
    with pytest.raises(InputError, match=r"layer 0.*the bank holds float32 \[16, 24\] an image"):
        bank.score(batch(1, p=25))
    with pytest.raises(InputError, match="found 1 layers, the bank holds 2"):
        bank.score(batch(1)[:1])
    with pytest.raises(InputError, match="layer 0"):
        bank.add([layer.double() for layer in batch(1)])
    with pytest.raises(InputError, match="ids: found 1, wanted 2"):
        bank.score_and_add(batch(2), ["a"])
    with pytest.raises(InputError, match="scores: found 1, wanted 2"):
        bank.add(batch(2), scores=[0.1])
    with pytest.raises(InputError, match="capacity"):
        ReferenceBank(0)
    with pytest.raises(InputError, match="evict"):
        ReferenceBank(3, evict="newest")  # type: ignore[arg-type]
    assert bank.ids == ["image 0", "image 1"]


def test_threads_lose_no_image() -> None:
    z = torch.randn(48, 16, 12, generator=torch.Generator().manual_seed(0))
    bank = ReferenceBank(100, degrees=(1,))
    bank.add(z[:2], ["a", "b"])
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for k in range(first, 48, 4):
                if k % 3:
                    bank.score_and_add(z[k : k + 1], [f"{k}"])
                else:
                    bank.add(z[k : k + 1], [f"{k}"])
                    bank.score(z[k : k + 1])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert sorted(bank.ids) == sorted(["a", "b", *(f"{k}" for k in range(48))])
    assert bank.added == 50
    assert [entry.number for entry in bank.entries] == list(range(50))
    stored = dict(zip(bank.ids, bank.tokens()[0], strict=True))
    assert all(torch.equal(stored[f"{k}"], z[k]) for k in range(48))


def test_one_musc_serves_several_threads(tmp_path: Path) -> None:
    musc = MuSc(TINY, weights=tiny_weights(tmp_path), image_size=64)
    batches = [[product(10 * k + i) for i in range(3)] for k in range(4)]
    expected = [musc.score(images).image_scores for images in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda images: musc.score(images).image_scores, batches))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_id_is_given_once() -> None:
    bank = ReferenceBank(3)
    bank.add(batch(2), ["a", "b"])
    for call in (bank.add, bank.score_and_add):
        with pytest.raises(InputError, match="ids: 'b' is in the bank already"):
            call(batch(1), ["b"])
        with pytest.raises(InputError, match="ids: 'c' is given twice"):
            call(batch(2), ["c", "c"])
    assert (bank.ids, bank.added) == (["a", "b"], 2)
    assert bank.add(batch(2, seed=1), ["c", "d"]) == ["a"]
    bank.add(batch(1, seed=2), ["a"])  # it has gone, so its name is free
    assert repr(bank) == "<ReferenceBank of 3 of 3 images, tokens of unknown source>"
