"""What a watch flags, keeps out of the bank, finds again, and shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from typer.testing import CliRunner
from watched import aged, command_line, rows, run, same_bank, untimed

from musc_fast import BankError, ImageError, InputError, MuSc, ReferenceBank
from musc_fast.bank.file import Entry
from musc_fast.bank.own_distances import LeaveOneOut
from musc_fast.cli.app import app
from musc_fast.runs.watch import WatchSettings, watching
from musc_fast.runs.watch_judge import Judge, Rule, is_near


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size=96)


def parts(folder: Path, count: int, defective: dict[int, int]) -> list[Path]:
    """Product images in order of age; some have a defect of a kind, by their index."""
    paths = product_folder(folder, count=count, defective=-1)
    for index, kind in defective.items():
        Image.fromarray(product(index, defect=kind)).save(paths[index])
    return aged(paths)


def said(bank: Path) -> list[tuple[str, str, str]]:
    """Name, verdict and place in the bank of each line of the record."""
    found = rows(bank.with_name("scores.csv"))
    return [(Path(row["path"]).stem, row["verdict"], row["bank"]) for row in found]


def test_flagged_parts_stay_out_and_early_defects_are_found_again(
    musc: MuSc, tmp_path: Path
) -> None:
    """One defect among the first, which alone cannot tell, one later."""
    folder, bank = tmp_path / "images", tmp_path / "bank"
    parts(folder, 24, {2: 1, 20: 2})
    run(musc, folder, bank, WatchSettings(start=4))
    found = said(bank)
    first = {name: verdict for name, verdict, place in found if place == "added"}
    assert first["part2"] == "look"
    assert ("part2", "flagged", "removed") in found
    assert ("part20", "flagged", "left out") in found
    assert sum(verdict == "flagged" for _, verdict, _ in found) == 2
    held = ReferenceBank.load(bank)
    assert sorted(held.ids) == sorted(
        str(folder / f"part{k}.png") for k in range(24) if k not in (2, 20)
    )
    assert held.added == 24
    by_name = {Path(row["path"]).stem: row for row in rows(tmp_path / "scores.csv")}
    late = by_name["part20"]
    assert (
        float(late["raw_score"]) >= float(late["threshold"]) > float(by_name["part19"]["raw_score"])
    )
    assert late["flagged"] == "1"
    assert float(late["p_value"]) <= 0.01
    again = by_name["part2"]
    assert (again["number"], again["reason"]) == ("2", "")
    assert again["sha256"] == next(
        row["sha256"] for row in rows(tmp_path / "scores.csv") if row["number"] == "2"
    )
    assert run(musc, folder, bank, WatchSettings(start=4)) == []  # nothing is said twice


def test_a_lost_bank_is_as_it_was(musc: MuSc, tmp_path: Path) -> None:
    """The record tells which images were left out and which were removed, and when."""
    folder, bank, other = tmp_path / "images", tmp_path / "bank", tmp_path / "other" / "bank"
    paths = parts(folder, 22, {2: 1, 18: 2})
    away = tmp_path / "away.png"
    paths[21].rename(away)
    settings = WatchSettings(start=4, capacity=10, save_every=100)
    run(musc, folder, bank, settings)
    other.parent.mkdir()
    for name in ("bank", "scores.csv"):
        (other.parent / name).write_bytes((tmp_path / name).read_bytes())
    bank.unlink()
    away.rename(paths[21])
    aged(paths)
    for file in (bank, other):
        assert run(musc, folder, file, settings) == ["part21.png"]
    assert same_bank(bank, other)
    assert untimed(tmp_path / "scores.csv") == untimed(other.with_name("scores.csv"))
    assert ("part2", "flagged", "removed") in said(bank)


def test_each_flagged_part_has_a_picture(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    parts(folder, 22, {2: 1, 20: 2})
    run(musc, folder, bank, WatchSettings(start=4))
    pictures = sorted((tmp_path / "scores_flagged").iterdir())
    assert [path.name for path in pictures] == ["000002_part2.png", "000020_part20.png"]
    for path, index in zip(pictures, (2, 20), strict=True):
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
        with Image.open(folder / f"part{index}.png") as image:
            enlarged = image.convert("RGB").resize((600, 480), Image.Resampling.LANCZOS)
        assert shown.crop((12, 42, 612, 522)).tobytes() == enlarged.tobytes()
        overlay = np.asarray(shown.crop((624, 42, 1224, 522))).astype(int)
        colours = np.abs(overlay[..., 0] - overlay[..., 2])
        assert colours.max() > 60  # the grey image alone has none
    other = tmp_path / "none" / "bank"
    run(musc, folder, other, WatchSettings(start=4, pictures=False))
    assert not (tmp_path / "none" / "scores_flagged").exists()


def test_flagged_parts_can_be_let_in(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    parts(folder, 20, {2: 1, 18: 2})
    run(musc, folder, bank, WatchSettings(start=4, keep_flagged=True))
    found = said(bank)
    assert ("part18", "flagged", "added") in found
    assert {place for _, _, place in found} == {"added"}
    assert len(ReferenceBank.load(bank)) == 20


def test_a_threshold_that_is_given_decides(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    parts(folder, 8, {1: 1, 6: 2})
    run(musc, folder, bank, WatchSettings(start=4, threshold=0.5))
    found = said(bank)
    assert [name for name, verdict, _ in found if verdict == "flagged"] == ["part1", "part6"]
    assert {verdict for _, verdict, _ in found} == {"flagged", "clear"}
    assert len(ReferenceBank.load(bank)) == 6


def test_references_begin_a_bank(musc: MuSc, tmp_path: Path) -> None:
    good, folder, bank = tmp_path / "good", tmp_path / "images", tmp_path / "bank"
    references = tuple(parts(good, 18, {7: 1}))
    paths = parts(folder, 2, {0: 2})
    # The drawn parts are those of the references.
    settings = WatchSettings(references=references, copies="off")
    assert len(run(musc, folder, bank, settings)) == 20
    found = said(bank)
    assert [place for _, _, place in found[:18]].count("reference") == 17
    assert found[7] == ("part7", "flagged", "reference left out")  # one defect among the good
    assert found[18:] == [("part0", "flagged", "left out"), ("part1", "clear", "added")]
    assert len(ReferenceBank.load(bank)) == 18
    with watching(musc, folder, bank, tmp_path / "scores.csv", settings) as watched:
        assert watched.begun
        assert watched.lines == 2
        assert list(watched.score(watched.look(settled=True))) == []
    bank.unlink()  # the record names the references, too
    anew = WatchSettings(copies="off")
    with watching(musc, folder, bank, tmp_path / "scores.csv", anew) as watched:
        assert (len(watched.bank), watched.bank.added, watched.gone) == (18, 20, [])
    assert paths[1] in [Path(name) for name in ReferenceBank.load(bank).ids]


def test_references_that_cannot_be(musc: MuSc, tmp_path: Path) -> None:
    good, folder = tmp_path / "good", tmp_path / "images"
    folder.mkdir()
    paths = parts(good, 4, {})
    with pytest.raises(InputError, match="references: found one image"):
        WatchSettings(references=tuple(paths[:1]))
    with pytest.raises(InputError, match="capacity: found 3, wanted 10 or more"):
        WatchSettings(references=tuple(paths), capacity=3)
    with pytest.raises(InputError, match="capacity: found 3, wanted 4 or more, the references"):
        WatchSettings(references=tuple(paths), capacity=3, start=2)
    with pytest.raises(InputError, match="false_alarms: found 0, wanted a share"):
        WatchSettings(false_alarms=0)
    paths[2].write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"references: .*part2\.png: not an image"):
        run(musc, folder, tmp_path / "bank", WatchSettings(references=tuple(paths)))
    assert not (tmp_path / "bank").exists()


def leave_one_out(scores: list[float]) -> LeaveOneOut:
    entries = [Entry(f"{k}", None, k) for k in range(len(scores))]
    return LeaveOneOut(entries, torch.zeros(len(scores), 1, 1), torch.tensor(scores), (1, 1))


def test_those_left_out_keep_the_threshold_up() -> None:
    """Without them, leaving out the highest would lower the threshold again and again."""
    scores = sorted(np.random.default_rng(1).normal(0.45, 0.03, 150))
    rule = Rule(None, 0.05)
    level = Judge(rule, leave_one_out(scores), []).level
    assert level is not None
    kept = [score for score in scores if score < level]
    reached = [level] * (len(scores) - len(kept))
    assert reached
    sunk = Judge(rule, leave_one_out(kept), []).level
    again = Judge(rule, leave_one_out(kept), reached).level
    assert sunk is not None
    assert sunk < level
    assert again == pytest.approx(level, rel=1e-6)


def test_defects_that_were_left_out_do_not_count(musc: MuSc, tmp_path: Path) -> None:
    """Only flagged images that may be good ones do."""
    assert not is_near(1e-4, 0.01)
    assert is_near(5e-3, 0.01)
    folder, bank = tmp_path / "images", tmp_path / "bank"
    parts(folder, 20, {14: 1, 16: 2})
    run(musc, folder, bank, WatchSettings(start=4))
    by_name = {Path(row["path"]).stem: row for row in rows(tmp_path / "scores.csv")}
    assert [by_name[f"part{k}"]["bank"] for k in (14, 16)] == ["left out"] * 2
    levels = [float(by_name[f"part{k}"]["threshold"]) for k in (14, 15, 16, 17)]
    assert max(levels) < 1.2 * min(levels)


def test_the_command_says_what_it_does(weights: Path, tmp_path: Path) -> None:
    good, folder, bank = tmp_path / "good", tmp_path / "images", tmp_path / "bank"
    parts(good, 18, {})
    parts(folder, 4, {1: 1})
    line = [*command_line(folder, bank, weights), "--once", "--interval", "0.1"]
    line += ["--references", str(good), "--copies", "off"]  # the parts are drawn alike
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "the bank is begun with 18 references" in text
    assert "part1.png against 19 flagged from" in text
    assert "4 images in" in text
    assert "the bank has been given 22 and holds 21: flagged from" in text
    assert f"pictures of flagged images: {tmp_path / 'scores_flagged'}" in result.output
    again = CliRunner().invoke(app, line)
    assert "--references are not read again" in " ".join(again.output.split())
    with pytest.raises(BankError):
        raise CliRunner().invoke(app, [*line, "--capacity", "300"]).exception or AssertionError
