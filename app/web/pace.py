"""Pace: what a reader that is slow gets, so that it costs nobody else anything."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from app.errors import SlowConsumerError
from app.events import Event, Token
from app.web.client import Client
from app.web.hub import Follower

#: A reader that takes so long for one event is slow, in seconds: it gets what gathers meanwhile as one.
PRESSURE = 1.0
#: One that takes so long is too slow: its stream ends, and it may resume when it reads again.
TOO_SLOW = 15.0


def paced(
    batches: Iterable[Sequence[Event | None]], follower: Follower, client: Client, *, merge: bool = True
) -> Iterator[Event | None]:
    """The events of all batches, one by one; merged where their reader is slow. Raises SlowConsumerError.

    `client.more` tells of each event whether another is at hand.
    """
    pressed = False
    for batch in batches:
        waiting = deque(merged(batch) if pressed else batch)
        pressed = False
        while waiting:
            began = follower.busy_since = time.monotonic()
            event = waiting.popleft()
            client.more = bool(waiting)
            yield event
            follower.busy_since = None
            took = time.monotonic() - began
            if took > TOO_SLOW:
                raise SlowConsumerError
            if took > PRESSURE and merge:
                pressed = True
                waiting = deque(merged(waiting))


def merged(events: Iterable[Event | None]) -> list[Event | None]:
    """The same text in fewer events: tokens of one choice that follow on each other become one, with the last `seq`."""
    result: list[Event | None] = []
    run: list[Token] = []
    for event in events:
        if run and not (isinstance(event, Token) and event.choice == run[-1].choice and not run[-1].finish):
            result.append(_joined(run))
            run = []
        if isinstance(event, Token):
            run.append(event)
        else:
            result.append(event)
    return [*result, _joined(run)] if run else result


def _joined(run: list[Token]) -> Token:
    last = run[-1]
    return Token(
        last.seq,
        "".join(token.text for token in run),
        sum(token.count for token in run),
        ids=tuple(i for token in run for i in token.ids),
        choice=last.choice,
        finish=last.finish,
        logprobs=tuple(entry for token in run for entry in token.logprobs),
    )
