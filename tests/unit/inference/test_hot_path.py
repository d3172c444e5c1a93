"""What a step costs the pipe between an engine and its worker, in counts."""

import io
from collections.abc import Iterator
from typing import Any

import pytest

from inference import host, wire
from inference.protocol import Chunk, Info, Spec

STREAMS = 32
STEPS = 5
#: Bytes for each token of a step, 32 of which are its job's id; measured 48.2.
MOST_BYTES = 53


class Engine:
    """Some steps of all its streams."""

    info = Info("scripted", 1, STREAMS, None, 0.0)

    def steps(self) -> Iterator[list[Chunk]]:
        for _ in range(STEPS):
            yield [Chunk(f"{n:032}", " word", (7,), 1, None, 3) for n in range(STREAMS)]


def test_a_step_is_one_message_and_one_write_however_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(fd: int, data: memoryview) -> int:
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr(host, "build", lambda spec, on_progress: Engine())
    monkeypatch.setattr(host, "_obey", lambda engine, reader: None)
    monkeypatch.setattr(host.gc, "freeze", lambda: None)
    monkeypatch.setattr(wire.os, "write", write)
    host._run(Spec("scripted", None, STREAMS), None, wire.Writer(-1))  # type: ignore[arg-type]  # no command comes
    monkeypatch.undo()

    steps: Any = wire.Reader(io.BytesIO(b"".join(written[1:])), wire.step_decoder)
    assert [len(steps.read()) for _ in range(STEPS)] == [STREAMS] * STEPS
    assert len(written) == 1 + STEPS
    assert len(written[1]) / STREAMS <= MOST_BYTES
