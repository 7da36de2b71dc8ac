"""Names that move a cursor, look like markup or like formulas."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tiny import TINY, product, tiny_weights
from typer.testing import CliRunner

import musc_fast
from musc_fast.cli import tables
from musc_fast.cli.app import app
from musc_fast.cli.console import named, print_plain
from musc_fast.progress import stage_bars
from musc_fast.shown import path_cell, shown, table_writer, text_cell

EVIL = "[/x]\x1b[31m\x9b2J\u202e[bold]\r\udcff\n"


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.just(EVIL))
def test_no_control_character_is_left(name: str) -> None:
    text = shown(name)
    assert not set(text) & {"\x1b", "\x9b", "\n", "\r", "\u202e", "\x7f", "\u2028"}
    text.encode("utf-8")
    if name.isascii() and name.isprintable():
        assert text == name


def test_markup_in_names_is_shown_as_it_is() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(named(EVIL))
    print_plain(EVIL, to=console)
    with stage_bars() as bars:
        bars("[/x] features", 1, 2)
    printed = console.export_text()
    assert printed.count("[/x]\\x1b[31m\\x9b2J\\u202e[bold]") == 2


def test_cells_are_no_formulas() -> None:
    assert path_cell("=1+2.png") == "./=1+2.png"
    assert path_cell(Path("-x/@a.png")) == "./-x/@a.png"
    assert path_cell("/a/=b.png") == "/a/=b.png"
    assert os.path.normpath(path_cell("+a.png")) == "+a.png"
    assert [text_cell(text) for text in ("@x", "x=1")] == ["'@x", "x=1"]


def test_commands_take_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tiny_weights(tmp_path)
    names = ["=cmd()", "@a\x1b[31m", "[/x]b", "c"]
    Path("[").mkdir()
    for k, name in enumerate(names):
        Image.fromarray(product(k)).save(f"{name}.png")
    options = ["--backbone", TINY, "--weights", str(weights), "--offline", "--no-maps"]
    command = ["score", *(f"{name}.png" for name in names), "--out", "out", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "\x1b[31m" not in done.output
    assert "[/x]b.png" in done.output
    with open("out/scores.csv", newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert all(Path(path).is_file() for path in paths)
    assert not any(path[0] in "=+-@" for path in paths)
    done = CliRunner().invoke(app, ["score", "c.png", "[/x]b.png", "--backbone", "[/x]"])
    assert done.exit_code == 1
    assert "MarkupError" not in repr(done.exception)


def test_a_table_takes_any_category(capsys: pytest.CaptureFixture[str]) -> None:
    from musc_fast.runs.evaluate import METRICS

    result = {"category": EVIL, "images": 1, "metrics": dict.fromkeys(METRICS), "notes": [EVIL]}
    tables.print_metrics([result], EVIL)
    assert "\x1b[31m" not in "".join(capsys.readouterr())


def test_no_table_is_written_with_carriage_returns() -> None:
    """They hide the last column from grep and awk."""
    package = Path(musc_fast.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    writers = {
        f"{path.name}: {line.strip()}"
        for path, text in sources.items()
        for line in text.splitlines()
        if re.search(r"csv\.(Dict)?[wW]riter\(", line)
    }
    assert writers
    assert all('lineterminator="\\n"' in line for line in writers), writers
    file = io.StringIO(newline="")
    table_writer(file).writerows([["a", "b\n"], [1, 0]])
    assert file.getvalue() == 'a,"b\n"\n1,0\n'
