"""A client of many streams at once, cheap enough to share two cores with what it measures.

While it reads, it does nothing but keep what came, and when; only afterwards are the frames looked at, and each answer
is held against the words that the scripted engine says. `python -m bench.streams` takes an Ask as JSON on its input and
answers with the events of each stream; `run` starts that as a process, so that its cost is seen apart.
"""

import json
import select
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

#: Bytes that are read at once.
PIECE = 1 << 16
#: Seconds for all of it, as streams of a worker that hangs go on for ever.
LIMIT = 600


class Ask(msgspec.Struct):
    """What to ask: `streams` at a time, each once."""

    url: str
    streams: int
    tokens: int
    rate: float = 0.0  #: tokens a second of each stream; 0: as fast as it goes
    path: str = "/chat"
    model: str = "scripted"
    job: str = ""  #: follow this job with all streams, instead of asking


class Told(msgspec.Struct):
    """What came of it, in seconds and events; `late` is how far each event lay behind its stream's best pace."""

    complete: int
    events: int
    tokens: int
    seconds: float
    cpu: float
    first: list[float]
    late: list[float] = []


class _Stream:
    def __init__(self, ask: Ask) -> None:
        where = urlsplit(ask.url)
        self.socket = socket.create_connection((str(where.hostname), where.port or 80))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = time.monotonic()
        self.socket.sendall(_request(ask, where.netloc))
        self.socket.setblocking(False)
        self.pieces: list[tuple[float, bytes]] = []

    def take(self) -> bool:
        """Reads what is here. False: it has ended."""
        try:
            data = self.socket.recv(PIECE)
        except BlockingIOError:
            return True
        self.pieces.append((time.monotonic(), data))
        return bool(data) and not data.endswith(b"0\r\n\r\n")


def _request(ask: Ask, host: str) -> bytes:
    if ask.job:
        return f"GET /jobs/{ask.job}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": "go"}],
        "stream": True,
        "max_tokens": ask.tokens,
    }
    if ask.path == "/chat":
        body["timeout"] = 600
    if ask.rate:
        body["scripted_tokens_per_second"] = ask.rate
    text = json.dumps(body).encode()
    head = f"POST {ask.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


class _Frame(NamedTuple):
    at: float
    data: dict[str, Any]


def _frames(stream: _Stream) -> list[_Frame]:
    """The events of a stream, each with the moment at which its last byte was here."""
    found, text = [], b""
    for at, piece in stream.pieces:
        text += piece
        *whole, text = text.split(b"\n\n")
        for frame in whole:
            data = frame.partition(b"data: ")[2]
            if data and data != b"[DONE]":
                found.append(_Frame(at, json.loads(data)))
    return found


def _text(data: dict[str, Any]) -> str:
    if "choices" in data:
        return str((data["choices"][0]["delta"].get("content") or "") if data["choices"] else "")
    return str(data.get("delta", {}).get("content", ""))


def measure(ask: Ask) -> Told:
    """Asks, and reads to the end of every stream."""
    poll = select.epoll()
    began = time.monotonic()
    streams = {}
    for _ in range(ask.streams):
        stream = _Stream(ask)
        streams[stream.socket.fileno()] = stream
        poll.register(stream.socket.fileno(), select.EPOLLIN)
    left = len(streams)
    while left:
        for number, _ in poll.poll():
            if not streams[number].take():
                poll.unregister(number)
                left -= 1
    ended, cpu = time.monotonic(), time.process_time()
    return _told(ask, list(streams.values()), ended - began, cpu)


def _told(ask: Ask, streams: list[_Stream], seconds: float, cpu: float) -> Told:
    wanted = " ".join(f"t{number}" for number in range(ask.tokens))
    told = Told(0, 0, 0, seconds, cpu, [])
    for stream in streams:
        texts = [(frame.at, text) for frame in _frames(stream) if (text := _text(frame.data))]
        told.events += len(texts)
        told.complete += "".join(text for _, text in texts) == wanted
        told.tokens += sum(text.count("t") for _, text in texts)
        told.first.append(texts[0][0] - stream.began if texts else -1.0)
        if ask.rate:
            told.late += _late(ask, texts)
    return told


def _late(ask: Ask, texts: list[tuple[float, str]]) -> list[float]:
    """Seconds behind the pace, told from the event that was soonest: of each token, merged or not."""
    number, behind = 0, []
    for at, text in texts:
        for _ in range(text.count("t")):
            behind.append(at - number / ask.rate)
            number += 1
    best = min(behind, default=0.0)
    return [value - best for value in behind]


def run(ask: Ask) -> Told:
    """The same, in a process of its own."""
    command = [sys.executable, "-m", "bench.streams"]
    done = subprocess.run(command, input=msgspec.json.encode(ask), capture_output=True, check=True, timeout=LIMIT)
    return msgspec.json.decode(done.stdout, type=Told)


def whole(ask: Ask) -> Told:
    """The same. Raises RuntimeError where a stream was not complete."""
    told = run(ask)
    if told.complete != ask.streams:
        raise RuntimeError(f"{told.complete} of {ask.streams} streams were complete")
    return told


if __name__ == "__main__":
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sys.stdout.buffer.write(msgspec.json.encode(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Ask))))
