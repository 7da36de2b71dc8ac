"""Watching a folder: each image once, whatever happens on the way."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import killed_run
from musc_fast import BankError, InputError, MuSc, ReferenceBank
from musc_fast.cli import app
from musc_fast.watch import Settings, watching
from tiny import TINY, product_folder, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size=96)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def untimed(file: Path) -> list[dict[str, str]]:
    return [{**row, "time": ""} for row in rows(file)]


def run(
    musc: MuSc, folder: Path, bank: Path, settings: Settings, *, last: bool = True
) -> list[str]:
    with watching(musc, folder, bank, bank.with_name("scores.csv"), settings) as watched:
        return [row.file for row in watched.score(watched.look(settled=True), last=last)]


def same_bank(first: Path, second: Path) -> bool:
    one, two = ReferenceBank.load(first), ReferenceBank.load(second)
    return (
        one.settings() == two.settings()
        and one.entries == two.entries
        and one.added == two.added
        and all(torch.equal(a, b) for a, b in zip(one.tokens(), two.tokens(), strict=True))
    )


def aged(paths: list[Path]) -> list[Path]:
    """The files, a second apart, so that their order is theirs."""
    for k, path in enumerate(paths):
        os.utime(path, (1_000_000 + k, 1_000_000 + k))
    return paths


def test_a_restart_goes_on(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = aged(product_folder(folder, count=9))
    how = Settings(capacity=6, start=4, save_every=3, evict="anomalous")
    whole = tmp_path / "whole" / "bank"
    assert run(musc, folder, whole, how) == [path.name for path in paths]
    parts, away = tmp_path / "parts" / "bank", tmp_path / "away"
    away.mkdir()
    for path in paths[5:]:
        path.rename(away / path.name)
    assert len(run(musc, folder, parts, how)) == 5
    for path in paths[5:]:
        (away / path.name).rename(path)
    assert run(musc, folder, parts, how) == [path.name for path in paths[5:]]
    assert untimed(parts.with_name("scores.csv")) == untimed(whole.with_name("scores.csv"))
    assert same_bank(parts, whole)
    assert run(musc, folder, parts, how) == []


def test_nothing_happens_before_there_are_enough(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=3)
    how = Settings(start=4)
    assert run(musc, folder, bank, how, last=False) == []
    assert not bank.exists()
    assert not (tmp_path / "scores.csv").exists()
    assert len(run(musc, folder, bank, how)) == 3


def test_files_wait_until_they_are_left_alone(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = product_folder(folder, count=3)
    with watching(musc, folder, tmp_path / "bank", tmp_path / "s.csv", Settings(start=2)) as found:
        assert found.look() == []
        with paths[1].open("ab") as file:
            file.write(b"more")
        (folder / ".hidden.png").write_bytes(b"")
        assert sorted(found.look()) == [paths[0], paths[2]]
        assert sorted(found.look()) == paths


def test_unreadable_files_have_a_row_and_odd_names_come_back(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = product_folder(folder, count=5)
    odd = ['a,b "c".png', "\N{GREEK SMALL LETTER ALPHA}.png", os.fsdecode(b"\xff.png")]
    for path, name in zip(paths, odd, strict=False):
        path.rename(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "a\nline.png").write_bytes(b"no image")
    how = Settings(start=3, threshold=0.0)
    assert len(run(musc, folder, tmp_path / "bank", how)) == 6
    found = {row["file"]: row for row in rows(tmp_path / "scores.csv")}
    assert set(found) == {*odd, "part3.png", "part4.png", "broken.png"}
    assert "broken.png" in found["broken.png"]["reason"]
    assert found["broken.png"]["raw_score"] == ""
    assert sorted(int(row["number"]) for row in found.values() if row["number"]) == list(range(5))
    assert {row["flagged"] for row in found.values() if row["number"]} == {"1"}
    assert run(musc, folder, tmp_path / "bank", how) == []


def test_a_torn_line_is_cut_and_its_image_scored_again(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    aged(product_folder(folder, count=6))
    how = Settings(start=3, save_every=100)
    run(musc, folder, bank, how)
    bank.unlink()  # as if killed before it was saved
    record = tmp_path / "scores.csv"
    before = untimed(record)
    record.write_bytes(record.read_bytes()[:-7])
    assert run(musc, folder, bank, how) == ["part5.png"]
    assert untimed(record) == before
    assert len(ReferenceBank.load(bank)) == 6


def test_images_that_are_gone_are_left_out(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=6))
    how = Settings(start=3, save_every=100)
    run(musc, folder, bank, how)
    bank.unlink()
    paths[1].unlink()
    with watching(musc, folder, bank, tmp_path / "scores.csv", how) as watched:
        assert watched.gone == ["part1.png"]
    held = ReferenceBank.load(bank)
    assert held.ids == [path.name for path in paths if path != paths[1]]
    assert held.added == 6


def test_what_does_not_belong_together_is_refused(musc: MuSc, tmp_path: Path) -> None:
    folder, bank, record = tmp_path / "images", tmp_path / "bank", tmp_path / "scores.csv"
    product_folder(folder, count=4)
    run(musc, folder, bank, Settings(start=2))
    other = MuSc(musc.backbone, degrees=(1,))
    with pytest.raises(BankError, match="degrees"):
        run(other, folder, bank, Settings(start=2))
    with (
        watching(musc, folder, bank, record, Settings()),
        pytest.raises(InputError, match="in use"),
    ):
        run(musc, folder, bank, Settings())
    lines = record.read_text().splitlines()
    record.write_text("\n".join([lines[0], lines[4]]) + "\n")
    bank.unlink()
    with pytest.raises(BankError, match="goes on with number 3"):
        run(musc, folder, bank, Settings())
    record.write_text("something else\n")
    with pytest.raises(InputError, match="no record of musc-fast watch"):
        run(musc, folder, bank, Settings())
    assert record.read_text() == "something else\n"
    for wrong in (Settings(start=1), Settings(save_every=0), Settings(capacity=5)):
        with pytest.raises(InputError, match="wanted"):
            run(musc, folder, bank, wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_kill_at_any_point_and_go_on(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    """SIGKILL 20 times at random points: nothing is lost, nothing scored twice, the same bits."""
    folder = tmp_path / "images"
    paths = aged(product_folder(folder, count=16))
    (folder / "broken.png").write_bytes(b"no image")
    how = Settings(capacity=8, start=4, save_every=3, evict="anomalous")
    whole = tmp_path / "whole" / "bank"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run", "musc_fast.native", "timm"])
    child = context.Process(target=killed_run.watch, args=(folder, whole, weights, how))
    child.start()
    child.join()
    expected = untimed(whole.with_name("scores.csv"))
    assert len(expected) == len(paths) + 1
    generator = random.Random(0)
    kills, rounds = 0, 0
    while kills < 20:
        bank = tmp_path / f"round{rounds}" / "bank"
        rounds += 1
        seen = 0
        while not bank.with_name("done").exists():
            child = context.Process(target=killed_run.watch, args=(folder, bank, weights, how))
            child.start()
            child.join(timeout=generator.uniform(0.02, 0.6))
            if child.is_alive():
                child.kill()
                kills += 1
            child.join()
            if bank.with_name("scores.csv").exists():
                lines = bank.with_name("scores.csv").read_bytes().count(b"\n")
                assert lines >= seen
                seen = lines
        assert untimed(bank.with_name("scores.csv")) == expected
        assert same_bank(bank, whole)


def test_the_command(weights: Path, tmp_path: Path) -> None:
    product_folder(tmp_path / "images", count=6)
    line = [
        "watch", str(tmp_path / "images"), "--bank", str(tmp_path / "bank"), "--once",
        "--backbone", TINY, "--weights", str(weights), "--size", "96", "--start", "3",
    ]  # fmt: skip
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "part5.png  against 5" in result.output
    assert f"6 images in {tmp_path / 'scores.csv'}" in result.output
    assert "part" not in CliRunner().invoke(app, line).output
