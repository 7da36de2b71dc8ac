"""The record of a watch: which file is which image, when files change under their names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from typer.testing import CliRunner
from watched import aged, command_line, rows, run

from musc_fast import BankError, MuSc, MuscFastWarning, ReferenceBank
from musc_fast.cli.app import app
from musc_fast.runs.watch import WatchSettings, watching


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size=96)


def test_a_new_picture_under_an_old_name_is_a_new_image(musc: MuSc, tmp_path: Path) -> None:
    """A ring buffer: the names come again, with other pictures."""
    folder, bank, record = tmp_path / "images", tmp_path / "bank", tmp_path / "scores.csv"
    paths = aged(product_folder(folder, count=4))
    settings = WatchSettings(start=2)
    assert len(run(musc, folder, bank, settings)) == 4
    Image.fromarray(product(11, defect=1)).save(paths[1])
    os.utime(paths[0])  # touched alone
    assert run(musc, folder, bank, settings) == ["part1.png"]
    assert run(musc, folder, bank, settings) == []
    found = rows(record)
    assert [Path(row["path"]).name for row in found] == [*(p.name for p in paths), "part1.png"]
    assert [row["number"] for row in found] == ["0", "1", "2", "3", "4"]
    assert float(found[4]["raw_score"]) > 2 * float(found[3]["raw_score"])
    assert found[4]["sha256"] == hashlib.sha256(paths[1].read_bytes()).hexdigest()
    assert found[4]["size"] == str(paths[1].stat().st_size)
    assert found[4]["modified"] == str(paths[1].stat().st_mtime_ns)
    assert ReferenceBank.load(bank).ids == [*map(str, paths), f"{paths[1]} (2)"]


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=3))
    for path in paths:
        Image.fromarray(product(0)).save(path.with_suffix(".bmp"))
        path.unlink()
    paths = aged([path.with_suffix(".bmp") for path in paths])
    settings = WatchSettings(start=2, copies="off")  # they are one picture
    run(musc, folder, bank, settings)
    before = paths[2].stat()
    Image.fromarray(product(5, defect=2)).save(paths[2])
    os.utime(paths[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert paths[2].stat().st_size == before.st_size
    assert run(musc, folder, bank, settings) == ["part2.bmp"]


def test_new_pictures_never_get_old_scores(musc: MuSc, tmp_path: Path) -> None:
    """The bank is lost, and a file of the record holds another picture now."""
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=5))
    settings = WatchSettings(start=3)
    run(musc, folder, bank, settings)
    bank.unlink()
    Image.fromarray(product(11, defect=1)).save(paths[1])
    with watching(musc, folder, bank, tmp_path / "scores.csv", settings) as watched:
        assert watched.gone == [str(paths[1])]
        assert watched.bank.ids == [str(path) for path in paths if path != paths[1]]
        found = list(watched.score(watched.look(settled=True)))
    assert [(Path(row.path).name, row.number) for row in found] == [("part1.png", "5")]
    entries = {entry.number: entry for entry in ReferenceBank.load(bank).entries}
    assert sorted(entries) == [0, 2, 3, 4, 5]
    assert entries[5].score == float(found[0].raw_score)


def test_settings_of_the_bank_are_not_ignored(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=4)
    run(musc, folder, bank, WatchSettings(start=2, capacity=3, evict="anomalous"))
    for wrong in ({"capacity": 4}, {"evict": "oldest"}):
        with pytest.raises(BankError, match=rf"{next(iter(wrong))}: found .* was made with"):
            run(musc, folder, bank, WatchSettings(start=2, **wrong))  # type: ignore[arg-type]
    run(musc, folder, bank, WatchSettings(start=2, capacity=3))
    run(musc, folder, bank, WatchSettings(start=2))
    assert ReferenceBank.load(bank).capacity == 3
    line = [*command_line(folder, bank, weights), "--once", "--interval", "0.1", "--start", "2"]
    result = CliRunner().invoke(app, [*line, "--capacity", "5"])
    assert "capacity: found 5" in str(result.exception)
    assert CliRunner().invoke(app, line).exit_code == 0


def test_a_retried_unreadable_file_has_one_row(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=3)
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    settings = WatchSettings(start=2)
    assert len(run(musc, folder, bank, settings)) == 4
    os.utime(broken)
    broken.chmod(0o600)
    assert run(musc, folder, bank, settings) == []
    assert len(rows(tmp_path / "scores.csv")) == 4
    broken.write_bytes(b"another, no image")
    assert run(musc, folder, bank, settings) == ["broken.png"]


def test_a_file_that_was_gone_is_scored_when_it_comes_back(musc: MuSc, tmp_path: Path) -> None:
    """It vanished between the look and the reading; it returns with its old time of change."""
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=4))
    away = tmp_path / "away.png"
    settings = WatchSettings(start=2)
    with watching(musc, folder, bank, tmp_path / "scores.csv", settings) as watched:
        ready = watched.look(settled=True)
        paths[3].rename(away)
        assert [row.reason for row in watched.score(ready)] == ["", "", "", "no such file"]
    away.rename(paths[3])
    os.utime(paths[3], (1_000_000, 1_000_000))
    assert run(musc, folder, bank, settings) == ["part3.png"]
    assert rows(tmp_path / "scores.csv")[-1]["number"] == "3"


@pytest.mark.parametrize("columns", [7, 10])
def test_a_record_of_an_earlier_version_is_gone_on_with(
    musc: MuSc, tmp_path: Path, columns: int
) -> None:
    folder, bank, record = tmp_path / "images", tmp_path / "bank", tmp_path / "scores.csv"
    paths = aged(product_folder(folder, count=4))
    settings = WatchSettings(start=2)
    run(musc, folder, bank, settings)
    lines = [",".join(line.split(",")[:columns]) for line in record.read_text().splitlines()]
    lines[0] = lines[0].replace("path", "file")
    record.write_bytes("".join(line + "\r\n" for line in lines).encode())
    assert run(musc, folder, bank, settings) == []
    Image.fromarray(product(9)).save(paths[3])
    assert run(musc, folder, bank, settings) == ["part3.png"]
    assert [row["number"] for row in rows(record)] == ["0", "1", "2", "3", "4"]
    assert [bool(row["sha256"]) for row in rows(record)] == [columns == 10] * 4 + [True]
    assert [row["bank"] for row in rows(record)] == ["added"] * 5
    assert b"\r" not in record.read_bytes()


def test_a_file_that_changes_while_it_is_read_waits(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = product_folder(folder, count=3)
    settings = WatchSettings(start=2)
    run(musc, folder, bank, settings)
    Image.fromarray(product(9)).save(paths[1])
    extract = type(musc.extractor).extract

    def slow(self: object, images: list[Path], **options: object) -> object:
        found = extract(self, images, **options)  # type: ignore[arg-type]
        Image.fromarray(product(10)).save(images[0])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(type(musc.extractor), "extract", slow)
        assert run(musc, folder, bank, settings) == []
    assert run(musc, folder, bank, settings) == ["part1.png"]
    last = rows(tmp_path / "scores.csv")[-1]
    assert last["sha256"] == hashlib.sha256(paths[1].read_bytes()).hexdigest()


def test_a_lost_bank_of_12_bits_is_read_as_before(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    folder.mkdir()
    paths = [folder / f"{k}.tif" for k in range(5)]
    for k, path in enumerate(paths):
        values = np.rint(product(k) * (4095 / 255)).astype(np.uint16)
        tifffile.imwrite(path, values // (8 if k > 2 else 1), photometric="rgb")
    aged(paths)
    settings = WatchSettings(start=3, save_every=100)
    with pytest.warns(MuscFastWarning, match="4095 is taken for white"):
        run(musc, folder, bank, settings)
    held = ReferenceBank.load(bank)
    assert held.source["white"] == 4095
    bank.unlink()
    with pytest.warns(MuscFastWarning, match="4095 is taken for white"):
        assert run(musc, folder, bank, settings) == []
    again = ReferenceBank.load(bank)
    assert all(torch.equal(a, b) for a, b in zip(again.tokens(), held.tokens(), strict=True))


def test_labels_beside_photos_are_not_watched(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = product_folder(folder, count=3)
    mask = np.zeros((96, 120), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(folder / "part1_mask.png")
    with pytest.warns(MuscFastWarning, match=r"part1_mask\.png: left out as labels") as said:
        found = run(musc, folder, bank, WatchSettings(start=2))
    assert sorted(found) == [path.name for path in paths]
    assert len(said) == 1
