"""The connection behind a request: whether anybody is still there and may be, and an end to one that takes nothing."""

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from flask import g, request
from gevent import monkey

from app.errors import KeyEndedError
from app.events import Usage
from app.web.access import gate

#: What the kernel may hold for one reader, in bytes. More would only hide for how long it has not read.
BUFFER = 64 * 1024


class Client:
    """One connection. Where no server of ours holds it, it never goes away."""

    def __init__(self, sock: Any = None, still: Callable[[], bool] = lambda: True) -> None:
        self._sock = sock
        self._still = still
        #: Whether further events are at hand: what is to be written now may wait, and go with theirs.
        self.more = False
        #: Tokens of the answers that it followed to their ends: in, and out.
        self.tokens = (0, 0)
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)

    def is_gone(self) -> bool:
        """Whether the other side has closed the connection."""
        if self._sock is None:
            return False
        # gevent's own poll would let other greenlets run, and knows no RDHUP.
        poll = monkey.get_original("select", "poll")()
        try:
            poll.register(self._sock.fileno(), select.POLLRDHUP)
        except (OSError, ValueError):
            return True
        return bool(poll.poll(0))

    def check(self) -> None:
        """Raises KeyEndedError once its key, or its login, is over."""
        if not self._still():
            raise KeyEndedError

    def was_told(self, usage: Usage) -> None:
        """Notes what an answer that it has whole took."""
        self.tokens = (self.tokens[0] + usage.prompt_tokens, self.tokens[1] + usage.completion_tokens)

    def cut(self) -> None:
        """Ends the connection; whoever waits to send on it is told at once."""
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


def of_request() -> Client:
    """The client of the request at hand: one, however often it is asked for."""
    if "client" not in g:
        g.client = Client(request.environ.get("gunicorn.socket"), gate().watch())
    return cast(Client, g.client)
