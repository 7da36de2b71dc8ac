"""What the images of a bank score against each other, as they come and go."""

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
from musc_fast.bank import file as bank_file
from musc_fast.bank.own_distances import OwnDistances
from musc_fast.reference import interval


def batch(n: int, seed: int = 0, p: int = 16, c: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, p, c + layer, generator=generator) for layer in range(2)]


def pick(layers: list[Tensor], images: list[int]) -> list[Tensor]:
    return [layer[images] for layer in layers]


def as_a_batch(bank: ReferenceBank, **options: Any) -> bool:
    """Whether the leave-one-out scores are those of a batch, with a new image's ranks."""
    found = bank.leave_one_out()
    ranks = interval(options.pop("topmin", (0.0, 0.3)), len(bank))
    expected = score_batch(bank.tokens(), topmin=ranks, **options)
    assert found.entries == bank.entries
    return torch.equal(found.patch_scores, expected.patch_scores) and torch.equal(
        found.raw_image_scores, expected.raw_image_scores
    )


@pytest.mark.parametrize("fusion", ["scores", "features"])
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_they_are_the_scores_of_a_batch(backend: str, fusion: Any) -> None:
    options: dict[str, Any] = {"backend": backend, "image_size": 20, "degree_fusion": fusion}
    everything = batch(7)
    bank = ReferenceBank(5, **options)
    bank.add(pick(everything, [0, 1, 2]))
    assert as_a_batch(bank, **options)
    for image in range(3, 7):
        bank.score_and_add(pick(everything, [image]))
        assert as_a_batch(bank, **options)


@given(
    steps=st.lists(
        st.one_of(st.integers(1, 3), st.tuples(st.integers(0, 4), st.booleans())),
        min_size=1,
        max_size=7,
    ),
    evict=st.sampled_from(["oldest", "anomalous"]),
    asked=st.integers(0, 6),
)
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_additions_and_removals(steps: list[Any], evict: Any, asked: int) -> None:
    """A number adds so many images; a pair removes the image at a place, and one more."""
    bank = ReferenceBank(4, evict=evict, degrees=(1,), topmin=(0, 0.5))
    everything, done = batch(30, p=4, c=5), 0
    for place, step in enumerate(steps):
        if isinstance(step, int):
            images = list(range(done, done + step))
            bank.add(pick(everything, images), scores=[float(7 * image % 5) for image in images])
            done += step
        elif len(bank):
            numbers = [entry.number for entry in bank.entries]
            gone = {numbers[step[0] % len(numbers)], numbers[-1] if step[1] else numbers[0]}
            bank.remove(gone)
            assert [entry.number for entry in bank.entries] == [
                number for number in numbers if number not in gone
            ]
        assert bank.added == done
        held = [entry.number for entry in bank.entries]
        for layer, wanted in zip(bank.tokens(), pick(everything, held), strict=False):
            assert torch.equal(layer, wanted)
        if place >= asked and len(bank) > 1:
            assert as_a_batch(bank, degrees=(1,), topmin=(0, 0.5))
    if len(bank):
        query = batch(1, seed=9, p=4, c=5)
        expected = score_batch(
            query, references=pick(everything, held), degrees=(1,), topmin=(0, 0.5)
        )
        assert torch.equal(bank.score(query).patch_scores, expected.patch_scores)


def test_a_few_images_are_refused_and_absent_ones_are_named() -> None:
    bank = ReferenceBank(4)
    with pytest.raises(InputError, match="holds 0 images, wanted two or more"):
        bank.leave_one_out()
    bank.add(batch(2))
    with pytest.raises(InputError, match="numbers: found 5, which the bank does not hold"):
        bank.remove([0, 5])
    assert len(bank) == 2
    assert bank.remove([0, 1]) == ["image 0", "image 1"]
    assert (len(bank), bank.added) == (0, 2)
    bank.add(batch(1, p=25))  # an empty bank takes any shape
    assert bank.ids == ["image 2"]


def test_the_file_carries_the_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = batch(8)
    bank = ReferenceBank(5, evict="anomalous")
    bank.add(pick(everything, [0, 1, 2, 3]), scores=[0.5, 0.2, 0.9, 0.1])
    plain, path = tmp_path / "plain", tmp_path / "bank"
    bank.save(plain)
    bank.leave_one_out()
    for image in (4, 5):
        bank.score_and_add(pick(everything, [image]))
    bank.save(path)
    versions = []
    for each in (plain, path):
        with safe_open(each, framework="pt") as stored:
            versions.append(stored.metadata()["musc_fast_bank"])
    assert versions == ["1", "2"]  # a bank that was not asked is read by earlier versions
    other = ReferenceBank.load(path)
    found: list[int] = []
    renew = OwnDistances.renew

    def counting(self: OwnDistances, changed: Any, *rest: Any) -> None:
        found.append(len(changed))
        renew(self, changed, *rest)

    monkeypatch.setattr(OwnDistances, "renew", counting)
    assert as_a_batch(other)
    assert found == []  # the distances come from the file
    for image in (6, 7):
        other.score_and_add(pick(everything, [image]))
        bank.score_and_add(pick(everything, [image]))
    assert as_a_batch(other)
    assert torch.equal(
        other.leave_one_out().raw_image_scores, bank.leave_one_out().raw_image_scores
    )
    assert as_a_batch(ReferenceBank.load(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:1], "cannot be read as a bank: distances: found .*, wanted 6"),
        (lambda d: [each[:, :2] for each in d], "cannot be read as a bank: distances"),
        (lambda d: [each.nan_to_num(posinf=1.0) for each in d], "distances that are none"),
        (lambda d: [-each for each in d], "distances that are none"),
        (lambda d: [each[:2] for each in d], "distances that are none"),
        (lambda d: [each.double() for each in d], "distances that are none"),
    ],
)
def test_a_file_with_other_distances_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    bank = ReferenceBank(4)
    bank.add(batch(3))
    bank.leave_one_out()
    bank.save(tmp_path / "bank")
    stored = bank_file.load_bank(tmp_path / "bank", None)
    wrong = bank_file.Contents(**{**vars(stored), "distances": change(stored.distances)})
    bank_file.save_bank(tmp_path / "bank", wrong)
    with pytest.raises(BankError, match=message):
        ReferenceBank.load(tmp_path / "bank")
