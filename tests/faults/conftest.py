"""One yard for all fault tests; each of them leaves it whole, which the next one relies on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, run_many, warm_up
from tests.faults.yard import REAL, SCRIPTED, SLOTS, Paced, Yard
from tests.hub import FakeHub, safetensors

#: What can be pulled: large enough to be caught at half over a slow line.
REPOS = {"owner/name": {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": safetensors(2_000_000)}}


class Shared:
    """The yard, built anew where a failed test left it broken."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self._yard: Yard | None = None
        self._built = 0

    def get(self) -> Yard:
        if self._yard is not None and not self._recovered(self._yard):
            self.close()
        if self._yard is None:
            self._built += 1
            folder = self._folder / f"yard{self._built}"
            folder.mkdir()
            self._yard = Yard(folder, **self._settings)
            warm_up(self._yard)
        return self._yard

    @staticmethod
    def _recovered(yard: Yard) -> bool:
        try:
            yard.ready(30)
        except AssertionError:
            return False
        return True

    def close(self) -> None:
        if self._yard is not None:
            self._yard.close()
            self._yard = None


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    with FakeHub(REPOS) as hub:
        yield hub


@pytest.fixture(scope="session")
def shared_yard(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str], hub: FakeHub) -> Iterator[Shared]:
    pulls = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "NO_PROXY": "*", "PULL_DISK_RESERVE": "0"}
    shared = Shared(tmp_path_factory.mktemp("faults"), starters | pulls)
    yield shared
    shared.close()


@pytest.fixture
def yard(shared_yard: Shared) -> Yard:
    return shared_yard.get()


@pytest.fixture
def ledger(yard: Yard) -> Iterator[Ledger]:
    ledger = Ledger(yard)
    yield ledger
    for follower in ledger.followers:
        follower.leave()


@pytest.fixture(params=["scripted", pytest.param("smollm2", marks=pytest.mark.faults)])
def model(request: pytest.FixtureRequest, yard: Yard) -> Iterator[Paced]:
    """Whose answers break: the scripted engine's, or llama.cpp's, which is in both workers' memory meanwhile.

    Ask for it before the ledger, which counts every job from its own beginning.
    """
    if request.param == "scripted":
        yield SCRIPTED
        return
    usual = yard.usual
    with yard.holding_model("smollm2"):
        run_many(yard, 2 * SLOTS, model="smollm2", max_tokens=40, ignore_eos=True)
        yield REAL
        yard.usual = usual
