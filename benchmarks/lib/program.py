"""Arguments that several programs take."""

from __future__ import annotations

import argparse
from pathlib import Path

from .checkout import SHARED


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the program's docstring with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json PATH`, the result file; without it a program only prints."""
    parser.add_argument("--json", type=Path, help="write the result here")


def add_data(parser: argparse.ArgumentParser, sets: list[str]) -> None:
    """Add `--data FOLDER`, where the sets of labelled images lie, and `--sets NAME...`."""
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=sets)


def require_data(data: Path) -> None:
    """Exit with a sentence where the folder of the sets is absent."""
    if not data.is_dir():
        raise SystemExit(f"{data} is absent; give the folder of the sets with --data")
