"""The examples, as they are: over a network that breaks, and in a browser that reloads."""

import asyncio
import functools
import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.faults.proxy import Proxy
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


def whole(count: int) -> str:
    return " ".join(f"t{number}" for number in range(count))


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_client_loses_nothing_when_its_connection_breaks(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    proxy = Proxy(stack.port)
    chat: Any = module(EXAMPLES / "chat.py")
    chat.URL = f"ws://127.0.0.1:{proxy.port}/ws"
    cuts: list[int] = []

    class Slow(chat.Answer):
        def frame(self, ref: int) -> dict[str, Any]:
            frame: dict[str, Any] = super().frame(ref)
            slowly = {"max_tokens": 60, "scripted_tokens_per_second": 60}
            return frame | slowly if frame["type"] == "generate" else frame

        def take(self, frame: dict[str, Any]) -> None:
            super().take(frame)
            if self.seq >= 10 * (len(cuts) + 1) and len(cuts) < 2:
                cuts.append(self.seq)
                proxy.cut()
                proxy.heal()

    answers = [Slow("scripted", "one"), Slow("scripted", "two"), chat.Answer("nobody", "three")]
    try:
        # On a thread of its own: the browser of the other tests has an event loop on this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(asyncio.wait_for(chat.ask(answers), 60))).result()
    finally:
        proxy.close()
    assert len(cuts) == 2
    assert [answer.text for answer in answers[:2]] == [whole(60)] * 2
    assert "nobody" in answers[2].ended


@pytest.fixture
def address() -> Iterator[str]:
    """The examples, served by the standard library: another origin on loopback."""
    handler = functools.partial(_Quiet, directory=str(EXAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_the_page_goes_on_after_a_reload(browser: Browser, stack: Stack, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/chat.html?server=127.0.0.1:{stack.port}&model=scripted")
    page.get_by_label("Prompt").fill("count")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("log")).to_contain_text("t3")
    page.reload()
    expect(page.get_by_role("log")).to_have_text(whole(512))
    expect(page.get_by_role("status")).to_have_text("512 tokens.")
    context.close()
    assert errors == []
