"""Chromium as it is installed, for pages that a person looks at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# no sandbox: tests may run as root; the rest keeps it from asking the network for anything of its own
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium(without: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Iterator[Browser]:
    """The browser, with other flags where a page draws by WebGL."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*(flag for flag in FLAGS if flag not in without), *more]
        )
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, **options) -> tuple[Page, list[str]]:
    """A page, and what it asked for and complained about: nothing, if all is well."""
    page = browser.new_context(**options).new_page()
    faults: list[str] = []
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("data:", "file:")) else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.goto(path.as_uri())
    return page, faults
