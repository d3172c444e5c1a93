"""One WebSocket's outgoing side: many jobs are followed, and their frames never mix."""

import socket as sockets
import threading
from typing import Any

import structlog
from simple_websocket import ConnectionClosed

from app.errors import InvalidRequestError, TokenyardError
from app.events import Ended, Event, Progress, Token
from app.web.bodies import encode
from app.web.current import Site
from app.web.errors import failure_of, known, request_id, shortened
from app.web.stream import follow
from app.web.views import counts, unusual

log = structlog.get_logger(__name__)

#: Jobs that one socket may follow at once.
MAX_FOLLOWS = 256
#: Seconds that a client may take no bytes before it counts as gone.
STALL = 30.0
#: Bytes of frames that are taken from a client ahead of being dealt with.
INBOX = 1024 * 1024


class _WholeSends:
    """simple-websocket calls `send`, which may write only a part of a frame; and its pings come from another thread."""

    def __init__(self, sock: sockets.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.settimeout(STALL)

    def send(self, data: bytes) -> int:
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Inbox(list[Any]):
    """The frames that wait to be dealt with. Behind so many bytes of them nobody reads the socket, and TCP tells the
    client to wait: it could else fill the memory while one of its frames waits for a database."""

    def __init__(self, frames: list[Any]) -> None:
        super().__init__(frames)
        self._held = sum(map(_cost, frames))
        self._closed = False
        self._changed = threading.Condition()

    def append(self, frame: Any) -> None:
        """Waits for room. A frame that is larger than all the room goes in alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < INBOX or self._closed)
            self._held += _cost(frame)
            super().append(frame)

    def pop(self, index: Any = -1) -> Any:
        """Makes room."""
        with self._changed:
            frame = super().pop(index)
            self._held -= _cost(frame)
            self._changed.notify()
            return frame

    def close(self) -> None:
        """Nobody waits here any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def _cost(frame: str | bytes) -> int:
    return len(frame) + 64  # what an empty one takes


class Socket:
    """A connection, and the jobs that it follows. Frames are sent whole, one at a time."""

    def __init__(self, site: Site, connection: Any) -> None:
        self._site = site
        self._connection = connection
        connection.sock = _WholeSends(connection.sock)
        connection.input_buffer = self._inbox = Inbox(connection.input_buffer)
        self._lock = threading.Lock()
        self._ident = request_id()
        self._follows = 0
        self._closed = False

    def reserve(self) -> None:
        """Raises InvalidRequestError where the socket follows as many jobs as it may."""
        if self._follows >= MAX_FOLLOWS:
            raise InvalidRequestError(f"One socket follows {MAX_FOLLOWS} jobs at most. Open another one.")

    def check_idle(self) -> None:
        """Raises InvalidRequestError while it follows a job: that ends with the key under which it began."""
        if self._follows:
            raise InvalidRequestError(
                "This socket follows jobs under another key already. Open another one.", param="type"
            )

    def send(self, type: str, ref: str | int | None, job_id: str | None, **fields: Any) -> None:
        """Sends one frame. Raises ConnectionClosed."""
        text = encode({"type": type, "ref": ref, "job_id": job_id, **fields}).decode()
        with self._lock:
            if self._closed:
                raise ConnectionClosed()
            try:
                self._connection.send(text)
            except OSError as error:
                self._closed = True
                raise ConnectionClosed() from error

    def fail(
        self, ref: str | int | None, job_id: str | None, code: str, message: str, param: str | None = None, **seq: int
    ) -> None:
        """Sends an error frame."""
        error = {"code": code, "message": shortened(message), "param": param}
        self.send("error", ref, job_id, error=error, **seq)

    def follow(self, ref: str | int | None, job_id: str, after: int, timeout: float) -> None:
        """Sends a job's events, from a thread of their own."""
        self._follows += 1
        threading.Thread(target=self._follow, args=(ref, job_id, after, timeout), name="ws-follow", daemon=True).start()

    def close(self) -> None:
        """Lets every follower go, at its next event or heartbeat."""
        self._closed = True
        self._inbox.close()

    def _follow(self, ref: str | int | None, job_id: str, after: int, timeout: float) -> None:
        try:
            for event in follow(self._site.kernel, self._site.hub, job_id, after):
                if self._closed:
                    return
                if event is not None:
                    self._tell(ref, job_id, event, timeout)
        except ConnectionClosed:
            return
        except Exception as error:  # noqa: BLE001 - the client would wait for ever on a socket that is well
            self._try_fail(ref, job_id, known(error, "follow_failed", request_id=self._ident, job=job_id))
        finally:
            self._follows -= 1

    def _try_fail(self, ref: str | int | None, job_id: str, error: TokenyardError) -> None:
        try:
            self.fail(ref, job_id, error.code, error.message, error.param)
        except ConnectionClosed:
            log.info("socket_gone", job=job_id)

    def _tell(self, ref: str | int | None, job_id: str, event: Event, timeout: float) -> None:
        if isinstance(event, Token):
            self.send("token", ref, job_id, seq=event.seq, text=event.text, **unusual(event))
        elif isinstance(event, Progress):
            self.send("progress", ref, job_id, status=event.state, **event.fields)
        else:
            self._end(ref, job_id, event, timeout)

    def _end(self, ref: str | int | None, job_id: str, ended: Ended, timeout: float) -> None:
        failure = failure_of(ended, timeout)
        if failure is not None:
            self.fail(ref, job_id, failure.code, failure.message, seq=ended.seq)
            return
        self.send("done", ref, job_id, seq=ended.seq, done_reason=ended.done_reason, **counts(ended.usage))
