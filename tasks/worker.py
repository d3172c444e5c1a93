"""The worker: one process pinned to one device. Built once, at the start of the process."""

import os
import threading
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

import msgspec
import structlog

from app import devices
from app.errors import TokenyardError, UnavailableError
from app.kernel import Kernel
from app.loads import PLACING
from app.logs import later
from app.registry import Card, Holding
from tasks import meters
from tasks.budget import Budget
from tasks.celeryevents import send_gathered
from tasks.devices import hold_device, pin
from tasks.ears import Ears
from tasks.garage import Garage
from tasks.gauge import Gauge
from tasks.lease import Lease
from tasks.life import Departure, begin_life, end_life
from tasks.loader import Loader
from tasks.opener import Opener, files_of
from tasks.runner import Runner
from tasks.watchdog import Watchdog

log = structlog.get_logger(__name__)

#: How often a worker looks whether a model is preloaded, in seconds.
PRELOAD_POLL = 1.0
#: How often a worker's card follows the jobs that come and leave, in seconds.
TELL_USE = 0.5


class Worker:
    """A life on a device: its engines, its lease and its jobs."""

    def __init__(self, kernel: Kernel, node: str, celery: Any) -> None:
        self.kernel = kernel
        self.node = node
        self.device = devices.find(kernel.settings.device)
        self._hold = hold_device(self.device, kernel.settings)
        pin(self.device)
        self._stopping = threading.Event()
        self._used = threading.Event()
        self._gauge = Gauge(self.device)
        self._ears = Ears(celery, node)
        self.life = begin_life(kernel, node)
        self.garage = Garage(consume=self._ears.consume, cease=self._ears.cease)
        self.budget = Budget(kernel.settings, self._gauge.memory, gpu=self.device.is_gpu, peers=self._peers)
        opener = Opener(kernel, node, self.garage, self.budget, tell=self._announce_soon)
        self.loader = Loader(kernel, node, self.garage, opener)
        self.runner = Runner(kernel, self.garage, self.life, node)
        self.garage.on_change = self.loader.on_change = self.runner.on_change = self._announce_soon
        self.garage.on_use = self._used.set
        self.garage.on_death = self.loader.load
        self.garage.waiting = kernel.store.waiting_models
        self.lease = Lease(
            kernel,
            self.life,
            progress=self.runner.progress,
            ask_end=self.runner.ask_end,
            announce=self._renewed,
        )
        self.runner.on_first = self.lease.wake
        self._watchdog = Watchdog(kernel.bus, self.garage, self.runner)
        self._departure = Departure(self._leave)

    def start(self) -> None:
        """Called when Celery listens: shows itself, and asks for the work that waits."""
        self._departure.prepare()
        self._announce_soon()
        self.lease.start()
        self.garage.start()
        self.loader.start()
        threading.Thread(target=self._tell_use, name="card", daemon=True).start()
        with later("not_caught_up"):  # the sweep does it
            self._take_waiting()
        if self.kernel.settings.preload_models:
            threading.Thread(target=self._preload, name="preload", daemon=True).start()

    def _take_waiting(self) -> None:
        """Loads at once what falls to this worker: it may not hear control messages yet."""
        for model in self.kernel.store.waiting_models():
            card = self.kernel.loads.choose(model)
            if card is not None and card.node == self.node:
                self.loader.load(model)

    def _preload(self) -> None:
        """Loads the models of PRELOAD_MODELS that no worker has, each on one of them."""
        for name in self.kernel.settings.preload_models:
            while not self._stopping.is_set() and not self._is_preloaded(name):
                self._stopping.wait(PRELOAD_POLL)

    def _is_preloaded(self, name: str) -> bool:
        """Whether a worker has it, or now loads it. False: another one may be about to, or the broker is away."""
        try:
            model = self.kernel.catalog.resolve(name)
            card = self.kernel.loads.choose(model)
            if card is None or self.kernel.loads.cooldown(model) is not None:
                return True
            if card.node != self.node or not self.kernel.registry.reserve(model, PLACING):
                return False
        except UnavailableError:
            return False
        self.loader.load(model)
        return True

    def unload(self, model: str, *, force: bool = False) -> None:
        """Ends a model, or its load. Jobs that run finish first; with `force` they go back to the queue."""
        self.cancel_load(model)
        if self.garage.drain(model) is not None and force:
            self.runner.hand_back(model)

    def cancel_load(self, model: str) -> None:
        """Ends the load of a model."""
        self._aside(self.loader.cancel, model)

    def renew(self, model: str) -> None:
        """Loads a model anew, after the jobs that run, where its files are others by now."""
        self._aside(self._renew, model)

    def _renew(self, model: str) -> None:
        bay = self.garage.find(model)
        try:
            if bay is not None and bay.files != files_of(self.kernel.catalog.get(model)):
                self.loader.reload(model)
        except TokenyardError as error:
            log.warning("not_renewed", model=model, reason=error.message)

    @staticmethod
    def _aside(work: Callable[[str], object], model: str) -> None:
        """On a thread of its own: who calls is Celery's consumer, which everything else waits for."""
        threading.Thread(target=work, args=(model,), name=f"order-{model}", daemon=True).start()

    def keep(self, model: str, seconds: float, *, pinned: bool) -> None:
        """Says how long a model stays without work."""
        self.garage.keep(model, seconds, pinned=pinned)
        self._announce_soon()

    def stop(self) -> None:
        """Hands every job back; what is queued goes to others, or to the next life. A signal's handler calls it."""
        self._stopping.set()
        self._departure.begin()

    def _leave(self) -> None:
        self.lease.stop()
        send_gathered()
        sent = self.runner.hand_back_all()
        end_life(self.kernel, self.node, self.life, sent)
        for bay in self.garage.bays():
            self.kernel.dispatcher.release(bay.model)

    def close(self) -> None:
        """After the last task: gives back the engines and the device."""
        self._departure.finish()
        self.loader.close()
        self.garage.close()
        self._hold.close()

    def _renewed(self) -> None:
        self.announce()
        self._publish()
        self._watchdog.look()

    def _publish(self) -> None:
        """What was measured, and whether memory runs short."""
        bays = self.garage.bays()
        own = meters.text((bay.model, bay.pump.engine.info, bay.pump.tokens()) for bay in bays)
        reports = [(bay.model, bay.pump.report) for bay in bays if bay.pump.report]
        self.kernel.registry.publish(self.node, [("", own), *reports])
        self._gauge.warn_when_full()

    def announce(self) -> None:
        """Writes this worker's card. Raises UnavailableError."""
        self.kernel.registry.announce(self._card())
        self.kernel.registry.forget()
        self._ears.mend(self.garage)

    def _card(self) -> Card:
        settings, gpu, bays = self.kernel.settings, self.device.is_gpu, self.garage.bays()
        held = sum(bay.size for bay in bays)
        memory = self.budget.memory([held])
        return Card(
            node=self.node,
            device=settings.device,
            host=settings.node,
            pid=os.getpid(),
            life=self.life,
            holdings=tuple(self._shown(bay.holding()) for bay in bays),
            loading=self.loader.loading(),
            cache_limit=settings.max_cache_models,
            memory_total=memory.total,
            memory_free=memory.free,
            utilization=self._gauge.reading.utilization,
            temperature=self._gauge.reading.temperature,
            torch_version=_version("torch"),
            cuda_available=gpu,
            gpu_memory_allocated_mb=round(held / 1e6, 1) if gpu else 0.0,
            gpu_memory_reserved_mb=round((memory.total - memory.free) / 1e6, 1) if gpu else 0.0,
        )

    def _peers(self) -> int:
        """How many workers share this one's memory: all CPU workers of a host do."""
        try:
            cards = self.kernel.registry.workers()
        except UnavailableError:
            return 1
        host = self.kernel.settings.node
        return 1 if self.device.is_gpu else sum(card.host == host and card.device.startswith("cpu") for card in cards)

    def _shown(self, holding: Holding) -> Holding:
        """While a job is alone here, there is no slot for others."""
        return msgspec.structs.replace(holding, slots=0) if self.runner.gate.closed else holding

    def _announce_soon(self) -> None:
        if self._stopping.is_set():
            return
        with later("not_announced"):  # the next renewal does it
            self.announce()

    def _tell_use(self) -> None:
        """Shows jobs that came and left, at most so often."""
        while not self._stopping.wait(TELL_USE):
            self._used.wait()
            self._used.clear()
            self._announce_soon()


@cache  # each card tells it
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
