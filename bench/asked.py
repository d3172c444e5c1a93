"""A process of ours that answers each line of JSON with one: what takes long to load is loaded once."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self, TypeVar, cast

import msgspec

T = TypeVar("T")
#: Seconds for one answer: several times what the longest run takes, with the load of a model.
LIMIT = 400
#: The other side has its own defaults, but asks no hub for what is here.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


class Asked:
    """The asker's side: a context manager. `argv` is what follows `python -m`."""

    def __init__(self, *argv: str) -> None:
        command = [sys.executable, "-m", *argv]
        env = os.environ | ENVIRONMENT
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=env
        )
        self._questions = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        from tests.stack import end  # late: it brings Flask, which bench.alone may not have

        self._questions.close()
        end(self._process)
        self._answers.close()
        self._log.close()

    def ask(self, question: Any, answer: type[T]) -> T:
        """Raises RuntimeError where the process ended over it, or said nothing for `LIMIT` seconds."""
        self._questions.write(msgspec.json.encode(question) + b"\n")
        self._questions.flush()
        spoke = bool(select.select([self._answers], [], [], LIMIT)[0])
        said = self._answers.readline() if spoke else b""
        if not said:
            self._log.seek(0)
            what = "has ended" if spoke else f"said nothing for {LIMIT} s"
            raise RuntimeError(f"what was asked {what}: {self._log.read()[-800:].decode(errors='replace')}")
        return msgspec.json.decode(said, type=answer)


def answer(kind: type[T], make: Callable[[], Callable[[T], Any]]) -> None:
    """The process's own side, to its input's end. What libraries print goes to stderr, as it is no answer.

    `make` loads what replies, once nothing of that can be taken for an answer.
    """
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        reply = make()
        for line in sys.stdin.buffer:
            answers.write(msgspec.json.encode(reply(msgspec.json.decode(line, type=kind))) + b"\n")
            answers.flush()
