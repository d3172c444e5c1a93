"""A worker's parts on a real database and broker, with engines that run in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.kernel import Kernel
from app.registry import Card
from app.settings import Settings
from inference.errors import LoadError
from inference.protocol import Engine, OnProgress, Spec
from inference.remote import Ender
from inference.scripted import ScriptedEngine
from tasks.budget import Budget, Memory
from tasks.garage import Garage
from tasks.loader import Loader
from tasks.opener import Opener
from tests.unit.web.conftest import Broker, broker, kernel_of, settings_of, shared_broker  # noqa: F401 - fixtures

NODE = "cpu.0@test"


class Engines:
    """Loads scripted engines under any name, as RemoteEngine does; refuses where a test says so."""

    def __init__(self) -> None:
        self.specs: list[Spec] = []
        self.refusals: dict[str, LoadError] = {}
        self.open: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self, spec: Spec, timeout: float, on_progress: OnProgress, ender: Ender) -> Engine:
        self.specs.append(spec)
        on_progress(0.5)
        while not self.gate.wait(0.01):
            if ender.reason is not None:
                raise LoadError(ender.reason, "cancelled")
        refusal = self.refusals.get(spec.engine) or self.refusals.get(f"{spec.engine} {spec.path}")
        if refusal is not None:
            raise refusal
        return Opened(spec, self.open)


class Opened(ScriptedEngine):
    """Is in the list of open ones until it is closed."""

    def __init__(self, spec: Spec, open_ones: list[str]) -> None:
        super().__init__(spec, lambda fraction: None)
        self._name = Path(str(spec.path)).name
        self._open = open_ones
        self._open.append(self._name)

    def close(self) -> None:
        super().close()
        if self._name in self._open:
            self._open.remove(self._name)


class Yard:
    """A worker without Celery: a garage, a loader, and what they tell others."""

    def __init__(self, kernel: Kernel, engines: Engines, memory: Callable[[], Memory] | None = None) -> None:
        self.kernel = kernel
        self.consumed: set[str] = set()
        self.garage = Garage(consume=self.consumed.add, cease=self.consumed.discard)
        self.budget = Budget(kernel.settings, memory or (lambda: Memory(0, 0)))
        opener = Opener(kernel, NODE, self.garage, self.budget, tell=self.announce, start=engines.load)
        self.loader = Loader(kernel, NODE, self.garage, opener)
        self.garage.on_change = self.loader.on_change = self.announce
        self.garage.on_death = self.loader.load
        self.garage.waiting = kernel.store.waiting_models
        self.garage.start()
        self.loader.start()
        self.announce()

    def announce(self) -> None:
        held = tuple(bay.holding() for bay in self.garage.bays())
        card = Card(
            NODE, "cpu.0", "test", 1, "life", held, self.loader.loading(), self.kernel.settings.max_cache_models
        )
        self.kernel.registry.announce(card)
        self.kernel.registry.forget()

    def holds(self) -> list[str]:
        return sorted(bay.model for bay in self.garage.bays())

    def load(self, *models: str) -> None:
        """Loads models one after another."""
        for model in models:
            self.loader.load(model)
            until(lambda model=model: self.garage.find(model) is not None and not self.loader.loading())

    def close(self) -> None:
        self.loader.close()
        self.garage.close()
        until(lambda: not any(thread.name == "garage" for thread in threading.enumerate()))  # it tells others too


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for a condition; fails when it does not come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def settings(tmp_path: Path, broker: Broker) -> Settings:  # noqa: F811
    return settings_of(tmp_path, broker.url)


@pytest.fixture
def kernel(settings: Settings, tmp_path: Path) -> Iterator[Kernel]:
    kernel = kernel_of(settings)
    for name in "abcd":
        (tmp_path / name).mkdir()
        kernel.catalog.add(name, tmp_path / name, format="safetensors", size_bytes=1000, source="import")
    yield kernel
    kernel.close()


@pytest.fixture
def yard(kernel: Kernel, engines: Engines) -> Iterator[Yard]:
    yard = Yard(kernel, engines)
    yield yard
    yard.close()
