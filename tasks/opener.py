"""The opener: from a model's row to a loaded engine. Makes room, and tries the engines of the choice in their order."""

import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from app.catalog import SCRIPTED
from app.errors import UnavailableError
from app.kernel import Kernel
from app.registry import Loading
from app.stock import Model
from inference.errors import LoadError
from inference.protocol import Engine, OnProgress, Option, Spec
from inference.remote import Ender, RemoteEngine
from tasks.bay import Bay
from tasks.budget import Budget, Memory, need, too_large
from tasks.choice import NAMES, Candidate, Choice, choose
from tasks.garage import Garage
from tasks.pump import Pump

log = structlog.get_logger(__name__)

#: How often a load that waits for room looks again, in seconds.
POLL = 0.2
#: How often others are told how far a load is, in seconds.
TELL = 1.0
#: Failures that the same files will meet again on the same engine: it is passed over the next time.
LASTING = frozenset({"unsupported_model"})
#: Of paths from the root on, what leads to their last part. A URL's are none, nor are those that a verb stands before.
_FOLDERS = re.compile(r"(?<![A-Z] )(?<![\w:/.])(?:/[^\s/'\":;,()]+)+/")


StartEngine = Callable[[Spec, float, OnProgress, Ender], Engine]


class ElsewhereError(Exception):
    """The model's files are on other nodes; this one's puller has to bring them first."""

    def __init__(self, row: Model) -> None:
        super().__init__(row.name)
        self.row = row


class NoRoomError(Exception):
    """A gentle order found no place without ending what is wanted."""


