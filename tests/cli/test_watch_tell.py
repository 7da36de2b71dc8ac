"""What `watch` and `evaluate` tell programs: lines of JSON, a command, the exit status."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from typer.testing import CliRunner, Result
from watched import aged, command_line, rows

from musc_fast.cli.app import app
from musc_fast.cli.exit_status import FLAGGED, LOOK, status_of
from musc_fast.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def watch(folder: Path, weights: Path, *more: object) -> Result:
    line = command_line(folder / "images", folder / "bank", weights)
    line += ["--once", "--start", "3", "--interval", "0.05", *map(str, more)]
    return CliRunner().invoke(app, line)


def test_a_line_of_images_with_all_that_is_told(weights: Path, tmp_path: Path) -> None:
    aged(product_folder(tmp_path / "images", count=6))
    program = tmp_path / "lamp"
    program.write_text(f"#!/bin/sh\necho \"$@\" >>'{tmp_path}/lamps'\nexit 9\n")
    program.chmod(0o755)
    told = ["--json", tmp_path / "lines.jsonl", "--on-flagged", f"{program} red"]
    told += ["--fail-on-flagged", "--threshold", 0.45, "--page", tmp_path / "page.html"]
    result = watch(tmp_path, weights, *told)
    assert result.exit_code == FLAGGED, result.output
    flagged = tmp_path / "images" / "part4.png"
    record = rows(tmp_path / "scores.csv")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in record]
    for line, row in zip(lines, record, strict=True):
        assert repr(line["raw_score"]) == row["raw_score"]
        assert line["flagged"] is (row["flagged"] == "1") is (line["verdict"] == "flagged")
        assert (line["verdict"], line["bank"]) == (row["verdict"], row["bank"])
        assert line["sha256"] == row["sha256"]
    score = record[4]["raw_score"]
    assert (tmp_path / "lamps").read_text() == f"red {flagged} {score}\n"
    assert f"lamp for {flagged}: ended with status 9" in result.output
    assert "the command failed 1 times" in result.output
    assert (tmp_path / "page.html").is_file()
    again = watch(tmp_path, weights, *told)  # no new image: none is told again
    assert again.exit_code == 0, again.output
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 6


def test_standard_output_has_json_alone(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    aged(product_folder(tmp_path / "images", count=4, defective=-1))
    line = command_line(tmp_path / "images", tmp_path / "bank", weights)
    line += ["--once", "--start", "3", "--interval", "0.05", "--json", "-", "--fail-on-flagged"]
    line += ["--threshold", "1e9"]
    assert not app(line, standalone_mode=False)
    done = capfd.readouterr()
    assert [json.loads(text)["verdict"] for text in done.out.splitlines()] == ["clear"] * 4
    assert "part3.png  against 3" in done.err
    assert "4 images in" in done.err


def test_what_cannot_be_decided_on_has_a_status_of_its_own(weights: Path, tmp_path: Path) -> None:
    paths = aged(product_folder(tmp_path / "images", count=4, defective=-1))
    paths[3].write_bytes(b"no image")
    result = watch(tmp_path, weights, "--fail-on-flagged", "--threshold", "1e9")
    assert result.exit_code == LOOK, result.output
    Image.fromarray(product(3)).save(paths[3])
    result = watch(tmp_path, weights, "--fail-on-flagged", "--threshold", "1e9")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("verdicts", "unreadable", "status"),
    [
        (["clear"], False, 0),
        ([], False, 0),
        (["clear", "look"], False, LOOK),
        (["clear"], True, LOOK),
        (["look", "flagged"], True, FLAGGED),
    ],
)
def test_status(verdicts: list[str], unreadable: bool, status: int) -> None:
    assert status_of(verdicts, unreadable=unreadable) == status


def test_score_does_not_pass_what_it_skipped(weights: Path, tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "images", count=5, defective=-1)
    paths[2].write_bytes(b"no image")
    line = ["score", tmp_path / "images", "--out", tmp_path / "out", "--backbone", TINY]
    line += ["--weights", weights, "--size", "96", "--no-maps", "--threshold", "1e9"]
    line += ["--fail-on-flagged", "--skip-bad"]
    result = CliRunner().invoke(app, [str(word) for word in line])
    assert result.exit_code == LOOK, result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--json", "bank"], "--json: bank is another file of this watch"),
        (["--json", "scores.csv"], "is another file of this watch"),
        (["--on-flagged", "no-such-lamp"], "--on-flagged: found 'no-such-lamp'"),
        (["--on-flagged", "true", "--on-flagged-timeout", "0"], "--on-flagged-timeout: found 0"),
        (["--page", "bank"], "one file twice"),
    ],
)
def test_wrong_targets_end_it_before_an_image_is_scored(
    more: list[str],
    message: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product_folder(tmp_path / "images", count=3)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*command_line(Path("images"), Path("bank"), weights), *more])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "scores.csv").exists()


def test_evaluate_tells_each_category(weights: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        product_folder(tmp_path / name / "test" / "good", count=4, defective=-1)
        bad = tmp_path / name / "test" / "bad"
        bad.mkdir()
        Image.fromarray(product(9, defect=1)).save(bad / "x.png")
    line = ["evaluate", "--root", tmp_path, "--backbone", TINY, "--weights", weights]
    line += ["--size", "96", "--out", tmp_path / "out", "--json", tmp_path / "lines.jsonl", "-q"]
    for _ in range(2):  # the second time from what was kept
        result = CliRunner().invoke(app, [str(word) for word in line])
        assert result.exit_code == 0, result.output
        found = [json.loads(text) for text in (tmp_path / "lines.jsonl").read_text().splitlines()]
        with (tmp_path / "out" / "results.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        categories = json.loads((tmp_path / "out" / "results.json").read_text())["categories"]
        assert [each["category"] for each in found] == ["one", "two"]
        for each, row, category in zip(found, table, categories, strict=False):
            assert list(each) == [*row, "flagged", "notes"]
            assert f"{each['image_auroc']:.6f}" == row["image_auroc"]
            assert each["flagged"] == category["flagged"]
            assert each["image_ap"] == category["metrics"]["image_ap"]
        (tmp_path / "lines.jsonl").unlink()
