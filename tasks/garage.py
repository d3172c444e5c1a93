"""The garage: the engines that this worker holds. Who is let in to use them, and when one goes.

It loads nothing (tasks.loader does), and it ends an engine only when no job uses it.
"""

import threading
import time
from collections.abc import Callable, Collection

import structlog

from app.errors import UnavailableError
from app.jobs import model_queue
from tasks import meters
from tasks.bay import Bay

log = structlog.get_logger(__name__)

#: A model that has work keeps its place at least so long against others that wait for one, in seconds, and at least
#: TURN_LOADS times as long as its load took: else models that take turns would do nothing but load.
TURN = 10.0
TURN_LOADS = 2.0
#: How long a model outstays its time while its queue still has work for it, in seconds.
GRACE = 1.0


class Garage:
    """Bays by model. Ending an engine takes seconds, so nothing is locked meanwhile; its bay counts until it ended."""

    def __init__(self, *, consume: Callable[[str], None], cease: Callable[[str], None]) -> None:
        self._consume = consume
        self._cease = cease
        self._bays: dict[str, Bay] = {}
        self._changed = threading.Condition()
        self._closed = False
        #: Called after each change that other processes should hear of.
        self.on_change: Callable[[], None] = lambda: None
        #: Called when a job came or left.
        self.on_use: Callable[[], None] = lambda: None
        #: Called with a model whose engine died under its jobs.
        self.on_death: Callable[[str], None] = lambda _: None
        #: The models that have work in the queue. May raise UnavailableError.
        self.waiting: Callable[[], Collection[str]] = lambda: ()

    def start(self) -> None:
        """Begins to let go of what stays without work."""
        threading.Thread(target=self._watch, name="garage", daemon=True).start()

    def park(self, bay: Bay) -> None:
        """Takes in a loaded model: from now on its jobs come here."""
        with self._changed:
            closed = self._closed
            if not closed:
                self._bays[bay.model] = bay
                bay.since = bay.used = time.monotonic()
                self._changed.notify_all()
        if closed:
            bay.pump.engine.close()
            return
        bay.pump.begin(on_death=lambda: self._died(bay))
        self._consume(model_queue(bay.model))

    def enter(self, model: str, keep_alive: float | None = None) -> Bay | None:
        """A loaded model for one job, which leaves it again. None: it is not here, or on its way out."""
        with self._changed:
            bay = self._bays.get(model)
            if bay is None or bay.leaving:
                return None
            bay.users += 1
            bay.used = time.monotonic()
            if keep_alive is not None:
                bay.keep(keep_alive)
        self.on_use()
        return bay

    def leave(self, bay: Bay) -> None:
        """A job has left it."""
        with self._changed:
            bay.users -= 1
            bay.used = time.monotonic()
            if not bay.users:  # nobody waits for less
                self._changed.notify_all()
        self.on_use()

    def find(self, model: str) -> Bay | None:
        """A bay, also one on its way out."""
        with self._changed:
            return self._bays.get(model)

    def bays(self) -> list[Bay]:
        """All of them."""
        with self._changed:
            return list(self._bays.values())

    def keep(self, model: str, seconds: float, *, pinned: bool = True) -> None:
        """Sets how long a model stays without work; one that is not here stays away."""
        with self._changed:
            if model in self._bays:
                self._bays[model].keep(seconds, pinned=pinned)
                self._changed.notify_all()

    def drain(self, model: str) -> Bay | None:
        """Lets no further job in; the model goes when those that use it have left. None: it is not here."""
        with self._changed:
            bay = self._bays.get(model)
            if bay is None:
                return None
            news = not bay.leaving
            bay.leaving = True
            self._changed.notify_all()
        if news:
            self._cease(model_queue(model))
            self.on_change()
        return bay

    def idlest(self, waiting: Collection[str]) -> Bay | None:
        """The model that was longest without work, of those that nobody uses or waits for; a pinned one last."""
        with self._changed:
            idle = [b for b in self._bays.values() if not (b.users or b.leaving or b.model in waiting)]
            return min(idle, key=lambda bay: (bay.pinned, bay.used), default=None)

    def next_in_turn(self) -> Bay | None:
        """The model whose turn was longest ago, of those that had one and must let another in, although it has work."""
        with self._changed:
            had = [b for b in self._bays.values() if not b.leaving and time.monotonic() - b.since > _turn(b)]
            return min(had, key=lambda bay: (bay.pinned, bay.since), default=None)

    def evict_idle(self, bay: Bay) -> bool:
        """Ends an engine that nobody uses; returns when its memory is given back. False: somebody does."""
        with self._changed:
            if bay.users:
                return False
            bay.leaving = True
        self._end(bay)
        return True

    def wait_change(self, seconds: float) -> None:
        """Waits until a model's last job leaves or a model goes, so long at most."""
        with self._changed:
            self._changed.wait(seconds)

    def _died(self, bay: Bay) -> None:
        """The engine's steps are over: because we end it, or by itself. Its jobs need it again in the second case."""
        with self._changed:
            if bay.ending or self._bays.get(bay.model) is not bay:
                return
            bay.leaving = True
            wanted = bay.users > 0
        self._end(bay)
        if wanted:
            self.on_death(bay.model)

    def close(self) -> None:
        """Ends every engine, at once."""
        with self._changed:
            self._closed = True
            bays = list(self._bays.values())
            self._changed.notify_all()
        enders = [threading.Thread(target=self._end, args=(bay,), name=f"end-{bay.model}") for bay in bays]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def _end(self, bay: Bay) -> None:
        """Ends an engine. Whoever comes second waits for the first."""
        with self._changed:
            first, bay.ending = not bay.ending, True
        if not first:
            bay.closed.wait()
            return
        self._cease(model_queue(bay.model))
        try:
            bay.pump.engine.close()
            meters.EVICTIONS.labels(bay.model).inc()
            log.info("evicted", model=bay.model)
        except TimeoutError as error:
            log.error("not_evicted", model=bay.model, reason=str(error))  # a driver holds it; we go on without
        finally:
            with self._changed:
                if self._bays.get(bay.model) is bay:
                    del self._bays[bay.model]
                bay.closed.set()
                self._changed.notify_all()
            self.on_change()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                over = self._over()
                if not over:
                    self._changed.wait(self._patience())
                    continue
            for bay in over:
                try:
                    self._let_go(bay)
                except Exception:  # without this thread nothing would leave any more
                    log.exception("not_let_go", model=bay.model)
                    self.wait_change(GRACE)

    def _over(self) -> list[Bay]:
        """Those to end now: emptied on their way out, or without work for too long."""
        return [bay for bay in self._bays.values() if not (bay.users or bay.ending) and (bay.leaving or _rested(bay))]

    def _patience(self) -> float | None:
        rests = [rest for bay in self._bays.values() if (rest := bay.rest()) is not None]
        return max(0.0, min(rests)) if rests else None

    def _let_go(self, bay: Bay) -> None:
        if not bay.leaving and self._is_wanted(bay.model):
            with self._changed:
                bay.used = time.monotonic() - bay.keep_alive + GRACE
            return
        if self.evict_idle(bay):
            log.info("unloaded", model=bay.model, keep_alive=bay.keep_alive)

    def _is_wanted(self, model: str) -> bool:
        try:
            return model in self.waiting()
        except UnavailableError:
            return True  # nobody can tell; it stays for the moment


def _rested(bay: Bay) -> bool:
    rest = bay.rest()
    return rest is not None and rest <= 0


def _turn(bay: Bay) -> float:
    return max(TURN, TURN_LOADS * bay.load_ns / 1e9)
