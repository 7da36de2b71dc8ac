"""A bank whose `copies` is "auto": a picture that it holds does not score its copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from musc_fast import InputError, ReferenceBank, score_batch
from musc_fast.scoring.copies import Copy


def images(count: int = 9) -> list[Tensor]:
    """Two layers [N, 16, 24] and [N, 16, 25] of one product."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(16, 24 + layer, generator=generator)
        + 0.3 * torch.randn(count, 16, 24 + layer, generator=generator)
        for layer in range(2)
    ]


def pick(layers: list[Tensor], places: list[int]) -> list[Tensor]:
    return [layer[places] for layer in layers]


@pytest.mark.parametrize("near", [False, True])
def test_a_copy_is_scored_without_its_picture_and_not_taken_in(near: bool) -> None:
    layers = images()
    bank = ReferenceBank(6, copies="auto", evict="oldest")
    bank.add(pick(layers, [0, 1, 2, 3, 4, 5]))
    bank.add(pick(layers, [6]))  # into the slot of image 0, so that slots are in another order
    copy = pick(layers, [3])
    if near:
        noise = torch.Generator().manual_seed(1)
        copy = [each + 0.03 * torch.randn(each.shape, generator=noise) for each in copy]
    found = bank.score_and_add(copy, ids=["again"])
    assert found.copies == (Copy(0, 2, "image of reference", not near),)
    assert bank.entries[2].id == "image 3"
    wanted = score_batch(copy, references=pick(layers, [1, 2, 4, 5, 6]))
    assert torch.equal(found.patch_scores, wanted.patch_scores)
    assert "again" not in bank.ids
    assert bank.added == 8
    plain = ReferenceBank(6)
    plain.add(pick(layers, [1, 2, 3, 4, 5, 6]))
    assert plain.score(copy).raw_image_scores < found.raw_image_scores
    assert plain.score(copy).copies == ()


def test_other_images_have_the_bits_of_a_bank_without() -> None:
    layers = images()
    scores = []
    for copies in ("off", "auto"):
        bank = ReferenceBank(6, copies=copies)  # type: ignore[arg-type]
        bank.add(pick(layers, [0, 1, 2, 3, 4]))
        scores.append(bank.score(pick(layers, [5, 6])).patch_scores)
    assert torch.equal(*scores)


def test_copies_within_one_addition() -> None:
    bank = ReferenceBank(6, copies="auto")
    gone = bank.add(pick(images(), [0, 1, 1, 2, 0]), ids=list("abcde"))
    assert gone == ["c", "e"]
    assert bank.ids == ["a", "b", "d"]
    assert [entry.number for entry in bank.entries] == [0, 1, 3]
    assert bank.add(pick(images(), [2]), ids=["f"], scores=[0.1]) == ["f"]


def test_the_file_keeps_the_setting(tmp_path: Path) -> None:
    bank = ReferenceBank(6, copies="auto", repeats="auto")
    bank.add(pick(images(), [0, 1, 2]))
    bank.save(tmp_path / "bank")
    loaded = ReferenceBank.load(tmp_path / "bank")
    assert (loaded.scoring.copies, loaded.scoring.repeats) == ("auto", "auto")
    assert loaded.score(pick(images(), [1])).copies == (Copy(0, 1, "image of reference", True),)


def test_a_copy_of_the_only_image_is_refused() -> None:
    bank = ReferenceBank(6, copies="auto")
    bank.add(pick(images(), [0]))
    with pytest.raises(InputError, match="copy of the only one"):
        bank.score(pick(images(), [0]))


def test_a_repeated_defect_shows_among_the_images_held() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(36, 24, generator=generator) + 0.25 * torch.randn(
        18, 36, 24, generator=generator
    )
    defective, spot = [2, 3, 8, 9, 12, 15], [14, 15, 20, 21]
    defect = torch.randn(4, 24, generator=generator)
    own = 0.25 * torch.randn(6, 4, 24, generator=generator)
    tokens[torch.tensor(defective)[:, None], spot] = defect + own
    scores = {}
    for repeats in ("off", "auto"):
        bank = ReferenceBank(20, degrees=(1,), repeats=repeats)  # type: ignore[arg-type]
        bank.add(tokens)
        scores[repeats] = bank.leave_one_out().raw_image_scores
    good = [image for image in range(18) if image not in defective]
    assert scores["auto"][defective].min() > scores["auto"][good].max()
    assert scores["off"][defective].max() < scores["auto"][defective].min()
    assert torch.equal(scores["off"][good], scores["auto"][good])
