"""The checker: knows every job that a test had accepted and every client that followed one, and holds the promises.

The promises, G1 to G9, are in docs/guarantees.md. What is checked here holds after each fault, whatever the fault was;
G6 speaks of a worker's death alone, and is judged where one dies (test_pauses.py, test_nodes.py).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil

from app.broker import CONNECTIONS
from app.events import Log
from app.jobs import TERMINAL
from tests.faults.followers import WELL, Follower, HeldChat, SocketFollower, SseFollower, Transcript
from tests.faults.yard import SLOTS, Vitals, Yard
from tests.stack import eventually

#: G1: seconds that a job may take beyond its deadline; and how long a test waits for what has none to speak of.
GRACE = 60.0
#: Jobs that a worker may take beside its usual ones, in a flood: those that were released for its peer.
MORE_JOBS = SLOTS * 5 // 4
#: G7: what a process may have more than before: connections that a busy moment opened, a thread that sleeps; and each
#: job's thread with its connection to the database, which has two files.
MORE_FILES, MORE_THREADS, MORE_MEMORY = CONNECTIONS + 8 + 2 * MORE_JOBS, 8 + MORE_JOBS, 64 * 2**20


class Ledger:
    """Every acceptance and every transcript of one test."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.accepted: dict[str, dict[str, Any]] = {}
        self.followers: list[Transcript] = []
        self._began = float(yard.rows("SELECT COALESCE(MAX(created_at), 0) FROM jobs")[0][0])

    def submit(self, text: str = "one two", *, follow: int = 2, **fields: Any) -> str:
        """A detached job that was accepted; half of its followers come over SSE, half over WebSocket."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        answer = self.yard.http.post("/jobs", json=body)
        assert answer.status_code == 202, f"{answer.status_code}: {answer.text}"
        job_id = str(answer.json()["id"])
        self.accepted[job_id] = body
        for number in range(follow):
            self.follow(job_id, SocketFollower if number % 2 else SseFollower)
        return job_id

    def pull(self, model: str) -> str:
        """A pull that was accepted, with one follower."""
        answer = self.yard.http.post("/pull", json={"model": model})
        assert answer.status_code == 202, f"{answer.status_code}: {answer.text}"
        job_id = str(answer.json()["job_id"])
        self.accepted[job_id] = {}
        self.follow(job_id)
        return job_id

    def follow(
        self, job_id: str, kind: Callable[..., Follower] = SseFollower, after: int = 0, url: str = ""
    ) -> Follower:
        """One more client that reads a job's events, from now to its end. `url`: another web process's."""
        follower = kind(url or self.yard.url, job_id, after)
        self.followers.append(follower)
        return follower

    def chat(self, **fields: Any) -> HeldChat:
        """A client that waits for the answer on its own request."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": "one"}], "temperature": 0, **fields}
        held = HeldChat(self.yard.url, body)
        assert held.accepted.wait(30), "no answer began"
        if held.status == 200:
            self.accepted[held.job_id] = body
        self.followers.append(held)
        return held

    def of(self, job_id: str) -> list[Follower]:
        """Those who follow a job, each by itself."""
        return [f for f in self.followers if isinstance(f, Follower) and f.job_id == job_id]

    def emitted(self, job_id: str, seq: int) -> None:
        """Waits until every follower of a job has an event."""
        for follower in self.of(job_id):
            follower.got(seq)

    @contextmanager
    def flowing(self, model: str = "scripted") -> Iterator[None]:
        """G9: another job is accepted and answered right behind the block's fault, while that is being mended."""
        yield
        job_id = self.submit("another", model=model, max_tokens=3, follow=1)
        self.of(job_id)[0].ended(GRACE)
        assert self.yard.job(job_id)["status"] == "succeeded"

    def hold(self) -> None:
        """Every promise, after the fault."""
        self.yard.ready(GRACE)  # G8
        for job_id in self.accepted:
            self._hold_job(job_id)
        self._hold_nothing_else_was_accepted()
        changed = self.yard.rows("SELECT * FROM fault_changes")
        assert changed == [], f"G2: terminal states changed: {changed}"
        self._hold_baseline()

    def _hold_job(self, job_id: str) -> None:
        seconds = float(self.accepted[job_id].get("timeout", 120)) + GRACE
        job = eventually(lambda: self._row(job_id), seconds=seconds, what=f"G1: the end of {job_id}")
        assert job["status"] in {state.value for state in TERMINAL}
        ends, text = self._log(job_id)
        for transcript in self.followers:
            if transcript.job_id == job_id:
                self._hold_transcript(transcript, job, ends, text)
        assert self.yard.job(job_id).get("text", "") == text or self.accepted[job_id].get("n", 1) > 1
        if job["status"] == "succeeded" and job["model"] == "scripted":
            words = " ".join(f"t{n}" for n in range(self.accepted[job_id]["max_tokens"]))
            for stop in self.accepted[job_id].get("stop", ()):
                words = words.partition(stop)[0]
            assert text == words, f"G4: {job_id} has {text!r}"

    def _row(self, job_id: str) -> dict[str, Any] | None:
        rows = self.yard.rows("SELECT id, status, model, attempt, error_code FROM jobs WHERE id = :id", id=job_id)
        assert rows, f"G1: {job_id} was accepted and is gone"
        row = dict(rows[0]._mapping)
        return row if row["status"] in {state.value for state in TERMINAL} else None

    def _log(self, job_id: str) -> tuple[tuple[int, ...], str]:
        """Where each event ends in the stored text, and that text."""
        rows = self.yard.rows("SELECT text, log FROM results WHERE job_id = :id", id=job_id)
        return (Log.decode(rows[0].log).ends, rows[0].text) if rows else ((), "")

    def _hold_transcript(self, follower: Transcript, job: dict[str, Any], ends: tuple[int, ...], text: str) -> None:
        """G3 and G4: numbers that only rise, text that is the stored text up to each number, one end."""
        if isinstance(follower, HeldChat) and not follower.end:
            assert follower.failure is not None or follower.status != 200, f"{follower} was left without an end"
        else:
            follower.ended()
        at = ends[follower.after - 1] if follower.after and ends else 0
        number = follower.after
        for event in follower.told:
            assert event.seq > number, f"G3: {follower} got {event.seq} after {number}"
            number = event.seq
            if event.end:
                break
            assert event.seq <= len(ends), f"G4: {follower} got event {event.seq}, and {len(ends)} are stored"
            assert event.text == text[at : ends[event.seq - 1]], (
                f"G3: {follower} got {event} and {text[at:]!r} is stored"
            )
            at = ends[event.seq - 1]
        assert not [event for event in follower.told[:-1] if event.end], f"G3: {follower} got a second end"
        if follower.end:
            assert follower.last == len(ends) + 1, f"G3: {follower} ended at {follower.last}, not at {len(ends) + 1}"
            assert at == len(text), f"G4: {follower} lacks {text[at:]!r}"
            assert (follower.end in WELL) == (job["status"] == "succeeded"), f"G3: {follower.end} {job}"

    def _hold_nothing_else_was_accepted(self) -> None:
        """G5: every job since the test began is one of those that were accepted."""
        rows = self.yard.rows("SELECT id FROM jobs WHERE created_at > :began", began=self._began)
        assert {row.id for row in rows} <= set(self.accepted), "G5: a refused request left a job"

    def _hold_baseline(self) -> None:
        """G7: nothing that was started, opened or kept for the jobs is left."""
        for name in self.yard.parts:
            eventually(lambda name=name: self._is_back(name), seconds=GRACE, what=f"G7: {name} back to its baseline")
        eventually(self._are_keys_usual, seconds=GRACE, what="G7: no key but the usual")
        eventually(
            lambda: self.yard.http.get("/status").json()["followers"] == 0, seconds=30, what="G7: no follower is left"
        )

    def _are_keys_usual(self) -> bool:
        unusual = set(lasting_keys(self.yard)) - self.yard.usual_keys
        assert not unusual, f"keys that stay: {unusual}"  # what `eventually` shows when time is up
        return True

    def _is_back(self, name: str) -> bool:
        now, before = vitals_of(self.yard, name), self.yard.usual[name]
        back = (
            now.files <= before.files + MORE_FILES
            and now.threads <= before.threads + MORE_THREADS
            and now.memory <= before.memory + MORE_MEMORY
            and now.processes <= before.processes
        )
        if not back:
            raise AssertionError(f"{name} has {now} and had {before}")  # what `eventually` shows when time is up
        return True


