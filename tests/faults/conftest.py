"""One yard for all fault tests; each of them leaves it whole, which the next one relies on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, warm_up
from tests.faults.yard import Yard


class Shared:
    """The yard, built anew where a failed test left it broken."""

    def __init__(self, folder: Path, starters: dict[str, str]) -> None:
        self._folder = folder
        self._starters = starters
        self._yard: Yard | None = None
        self._built = 0

    def get(self) -> Yard:
        if self._yard is not None and not self._recovered(self._yard):
            self.close()
        if self._yard is None:
            self._built += 1
            folder = self._folder / f"yard{self._built}"
            folder.mkdir()
            self._yard = Yard(folder, **self._starters)
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
def shared_yard(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str]) -> Iterator[Shared]:
    shared = Shared(tmp_path_factory.mktemp("faults"), starters)
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
