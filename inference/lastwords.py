"""What a library's child processes said before they died: the reason, which the parent is never told.

vLLM computes in a child that it forks, and its parent learns no more than that the child is gone ("see root cause
above"). The child logs the exception, but sets up its log's handlers anew; what makes the records it leaves alone. So
ours does, and writes exceptions into a file without a name, which the fork shares and the parent reads.
"""

import logging
import os
import tempfile
from typing import Any

#: How much is read, in bytes, and kept of one exception, whose text can hold a whole configuration.
MOST, MOST_OF_ONE = 1 << 20, 1 << 12
#: What the parent logs when it finds that its child is gone.
NEWS = "EngineDeadError"


class LastWords:
    """Listens to a library's loggers, in this process and in those that it forks."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the engine is
        self._make = logging.getLogRecordFactory()
        logging.setLogRecordFactory(self._record)

    def reason(self) -> str:
        """The last exception that is more than the news of a death; "" where there was none."""
        said = os.pread(self._file.fileno(), MOST, 0).decode(errors="replace").split("\0")
        return next((words for words in reversed(said) if words and not words.startswith(NEWS)), "")

    def close(self) -> None:
        """Listen no more."""
        logging.setLogRecordFactory(self._make)
        self._file.close()

    def _record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        if record.name.partition(".")[0] == self._library and record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            said = f"{type(error).__name__}: {error}".encode(errors="replace")
            os.write(self._file.fileno(), said[:MOST_OF_ONE] + b"\0")
        return record
