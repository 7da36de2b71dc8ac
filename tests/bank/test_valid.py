"""A bank of images of which some patches do not count: as a batch of references, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from musc_fast import BankError, InputError, ReferenceBank, score_batch
from musc_fast.bank.file import load_bank, save_bank
from musc_fast.bank.own_distances import LeaveOneOut
from musc_fast.bank.stream import score_first, score_next
from musc_fast.features.extraction import BatchFeatures
from musc_fast.reference import interval

HOW: dict[str, Any] = {"degrees": (1, 3), "image_size": 20}


def batch(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 16, 24 + layer, generator=generator) for layer in range(2)]


def some_valid(n: int, seed: int = 3) -> Tensor:
    valid = torch.rand(n, 16, generator=torch.Generator().manual_seed(seed)) < 0.6
    valid[:, seed % 16] = True
    return valid


def pick(layers: list[Tensor], images: list[int]) -> list[Tensor]:
    return [layer[images] for layer in layers]


def same(found: Any, expected: Any) -> bool:
    names = ("patch_scores", "raw_image_scores")
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in names)


def as_a_batch(bank: ReferenceBank, **how: Any) -> bool:
    """Whether the leave-one-out scores are those of a batch, with a new image's ranks."""
    ranks = interval((0.0, 0.3), len(bank))
    expected = score_batch(bank.tokens(), topmin=ranks, valid=bank.valid(), **how)
    found = bank.leave_one_out()
    maps = [found.anomaly_map(place) for place in range(len(bank))]
    return same(found, expected) and torch.allclose(
        torch.stack(maps), expected.anomaly_maps, atol=1e-6
    )


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_scores_are_those_of_a_batch(backend: str) -> None:
    layers, valid = batch(7), some_valid(7)
    how = {**HOW, "backend": backend}
    bank = ReferenceBank(4, **how)
    bank.add(pick(layers, [0, 1, 2, 3]), valid=valid[:4])
    query, counts = pick(layers, [5, 6]), valid[5:]
    expected = score_batch(
        query, references=bank.tokens(), valid=counts, reference_valid=valid[:4], **how
    )
    assert same(bank.score(query, valid=counts), expected)
    assert torch.equal(bank.score(query, valid=counts).anomaly_maps, expected.anomaly_maps)
    assert as_a_batch(bank, **how)
    assert same(bank.score_and_add(query, valid=counts), expected)
    assert torch.equal(bank.valid(), valid[[2, 3, 5, 6]])  # the oldest two went
    assert as_a_batch(bank, **how)


def test_an_image_of_which_all_counts_takes_the_place_of_another() -> None:
    layers, valid = batch(4), some_valid(2)
    bank = ReferenceBank(2, **HOW)
    bank.add(pick(layers, [0, 1]), valid=valid)
    assert bank.leave_one_out().valid is not None
    bank.add(pick(layers, [2]))
    found = bank.valid()
    assert found is not None
    assert torch.equal(found, torch.stack([valid[1], torch.ones(16, dtype=torch.bool)]))
    assert as_a_batch(bank, **HOW)
    bank.add(pick(layers, [3]))
    assert bank.valid() is None
    assert as_a_batch(bank, **HOW)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=7))
@settings(max_examples=6, deadline=None)
def test_any_sequence_of_additions_and_removals(steps: list[tuple[int, bool, bool]]) -> None:
    """A step adds an image, with patches that do not count or not, or removes one of the bank."""
    how: dict[str, Any] = {"degrees": (1,)}
    bank = ReferenceBank(3, **how)
    layers, done = batch(9), 2
    bank.add(pick(layers, [0, 1]), valid=some_valid(2))
    bank.leave_one_out()
    for place, partly, removes in steps:
        if removes and place < len(bank) - 2:
            bank.remove({bank.entries[place].number})
        else:
            valid = some_valid(1, seed=done) if partly else None
            bank.score_and_add(pick(layers, [done]), valid=valid)
            done += 1
        assert as_a_batch(bank, **how)


