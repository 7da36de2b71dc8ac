"""`info` and `backbones` list what there is."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from musc_fast.cli.app import app
from musc_fast.features.engines import registry


def test_info_names_versions_and_backends() -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    for word in ("torch", "reference", "cpu", "chosen by auto"):
        assert word in result.output


def test_info_tells_which_engines_can_run_and_why_not_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["info"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "Engines of the backbone" in text
    assert "the package openvino is not installed" in text
    assert re.search(
        r"torch . PyTorch, on any device . usable, chosen by auto, in (fp32|bf16)", text
    )


def test_backbones_are_listed() -> None:
    result = CliRunner().invoke(app, ["backbones"])
    assert result.exit_code == 0
    for name in ("clip-vit-b-16", "dinov2-vit-s-14", "clip-vit-l-14-336"):
        assert name in result.output
