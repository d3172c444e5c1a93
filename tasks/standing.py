"""Where a download stands: its bytes, its files, and how fast they come."""

import math
import time
from collections import deque
from typing import Any

from tasks.child import Line

#: The time over which a rate is taken, in seconds.
WINDOW = 15.0
#: The most that is shown of a download before it has succeeded.
ALMOST = 0.9999


class Standing:
    """What the child's lines told so far."""

    def __init__(self) -> None:
        self.downloaded = 0
        self._told: Line = {"phase": "downloading"}
        self._moves: deque[tuple[float, int]] = deque()

    def hear(self, line: Line) -> None:
        """Takes in a line of progress."""
        self._told |= line
        self.downloaded = max(self.downloaded, line.get("downloaded", 0))
        self._moves.append((time.monotonic(), self.downloaded))

    @property
    def total(self) -> int:
        """Bytes of all files; 0 before it is known."""
        return int(self._told.get("total", 0))

    def rate(self) -> float:
        """Bytes a second of late. Falls to 0 where none come."""
        now = time.monotonic()
        while len(self._moves) > 1 and self._moves[1][0] < now - WINDOW:
            self._moves.popleft()
        if not self._moves:
            return 0.0
        at, size = self._moves[0]
        return (self.downloaded - size) / max(now - at, 1.0)

    def columns(self, earlier: int) -> dict[str, Any]:
        """The row's view. `earlier`: what was told already, which nothing goes behind."""
        downloaded, rate = max(self.downloaded, min(earlier, self.total)), self.rate()
        share = math.floor(downloaded / self.total * 10_000) / 10_000 if self.total else 0.0
        return {
            "downloaded_bytes": downloaded,
            "total_bytes": self.total,
            "progress": min(share, ALMOST),
            "files_done": self._told.get("files_done", 0),
            "files_total": self._told.get("files", 0),
            "bytes_per_second": round(rate, 1),
            "eta_seconds": round((self.total - downloaded) / rate, 1) if rate else None,
            "revision": self._told.get("commit"),
        }

    def details(self) -> dict[str, Any]:
        """What followers hear beside: the file whose bytes moved last, and what is being done."""
        return {"phase": self._told["phase"], "file": self._told.get("file")}
