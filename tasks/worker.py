"""The worker: one process pinned to one device. Built once, at the start of the process."""

import os
from importlib import metadata
from typing import Any

import psutil
import structlog

from app import devices
from app.errors import UnavailableError
from app.kernel import Kernel
from app.registry import Card
from tasks.devices import hold_device, pin
from tasks.garage import Garage
from tasks.lease import Lease
from tasks.runner import Runner

log = structlog.get_logger(__name__)


class Worker:
    """A life on a device: its engines, its lease and its jobs."""

    def __init__(self, kernel: Kernel, node: str, celery: Any) -> None:
        self.kernel = kernel
        self.node = node
        self.device = devices.find(kernel.settings.device)
        self._hold = hold_device(self.device, kernel.settings)
        pin(self.device)
        self._celery = celery
        self.life = begin_life(kernel, node)
        self.garage = Garage(kernel, node, consume=self._consume, cease=self._cease)
        self.runner = Runner(kernel, self.garage, self.life, node)
        self.garage.on_change = self._announce_soon
        self.lease = Lease(
            kernel,
            self.life,
            progress=self.runner.progress,
            ask_end=self.runner.ask_end,
            announce=self.announce,
        )

    def start(self) -> None:
        """Called when Celery listens: shows itself, and asks for the work that waits."""
        self._announce_soon()
        self.lease.start()
        for model in self.kernel.settings.preload_models:
            self.garage.load(model)
        try:
            self._take_waiting()
        except UnavailableError:
            log.warning("not_caught_up")  # the sweep does it

    def _take_waiting(self) -> None:
        """Loads at once what falls to this worker: it may not hear control messages yet."""
        for model in self.kernel.store.waiting_models():
            card = self.kernel.dispatcher.choose(model)
            if card is not None and card.node == self.node:
                self.garage.load(model)

    def stop(self) -> None:
        """Hands every job back and ends every engine; what is queued goes to others, or to the next life."""
        self.runner.hand_back_all()

    def close(self) -> None:
        """After the last task: gives back the engines, the life and the device."""
        self.lease.stop()
        self.garage.close()
        try:
            self.kernel.registry.retire(self.node)
            self.kernel.lives.bury(self.life)
        except UnavailableError:
            log.warning("not_retired")  # the next life on this device declares it dead
        self._hold.close()

    def announce(self) -> None:
        """Writes this worker's card. Raises UnavailableError."""
        settings = self.kernel.settings
        self.kernel.registry.announce(
            Card(
                node=self.node,
                device=self.device.name,
                host=settings.node,
                pid=os.getpid(),
                life=self.life,
                holdings=tuple(bay.holding() for bay in self.garage.bays()),
                loading=self.garage.loading(),
                failures=dict(self.garage.failures),
                cache_limit=settings.max_cache_models,
                torch_version=_version("torch"),
            )
        )
        self.kernel.registry.forget()

    def _announce_soon(self) -> None:
        try:
            self.announce()
        except UnavailableError:
            log.warning("not_announced")  # the next renewal does it

    def _consume(self, queue: str) -> None:
        self._celery.control.add_consumer(queue, destination=[self.node])

    def _cease(self, queue: str) -> None:
        self._celery.control.cancel_consumer(queue, destination=[self.node])


def begin_life(kernel: Kernel, node: str) -> str:
    """Starts a life and ends the earlier ones of this node, whose jobs go back into the queue."""
    process = psutil.Process()
    life, ended = kernel.lives.begin(node, kernel.settings.node, process.pid, process.create_time())
    kernel.dispatcher.close_streams(ended)
    log.info("life_begins", node=node, life=life)
    return life


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
