"""Server-sent events: the frames, and the response that carries them."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response

_encoder = msgspec.json.Encoder()

#: A comment, which every client skips: it keeps proxies from closing a quiet connection.
HEARTBEAT = ": heartbeat\n\n"


def frame(data: dict[str, Any], *, seq: int | None = None, event: str | None = None) -> str:
    """One event. `seq` becomes its id, from which a client resumes."""
    head = f"id: {seq}\n" if seq is not None else ""
    name = f"event: {event}\n" if event is not None else ""
    return f"{head}{name}data: {_encoder.encode(data).decode()}\n\n"


def respond(frames: Iterable[str], mimetype: str = "text/event-stream") -> Response:
    """A response that no cache keeps and no proxy holds back."""
    response = Response(iter(frames), mimetype=mimetype)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def closing(frames: Iterator[str], source: Generator[Any, None, None], mimetype: str = "text/event-stream") -> Response:
    """As `respond`; when the client is gone, `source` is closed even if nothing was ever read."""
    response = respond(frames, mimetype)
    response.call_on_close(source.close)
    return response
