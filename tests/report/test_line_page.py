"""The page of a watch: what it holds, and in headless Chromium how it reads and renews itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import DESKTOP, PHONE, View, needs_browser, started_browser
from PIL import Image

from musc_fast.report import pictures
from musc_fast.report.heatmap import Scale
from musc_fast.report.line_page import (
    MARK,
    STALE,
    UNREADABLE,
    WORDS,
    LineState,
    ShownImage,
    write_line_page,
)
from musc_fast.report.timeline import Point, timeline

EVIL = "<img src=x onerror=window.hacked=1>.png"
HALL = (1920, 1080)


def image(name: str, verdict: str, score: float | None = 0.25, note: str = "") -> ShownImage:
    found = np.zeros((8, 12), dtype=np.float32)
    found[2:4, 3:5] = 1.0
    photo = heat = ""
    if score is not None:
        photo = pictures.data_uri(pictures.photo(Image.new("RGB", (60, 40), (0, 90, 200)), 9000))
        heat = pictures.data_uri(pictures.heat(found, Scale(0.0, 1.0)))
    threshold = None if score is None else 0.5
    return ShownImage(name, verdict, score, threshold, time.time(), note, photo, heat, 1.5)


def state_of(*images: ShownImage, ended: str = "") -> LineState:
    points = [Point(0.2 + 0.01 * k, 0.5 if k else None, "clear", time.time()) for k in range(30)]
    flagged = [each for each in images if each.verdict == "flagged"]
    counts = dict.fromkeys(WORDS, 7)
    return LineState("/line", images, flagged, points, counts, "the bank holds 9 images", ended)


def test_the_timeline_has_a_mark_an_image_and_the_threshold() -> None:
    verdicts = ["clear", "look", "flagged", "clear"]
    points = [Point(0.1 * k, 0.25 if k else None, v, 1e9 + k) for k, v in enumerate(verdicts)]
    svg = timeline(points)
    assert svg.count('<circle class="clear"') == 2
    assert svg.count('<path class="look"') == svg.count('<rect class="flagged"') == 1
    line = re.search(r'class="cut" d="M([\d.]+),([\d.]+)H', svg)
    assert line is not None
    circles = re.findall(r'<circle class="clear" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(line[1]) > float(circles[0][0])  # no threshold was known for the first image
    assert float(circles[1][1]) < float(line[2]) < float(circles[0][1])  # 0.3 above, 0.0 below
    assert 'class="cut"' not in timeline([Point(0.3, float("inf"), "clear", 1e9)])
    assert "the last 0 images" in timeline([])


def test_a_page_without_images_waits(tmp_path: Path) -> None:
    write_line_page(tmp_path / "page.html", state_of())
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "WAITING" in text
    assert "No image has been scored yet" in text
    assert MARK in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    with started_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def still(page: Path, age: float = 0.0) -> Path:
    """A copy of the page that does not renew itself, as if written `age` seconds ago."""
    text = page.read_text(encoding="utf-8")
    assert text.count('<meta http-equiv="refresh" content="2">') == 1
    text = text.replace('<meta http-equiv="refresh" content="2">', "")
    written = re.compile(r'data-written="(\d+)"')
    text = written.sub(lambda m: f'data-written="{int(m[1]) - round(1000 * age)}"', text)
    copy = page.with_name("still.html")
    copy.write_text(text, encoding="utf-8")
    return copy


def contrast(view: View, css: str) -> float:
    """The contrast of the text of an element with its ground (WCAG 2)."""
    found = view.run(
        f"const s = getComputedStyle(document.querySelector('{css}'));"
        "return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).map(Number))"
    )
    levels = []
    for colour in found:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (part / 255 for part in colour)
        ]
        levels.append(float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05)
    return max(levels) / min(levels)


@needs_browser
@pytest.mark.parametrize("verdict", [*WORDS])
def test_the_verdict_is_read_across_a_hall(browser: Any, tmp_path: Path, verdict: str) -> None:
    score = None if verdict == UNREADABLE else 0.25
    page = tmp_path / "page.html"
    write_line_page(page, state_of(image(EVIL, verdict, score), image("b.png", "flagged")))
    view = View(browser, still(page), HALL)
    word = view.one("#banner .verdict")
    assert word.text == WORDS[verdict]
    assert word.size["height"] > 0.15 * HALL[1]
    assert view.one("#banner").size["width"] > 0.98 * HALL[0]  # but for the scroll bar
    assert contrast(view, "#banner") > 4.5
    assert browser.title.startswith(WORDS[verdict])
    assert EVIL in view.one("#banner .of").text
    assert view.run("return window.hacked") is None
    assert view.requests() == 0
    assert browser.get_log("browser") == []
    large = view.all(".pair.large")
    assert len(large) == (0 if verdict == UNREADABLE else 2)
    for pair in large:
        assert pair.size["width"] / pair.size["height"] == pytest.approx(1.5, abs=0.02)
    cards = view.all(".recent .card")
    assert [card.find_element("css selector", ".word").text for card in cards] == [
        WORDS[verdict],
        "FLAGGED",
    ]
    for size in (HALL, DESKTOP, PHONE):
        assert View(browser, still(page), size).overflow() <= 0


@needs_browser
def test_verdicts_have_a_ground_and_a_sign_of_their_own(browser: Any, tmp_path: Path) -> None:
    seen = set()
    for verdict in WORDS:
        write_line_page(tmp_path / "page.html", state_of(image("a.png", verdict)))
        view = View(browser, still(tmp_path / "page.html"), HALL)
        ground = view.run("return getComputedStyle(document.querySelector('#banner')).background")
        seen.add((ground, view.one("#banner .sign").get_attribute("innerHTML").strip()))
    assert len({ground for ground, _ in seen}) == len({sign for _, sign in seen}) == len(WORDS)


@needs_browser
def test_the_page_renews_itself(browser: Any, tmp_path: Path) -> None:
    page, state = tmp_path / "page.html", state_of(image("a.png", "clear"))
    write_line_page(page, state)
    view = View(browser, page, HALL)
    assert view.one("#banner .verdict").text == "CLEAR"
    write_line_page(page, replace(state, images=[image("b.png", "flagged"), *state.images]))
    end = time.monotonic() + 30
    while not browser.title.startswith("FLAGGED"):
        assert time.monotonic() < end
        time.sleep(0.1)
    browser.get("about:blank")


@needs_browser
def test_a_page_that_is_not_kept_up_hides_its_verdict(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_line_page(page, state_of(image("a.png", "clear")))
    view = View(browser, still(page, age=STALE - 30), HALL)
    assert view.one("#banner").is_displayed()
    assert not view.one("#old").is_displayed()
    view = View(browser, still(page, age=STALE + 1), HALL)
    assert not view.one("#banner").is_displayed()
    assert view.one("#old .verdict").text == browser.title == "NOT UPDATED"
    write_line_page(page, state_of(image("a.png", "clear"), ended="By an error: no room."))
    view = View(browser, still(page, age=STALE + 1), HALL)
    assert view.one("#banner .verdict").text == "WATCH ENDED"
    assert "no room" in view.one("#banner .of").text
    assert not view.one("#old").is_displayed()
