"""Loading and unloading by requests with nothing to answer."""

import time

from app.errors import UnavailableError
from app.kernel import Kernel
from app.web.dialect import TIMEOUT

#: Between looks at the workers' cards, in seconds.
PAUSE = 0.2


def settle(kernel: Kernel, model: str, keep_alive: float | None) -> str:
    """Unloads a model that is to be kept for no time, or loads it and waits until it is there; tells which.

    Raises ModelCooldownError where no worker can load it, UnavailableError.
    """
    if keep_alive == 0:
        kernel.orders.unload(model)
        return "unload"
    kernel.orders.order(model, keep_alive=keep_alive)
    deadline = time.monotonic() + TIMEOUT
    while not _is_held(kernel, model):
        kernel.loads.check(model)
        if time.monotonic() >= deadline:
            raise UnavailableError("not_loaded", f"model '{model}' is still loading after {TIMEOUT} s")
        time.sleep(PAUSE)
    return "load"


def _is_held(kernel: Kernel, model: str) -> bool:
    return any(card.held(model) is not None for card in kernel.registry.workers())