def vitals_of(yard: Yard, name: str) -> Vitals:
    """What a part uses now, with all its children."""
    counts = [0, 0, 0, 0]
    for process in yard.alive(name):
        try:
            with process.oneshot():
                found = (process.num_fds(), process.num_threads(), process.memory_info().rss, 1)
        except psutil.NoSuchProcess:
            continue
        counts = [total + one for total, one in zip(counts, found, strict=True)]
    return Vitals(*counts)


def lasting_keys(yard: Yard) -> list[str]:
    """The broker's keys that do not go by themselves, but for one binding a queue, which means one a model."""
    with yard.broker.client() as client:
        keys = [key.decode() for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    return [key for key in keys if not key.startswith("_kombu.binding")]


def warm_up(yard: Yard) -> None:
    """Lets every pool grow to its full size, so that what a fault leaves behind shows."""
    for _ in range(2):
        run_many(yard, 6 * SLOTS, max_tokens=20, scripted_tokens_per_second=20)
    yard.usual_keys = set(lasting_keys(yard))


def run_many(yard: Yard, number: int, **fields: Any) -> None:
    """Runs jobs, as many clients at once as the tests have; what each part uses then is usual."""
    ledger = Ledger(yard)
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: ledger.submit(follow=1, **fields), range(number)))
    for job_id in jobs:
        ledger.of(job_id)[0].ended()
    time.sleep(1.0)  # what serves a request lives a moment longer than its answer
    yard.usual = {name: vitals_of(yard, name) for name in yard.parts}
