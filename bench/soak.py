"""`python -m bench.soak [MINUTES [PACE]]`: random bad input and good load together, on a stack of its own.

An operator asks for answers, a user meets its limits.

Ends with 1 when an answer was a 5xx, a good one failed, when memory or descriptors of any part of the stack grew from
the first quarter of the time to the last, or when the broker holds more keys than before once the last streams have
gone. The bad input is tests/badinput.py's, and random bytes.
"""

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, NamedTuple, cast

import httpx
import redis
from websocket import WebSocketException, create_connection

from bench.yard import key
from tests import badinput
from tests.badinput import BROKEN, CASES, FRAMES, GOOD, RAW
from tests.stack import Stack, broker, take_sigterm_for_ctrl_c

PARTS = ("web", "worker", "puller", "keeper", "beat")
TEXT, BINARY = 1, 2
#: Seconds between requests of one sender where none are named, and between measurements.
PACE, LOOK = 0.1, 5.0
#: What a part may differ by between the quarters: megabytes, a share, descriptors; and the broker in keys, at rest.
MEMORY_MB, MEMORY_SHARE, FILES, KEYS = 16.0, 0.05, 8, 20
#: Requests that the user may make in a minute: some are refused.
MINUTE = 60
#: Seconds that the streams of ended jobs stay.
STREAM_TTL = 20


class Sample(NamedTuple):
    """What a part uses: megabytes that are its own, descriptors; for `broker`, the keys stand for these."""

    memory: float
    files: int


