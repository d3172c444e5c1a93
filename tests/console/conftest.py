"""A real Chromium, from the system's packages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.stack import Stack

#: Without these it asks hosts of its maker's at every start.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the PATH; on Debian and Ubuntu: apt install chromium")
    expect.set_options(timeout=20_000)  # milliseconds: a busy machine takes its time
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield made
        made.close()


def is_ours(said: ConsoleMessage) -> bool:
    """An error of a script; Chromium itself tells each answer that is no 2xx."""
    theirs = ("Failed to load resource", "WebSocket connection to")
    return said.type == "error" and not said.text.startswith(theirs)


@contextmanager
def opened(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page of a stack, with nothing in its storage; a script error fails the test."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1200, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if is_ours(said) else None)
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page of the shared stack."""
    with opened(browser, stack) as page:
        yield page
