"""Chromium without a window and without a network, for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A Selenium driver; the test is skipped where Chromium or its driver is not installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and chromedriver are not installed (Debian: chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        window.implicitly_wait(10)
        yield window
    finally:
        window.quit()


def hidden(window: Any) -> list[str]:
    """Sides on which the report's content begins outside of what can be scrolled to."""
    return window.execute_script(
        """const frame = document.querySelector('.overflow-auto.justify-center');
        frame.scrollTo(0, 0);
        const seen = frame.getBoundingClientRect();
        const content = frame.firstElementChild.getBoundingClientRect();
        return [['top', content.top < seen.top - 1], ['left', content.left < seen.left - 1]]
            .filter(side => side[1]).map(side => side[0]);"""
    )
