"""Trying again: what passes by itself, how long to wait for it, and when to give up."""

from collections.abc import Callable
from typing import TypeVar

import httpx2
import structlog
import tenacity
import urllib3
from huggingface_hub.errors import OfflineModeIsEnabled

from inference.download.errors import refusal_of

log = structlog.get_logger()

#: The longest pause that a hub may ask for with Retry-After, in seconds: its rate limits last five minutes.
LONGEST_ASKED = 300
#: The longest pause of our own, in seconds.
LONGEST = 30.0
#: However often: nothing is tried for longer than this without coming on, in seconds.
ALTOGETHER = 1200.0
_PASSING = frozenset({408, 425, 429})
_LASTING = (urllib3.exceptions.SSLError, urllib3.exceptions.LocationValueError, OfflineModeIsEnabled)

T = TypeVar("T")


def patiently(call: Callable[[], T], *, tries: int) -> T:
    """Calls until it goes well, `tries` times at most. Raises the last error, and at once what will not pass."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        stop=tenacity.stop_after_attempt(tries) | tenacity.stop_after_delay(ALTOGETHER),
        wait=_wait,
        before_sleep=_note,
        reraise=True,
    )
    return retrying(call)


def is_passing(error: BaseException) -> bool:
    """Whether the same call may go well a moment later."""
    if (refusal := refusal_of(error)) is not None:
        return refusal.status >= 500 or refusal.status in _PASSING
    if isinstance(error, _LASTING):
        return False
    return isinstance(error, httpx2.TransportError | urllib3.exceptions.HTTPError | ConnectionError)


_own = tenacity.wait_exponential_jitter(multiplier=0.5, max=LONGEST)


def _wait(state: tenacity.RetryCallState) -> float:
    """Longer each time, and at least what the hub asked for."""
    refusal = refusal_of(state.outcome.exception() if state.outcome is not None else None)
    asked = asked_seconds(refusal.retry_after) if refusal is not None else 0.0
    return max(_own(state), asked)


def asked_seconds(retry_after: str) -> float:
    """Retry-After in seconds: it holds a number of them, or a date (RFC 9110, section 10.2.3). Bounded."""
    try:
        return urllib3.Retry(retry_after_max=LONGEST_ASKED).parse_retry_after(retry_after)
    except (urllib3.exceptions.InvalidHeader, ValueError):
        return 0.0


def _note(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    pause = state.next_action.sleep if state.next_action is not None else 0.0
    log.warning("hub.stumbled", reason=type(error).__name__, tries=state.attempt_number, pause=round(pause, 1))
