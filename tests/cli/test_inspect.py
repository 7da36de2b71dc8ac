"""`info` and `backbones` list what there is."""

from __future__ import annotations

from typer.testing import CliRunner

from musc_fast.cli.app import app


def test_info_names_versions_and_backends() -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    for word in ("torch", "reference", "cpu", "chosen by auto"):
        assert word in result.output


def test_backbones_are_listed() -> None:
    result = CliRunner().invoke(app, ["backbones"])
    assert result.exit_code == 0
    for name in ("clip-vit-b-16", "dinov2-vit-s-14", "clip-vit-l-14-336"):
        assert name in result.output
