"""The garage: the engines that this worker holds. Loads and evicts them on threads of their own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.errors import Failure, TokenyardError, UnavailableError
from app.jobs import model_queue
from app.kernel import Kernel
from app.models import Model
from app.registry import Holding
from inference.errors import LoadError
from inference.protocol import Spec
from inference.remote import RemoteEngine
from tasks.pump import Pump

log = structlog.get_logger(__name__)

#: The engine for each format of model, and how many requests it runs at once.
ENGINES = {"gguf": ("llamacpp", 16), "scripted": ("scripted", 64)}
#: How often a load looks whether an engine became idle, in seconds.
IDLE_POLL = 0.1


@dataclass(slots=True)
class Bay:
    """A loaded model."""

    model: str
    pump: Pump
    used: float
    load_ns: int
    loaded_at: float

    def waited_ns(self, created_at: float) -> int:
        """How much of the load a job that was created then has waited for."""
        return max(0, min(self.load_ns, int((self.loaded_at - created_at) * 1e9)))

    def holding(self) -> Holding:
        """What the registry shows of it."""
        info = self.pump.engine.info
        return Holding(self.model, info.engine, info.slots, len(self.pump.runs), self.load_ns, info.context)


class Garage:
    """At most `max_cache_models` engines; the least recently used idle one makes room."""

    def __init__(self, kernel: Kernel, node: str, consume: Callable[[str], None], cease: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._node = node
        self._consume = consume
        self._cease = cease
        self._bays: dict[str, Bay] = {}
        self._loading: dict[str, None] = {}
        self._lock = threading.Lock()
        self._one_load = threading.Lock()
        self._closed = False
        self.on_change: Callable[[], None] = lambda: None
        self.failures: dict[str, str] = {}

    def bay(self, model: str) -> Bay | None:
        """A loaded model, now used."""
        with self._lock:
            bay = self._bays.get(model)
            if bay is not None:
                bay.used = time.monotonic()
            return bay

    def bays(self) -> list[Bay]:
        """All of them."""
        with self._lock:
            return list(self._bays.values())

    def loading(self) -> tuple[str, ...]:
        """The models on their way in."""
        with self._lock:
            return tuple(self._loading)

    def load(self, model: str) -> None:
        """Begins to load a model, unless it is here or on its way."""
        with self._lock:
            if self._closed or model in self._bays or model in self._loading:
                return
            self._loading[model] = None
        threading.Thread(target=self._load, args=(model,), name=f"load-{model}", daemon=True).start()

    def _load(self, model: str) -> None:
        self.on_change()
        try:
            with self._one_load:
                self._make_room()
                bay = self._open(model)
            with self._lock:
                self._bays[model] = bay
                del self._loading[model]
            self.failures.pop(model, None)
            self._consume(model_queue(model))
            self.on_change()
            self._kernel.dispatcher.release(model)
        except LoadError as error:
            self._failed(model, Failure(error.code, error.message))
        except TokenyardError as error:
            self._failed(model, Failure(error.code, error.message))
        finally:
            with self._lock:
                self._loading.pop(model, None)

    def _open(self, model: str) -> Bay:
        row = self._kernel.catalog.get(model)
        started = time.monotonic_ns()
        log.info("loading", model=model, engine=_engine(row)[0])
        engine = RemoteEngine.load(self._spec(row), self._kernel.settings.model_load_timeout)
        load_ns = time.monotonic_ns() - started
        log.info("loaded", model=model, seconds=round(load_ns / 1e9, 2), slots=engine.info.slots)
        pump = Pump(engine, self._kernel.bus, self._node, on_death=lambda: self._died(model))
        return Bay(model, pump, time.monotonic(), load_ns, loaded_at=time.time())

    def _spec(self, row: Model) -> Spec:
        settings = self._kernel.settings
        engine, slots = _engine(row)
        if row.path and not Path(row.path).exists():
            raise LoadError(
                "bad_model", f"The files of model '{row.name}' are gone. Pull it again, or import it again."
            )
        return Spec(
            engine=engine,
            path=row.path or None,
            slots=settings.worker_slots or slots,
            options={"gpu_layers": settings.gpu_layers} if engine == "llamacpp" and settings.gpu_layers >= 0 else {},
        )

    def _make_room(self) -> None:
        """Evicts until a further model fits. Waits while every engine is at work."""
        while len(self.bays()) >= self._kernel.settings.max_cache_models:
            idle = [bay for bay in self.bays() if not bay.pump.runs]
            if idle:
                self.evict(min(idle, key=lambda bay: bay.used).model)
            else:
                time.sleep(IDLE_POLL)

    def evict(self, model: str) -> None:
        """Ends a model's engine. Returns when its memory is given back."""
        with self._lock:
            bay = self._bays.pop(model, None)
        if bay is None:
            return
        self._cease(model_queue(model))
        self.on_change()
        bay.pump.engine.close()
        log.info("evicted", model=model)

    def _died(self, model: str) -> None:
        """The engine is gone, by itself or because it was evicted; in the first case its jobs need it again."""
        with self._lock:
            bay = None if self._closed else self._bays.pop(model, None)
        if bay is not None:
            self._cease(model_queue(model))
            bay.pump.engine.close()
            self.on_change()
            self.load(model)

    def _failed(self, model: str, failure: Failure) -> None:
        """Fails what waits for a model that cannot be loaded here, so that nobody waits for nothing."""
        log.error("load_failed", model=model, code=failure.code, reason=failure.message)
        with self._lock:
            self._loading.pop(model, None)
        self.failures[model] = failure.message
        self.on_change()
        try:
            self._kernel.dispatcher.close_streams(self._kernel.store.fail_waiting(model, failure))
        except UnavailableError:
            log.warning("waiting_not_failed", model=model)  # the next sweep places the model again

    def close(self) -> None:
        """Ends every engine."""
        with self._lock:
            self._closed = True
            bays, self._bays = list(self._bays.values()), {}
        for bay in bays:
            bay.pump.engine.close()


def _engine(row: Model) -> tuple[str, int]:
    if row.format not in ENGINES:
        raise LoadError(
            "backend_missing",
            f"Model '{row.name}' is {row.format}, which needs vLLM or transformers; neither is installed here. "
            "Take a GGUF form of it, which llama.cpp serves.",
        )
    return ENGINES[row.format]
