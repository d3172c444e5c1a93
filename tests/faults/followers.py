"""Clients that follow a job and keep what they got. One that loses its connection resumes behind the last event."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import websocket

from tests.stack import sse

#: Seconds without a byte after which a connection counts as dead; a server that lives sends a heartbeat each second.
DEAD = 10.0
#: The same of a WebSocket, which is pinged every 25 s.
QUIET = 30.0
#: How a pull ends well; it has no reason of its own.
PULLED = "pulled"
#: All ways to end well.
WELL = ("stop", "length", PULLED)


class Told(NamedTuple):
    """One event: its number, its text, and of the last one how the job ended: its reason, or its error's code."""

    seq: int
    text: str
    end: str = ""


class Transcript:
    """What a client was told of a job, from behind the event `after`."""

    def __init__(self, job_id: str, after: int = 0) -> None:
        self.job_id = job_id
        self.after = after
        self.told: list[Told] = []

    @property
    def last(self) -> int:
        """The number of the last event that it has."""
        return self.told[-1].seq if self.told else self.after

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.told)

    @property
    def end(self) -> str:
        """How the job ended, once it has."""
        return self.told[-1].end if self.told else ""

    def ended(self, seconds: float = 0.0) -> None:
        """Fails where no end came; nobody is here who could wait for it."""
        assert self.end, f"{self}: no end; it has {self.told[-3:]}"

    def leave(self) -> None:
        """Follows no more."""

    def __str__(self) -> str:
        return f"{type(self).__name__} of {self.job_id} behind {self.last}"


class Follower(Transcript):
    """What all that follow by themselves have: a thread, and the moments at which their events came."""

    def __init__(self, url: str, job_id: str, after: int = 0) -> None:
        super().__init__(job_id, after)
        self.url = url
        self.moments: list[float] = []
        self.connections = 0
        self.failure: Exception | None = None
        self._leaving = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"{type(self).__name__}-{job_id}", daemon=True)
        self._thread.start()

    @property
    def pause(self) -> float:
        """The longest time between two events."""
        return max((later - earlier for earlier, later in zip(self.moments, self.moments[1:], strict=False)), default=0)

    def wait(self, until: Callable[[], object], seconds: float, what: str) -> None:
        """Fails where a condition did not come true in time."""
        with self._changed:
            came = self._changed.wait_for(lambda: until() or self.failure, seconds)
        assert self.failure is None, f"{self} failed: {self.failure!r}"
        assert came, f"{self}: no {what} within {seconds:g} s; it has {self.told[-3:]}"

    def got(self, seq: int, seconds: float = 60.0) -> None:
        """Waits for an event, or a later one."""
        self.wait(lambda: self.last >= seq or self.end, seconds, f"event {seq}")

    def ended(self, seconds: float = 120.0) -> None:
        """Waits for the job's end."""
        self.wait(lambda: self.end, seconds, "end")

    def leave(self) -> None:
        """Follows no more."""
        self._leaving.set()
        self._thread.join(DEAD + 5)

    def _take(self, event: Told) -> None:
        with self._changed:
            self.told.append(event)
            self.moments.append(time.monotonic())
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while not self.end and not self._leaving.is_set():
                with contextlib.suppress(httpx.TransportError, websocket.WebSocketException, OSError):
                    self.connections += 1
                    self._listen()
                self._leaving.wait(0.1)
        except Exception as error:  # whatever it was, the test hears of it
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _listen(self) -> None:
        """Follows over one connection, to its end."""
        raise NotImplementedError


class SseFollower(Follower):
    """Over server-sent events: `?after=` at first, Last-Event-ID when it resumes."""

    def _listen(self) -> None:
        where: dict[str, Any] = (
            {"headers": {"Last-Event-ID": str(self.last)}} if self.told else {"params": {"after": self.after}}
        )
        with (
            httpx.Client(timeout=DEAD, trust_env=False) as client,
            client.stream("GET", f"{self.url}/jobs/{self.job_id}/stream", **where) as answer,
        ):
            if answer.status_code == 503:
                return
            assert answer.status_code == 200, f"{answer.status_code}: {answer.read()!r}"
            for data in sse(answer.iter_lines()):
                event = of_sse(data)
                if event is not None:
                    self._take(event)
                if self._leaving.is_set():
                    return


def of_sse(data: dict[str, Any]) -> Told | None:
    """What a frame tells; None where it tells nothing of the job."""
    if "delta" in data and not data["done"]:
        return Told(data["id"], data["delta"].get("content", ""))
    if data.get("done") and "error" in data:
        code = data["error"]["code"]
        # What ends a connection and not the job has no number of its own.
        return None if code == "slow_consumer" or code.endswith("_unavailable") else Told(data["id"], "", code)
    if data.get("done"):
        return Told(data["id"], "", data["done_reason"] or PULLED)
    return None


class SocketFollower(Follower):
    """Over a WebSocket, with `follow` and `after`."""

    def _listen(self) -> None:
        socket = websocket.create_connection(f"{self.url.replace('http', 'ws')}/ws", timeout=QUIET)
        try:
            socket.send(json.dumps({"type": "follow", "job_id": self.job_id, "after": self.last}))
            while not self._leaving.is_set():
                frame = json.loads(socket.recv())
                if frame["type"] == "token":
                    self._take(Told(frame["seq"], frame["text"]))
                elif frame["type"] == "done":
                    self._take(Told(frame["seq"], "", frame["done_reason"] or PULLED))
                    return
                elif frame["type"] == "error":
                    if "seq" in frame:
                        self._take(Told(frame["seq"], "", frame["error"]["code"]))
                    return
        finally:
            socket.close()


class HeldChat(Follower):
    """A client that asked with POST /chat and reads the stream of its answer; it cannot resume."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._body = {**body, "stream": True}
        self.status = 0
        self.accepted = threading.Event()
        super().__init__(url, "")

    def _run(self) -> None:
        try:
            self.connections += 1
            self._listen()
        except (httpx.TransportError, OSError) as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _listen(self) -> None:
        with (
            httpx.Client(timeout=DEAD, trust_env=False) as client,
            client.stream("POST", f"{self.url}/chat", json=self._body) as answer,
        ):
            self.status, self.job_id = answer.status_code, answer.headers.get("X-Job-Id", "")
            self.accepted.set()
            if self.status != 200:
                answer.read()
                return
            for data in sse(answer.iter_lines()):
                event = of_sse(data)
                if event is not None:
                    self._take(event)
                if self._leaving.is_set():
                    return
