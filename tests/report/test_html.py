"""report.html: complete, escaped, self-contained, small."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report import html, pictures
from musc_fast.report.heatmap import Scale, overlay
from musc_fast.report.html import Evaluation, write_report
from musc_fast.report.scored_batch import ScoredBatch

RunMaker = Callable[..., ScoredBatch]
HOSTILE = [
    "<script>window.hacked=1<script>.png",
    '"onmouseover="window.hacked=1" x=".png',
    "'-alert(1)-'.png",
    "<img src=x onerror=window.hacked=1>.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "&amp;&lt;.png",
    "Prüfling 部品 № 7.png",
]


class Page(HTMLParser):
    """All tags with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.titles: list[str] = []  # of the cards
        self._open = [""]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "h3" and "title" in self.tags[-1][1]:
            self.titles.append("")
        if tag not in {"meta", "link", "img", "input", "use", "image", "path", "wbr"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1], data))
        if "h3" in self._open and self.titles:
            self.titles[-1] += data

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and (not css or css in attributes.get("class", "").split())
        ]

    @property
    def cards(self) -> list[dict[str, str]]:
        return self.all("article", "card")


def report(path: Path, run: ScoredBatch, **options: object) -> Page:
    write_report(path, run, **options)  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_cards_are_in_the_order_of_the_scores(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(5)])
    run = replace(run, image_scores=np.array([0.2, 0.9, 0.1, 0.5, 0.3], dtype=np.float32))
    page = report(tmp_path / "report.html", run)
    assert [card["data-name"] for card in page.cards] == [f"{k}.png" for k in (1, 3, 4, 0, 2)]
    assert [card["data-rank"] for card in page.cards] == ["1", "2", "3", "4", "5"]
    flagged = {card["data-name"]: card["data-flagged"] for card in page.cards}
    assert flagged == {f"{k}.png": str(int(run.raw_scores[k] >= 0.5)) for k in range(5)}
    assert [a["data-name"] for a in page.cards if "is-flagged" in a["class"]] == [
        name for name in (f"{k}.png" for k in (1, 3, 4, 0, 2)) if flagged[name] == "1"
    ]
    words = " ".join(text for _, text in page.texts)
    for word in ("1 min 1 s", "tiny", "40 × 40", "0.900", "Settings of this run"):
        assert word in words


def test_photo_heat_and_outline_lie_on_each_other(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run(["a.png", "b.png"])
    page = report(tmp_path / "report.html", run)
    photo, heat = (
        picture(page.all(tag, css)[0][key])
        for tag, css, key in (("img", "photo", "src"), ("image", "heat", "href"))
    )
    assert photo.size == (160, 120)
    mixed = photo.convert("L").convert("RGBA")
    mixed.alpha_composite(heat.resize(mixed.size, Image.Resampling.BILINEAR))
    whole = overlay(photo, run.anomaly_maps[0], Scale.of(run.anomaly_maps))
    difference = np.abs(np.asarray(mixed, int)[..., :3] - np.asarray(whole, int))
    assert difference.mean() < 1.5
    view = [float(v) for v in page.all("svg", "layer")[0]["viewbox"].split()]
    assert view == [0, 0, 1000, 750]
    points = np.array(re.findall(r"(\d+) (\d+)", page.all("path")[1]["d"]), dtype=float)
    # the peak is the middle of map pixel (10, 20); 0.1 + 0.8 exp(-r^2 / 32) is 0.5 at r = 4.71
    assert (points.max(axis=0) + points.min(axis=0)) / 2 == pytest.approx([512.5, 196.9], abs=6)
    assert np.ptp(points[:, 0]) == pytest.approx(2 * 4.71 * 25, abs=15)
    (x, y, width, height, share, peak), *rest = json.loads(page.cards[0]["data-regions"])
    assert rest == []
    assert x < 20.5 * 4 < x + width
    assert y < 10.5 * 3 < y + height
    assert share == pytest.approx(np.pi * 4.71**2 / 1600, rel=0.05)
    assert peak == pytest.approx(0.9)


def test_hostile_names_stay_names(tmp_path: Path, make_run: RunMaker) -> None:
    page = report(tmp_path / "report.html", make_run(HOSTILE))
    assert sorted(card["data-name"] for card in page.cards) == sorted(HOSTILE)
    assert sorted(page.titles) == sorted(HOSTILE)
    assert len(page.all("script")) == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert all(image["class"] == "photo" for image in page.all("img"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file names are text elsewhere")
def test_names_that_are_not_unicode(tmp_path: Path, make_run: RunMaker) -> None:
    try:
        run = make_run([os.fsdecode(b"part\xff.png"), "b.png"])
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    page = report(tmp_path / "report.html", run)
    assert page.cards[0]["data-name"] == "part\ufffd.png"


def test_nothing_comes_from_elsewhere(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(4)])
    masks = [np.ones((40, 40), dtype=bool), None, None, None]
    evaluation = Evaluation(np.array([True, False, False, True]), masks)
    page = report(tmp_path / "report.html", run, evaluation=evaluation)
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "poster", "data", "xlink:href"}
    ]
    assert len(links) > 4
    assert {value[:5] if value[:1] != "#" else "#" for value in links} == {"data:", "#"}
    assert "://" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {value[1:] for value in links if value.startswith("#")} <= ids
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    script = re.search(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_sixty_noisy_images_stay_within_the_budget(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(60)], size=(320, 240), noise=True)
    page = report(tmp_path / "report.html", run)
    assert (tmp_path / "report.html").stat().st_size / 60 < 55_000
    photo = picture(page.all("img", "photo")[0]["src"])
    assert 150 < photo.height < 240  # white noise does not fit at full size