@dataclass(slots=True, eq=False)
class Order:
    """A load on its way."""

    model: str
    #: Only where nothing that is wanted has to make room.
    gentle: bool = False
    #: Seconds that the model is to stay without work; None: the row's or the setting's.
    keep_alive: float | None = None
    ender: Ender = field(default_factory=Ender)
    backend: str = ""
    fraction: float = 0.0
    #: Seconds since the epoch.
    since: float = field(default_factory=time.time)
    #: The models that went to make room, in that order.
    evicted: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises LoadError where somebody has cancelled it."""
        if self.ender.reason is not None:
            raise LoadError(self.ender.reason, f"The load of model '{self.model}' was cancelled.")

    def loading(self) -> Loading:
        """What the registry shows of it."""
        return Loading(self.model, self.backend, self.fraction, self.since)


class Learned(NamedTuple):
    """Which engine took a model after others had refused it for good."""

    files: tuple[str, ...]
    engine: str
    why: str


class Opener:
    """Opens what a loader orders. `garage` holds what was opened before."""

    def __init__(
        self,
        kernel: Kernel,
        node: str,
        garage: Garage,
        budget: Budget,
        *,
        tell: Callable[[], None],
        start: StartEngine = RemoteEngine.load,
    ) -> None:
        """`tell` is called after each change that other processes should hear of; `start` loads an engine."""
        self._kernel = kernel
        self._node = node
        self._garage = garage
        self._budget = budget
        self._learned: dict[str, Learned] = {}
        self._told_at = 0.0
        self._tell = tell
        self._start_engine = start

    def forget(self, model: str) -> None:
        """Tries every engine again the next time."""
        self._learned.pop(model, None)

    def open(self, order: Order) -> Bay:
        """A loaded model. Raises LoadError, TokenyardError, NoRoomError, ElsewhereError."""
        row = self._kernel.catalog.get(order.model)
        if not row.path and row.format != SCRIPTED:
            raise ElsewhereError(row)
        choice = self._shortened(row, choose(row, self._kernel.settings))
        refusals: list[tuple[Candidate, LoadError]] = []
        for candidate in choice.candidates:
            try:
                bay = self._try(order, row, candidate)
            except LoadError as error:
                order.check()
                log.warning("not_taken", model=order.model, engine=candidate.engine, code=error.code, why=error.message)
                if error.code == "bad_engine_options":
                    raise _for_clients(error, row) from None  # another engine would not do what was asked for either
                refusals.append((candidate, _for_clients(error, row)))
            else:
                notes = [note for note in (bay.pump.engine.info.note, candidate.note) if note]
                bay.why = "; ".join([*choice.passed_over, *map(_refusal, refusals), *notes])
                self._learn(row, bay, refusals)
                return bay
        raise _together(refusals)

    def _try(self, order: Order, row: Model, candidate: Candidate) -> Bay:
        """One engine. What does not fit after all gets the places of idle models, one by one."""
        while True:
            memory = self._make_room(order, row, candidate)
            try:
                return self._start(order, row, candidate, memory)
            except LoadError as error:
                order.check()
                wanted = self._wanted() if order.gentle else ()
                if error.code != "out_of_memory" or not self._evict_one(order, wanted):
                    raise

    def _start(self, order: Order, row: Model, candidate: Candidate, memory: Memory) -> Bay:
        wanted = need(row, candidate, gpu=self._budget.gpu)
        spec = Spec(
            engine=candidate.engine,
            path=row.path or None,
            slots=candidate.slots,
            context=candidate.context,
            options=self._options(candidate),
            quantize=candidate.quantize,
            memory=self._budget.grant(wanted, memory),
        )
        order.backend, order.fraction = candidate.engine, 0.0
        self._tell()
        log.info("loading", model=row.name, engine=spec.engine, quantize=spec.quantize, memory=spec.memory)
        started = time.monotonic_ns()
        timeout = self._kernel.settings.model_load_timeout
        engine = self._start_engine(spec, timeout, lambda fraction: self._progress(order, fraction), order.ender)
        load_ns = time.monotonic_ns() - started
        info = engine.info
        log.info("loaded", model=row.name, engine=info.engine, seconds=round(load_ns / 1e9, 2), slots=info.slots)
        return self._bay(order, row, engine, load_ns, info.weights_bytes + info.cache_bytes or wanted.good)

    def _options(self, candidate: Candidate) -> dict[str, Option]:
        options = candidate.options | ({"on_gpu": True} if self._budget.gpu else {})
        if draft := options.get("speculative_model"):
            options["speculative_model"] = self._kernel.catalog.get(str(draft)).path
            if not options["speculative_model"]:  # an engine would take that for none, and guess in another way
                raise LoadError(
                    "bad_engine_options",
                    f"The files of the draft '{draft}' are on another node. Pull it on this one.",
                )
        return options

    def _bay(self, order: Order, row: Model, engine: Engine, load_ns: int, size: int) -> Bay:
        pump = Pump(engine, self._kernel.bus, self._node, row.name)
        bay = Bay(row.name, pump, load_ns, loaded_at=time.time(), size=size, files=files_of(row))
        bay.keep_alive = self._kernel.settings.keep_alive
        asked = row.keep_alive if order.keep_alive is None else order.keep_alive
        if asked is not None:
            bay.keep(asked)
        return bay

    def _progress(self, order: Order, fraction: float) -> None:
        order.fraction = fraction
        if time.monotonic() - self._told_at >= TELL:
            self._told_at = time.monotonic()
            self._tell()

    def _make_room(self, order: Order, row: Model, candidate: Candidate) -> Memory:
        """Waits for a place and for memory; idle models go for them, then those whose turn is over.

        Raises LoadError where the model would not fit alone, NoRoomError.
        """
        wanted = need(row, candidate, gpu=self._budget.gpu)
        while True:
            order.check()
            bays = self._garage.bays()
            now = self._budget.memory(bay.size for bay in bays)
            if now.total and wanted.least > now.free + sum(bay.size for bay in bays):
                raise too_large(row, candidate, wanted, now)
            has_place = len(bays) < self._kernel.settings.max_cache_models
            if has_place and (wanted.good <= now.free or not now.total):
                return now
            if self._evict_one(order, self._wanted()):
                continue
            if has_place and (wanted.least <= now.free or not bays):
                return now
            self._await_turn(order, bays)

    def _evict_one(self, order: Order, wanted: Collection[str]) -> bool:
        """Ends the engine that is longest without work. False: there is none that a gentle order may end."""
        bay = self._garage.idlest(wanted)
        if bay is None or (order.gentle and bay.pinned):
            return False
        if self._garage.evict_idle(bay):
            order.evicted.append(bay.model)
        return True

    def _await_turn(self, order: Order, bays: list[Bay]) -> None:
        if order.gentle:
            raise NoRoomError
        if not any(bay.leaving for bay in bays):
            bay = self._garage.next_in_turn()
            if bay is not None:
                log.info("turn_over", model=bay.model, next=order.model)
                self._garage.drain(bay.model)
        self._garage.wait_change(POLL)

    def _wanted(self) -> Collection[str]:
        try:
            return self._garage.waiting()
        except UnavailableError:
            return [bay.model for bay in self._garage.bays()]  # nobody can tell; nothing goes before its turn

    def _shortened(self, row: Model, choice: Choice) -> Choice:
        """Without the engines that have refused these very files for good."""
        learned = self._learned.get(row.name)
        rest = [candidate.engine for candidate in choice.candidates]
        if learned is None or learned.files != files_of(row) or learned.engine not in rest:
            return choice
        first = rest.index(learned.engine)
        return Choice(choice.candidates[first:], [learned.why] if first else choice.passed_over)

    def _learn(self, row: Model, bay: Bay, refusals: list[tuple[Candidate, LoadError]]) -> None:
        if refusals and all(error.code in LASTING for _, error in refusals):
            self._learned[row.name] = Learned(files_of(row), bay.pump.engine.info.engine, bay.why)


def files_of(row: Model) -> tuple[str, ...]:
    """What tells a model's files, and what is to become of them, from those of another pull."""
    return row.path, str(row.size_bytes), row.quantize, json.dumps(row.engine_options or {}, sort_keys=True)


def _for_clients(error: LoadError, row: Model) -> LoadError:
    """The same without folders of this machine, which are nobody's business who asks over the network; the log has it
    whole."""
    message = error.message.replace(row.path, f"model '{row.name}'") if row.path else error.message
    return LoadError(error.code, _FOLDERS.sub("", message))


def _refusal(refused: tuple[Candidate, LoadError]) -> str:
    candidate, error = refused
    return f"{NAMES[candidate.engine]}: {error.message}"


def _together(refusals: list[tuple[Candidate, LoadError]]) -> LoadError:
    """One error for all engines that were tried; the want of memory is the one that an operator can mend."""
    codes = [error.code for _, error in refusals]
    code = "out_of_memory" if "out_of_memory" in codes else codes[-1]
    message = refusals[0][1].message if len(refusals) == 1 else " ".join(map(_refusal, refusals))
    return LoadError(code, message)
