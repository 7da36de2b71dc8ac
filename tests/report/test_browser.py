"""The report in headless Chromium: no error, no request, and everything a reader clicks."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musc_fast.report.html import Evaluation, write_report
from musc_fast.report.scored_batch import ScoredBatch

pytest.importorskip("selenium", reason="selenium is not installed")
from browsers import DESKTOP, PHONE, View, needs_browser, started_browser
from selenium.webdriver.common.keys import Keys

pytestmark = needs_browser
NAMES = ["<img src=x onerror=window.hacked=1>.png", "line 2/b7.png", "Öse.png", "a10.png", "a2.png"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Report(View):
    """A report that has been opened."""

    def shown(self) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll('.card')].filter(c => c.checkVisibility())"
            ".map(c => c.dataset.name)"
        )


@pytest.fixture
def page(tmp_path: Path, make_run: Callable[..., ScoredBatch]) -> Path:
    run = make_run(NAMES)  # peaks 0.9, 0.74, 0.58, 0.42, 0.26; the first three are flagged
    labels = np.array([True, True, False, False, True])
    masks = [np.eye(40, dtype=bool), None, None, None, None]
    path = tmp_path / "report.html"
    write_report(path, run, evaluation=Evaluation(labels, masks))
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_opens_clean_at_every_size(
    browser: Any, page: Path, size: tuple[int, int], dark: bool
) -> None:
    view = Report(browser, page, size, dark)
    assert browser.get_log("browser") == []
    assert view.run("return window.hacked") is None
    assert view.requests() == 0
    assert view.run("return innerWidth") == size[0]
    assert view.overflow() <= 0
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert view.run(broken) == 0
    view.one(".panes").click()
    assert view.overflow() <= 0
    assert browser.get_log("browser") == []


def test_dark_by_system_and_by_button(browser: Any, page: Path) -> None:
    light = Report(browser, page, DESKTOP).ground()
    view = Report(browser, page, DESKTOP, dark=True)
    dark = view.ground()

    def sum_of(colour: str) -> int:
        return sum(int(part) for part in colour[4:-1].split(","))

    assert sum_of(dark) < 150 < 600 < sum_of(light)
    view.one("#theme").click()
    assert view.ground() == light
    view.one("#theme").click()
    assert view.ground() == dark


def test_filter_search_and_order(browser: Any, page: Path) -> None:
    view = Report(browser, page, DESKTOP)
    assert view.shown() == NAMES
    view.one("[value=flagged] + span").click()
    assert view.shown() == NAMES[:3]
    assert view.one("#count").text == "3 of 5 images"
    search = view.one("#search")
    search.send_keys("LINE")
    assert view.shown() == ["line 2/b7.png"]
    view.one("[value=all] + span").click()
    search.clear()
    search.send_keys("öse")
    assert view.shown() == ["Öse.png"]
    search.clear()
    search.send_keys("nothing like it")
    assert view.shown() == []
    assert view.one("#nothing").is_displayed()
    search.clear()
    search.send_keys("a")
    view.run(
        "const s = document.querySelector('#order'); s.value = 'name';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert view.shown() == [NAMES[0], "a2.png", "a10.png"]
    assert not view.one("#nothing").is_displayed()


def test_enlarge_step_and_close(browser: Any, page: Path) -> None:
    view = Report(browser, page, DESKTOP)
    view.one("[value=flagged] + span").click()
    view.all(".panes")[1].click()
    name = view.one("#viewer-name")
    assert name.text == "line 2/b7.png"
    assert "Rank 2 of 5 · flagged" in view.one("#viewer-facts").text
    assert view.run("return document.activeElement.id") == "close"
    view.press(Keys.ARROW_RIGHT)
    assert name.text == "Öse.png"
    view.press(Keys.ARROW_RIGHT)
    assert name.text == NAMES[0]  # round, over the flagged ones alone
    view.press(Keys.ARROW_LEFT)
    assert name.text == "Öse.png"
    cells = [cell.text for cell in view.all("#viewer-regions td")]
    assert cells[0] == "1"
    assert cells[4] == "0.580"
    widths = [pane.size["width"] for pane in view.all("#stage .pane")]
    assert min(widths) > 500  # enlarged, side by side
    view.press(Keys.ESCAPE)
    assert not view.one("#viewer").is_displayed()
    assert view.run("return document.activeElement.closest('.card').dataset.name") == "Öse.png"


def test_slider_and_outlines(browser: Any, page: Path) -> None:
    view = Report(browser, page, PHONE)
    view.one(".panes").click()
    assert view.one("[value=slider]").is_selected()  # a phone has no room for two
    original, heat = view.all("#stage .pane")
    assert original.rect == heat.rect
    slider = view.one("#cut")
    view.run("document.querySelector('#cut').focus()")
    before = int(slider.get_attribute("value"))
    for _ in range(5):
        view.press(Keys.ARROW_RIGHT)
    assert int(slider.get_attribute("value")) == before + 5
    assert view.one("#viewer-name").text == NAMES[0]  # the arrows moved the slider alone
    clip = "return getComputedStyle(document.querySelector('#stage .overlay')).clipPath"
    assert f"{before + 5}%" in view.run(clip)
    assert view.one("#stage .line").is_displayed()
    view.one("#viewer-marks").click()
    assert not view.one("#stage .line").is_displayed()
    assert not view.one("#marks").is_selected()
    view.one("[value=beside] + span").click()
    original, heat = view.all("#stage .pane")
    assert heat.rect["y"] >= original.rect["y"] + original.rect["height"]  # stacked on a phone


def test_a_miss_opens_its_image(browser: Any, page: Path) -> None:
    view = Report(browser, page, DESKTOP)
    view.all(".misses a")[0].click()
    assert view.one("#viewer-name").text == "a2.png"
    view.press(Keys.ESCAPE)
    assert view.run("return document.activeElement.matches('.misses a')")


def test_a_bar_selects_its_images(browser: Any, page: Path) -> None:
    view = Report(browser, page, DESKTOP)
    bars = view.all(".histogram .bar")
    wanted = bars[0].get_attribute("data-bin")
    bars[0].click()
    in_bin = view.run(
        "return [...document.querySelectorAll('.card')].filter(c => c.dataset.bin === arguments[0])"
        ".map(c => c.dataset.name)".replace("arguments[0]", f"'{wanted}'")
    )
    assert view.shown() == in_bin
    assert 0 < len(in_bin) < len(NAMES)
    assert bars[0].get_attribute("aria-pressed") == "true"
    assert view.one("#bar").text.startswith("Raw score 0.")
    view.one("#bar").click()
    assert view.shown() == NAMES
    view.run("document.querySelectorAll('.histogram .bar')[1].focus()")
    view.press(Keys.ENTER)
    assert 0 < len(view.shown()) < len(NAMES)
    view.press(Keys.ENTER)
    assert view.shown() == NAMES


def test_checks_are_kept_and_saved(browser: Any, page: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    wanted = {"behavior": "allow", "downloadPath": str(saved)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", wanted)
    view = Report(browser, page, DESKTOP)
    assert not view.one("#export").is_enabled()
    view.all("[data-check=defect]")[1].click()
    view.all("[data-check='false alarm']")[0].click()
    view.all("[data-check='false alarm']")[2].click()
    view.all("[data-check='false alarm']")[2].click()  # taken back
    view = Report(browser, page, DESKTOP)  # opened again
    pressed = view.all("[data-check][aria-pressed=true]")
    assert [button.text for button in pressed] == ["false alarm", "defect"]
    assert view.one("#checked").text == "2"
    view.one("#export").click()
    for _ in range(100):
        if (saved / "checks.csv").is_file():
            break
        time.sleep(0.05)
    data = (saved / "checks.csv").read_bytes().decode("utf-8")
    assert "\r" not in data
    rows = list(csv.DictReader(io.StringIO(data, newline="")))
    assert list(rows[0]) == ["path", "raw_score", "rank", "verdict", "checked"]
    assert [row["checked"] for row in rows] == ["false alarm", "defect"]
    assert [Path(row["path"]).name for row in rows] == [NAMES[0], "b7.png"]
    assert float(rows[0]["raw_score"]) == pytest.approx(0.9, abs=0.001)
    assert browser.get_log("browser") == []


def test_names_are_not_broken_in_a_word(browser: Any, tmp_path: Path, make_run: Any) -> None:
    names = [f"metal_plate_defective_side_view_{k}_of_a_long_series.png" for k in range(3)]
    write_report(tmp_path / "report.html", make_run(names))
    view = Report(browser, tmp_path / "report.html", PHONE)
    # every line of a title ends where a separator stands
    lines = view.run(
        """
        const title = document.querySelector('.facts h3');
        const range = document.createRange();
        const tops = [];
        for (const node of title.childNodes) {
          if (node.nodeType !== Node.TEXT_NODE) continue;
          range.selectNodeContents(node);
          tops.push([node.data, range.getClientRects().length]);
        }
        return tops;
        """
    )
    assert "".join(text for text, _ in lines) == names[0]
    assert {count for _, count in lines} == {1}  # no piece lies on two lines
