"""Downloads in this process: the child without its process, so that a test takes milliseconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tenacity
from huggingface_hub import constants

from inference.download import patience
from inference.download.errors import DownloadError, explain
from inference.download.order import Order
from inference.download.run import Done, download
from inference.download.teller import Teller
from tests.hub import FakeHub
from tests.needs import require


class Fetched(NamedTuple):
    """How a download ended, and what it told on the way."""

    lines: list[dict[str, Any]]
    done: Done | None
    error: DownloadError | None

    @property
    def folder(self) -> Path:
        assert self.error is None, self.error
        assert self.done is not None
        return self.done.path

    @property
    def counts(self) -> list[int]:
        return [line["downloaded"] for line in self.lines]


Fetch = Callable[..., Fetched]


@pytest.fixture(autouse=True)
def _hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own leads away from the fake hub, and no pause lasts."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(patience, "_own", tenacity.wait_none())


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Runs one download into this test's cache. What no engine here would take is refused, so there has to be one."""
    require("transformers", "torch")

    def run(hub: FakeHub | str, repo: str, **order: Any) -> Fetched:
        endpoint = hub if isinstance(hub, str) else hub.url
        done, error = None, None
        whole = Order(**({"repo": repo, "endpoint": endpoint, "cache": str(tmp_path / "hub")} | order))
        with (tmp_path / "lines").open("w+b", buffering=0) as file:
            try:
                done = download(whole, Teller(file.fileno()))
            except Exception as caught:  # noqa: BLE001 - as the child does
                error = explain(caught, whole)
            file.seek(0)
            return Fetched([json.loads(line) for line in file], done, error)

    return run
