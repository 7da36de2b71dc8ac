"""A bank keeps the frame of its first images; the next are brought onto that frame."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from outlines import board, moved_boards, texture
from tiny import TINY, tiny_weights

from musc_fast import BankError, MuSc, MuscFastWarning, ReferenceBank
from musc_fast.bank.stream import source_of


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return MuSc(TINY, weights=weights, image_size=160, align="auto")


def test_a_stream_is_on_the_frame_of_its_bank(musc: MuSc, tmp_path: Path) -> None:
    paths = moved_boards(tmp_path, count=7)
    bank = musc.new_bank()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to say of an image that was moved
        found = list(musc.stream(paths[:6], bank=bank, start=5))
    frame = bank.source["frame"]
    assert Path(frame["name"]) in paths[:5]
    assert sum(bool((score.anomaly_map == 0).any()) for score in found) >= 4
    for score in found:
        assert float(score.anomaly_map.amax()) == score.raw_score

    bank.save(tmp_path / "bank")
    source = source_of(musc.extractor, musc.settings)
    loaded = ReferenceBank.load(tmp_path / "bank", source=source)
    assert loaded.source["frame"] == frame
    [one] = musc.stream([paths[6]], bank=bank)
    [again] = musc.stream([paths[6]], bank=loaded)
    assert one.raw_score == again.raw_score
    assert torch.equal(one.anomaly_map, again.anomaly_map)
    off = MuSc(musc.backbone)
    plain = list(off.stream(paths, start=5))
    assert one.raw_score < 0.8 * plain[6].raw_score


def test_a_bank_of_textures_keeps_to_no_frame(musc: MuSc) -> None:
    bank = musc.new_bank()
    with pytest.warns(MuscFastWarning, match="no common outline") as said:
        list(musc.stream([texture(k) for k in range(5)], bank=bank, start=4))
    assert len(said) == 1
    assert bank.source["frame"] == {}
    [found] = musc.stream([texture(9)], bank=bank)
    plain = list(MuSc(musc.backbone).stream([texture(k) for k in (*range(5), 9)], start=4))
    assert found.raw_score == plain[5].raw_score


def test_banks_with_and_without_a_frame_do_not_mix(musc: MuSc, tmp_path: Path) -> None:
    off = MuSc(musc.backbone)
    bank = off.new_bank()
    list(off.stream([board(noise=k) for k in range(3)], bank=bank, start=3))
    with pytest.raises(BankError, match=r"bank: made for .*'align': 'off'"):
        list(musc.stream([board()], bank=bank))
    bank.save(tmp_path / "bank")
    with pytest.raises(BankError, match="align: the bank has 'off', now 'auto'"):
        ReferenceBank.load(tmp_path / "bank", source=source_of(musc.extractor, musc.settings))
    filled = musc.new_bank()
    filled.add(off.extract([board()]).tokens)
    with pytest.raises(BankError, match="images that were never aligned"):
        list(musc.stream([board()], bank=filled))
