"""Chunks of an answer on their way to OpenAI's clients: server-sent events that end with [DONE]."""

from collections.abc import Iterator
from typing import Any

from app.events import Ended, Token
from app.web.bodies import encode
from app.web.openai import shapes
from app.web.sse import frame

DONE = "data: [DONE]\n\n"


class Frame:
    """Chunks that differ in their one choice alone: what they share is encoded once a stream."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = f'data: {encode(head)[:-1].decode()},"choices":['

    def of(self, choice: dict[str, Any]) -> str:
        """One event."""
        return f"{self._head}{encode(choice).decode()}]}}\n\n"


def problem(ended: Ended, timeout: float) -> str | None:
    """The event that tells of a failure; None after a success."""
    told = shapes.problem(ended, timeout)
    return frame(told[0]) if told else None


class Finishes:
    """Which choices have ended, and why: of several, each one's last token tells; of one, the job's end does."""

    def __init__(self, choices: int) -> None:
        self._open = set(range(choices))

    def of(self, event: Token) -> str | None:
        """The reason that a token tells."""
        if event.finish:
            self._open.discard(event.choice)
            return event.finish
        return None

    def rest(self, ended: Ended) -> Iterator[tuple[int, str]]:
        """The choices that the job's end ends."""
        return ((choice, ended.done_reason) for choice in sorted(self._open))
