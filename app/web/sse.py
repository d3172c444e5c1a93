"""Server-sent events: the frames, and the response that carries them."""

from collections.abc import Generator, Iterator
from typing import Any

from flask import Response

from app.web.bodies import encode
from app.web.client import Client, of_request
from app.web.errors import Words, worded

#: A comment, which every client skips: it keeps proxies from closing a quiet connection.
HEARTBEAT = ": heartbeat\n\n"


def frame(data: dict[str, Any], *, seq: int | None = None, event: str | None = None) -> str:
    """One event. `seq` becomes its id, from which a client resumes."""
    head = f"id: {seq}\n" if seq is not None else ""
    name = f"event: {event}\n" if event is not None else ""
    return f"{head}{name}data: {encode(data).decode()}\n\n"


def closing(frames: Iterator[str], source: Generator[Any, None, None], mimetype: str = "text/event-stream") -> Response:
    """A response that no cache keeps and no proxy holds back.

    When the client is gone, `source` is closed even if nothing was ever read.

    What is at hand together is written together, so `frames` has something for each event, "" where nothing is to be
    told. What goes wrong under way is the last thing told, in the dialect's words: the status went out long ago.
    """
    plain = mimetype != "text/event-stream"
    response = Response(_together(_telling(frames, worded(), plain=plain), of_request()), mimetype=mimetype)
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.call_on_close(source.close)
    return response


def _telling(frames: Iterator[str], words: Words, *, plain: bool) -> Iterator[str]:
    try:
        yield from frames
    except Exception as error:  # noqa: BLE001 - `words` logs what is no error of ours
        body = encode(words(error)).decode()
        yield f"{body}\n" if plain else f"data: {body}\n\n"


def _together(frames: Iterator[str], client: Client) -> Iterator[str]:
    """A write costs more than all that leads to it: one carries all that is here."""
    text = ""
    for frame in frames:
        text += frame
        if text and not client.more:
            yield text
            text = ""
    if text:
        yield text
