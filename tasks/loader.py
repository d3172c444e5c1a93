"""The loader: one thread that loads models, one after another, and makes room for each.

A load outlives the request that caused it. Engines are tried in the order of the choice; only when all have failed
has the load.
"""

import threading
from collections import deque
from collections.abc import Callable

import structlog

from app.errors import Failure, TokenyardError, UnavailableError
from app.kernel import Kernel
from app.logs import later
from app.registry import Loading
from app.stock import Model
from inference.errors import LoadError
from tasks import meters
from tasks.garage import Garage
from tasks.opener import ElsewhereError, NoRoomError, Opener, Order

log = structlog.get_logger(__name__)

#: How long an order that cannot be carried out yet waits for its next turn, in seconds.
PAUSE = 0.5
#: Models of these sources can be pulled to a further node under their name.
FROM_HUB = ("pull", "hf-cache")


class Loader:
    """Carries out orders. `garage` holds what was loaded."""

    def __init__(self, kernel: Kernel, node: str, garage: Garage, opener: Opener) -> None:
        self._kernel = kernel
        self._node = node
        self._garage = garage
        self._opener = opener
        self._orders: dict[str, Order] = {}
        self._queue: deque[Order] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        #: Called after each change that other processes should hear of.
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begins to carry out orders."""
        self._thread.start()

    def load(self, model: str, *, gentle: bool = False, keep_alive: float | None = None) -> None:
        """Orders a load, unless the model is here or on its way. `keep_alive`: seconds that it stays without work."""
        bay = self._garage.find(model)
        with self._changed:
            order = self._orders.get(model)
            if order is not None and order.ender.reason is None:
                order.gentle = order.gentle and gentle
                order.keep_alive = order.keep_alive if keep_alive is None else keep_alive
            elif not self._closed and (bay is None or bay.leaving):
                self._orders[model] = Order(model, gentle, keep_alive)
                self._queue.append(self._orders[model])
                self._changed.notify()
            elif bay is not None and keep_alive is not None:
                self._garage.keep(model, keep_alive)
        self.on_change()

    def reload(self, model: str) -> None:
        """Loads a model anew, once the jobs that use it have left it, with every engine in question again."""
        self._opener.forget(model)
        self._garage.drain(model)
        self.load(model)

    def cancel(self, model: str) -> None:
        """Ends the load of a model, if any, wherever it stands; returns when it has ended."""
        with self._changed:
            order = self._orders.get(model)
        if order is not None:
            order.ender.end()

    def loading(self) -> tuple[Loading, ...]:
        """The models on their way in."""
        with self._changed:
            return tuple(order.loading() for order in self._orders.values())

    def close(self) -> None:
        """Ends the load under way and takes no further order."""
        with self._changed:
            self._closed = True
            orders = list(self._orders.values())
            self._changed.notify()
        for order in orders:
            order.ender.end()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (order := self._next()) is not None:
            try:
                self._attend(order)
            except Exception:  # without this thread the worker would load nothing any more
                log.exception("order_failed", model=order.model)
                self._done(order)

    def _attend(self, order: Order) -> None:
        bay = self._garage.find(order.model)
        if bay is not None and bay.leaving:
            self._put_off(order)
        elif bay is not None:
            self._done(order)
        else:
            self._carry_out(order)

    def _next(self) -> Order | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return None if self._closed else self._queue.popleft()

    def _put_off(self, order: Order) -> None:
        """Others go first: the model has yet to leave before it can come anew, or the database is away."""
        if order.ender.reason is not None:
            self._cancelled(order)
            return
        with self._changed:
            self._queue.append(order)
        self._garage.wait_change(PAUSE)

    def _done(self, order: Order) -> None:
        with self._changed:
            if self._orders.get(order.model) is order:  # and not a later one, after this was cancelled
                del self._orders[order.model]
        self.on_change()
        with later("still_reserved", model=order.model):  # for a few seconds
            self._kernel.registry.unreserve(order.model)

    def _carry_out(self, order: Order) -> None:
        try:
            bay = self._opener.open(order)
        except NoRoomError:
            log.info("no_room", model=order.model)
            self._done(order)
        except ElsewhereError as error:
            self._fetch(order, error.row)
        except UnavailableError:
            self._put_off(order)
        except (LoadError, TokenyardError) as error:
            self._ended(order, Failure(error.code, error.message))
        except Exception:
            log.exception("load_crashed", model=order.model)
            text = f"Loading model '{order.model}' failed; the log of worker {self._node} says why."
            self._ended(order, Failure("engine_failed", text))
        else:
            meters.LOADS.labels(order.model, "loaded").inc()
            meters.LOAD_SECONDS.labels(order.model, order.backend).observe(bay.load_ns / 1e9)
            self._garage.park(bay)
            self._done(order)
            self._kernel.dispatcher.release(order.model)

    def _fetch(self, order: Order, row: Model) -> None:
        """Other loads need not wait for the download: at its end, the model is placed again."""
        if row.repo is None or row.source not in FROM_HUB:
            text = (
                f"The files of model '{row.name}' are on another node, and no hub has them. Bind the model to that "
                "node's devices, or import it on this one under the same name."
            )
            self._ended(order, Failure("bad_model", text))
            return
        with later("not_fetched", model=row.name):  # the next sweep places it again
            self._kernel.dispatcher.fetch(row, self._kernel.settings.node)
        self._done(order)

    def _ended(self, order: Order, failure: Failure) -> None:
        for model in reversed(order.evicted):  # what made room for nothing comes back, at nobody's expense
            self.load(model, gentle=True)
        if order.ender.reason == "load_cancelled":
            self._cancelled(order)
        else:
            self._failed(order, failure)

    def _cancelled(self, order: Order) -> None:
        """Somebody does not want it loaded; who waits for it is told. A worker that stops tells nobody."""
        self._done(order)
        meters.LOADS.labels(order.model, "cancelled").inc()
        log.info("load_cancelled", model=order.model)
        if not self._closed:
            text = f"The load of model '{order.model}' was cancelled. Send the request again to load it anew."
            self._tell_waiting(order.model, Failure("load_cancelled", text))

    def _tell_waiting(self, model: str, failure: Failure) -> None:
        with later("waiting_not_failed", model=model):  # the next sweep places the model again
            if not self._kernel.loads.is_placed(model):
                self._kernel.dispatcher.fail_waiting(model, failure)

    def _failed(self, order: Order, failure: Failure) -> None:
        """Another worker may have more luck; else what waits for the model fails."""
        meters.LOADS.labels(order.model, failure.code).inc()
        log.error("load_failed", model=order.model, code=failure.code, reason=failure.message)
        with later("failure_not_noted", model=order.model):  # it is tried again, and fails again
            self._kernel.loads.failed(order.model, self._node, failure)
        self._done(order)
        with later("waiting_not_failed", model=order.model):  # the next sweep does it
            self._kernel.dispatcher.settle(order.model)