def test_the_file_holds_them(tmp_path: Path) -> None:
    layers, valid = batch(5), some_valid(5)
    bank = ReferenceBank(5, **HOW)
    bank.add(layers, valid=valid)
    bank.leave_one_out()
    bank.save(tmp_path / "bank")
    with safe_open(tmp_path / "bank", framework="pt") as stored:
        assert stored.metadata()["musc_fast_bank"] == "3"
    again = ReferenceBank.load(tmp_path / "bank")
    assert torch.equal(again.valid(), valid)
    assert same(again.leave_one_out(), bank.leave_one_out())
    assert same(again.score(batch(2, seed=1)), bank.score(batch(2, seed=1)))
    plain = ReferenceBank(5, **HOW)
    plain.add(layers, valid=torch.ones(5, 16, dtype=torch.bool))
    plain.save(tmp_path / "plain")
    with safe_open(tmp_path / "plain", framework="pt") as stored:
        assert stored.metadata()["musc_fast_bank"] == "1"
        assert "valid" not in stored.keys()  # noqa: SIM118


@pytest.mark.parametrize("change", [lambda v: v[:4], lambda v: v.float(), lambda v: v & False])
def test_a_file_with_other_patches_is_no_bank(tmp_path: Path, change: Any) -> None:
    bank = ReferenceBank(5, **HOW)
    bank.add(batch(5), valid=some_valid(5))
    bank.save(tmp_path / "bank")
    stored = load_bank(tmp_path / "bank", None)
    wrong = {**vars(stored), "valid": change(stored.valid)}
    save_bank(tmp_path / "bank", type(stored)(**wrong))
    with pytest.raises(BankError, match="cannot be read as a bank: valid: "):
        ReferenceBank.load(tmp_path / "bank")


def test_wrong_patches_leave_the_bank_as_it_was() -> None:
    bank = ReferenceBank(5, **HOW)
    bank.add(batch(3), valid=some_valid(3))
    for call in (bank.add, bank.score, bank.score_and_add):
        with pytest.raises(InputError, match=r"valid: no patch of image 1 counts"):
            call(batch(2), valid=torch.tensor([[True], [False]]).expand(2, 16))
    assert len(bank) == bank.added == 3


def test_the_usual_distance_is_that_of_patches_that_count() -> None:
    scores = torch.tensor([[[0.0, 0.0, 0.0, 0.3, 0.4, 0.5]]])
    raw, valid = torch.tensor([0.5]), scores > 0
    assert LeaveOneOut([], scores, raw, (1, 6), valid).usual == pytest.approx(0.4)
    assert LeaveOneOut([], scores, raw, (1, 6)).usual == 0.0


def features(layers: list[Tensor], image: int, valid: Tensor | None) -> BatchFeatures:
    tokens = tuple(layer[[image]] for layer in layers)
    counts = None if valid is None else valid[[image]]
    return BatchFeatures(tokens, None, (f"{image}",), (0,), ((8, 8),), valid=counts)


def test_a_stream_takes_them_from_the_features() -> None:
    layers, valid = batch(5), some_valid(5)
    valid[1] = True
    parts = [features(layers, k, None if k == 1 else valid) for k in range(5)]
    bank = ReferenceBank(5, **HOW)
    first = score_first(bank, list("abcd"), parts[:4])
    expected = score_batch(pick(layers, [0, 1, 2, 3]), valid=valid[:4], **HOW)
    assert [each.raw_score for each in first] == expected.raw_image_scores.tolist()
    assert torch.equal(bank.valid(), valid[:4])
    found = score_next(bank, "e", parts[4])
    against = score_batch(
        pick(layers, [4]),
        references=pick(layers, [0, 1, 2, 3]),
        valid=valid[4:],
        reference_valid=valid[:4],
        **HOW,
    )
    assert torch.equal(found.anomaly_map, against.anomaly_maps[0])
    assert torch.equal(bank.valid(), valid)