class Soak:
    """Senders, and what came of it."""

    def __init__(self, stack: Stack, seconds: float, pace: float, seed: int) -> None:
        self._stack = stack
        self._user = {"Authorization": f"Bearer {key(stack, f'--requests-per-minute={MINUTE}', '--max-queued=8')}"}
        self._pace = pace
        self._until = time.monotonic() + seconds
        self._random = random.Random(seed)  # noqa: S311 - no secret hangs on it
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.samples: dict[str, list[Sample]] = {part: [] for part in (*PARTS, "broker")}
        self._file = ""
        self._lock = threading.Lock()
        self._keys = self._count_keys()

    def run(self) -> None:
        """Until the time is over."""
        senders = [self._good, self._good, self._limited, self._bad, self._bad, self._bytes]
        with ThreadPoolExecutor(len(senders) + 2) as pool:
            working = [pool.submit(self._often, sender) for sender in senders]
            working += [pool.submit(self._sockets), pool.submit(self._measure)]
            try:
                for work in working:
                    work.result()
            finally:
                self._until = 0.0  # whoever was interrupted waits for no sender

    def _often(self, send: Callable[[httpx.Client], None]) -> None:
        headers = self._stack.http.headers["Authorization"]
        with httpx.Client(
            base_url=self._stack.url, timeout=30, trust_env=False, headers={"Authorization": headers}
        ) as client:
            while time.monotonic() < self._until:
                try:
                    send(client)
                except httpx.TransportError as error:
                    self._note("transport", f"{send.__name__}: {error!r}")
                time.sleep(self._pace)

    def _note(self, what: str, fault: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            if fault:
                self.faults.append(fault)

    def _good(self, client: httpx.Client) -> None:
        stream = self._random.random() < 0.5
        answer = client.post("/chat", json=GOOD | {"stream": stream, "max_tokens": 16})
        right = answer.status_code == 200 and ("t15" in answer.text)
        self._note("good", "" if right else f"good: {answer.status_code} {answer.text[:200]}")

    def _limited(self, client: httpx.Client) -> None:
        """A user who has more to ask than the key allows: jobs, lines, files and batches."""
        line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": GOOD})
        match self._random.randrange(3):
            case 0:
                lines, headers = json.dumps(GOOD) + "\n", self._user | {"Content-Type": "application/x-ndjson"}
                answer = client.post("/jobs", content=2 * lines, headers=headers)
            case 1:
                form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", line.encode())}}
                answer = client.post("/v1/files", headers=self._user, **form)
                if answer.status_code == 200:
                    self._file = answer.json()["id"]
            case _:
                batch = {"input_file_id": self._file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
                answer = client.post("/v1/batches", json=batch, headers=self._user)
        expected = answer.status_code in (200, 202, 429) or (answer.status_code == 404 and not self._file)
        self._note(f"user {answer.status_code}", "" if expected else f"user: {answer.status_code} {answer.text[:200]}")

    def _bad(self, client: httpx.Client) -> None:
        case = self._random.choice(CASES)
        answer = client.request(case.method, case.path, content=case.body or None, headers=case.headers)
        wrong = badinput.faults_of(case, answer)
        self._note(f"bad {answer.status_code}", f"{case.path} {case.name}: {wrong}" if wrong else "")

    def _bytes(self, client: httpx.Client) -> None:
        body = json.dumps(GOOD).encode()
        at = self._random.randrange(len(body))
        noise = self._random.randbytes(self._random.choice((1, 4, 64, 4096)))
        path = self._random.choice(badinput.CHATS)
        answer = client.post(path, content=body[:at] + noise + body[at:], headers={"Content-Type": badinput.JSON})
        self._note("random", f"{path} random: {answer.text[:200]}" if answer.status_code >= 500 else "")
        sent, _ = self._random.choice(list(RAW.values()))
        line = f"\r\nAuthorization: {self._user['Authorization']}\r\n".encode()
        status, _ = badinput.exchange(self._stack.url, sent.replace(b"\r\n", line, 1))
        self._note("raw", f"raw: {status}" if status >= 500 else "")

    def _sockets(self) -> None:
        url = self._stack.url.replace("http", "ws") + "/ws"
        while time.monotonic() < self._until:
            with suppress(WebSocketException, OSError):
                wire = create_connection(url, timeout=10, header=self._user)
                for _ in range(5):
                    raw, _code = self._random.choice(list(FRAMES.values()))
                    wire.send(raw, TEXT if isinstance(raw, str) else BINARY)
                    said = json.loads(wire.recv())
                    self._note("frames", str(said)[:200] if said["error"]["code"] == "internal" else "")
                socket = cast(Any, wire.sock)
                socket.sendall(self._random.choice(list(BROKEN.values()))[0])
                socket.close()
                self._note("sockets")
            time.sleep(self._pace)

    def _measure(self) -> None:
        while time.monotonic() < self._until:
            for part in PARTS:
                family = self._stack.family(part)
                memory = sum(process.memory_full_info().uss for process in family) / 2**20
                self.samples[part].append(Sample(memory, sum(process.num_fds() for process in family)))
            with redis.Redis.from_url(self._stack.env["REDIS_URL"]) as client:
                used = client.info("memory")["used_memory_dataset"] / 2**20
                self.samples["broker"].append(Sample(used, client.dbsize()))
            time.sleep(LOOK)

    def _count_keys(self) -> int:
        with redis.Redis.from_url(self._stack.env["REDIS_URL"]) as client:
            return int(client.dbsize())

    def keys_left(self) -> Iterator[str]:
        """Prints what the broker holds once the last streams have gone: under load, it is what came in that time."""
        deadline = time.monotonic() + 2 * STREAM_TTL
        while (left := self._count_keys()) > self._keys + KEYS and time.monotonic() < deadline:
            time.sleep(1.0)
        print(f"keys of the broker before and after: {self._keys}, {left}")
        if left > self._keys + KEYS:
            yield f"broker: {self._keys} keys became {left}"

    def growth(self) -> Iterator[str]:
        """Prints each part's quarters; yields what grew."""
        for part, samples in self.samples.items():
            # The first eighth warms pools and caches up, and fills streams that live for STREAM_TTL_SECONDS.
            settled = samples[len(samples) // 8 :]
            quarter = max(1, len(settled) // 4)
            first, last = _median(settled[:quarter]), _median(settled[-quarter:])
            unit = "keys" if part == "broker" else "descriptors"
            print(f"{part:8} {first.memory:7.1f} -> {last.memory:7.1f} MB  {first.files:5} -> {last.files:5} {unit}")
            if last.memory - first.memory > max(MEMORY_MB, MEMORY_SHARE * first.memory):
                yield f"{part}: memory grew from {first.memory:.1f} to {last.memory:.1f} MB"
            if part != "broker" and last.files - first.files > FILES:
                yield f"{part}: {unit} grew from {first.files} to {last.files}"


def _median(samples: list[Sample]) -> Sample:
    middle = len(samples) // 2
    return Sample(sorted(s.memory for s in samples)[middle], sorted(s.files for s in samples)[middle])


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """One whose streams and jobs are forgotten soon, so that what stays shows."""
    with broker(folder) as url:
        settings = {"STREAM_TTL_SECONDS": str(STREAM_TTL), "RETENTION_JOBS": "200", "RENEW_SECONDS": "5"}
        whole = Stack(folder, url, **settings, API_KEY=(operator := token_urlsafe()))
        whole.http.headers["Authorization"] = f"Bearer {operator}"
        whole.run("migrate")
        try:
            whole.start(*PARTS)
            whole.ready()
            yield whole
        finally:
            whole.close()


def main() -> int:
    """Returns the exit code."""
    take_sigterm_for_ctrl_c()
    given = [float(word) for word in sys.argv[1:]]
    minutes, pace = (*given, *(30.0, PACE)[len(given) :])
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"{minutes:g} minutes, {pace:g} s between requests of a sender, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name, stack(Path(name)) as whole:
        soak = Soak(whole, minutes * 60, pace, seed)
        soak.run()
        kept = list(soak.keys_left())
        logs = [path.name for path in Path(name).glob("*.log") if "Traceback" in path.read_text(errors="replace")]
    print(dict(sorted(soak.counts.items())))
    faults = [*soak.faults, *soak.growth(), *kept, *(f"a traceback in {log}" for log in logs)]
    print("\n".join(faults[:50]) or "nothing failed, nothing grew")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