def test_a_photo_shrinks_until_it_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    texture = Image.fromarray(noise).resize((1400, 700), Image.Resampling.BICUBIC)
    data = pictures.photo(texture, 20_000)
    assert 10_000 < len(data) <= 20_000
    width, height = Image.open(io.BytesIO(data)).size
    assert width == pytest.approx(2 * height, abs=2)
    assert width < 1024
    smooth = Image.linear_gradient("L").resize((3000, 1500))
    assert Image.open(io.BytesIO(pictures.photo(smooth, 30_000))).size == (1024, 512)


def test_scale_per_image_is_said(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run(["a.png", "b.png"])
    page = report(tmp_path / "report.html", run, map_scale="image")
    assert "Each image has its own scale" in page.source
    low, high, peak = (float(v) for v in page.cards[1]["data-scale"].split())
    assert (low, high) == pytest.approx((run.anomaly_maps[1].min(), run.anomaly_maps[1].max()))
    assert peak == high
    brightest = [
        np.asarray(picture(image["href"])).sum(axis=2).max() for image in page.all("image")
    ]
    assert brightest[0] == brightest[1]
    page = report(tmp_path / "report.html", run)
    assert page.cards[0]["data-scale"].split()[:2] == page.cards[1]["data-scale"].split()[:2]
    with pytest.raises(InputError, match="map_scale: found 'both'"):
        write_report(tmp_path / "report.html", run, map_scale="both")  # type: ignore[arg-type]


def test_evaluation_shows_curves_and_misses(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(8)])  # peaks fall with k; 0.5 flags 0 to 4
    labels = np.array([1, 1, 0, 1, 0, 0, 1, 0], dtype=bool)
    evaluation = Evaluation(labels, figures={"pixel AUROC": 0.98765, "PRO": None})
    page = report(tmp_path / "report.html", run, evaluation=evaluation)
    words = " ".join(" ".join(text for _, text in page.texts).split())
    assert "3 of 4 defective images are flagged, and 2 of 4 good ones" in words
    # pairs won: image 0, 1 beat four good ones each, 3 beats three, 6 beats one
    assert "AUROC 0.7500" in words
    assert "0.9877" in words
    assert "– PRO" in words
    assert len(page.all("svg", "roc")) == len(page.all("svg", "pr")) == 1
    dot = page.all("circle", "at")[0]
    assert dot["cx"] == "197.0"  # 2 of 4 good ones: the middle of the axis
    misses = [text for tag, text in page.texts if tag == "span" and re.fullmatch(r"\d\.", text)]
    assert misses == ["6.", "3.", "1.", "0.", "2.", "4.", "5.", "7."]


@pytest.mark.parametrize(("labels", "is_open"), [([1, 1, 0, 0], False), ([1, 0, 1, 0], True)])
def test_curves_fold_up_where_the_ranking_is_faultless(
    tmp_path: Path, make_run: RunMaker, labels: list[int], is_open: bool
) -> None:
    run = make_run([f"{k}.png" for k in range(4)])  # peaks fall with k
    evaluation = Evaluation(np.array(labels, dtype=bool))
    page = report(tmp_path / "report.html", run, evaluation=evaluation)
    assert ("open" in page.all("details")[0]) == is_open


def test_evaluation_of_one_class_gives_the_reason(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run(["a.png", "b.png"])
    page = report(tmp_path / "r.html", run, evaluation=Evaluation(np.zeros(2, dtype=bool)))
    assert "No curves: no defective image." in page.source
    assert not page.all("svg", "roc")
    with pytest.raises(InputError, match=r"evaluation\.labels: found \[3\], wanted \[2\]"):
        write_report(tmp_path / "r.html", run, evaluation=Evaluation(np.zeros(3, dtype=bool)))
    with pytest.raises(InputError, match=r"evaluation\.masks: found 1, wanted 2"):
        write_report(
            tmp_path / "r.html", run, evaluation=Evaluation(np.zeros(2, dtype=bool), [None])
        )


def test_nothing_flagged(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(3)], threshold=None)
    page = report(tmp_path / "report.html", run)
    assert {card["data-flagged"] for card in page.cards} == {"0"}
    assert {card["data-regions"] for card in page.cards} == {"[]"}
    assert not page.all("span", "badge")
    # the most anomalous one shows where, though it is not flagged
    hints = [path for path in page.all("path") if path.get("id", "").endswith("-hint")]
    assert [hint["id"] for hint in hints] == ["image-1-hint"]
    points = np.array(re.findall(r"(\d+) (\d+)", hints[0]["d"]), dtype=float)
    assert (points.max(axis=0) + points.min(axis=0)) / 2 == pytest.approx([512.5, 196.9], abs=6)


def test_an_image_to_look_at(tmp_path: Path, make_run: RunMaker) -> None:
    run = make_run([f"{k}.png" for k in range(3)], threshold=None)
    verdicts = np.array(["clear", "look", "clear"])
    threshold = replace(run.threshold, verdicts=verdicts, p_values=np.array([0.5, 0.04, 0.5]))
    page = report(tmp_path / "report.html", replace(run, threshold=threshold))
    assert [card["data-verdict"] for card in page.cards] == ["clear", "look", "clear"]
    assert len(page.all("span", "look")) == 1
    hints = [path["id"] for path in page.all("path") if path.get("id", "").endswith("-hint")]
    assert hints == ["image-1-hint", "image-2-hint"]
    words = " ".join(" ".join(text for _, text in page.texts).split())
    for word in ("1 to look at", "p 0.04", "Look 1"):
        assert word in words


def test_names_break_after_separators_alone() -> None:
    assert html._breakable("line 2/part_0001-b.png") == (
        "line <wbr>2/<wbr>part_<wbr>0001-<wbr>b.<wbr>png"
    )
    assert html._breakable("<b>&_") == "&lt;b&gt;&amp;_"
