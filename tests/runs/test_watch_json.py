"""A watch's rows as lines of JSON: the record's names and numbers, whole lines alone."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_fast.errors import InputError, StorageError
from musc_fast.runs.watch_json import json_of, row_lines
from musc_fast.runs.watch_pictures import picture_of
from musc_fast.runs.watch_record import Row

ROW = Row(
    path=os.fsdecode(b"/in/\xff\n.png"),
    number="4",
    raw_score="0.4544030725955963",
    references="17",
    flagged="1",
    time="2026-11-27T22:48:15.225093+00:00",
    reason="",
    size="384092",
    modified="1795001140000000001",
    sha256="3b66",
    verdict="flagged",
    threshold="0.3968202667847308",
    p_value="0.003964",
    bank="left out",
)


def test_names_and_numbers_are_those_of_the_record(tmp_path: Path) -> None:
    found = json_of(ROW, tmp_path / "scores.csv")
    assert {*found} == {*Row.__dataclass_fields__, "picture"}
    assert (found["raw_score"], found["number"], found["flagged"]) == (0.4544030725955963, 4, True)
    assert found["modified"] == "1795001140000000001"  # more digits than a float has
    assert found["reason"] is None
    assert found["picture"] is None
    picture = picture_of(tmp_path / "scores.csv", ROW)
    picture.parent.mkdir()
    picture.touch()
    assert json_of(ROW, tmp_path / "scores.csv")["picture"] == str(picture)
    unreadable = Row(
        path="/in/a.png", number="", raw_score="", references="", flagged="", time="t", reason="no"
    )
    found = json_of(unreadable, tmp_path / "scores.csv")
    assert {name for name, value in found.items() if value is not None} == {
        "path",
        "time",
        "reason",
    }


@given(score=st.floats(0, 1e6, width=32), cut=st.integers(0, 200))
def test_what_a_crash_cut_short_goes_and_whole_lines_stay(
    score: float, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    file, record = folder / "lines.jsonl", folder / "scores.csv"
    row = replace(ROW, raw_score=repr(score))
    with row_lines(str(file), record) as lines:
        lines.write(row)
        lines.write(ROW)
    whole = file.read_bytes()
    kept = whole[: len(whole) - cut]
    file.write_bytes(kept)
    with row_lines(str(file), record) as lines:
        lines.write(row)
    found: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["raw_score"] for each in found[:-1]] == [score, float(ROW.raw_score)][
        : kept.count(b"\n")
    ]
    assert found[-1]["raw_score"] == score
    assert found[-1]["path"] == ROW.path


def test_standard_output_gets_each_line_at_once(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with row_lines("-", tmp_path / "scores.csv") as lines:
        lines.write(ROW)
        assert json.loads(capfdbinary.readouterr().out)["verdict"] == "flagged"


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_reader_that_has_gone_and_a_full_disk_end_it_by_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with row_lines(str(pipe), tmp_path / "scores.csv") as lines:
        lines.write(ROW)
        os.close(reader)
        with pytest.raises(InputError, match=r"pipe takes no more lines.*scores\.csv has every"):
            lines.write(ROW)
    if Path("/dev/full").exists():
        with (
            row_lines("/dev/full", tmp_path / "scores.csv") as lines,
            pytest.raises(StorageError, match="no room"),
        ):
            lines.write(ROW)
    with (
        pytest.raises(InputError, match=r"--json: .* cannot be written"),
        row_lines(str(tmp_path), tmp_path / "scores.csv"),
    ):
        pass
