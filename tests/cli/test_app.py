"""The command as a whole: its help, its errors, and how much it imports to start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY, product_folder, tiny_weights
from typer.testing import CliRunner

import musc_fast
from musc_fast.cli.app import app
from musc_fast.cli.exit_status import FLAGGED, LOOK


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: exit status, standard output and error."""
    line = [sys.executable, "-m", "musc_fast", *(str(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["demo", "--help"]])
def test_help_teaches(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "images" in result.output


def test_the_help_lists_the_commands_in_order() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    names = re.findall(r"^\W+(evaluate|watch|score|demo|backbones|info) ", text, re.MULTILINE)
    assert names == ["score", "watch", "evaluate", "demo", "backbones", "info"]


@pytest.mark.parametrize("name", ["", "score", "watch", "evaluate", "demo", "backbones", "info"])
def test_short_help_with_groups_and_no_bool(name: str) -> None:
    arguments = [name] if name else []
    short = CliRunner().invoke(app, [*arguments, "-h"])
    assert short.exit_code == 0
    assert short.output == CliRunner().invoke(app, [*arguments, "--help"]).output
    assert "bool" not in short.output
    groups = re.findall(r"^╭─ (\w+) ─", short.output, re.MULTILINE)
    if name == "score":
        assert groups == [
            *("Arguments", "Options", "Verdict", "Results", "Images"),
            *("Backbone", "Scoring", "Machine", "Messages"),
        ]
    for option in ("--quiet", "--verbose", "--log-file") if name else ("--version",):
        assert option in short.output
    if name in ("score", "watch", "evaluate", "demo"):
        assert f"musc-fast {name}" in short.output.split("Examples")[1]


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"musc-fast {musc_fast.__version__}\n")


def test_exit_statuses_are_documented() -> None:
    text = CliRunner().invoke(app, ["--help"]).output.split("Exit status")[1]
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    for status in (0, 1, 2, FLAGGED, LOOK, 130, 143):
        assert re.search(rf"^ ?(130, )?{status}\b", text, re.MULTILINE), status
        assert f"| {status} |" in page


def test_the_shell_completes() -> None:
    code = "import sys; sys.argv = ['musc-fast']; from musc_fast.cli import main; main()"

    def completed(words: str, position: int) -> str:
        ask = {"_MUSC_FAST_COMPLETE": "complete_bash", "COMP_WORDS": words}
        ask["COMP_CWORD"] = str(position)
        line = [sys.executable, "-c", code]
        env = {**os.environ, **ask}
        return subprocess.run(line, capture_output=True, text=True, check=False, env=env).stdout

    assert completed("musc-fast sc", 1).split() == ["score"]
    assert "--fail-on-flagged" in completed("musc-fast score --f", 2).split()


def test_the_command_starts_without_torch() -> None:
    code = "import sys; from musc_fast.cli import main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path)
    paths = product_folder(tmp_path / "images")
    paths[1].write_bytes(b"no image")
    common = ("--out", tmp_path / "out", "--backbone", TINY, "--weights", weights)
    common = (*common, "--engine", "torch", "--size", "160")
    result = command("score", tmp_path / "images", *common)
    assert result.returncode == 1
    assert "error:" in result.stderr
    assert result.stderr.count("part1.png") == 1
    assert "--skip-bad" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()

    result = command("score", tmp_path / "images", "--skip-bad", *common)
    assert result.returncode == 0, result.stderr
    assert "part1.png" in result.stderr
    assert "1 unreadable" in result.stderr
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 1 + 5
