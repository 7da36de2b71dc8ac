"""Watching a folder in which a picture appears twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from watched import aged, rows, run

from musc_fast import BankError, MuSc, ReferenceBank
from musc_fast.errors import MuscFastWarning
from musc_fast.runs.watch import WatchSettings

SETTINGS = WatchSettings(start=5, pictures=False)


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return MuSc(TINY, image_size=96, weights=weights, use_cls=False, batch_size=1)


def test_copies_are_scored_without_their_picture(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "in", tmp_path / "bank"
    paths = product_folder(folder, count=6, defective=9)
    early = folder / "part0 again.png"  # among the images of the start
    shutil.copy(paths[0], early)
    aged([paths[0], early, *paths[1:]])
    assert sorted(run(musc, folder, bank, SETTINGS)) == sorted(
        path.name for path in [*paths, early]
    )
    late = folder / "part3 again.png"
    shutil.copy(paths[3], late)
    assert run(musc, folder, bank, SETTINGS) == [late.name]
    record = {Path(row["path"]).name: row for row in rows(bank.with_name("scores.csv"))}
    held = ReferenceBank.load(bank)
    for path in (early, late):
        row = record[path.name]
        assert row["bank"] == "copy"
        assert float(row["raw_score"]) > 0.01
        assert str(path) not in held.ids
    assert record[late.name]["references"] == str(len(held) - 1)
    assert len(held) == 6
    bank.unlink()  # made anew of the record alone
    run(musc, folder, bank, SETTINGS)
    assert ReferenceBank.load(bank).entries == held.entries


def test_copies_of_references_count_once_and_are_said(musc: MuSc, tmp_path: Path) -> None:
    good = product_folder(tmp_path / "good", count=4, defective=9)
    shutil.copy(good[1], twice := tmp_path / "good" / "twice.png")
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(product(20)).save(folder / "new.png")
    settings = WatchSettings(start=2, pictures=False, references=(*good, twice))
    with pytest.warns(MuscFastWarning, match=r"twice.png is a copy of .*part1.png"):
        run(musc, folder, tmp_path / "bank", settings)
    assert len(ReferenceBank.load(tmp_path / "bank")) == 5


def test_another_setting_than_the_banks_is_refused(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "in", tmp_path / "bank"
    product_folder(folder, count=5, defective=9)
    run(musc, folder, bank, SETTINGS)
    assert run(musc, folder, bank, SETTINGS) == []
    with pytest.raises(BankError, match=r"copies: found off, .* was made with auto"):
        run(musc, folder, bank, WatchSettings(start=5, copies="off"))
