"""Watching a folder: each image once, whatever happens on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_run
import pytest
from forked import CONTEXT
from tiny import TINY, product_folder, tiny_weights
from typer.testing import CliRunner
from watched import aged, command_line, rows, run, same_bank, untimed

from musc_fast import BankError, InputError, MuSc, ReferenceBank
from musc_fast.cli.app import app
from musc_fast.runs.watch import Watch, WatchSettings, watching
from musc_fast.runs.watch_record import Row


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size=96)


def test_a_restart_goes_on(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = aged(product_folder(folder, count=9))
    settings = WatchSettings(capacity=6, start=4, save_every=3, evict="anomalous")
    whole = tmp_path / "whole" / "bank"
    assert run(musc, folder, whole, settings) == [path.name for path in paths]
    parts, away = tmp_path / "parts" / "bank", tmp_path / "away"
    away.mkdir()
    for path in paths[5:]:
        path.rename(away / path.name)
    assert len(run(musc, folder, parts, settings)) == 5
    for path in paths[5:]:
        (away / path.name).rename(path)
    assert run(musc, folder, parts, settings) == [path.name for path in paths[5:]]
    assert untimed(parts.with_name("scores.csv")) == untimed(whole.with_name("scores.csv"))
    assert same_bank(parts, whole)
    assert run(musc, folder, parts, settings) == []


def test_nothing_happens_before_there_are_enough(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=3)
    settings = WatchSettings(start=4)
    assert run(musc, folder, bank, settings, last=False) == []
    assert not bank.exists()
    assert not (tmp_path / "scores.csv").exists()
    assert len(run(musc, folder, bank, settings)) == 3


def test_files_wait_until_they_are_left_alone(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = product_folder(folder, count=3)
    with watching(
        musc, folder, tmp_path / "bank", tmp_path / "s.csv", WatchSettings(start=2)
    ) as found:
        assert found.look() == []
        with paths[1].open("ab") as file:
            file.write(b"more")
        (folder / ".hidden.png").write_bytes(b"")
        assert sorted(found.look()) == [paths[0], paths[2]]
        assert sorted(found.look()) == paths


def test_unreadable_files_have_a_row_and_odd_names_come_back(musc: MuSc, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = product_folder(folder, count=5)
    odd = [
        'a,b "c".png',
        "\N{GREEK SMALL LETTER ALPHA}.png",
        os.fsdecode(b"\xff.png"),
        "d\n\re.png",
    ]
    for path, name in zip(paths, odd, strict=False):
        path.rename(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    settings = WatchSettings(start=3, threshold=0.0)
    assert len(run(musc, folder, tmp_path / "bank", settings)) == 6
    found = {Path(row["path"]).name: row for row in rows(tmp_path / "scores.csv")}
    assert set(found) == {*odd, "part4.png", "broken.png"}
    assert found["broken.png"]["reason"] == "not an image, or of an unknown format"
    assert found["broken.png"]["raw_score"] == ""
    assert sorted(int(row["number"]) for row in found.values() if row["number"]) == list(range(5))
    assert {row["flagged"] for row in found.values() if row["number"]} == {"1"}
    assert run(musc, folder, tmp_path / "bank", settings) == []


def test_a_torn_line_is_cut_and_its_image_scored_again(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    aged(product_folder(folder, count=6))
    settings = WatchSettings(start=3, save_every=100)
    run(musc, folder, bank, settings)
    bank.unlink()  # as if killed before it was saved
    record = tmp_path / "scores.csv"
    before = untimed(record)
    record.write_bytes(record.read_bytes()[:-7])
    assert run(musc, folder, bank, settings) == ["part5.png"]
    assert untimed(record) == before
    assert len(ReferenceBank.load(bank)) == 6


def test_images_that_are_gone_are_left_out(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=6))
    settings = WatchSettings(start=3, save_every=100)
    run(musc, folder, bank, settings)
    bank.unlink()
    paths[1].unlink()
    with watching(musc, folder, bank, tmp_path / "scores.csv", settings) as watched:
        assert watched.gone == [str(paths[1])]
    held = ReferenceBank.load(bank)
    assert held.ids == [str(path) for path in paths if path != paths[1]]
    assert held.added == 6


def test_what_does_not_belong_together_is_refused(musc: MuSc, tmp_path: Path) -> None:
    folder, bank, record = tmp_path / "images", tmp_path / "bank", tmp_path / "scores.csv"
    product_folder(folder, count=4)
    run(musc, folder, bank, WatchSettings(start=2))
    other = MuSc(musc.backbone, degrees=(1,))
    with pytest.raises(BankError, match="degrees"):
        run(other, folder, bank, WatchSettings(start=2))
    with (
        watching(musc, folder, bank, record, WatchSettings()),
        pytest.raises(InputError, match="in use"),
    ):
        run(musc, folder, bank, WatchSettings())
    lines = record.read_text().splitlines()
    record.write_text("\n".join([lines[0], lines[4]]) + "\n")
    bank.unlink()
    with pytest.raises(BankError, match="goes on with number 3"):
        run(musc, folder, bank, WatchSettings())
    record.write_text("something else\n")
    with pytest.raises(InputError, match="no record of musc-fast watch"):
        run(musc, folder, bank, WatchSettings())
    assert record.read_text() == "something else\n"


@pytest.mark.parametrize("wrong", [{"start": 1}, {"save_every": 0}, {"capacity": 5}])
def test_wrong_settings_are_refused_when_made(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: found .*, wanted"):
        WatchSettings(**wrong)  # type: ignore[arg-type]


def test_an_error_before_the_line_leaves_the_bank_as_it_was(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that the saved bank held without a line would be scored against itself."""
    folder = tmp_path / "images"
    aged(product_folder(folder, count=6))
    settings = WatchSettings(start=3, save_every=2)
    whole, bank = tmp_path / "whole" / "bank", tmp_path / "parts" / "bank"
    run(musc, folder, whole, settings)
    record, calls = Watch._record, 0

    def failing(self: Watch, rows: list[Row]) -> None:
        nonlocal calls
        calls += 1
        if calls in (1, 5):
            raise KeyboardInterrupt
        record(self, rows)

    monkeypatch.setattr(Watch, "_record", failing)
    for lines in (0, 5):  # before the first lines, and before that of image 5
        with pytest.raises(KeyboardInterrupt):
            run(musc, folder, bank, settings)
        file = bank.with_name("scores.csv")
        assert (len(rows(file)) if file.exists() else 0) == lines
    assert run(musc, folder, bank, settings) == ["part5.png"]
    assert untimed(bank.with_name("scores.csv")) == untimed(whole.with_name("scores.csv"))
    assert same_bank(bank, whole)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_ends_the_watch_and_loses_nothing(musc: MuSc, tmp_path: Path) -> None:
    import resource

    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=5))
    data = paths[4].read_bytes()
    paths[4].unlink()
    settings = WatchSettings(start=2)
    run(musc, folder, bank, settings)
    record = tmp_path / "scores.csv"
    before, held = record.read_bytes(), bank.read_bytes()
    paths[4].write_bytes(data)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with watching(musc, folder, bank, record, settings) as watched:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with pytest.raises(OSError, match="the disk has no room"):
                list(watched.score(watched.look(settled=True)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bank.read_bytes() == held
    assert len(record.read_bytes()) == len(before) + 10
    assert run(musc, folder, bank, settings) == ["part4.png"]
    assert record.read_bytes().startswith(before)
    assert [row["number"] for row in rows(record)] == ["0", "1", "2", "3", "4"]


def test_unreadable_files_neither_hold_up_the_start_nor_stay_out(
    musc: MuSc, tmp_path: Path
) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    paths = aged(product_folder(folder, count=4))
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[:100])
    os.utime(paths[0], (1, 1))
    settings = WatchSettings(start=3)
    found = run(musc, folder, bank, settings, last=False)
    assert found == [path.name for path in paths]
    assert [row["references"] for row in rows(tmp_path / "scores.csv")] == ["", "2", "2", "2"]
    assert run(musc, folder, bank, settings) == []
    paths[0].write_bytes(data)  # the copy is complete
    os.utime(paths[0], (1, 1))
    assert run(musc, folder, bank, settings) == ["part0.png"]
    assert rows(tmp_path / "scores.csv")[-1]["references"] == "3"


def test_the_same_names_in_another_folder(musc: MuSc, tmp_path: Path) -> None:
    monday, tuesday, bank = tmp_path / "monday", tmp_path / "tuesday", tmp_path / "bank"
    for folder in (monday, tuesday):
        product_folder(folder, count=3)
    assert len(run(musc, monday, bank, WatchSettings(start=2))) == 3
    assert len(run(musc, tuesday, bank, WatchSettings(start=2))) == 3
    other, record = tmp_path / "other", tmp_path / "scores.csv"
    with pytest.raises(BankError, match="the record of another bank"):
        run(musc, tuesday, other, WatchSettings(start=2))
    with (
        watching(musc, monday, bank, record, WatchSettings()),
        pytest.raises(InputError, match=r"scores\.csv is in use"),
    ):
        run(musc, tuesday, other, WatchSettings())


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_the_watch_with_the_bank_saved(
    weights: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=5)
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    line = [sys.executable, "-m", "musc_fast", *command_line(folder, bank, weights)]
    line += ["--start", "2", "--interval", "0.2"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # as most terminals: no surrogates
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=strict
    ) as child:
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        child.send_signal(number)
        out, err = child.communicate(timeout=100)
    assert child.returncode == status, err
    count = len(rows(tmp_path / "scores.csv"))
    assert f"{count} images in" in " ".join(out.split())
    scored = [row for row in rows(tmp_path / "scores.csv") if row["number"]]
    assert ReferenceBank.load(bank).added == len(scored) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_kill_at_any_point_and_go_on(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    """SIGKILL 8 times at random points: nothing is lost, nothing scored twice, the same bits."""
    folder = tmp_path / "images"
    paths = aged(product_folder(folder, count=16))
    (folder / "broken.png").write_bytes(b"no image")
    settings = WatchSettings(capacity=8, start=4, save_every=3, evict="anomalous")
    for name in ("warm", "whole"):  # the first also starts the fork server
        whole = tmp_path / name / "bank"
        start = time.monotonic()
        child = CONTEXT.Process(target=killed_run.watch, args=(folder, whole, weights, settings))
        child.start()
        child.join()
        seconds = time.monotonic() - start
    expected = untimed(whole.with_name("scores.csv"))
    assert len(expected) == len(paths) + 1
    generator = random.Random(0)
    kills, rounds = 0, 0
    while kills < 8:
        bank = tmp_path / f"round{rounds}" / "bank"
        rounds += 1
        seen = 0
        while not bank.with_name("done").exists():
            child = CONTEXT.Process(target=killed_run.watch, args=(folder, bank, weights, settings))
            child.start()
            child.join(timeout=generator.uniform(0.02, seconds))
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
    line = command_line(tmp_path / "images", tmp_path / "bank", weights)
    line += ["--once", "--start", "3", "--interval", "0.1"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "part5.png  against 5" in result.output
    assert f"6 images in {tmp_path / 'scores.csv'}" in result.output
    assert ".png" not in CliRunner().invoke(app, line).output
