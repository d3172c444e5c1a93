"""What the child tells of its bytes, line by line. Several threads may move them."""

import os
import threading
import time
from typing import Any

import msgspec

from inference.download.listing import File

#: How often progress is told, in seconds.
TELL_SECONDS = 1.0


class Teller:
    """Writes JSON lines. What it tells of bytes only rises: a file that begins again is told when it is past that."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._have: dict[str, int] = {}
        self._done: set[str] = set()
        self._told = 0
        self._told_at = float("-inf")

    def say(self, line: dict[str, Any]) -> None:
        """One line, at once."""
        rest = msgspec.json.encode(line) + b"\n"
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def begin(self, files: list[File], commit: str, have: dict[str, int]) -> None:
        """What is to come: the files, and how many bytes of each are here already."""
        self._have = dict(have)
        self._told = sum(have.values())
        total = sum(file.size for file in files)
        self.say({"total": total, "files": len(files), "commit": commit, "downloaded": self._told})

    def stand(self, file: File, size: int) -> None:
        """So many bytes of a file are here."""
        with self._lock:
            self._have[file.name] = size
            if time.monotonic() - self._told_at >= TELL_SECONDS:
                self._tell(file)

    def finish(self, file: File) -> None:
        """A file is whole, and what was promised."""
        with self._lock:
            self._have[file.name] = file.size
            self._done.add(file.name)
            self._tell(file)

    def _tell(self, file: File) -> None:
        self._told = max(self._told, sum(self._have.values()))
        self._told_at = time.monotonic()
        current = {"name": file.name, "digest": file.digest, "completed": self._have[file.name], "total": file.size}
        self.say({"downloaded": self._told, "files_done": len(self._done), "file": current})
