"""How slowly a request may arrive. A client that sends a byte a second would else keep its place for ever (slowloris).

Gunicorn's gevent worker bounds the wait for a request and its headers together, by `keepalive`, and a body not at all.
Here each request's bytes have one allowance: GRACE, and a second more for each RATE bytes that came. Only waiting for
the client is counted, so a server that is slow to read is nobody's fault.
"""

import errno
import time
from typing import Any

from gunicorn import http, util
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

from app.errors import SlowRequestError

#: Seconds that a request's bytes may be waited for, whatever its size: a connection that stalls comes back within.
GRACE = 15.0
#: Bytes that buy a second more: 64 kbit/s, which takes 200 MB in seven hours and 2 MB in four minutes.
RATE = 8 * 1024


class Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads one connection."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.begin()

    def begin(self) -> None:
        """From here on it is another request. What is at hand is its beginning."""
        self._got = len(self.buf.getbuffer())
        self._waited = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes. Raises SlowRequestError."""
        # A connection that is idle waits for its next request as long as `keepalive` says.
        data: bytes = self._in_time(size_hint) if self._got else super().chunk(size_hint)
        self._got += len(data)
        return data

    def _in_time(self, size_hint: int | None) -> bytes:
        left = GRACE + self._got / RATE - self._waited
        began = time.monotonic()
        self.sock.settimeout(max(left, 0.001))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError:
            raise SlowRequestError from None
        finally:
            self._waited += time.monotonic() - began
            self.sock.settimeout(None)
        return data


class Arriving(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request whose headers come in time."""

    def __init__(self, cfg: Any, unreader: Unreader, peer_addr: Any, req_number: int = 1) -> None:
        unreader.begin()
        try:
            super().__init__(cfg, unreader, peer_addr, req_number)
        except SlowRequestError as error:
            util.write_error(unreader.sock, 408, "Request Timeout", error.message)
            raise ConnectionResetError(errno.ECONNRESET, "too slow") from error  # gunicorn's word for: just close it


class Parser(RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """The requests of one connection."""

    mesg_class = Arriving

    def __init__(self, cfg: Any, source: Any, source_addr: Any) -> None:
        super().__init__(cfg, source, source_addr)
        self.unreader = Unreader(source)

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """What nobody read of a body. False: the connection is to be closed."""
        try:
            return bool(super().finish_body(deadline, max_bytes))
        except SlowRequestError:
            return False


def _parser(cfg: Any, source: Any, source_addr: Any, http2_connection: bool = False) -> Parser:
    del http2_connection  # which is off
    return Parser(cfg, source, source_addr)


def hold() -> None:
    """Holds all that gunicorn reads in this process to it."""
    http.get_parser = _parser
