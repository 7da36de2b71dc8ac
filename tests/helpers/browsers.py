"""Pages in headless Chromium: a browser, and a page opened at a size, in light or dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="chromium and chromedriver (Debian: chromium, chromium-driver) are not installed",
)
DESKTOP, PHONE = (1280, 900), (390, 844)


@contextmanager
def started_browser(profile: Path) -> Iterator[Any]:
    """Yield a browser that keeps its files in `profile`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class View:
    """A page opened at a window size, in light or dark."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int], dark: bool = False) -> None:
        self.browser = browser
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": size == PHONE}
        )
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wanted]})
        browser.get(path.as_uri())

    def one(self, css: str) -> Any:
        return self.all(css)[0]

    def all(self, css: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", css))

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def press(self, key: str) -> None:
        self.browser.switch_to.active_element.send_keys(key)

    def requests(self) -> int:
        """How many requests the page has made."""
        return self.run(
            "return performance.getEntriesByType('resource').filter(e => "
            "!e.name.startsWith('data:')).length"
        )

    def overflow(self) -> int:
        """By how many pixels something reaches beyond the right edge."""
        return self.run(
            "return Math.max(document.documentElement.scrollWidth - innerWidth, ...[...document"
            ".querySelectorAll('body *')].map(e => e.getBoundingClientRect().right - innerWidth))"
        )

    def ground(self) -> str:
        return self.run("return getComputedStyle(document.body).backgroundColor")
