"""What a scored batch shows in a notebook: HTML, one picture, a chart."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import product, product_folder

from musc_fast import BatchScores, ImageError, ImageScores, InputError, judge_batch
from musc_fast.report.heatmap import Scale, overlay
from musc_fast.report.notebook import CARDS, ROWS


def scores_of(count: int = 12, high: int = 4) -> BatchScores:
    """Scores of `count` images, of which one is far higher than the others."""
    maps = torch.rand((count, 24, 30), generator=torch.Generator().manual_seed(0)) * 0.05 + 0.1
    maps[high, 8:14, 16:22] = 0.9
    raw = maps.flatten(1).amax(1)
    return BatchScores(maps, maps, raw, raw)


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [re.findall(r"<td[^>]*>(?:<b>)?(.*?)(?:</b>)?</td>", row) for row in rows[1:]]


def test_files_are_shown_with_their_heat_maps(tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "a & <b>", count=12)
    scores = judge_batch(scores_of(), paths)
    html = scores._repr_html_()
    rows = cells(html)
    assert rows[0] == ["1", "part4.png", f"{scores.raw_image_scores[4]:#.4g}", "flagged"]
    assert [float(row[2]) for row in rows] == sorted((float(row[2]) for row in rows), reverse=True)
    assert len(rows) == ROWS
    assert "and 2 more" in html
    assert scores.reason in html
    shown = pictures(html)
    assert len(shown) == CARDS
    assert len(html) < 6 * 20_000
    # The first picture: the image at the left, and the same overlay as everywhere at the right.
    small = Image.open(paths[4])
    maps = scores.anomaly_maps.numpy()
    wanted = np.asarray(overlay(small, maps[4], Scale.of(maps)), dtype=float)
    got = np.asarray(shown[0].crop((124, 0, 244, 96)), dtype=float)
    assert np.abs(got - wanted).mean() < 6  # of 255, by lossy compression
    assert np.abs(np.asarray(shown[0].crop((0, 0, 120, 96)), dtype=float) - small).mean() < 6


def test_names_are_text_and_missing_files_are_maps_alone() -> None:
    html = judge_batch(scores_of(), [f"<script>{k}</script>\x1b" for k in range(12)])._repr_html_()
    assert "<script" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;4&lt;/script&gt;\\x1b" in html
    assert 'alt="heat map"' in html
    assert max(pictures(html)[0].size) == 200  # maps of 24 x 30, enlarged


def test_rescored_batches_show_both_scores() -> None:
    scores = scores_of()
    rescored = BatchScores(
        scores.patch_scores,
        scores.anomaly_maps,
        scores.raw_image_scores,
        scores.raw_image_scores.flip(0),
    )
    rows = cells(judge_batch(rescored)._repr_html_())
    assert rows[0][1] == "image 7"
    assert float(rows[0][2]) > float(rows[0][3])
    plain = cells(rescored._repr_html_())
    assert plain[0][:2] == ["1", "7"]
    assert len(plain[0]) == 4


def test_scores_without_names_show_a_table() -> None:
    html = scores_of()._repr_html_()
    assert cells(html)[0] == ["1", "4", "0.9000"]
    assert "BatchScores of 12 images" in html
    assert "judge_batch" in html
    assert "more" not in scores_of(5)._repr_html_()


def test_one_image_is_shown_by_place_or_name(tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=12)
    scores = judge_batch(scores_of(), paths)
    assert scores.show(4).tobytes() == scores.show(str(paths[4])).tobytes()
    assert scores.show(-8).tobytes() == scores.show(4).tobytes()
    unnamed = judge_batch(scores_of())
    given = unnamed.show(4, product(4, 1))
    assert given.size == scores.show(4).size
    # Below the caption, which names another image, the pictures are the same.
    assert given.crop((0, 40, *given.size)).tobytes() == (
        scores.show(4).crop((0, 40, *given.size)).tobytes()
    )
    assert unnamed.show("image 4").width > 200  # the map alone
    with pytest.raises(InputError, match="image: found 12, wanted a name, or 0 to 11"):
        scores.show(12)
    with pytest.raises(InputError, match="image: found 'part4', wanted one of the names"):
        scores.show("part4")
    with pytest.raises(ImageError, match="array image"):
        scores.show(3, np.zeros((3, 3, 3, 3)))


def test_pictures_that_are_gone_or_damaged(tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=12)
    paths[4].write_bytes(b"no picture")
    html = judge_batch(scores_of(), paths)._repr_html_()
    assert 'alt="heat map"' in html
    assert 'alt="the image, and its heat map over it"' in html


def test_judge_batch_checks_its_arguments() -> None:
    with pytest.raises(InputError, match="names: found 2, wanted 12"):
        judge_batch(scores_of(), ["a", "b"])
    with pytest.raises(InputError, match="names: found one, wanted 12"):
        judge_batch(scores_of(), "photos")
    with pytest.raises(InputError, match="false_alarms"):
        judge_batch(scores_of(), false_alarms=0.1, threshold=0.5)
    with pytest.raises(InputError, match="rule"):
        judge_batch(scores_of(), references=scores_of(), rule="split")
    assert isinstance(judge_batch(scores_of(), threshold=0.5), ImageScores)
    assert judge_batch(scores_of(), threshold=0.5).verdicts[4] == "flagged"


def test_without_matplotlib_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        judge_batch(scores_of()).plot()


def test_the_chart_has_a_bar_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    scores = judge_batch(scores_of(), threshold=0.5)
    ax = scores.plot()
    heights = [patch.get_height() for patch in ax.patches]
    assert sorted(heights) == pytest.approx(sorted(scores.raw_image_scores.tolist()))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "threshold",
        "flagged",
        "clear",
    ]
    assert scores.plot(ax) is ax
    pyplot.close("all")
