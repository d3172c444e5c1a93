"""Faults of clients: too many at once, one that stops reading, one that is gone without a word."""

import socket
import time

import pytest

from tests.faults.crowd import crowd
from tests.faults.followers import SocketFollower, SseFollower, Transcript, of_sse
from tests.faults.ledger import Ledger
from tests.faults.proxy import Proxy
from tests.faults.yard import Yard
from tests.stack import eventually, sse


def test_a_client_gone_without_a_word_is_forgotten(yard: Yard, ledger: Ledger) -> None:
    """Its network is silent: no packet says that it went."""
    network = Proxy(yard.port)
    url = f"http://127.0.0.1:{network.port}"
    job_id = ledger.submit(max_tokens=80, scripted_tokens_per_second=20, follow=1)
    gone = [SseFollower(url, job_id), SocketFollower(url, job_id)]
    for follower in gone:
        follower.got(5)
    network.silence()
    ledger.hold()  # nothing of them is left in the server, though their network is silent still
    network.cut()
    for follower in gone:
        follower.leave()
    network.close()


@pytest.mark.faults
def test_a_thousand_followers_at_once_are_told_the_same(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=300, scripted_tokens_per_second=15, follow=20)
    ledger.emitted(job_id, 1)
    ledger.followers += crowd(yard.port, job_id, 1000)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


class Stalled:
    """A client that began to read, and reads no more. Its side of the connection takes next to nothing."""

    def __init__(self, port: int, job_id: str) -> None:
        self._job = job_id
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET /jobs/{job_id}/stream HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        self._got = self._socket.recv(512)

    def read_on(self) -> Transcript:
        """What was on its way, up to the end of the connection; the last frame may be half a one."""
        self._socket.settimeout(10)
        with self._socket:
            while data := self._socket.recv(65536):
                self._got += data
        body = self._got.partition(b"\r\n\r\n")[2].rpartition(b"\n\n")[0]
        transcript = Transcript(self._job)
        transcript.told = [told for data in sse(body.decode().splitlines()) if (told := of_sse(data)) is not None]
        return transcript


@pytest.mark.faults
def test_a_follower_that_stops_reading_is_cut_off_and_slows_nobody(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=20_000, scripted_tokens_per_second=300, timeout=300)
    stalled = Stalled(yard.port, job_id)
    eventually(lambda: yard.http.get("/status").json()["followers"] > 2, what="it follows")

    deadline = time.monotonic() + 60
    while yard.http.get("/status").json()["followers"] > 2:
        assert time.monotonic() < deadline, "its connection is kept for ever"
        [row] = yard.rows("SELECT last_seq FROM jobs WHERE id = :id", id=job_id)
        for follower in ledger.of(job_id):
            follower.got(row.last_seq, 10.0)  # what the row knows, those know who read; the stalled one takes longer
    assert yard.job(job_id)["status"] == "running"
    transcript = stalled.read_on()
    resumed = ledger.follow(job_id, after=transcript.last)
    ledger.hold()
    transcript.told += resumed.told
    ledger.followers.append(transcript)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
