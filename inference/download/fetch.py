"""One file, from wherever it stands to whole and verified."""

import os
import re
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from huggingface_hub import hf_hub_url
from urllib3.response import BaseHTTPResponse

from inference.download.cache import PIECE, Cache, make_room
from inference.download.errors import DownloadError
from inference.download.listing import File
from inference.download.order import Order
from inference.download.patience import is_passing, patiently
from inference.download.teller import Teller
from inference.download.transfer import Hub

#: How much is taken from a connection at a time, in bytes.
CHUNK = 1 << 20
#: How often a file is tried in vain; whoever came on by a mebibyte begins to count anew.
TRIES = 10
PROGRESS = 1 << 20
#: How much of a file's beginning a check sees, in bytes.
HEAD = 1 << 20
#: How long to wait for another process that fetches the same file, until we tell how far it is, in seconds.
LOCK_SECONDS = 1.0

Check = Callable[[Path], None]


class _CameOnError(Exception):
    """A connection broke, but not in vain."""


class Fetcher:
    """Fetches the files of one commit. Its calls may run in several threads."""

    def __init__(self, order: Order, cache: Cache, hub: Hub, teller: Teller) -> None:
        self._order = order
        self._cache = cache
        self._hub = hub
        self._teller = teller

    def fetch(self, file: File, check: Check | None = None) -> Path:
        """Returns where the whole file lies. `check` sees its beginning before the rest has come, and may raise."""
        while True:
            with self._cache.locked(file, LOCK_SECONDS) as held:
                if held:
                    path = self._here(file, check) or self._fetched(file, check)
                    self._teller.finish(file)
                    return path
            self._teller.stand(file, self._cache.standing(file))

    def _here(self, file: File, check: Check | None) -> Path | None:
        found = self._cache.found(file)
        if found is None or not self._cache.is_sound(file, found):
            return None
        if check is not None:
            check(found)
        return self._cache.point(file)

    def _fetched(self, file: File, check: Check | None) -> Path:
        partial = self._cache.partial(file)
        make_room(self._cache.folder, file.size - self._cache.standing(file), self._order.reserve)
        # Once more from the beginning, where what earlier attempts left had gone bad.
        for _ in range(2):
            with FileIO(partial, "ab") as out:
                digest = _Growth(file, out, self._teller, check).fill(self._body)
                os.fsync(out.fileno())
            # It may be gone: `hf cache prune` takes partial files for orphans.
            if partial.is_file() and (digest == file.digest or not file.is_verifiable):
                return self._cache.settle(file)
            partial.unlink(missing_ok=True)
        raise DownloadError(
            "checksum_mismatch",
            f"'{file.name}' does not have the sum that {self._order.endpoint} promises, twice in a row. "
            "A proxy or a mirror between may change it; try again later, or another HF_ENDPOINT.",
        )

    def _body(self, file: File, start: int) -> BaseHTTPResponse:
        url = hf_hub_url(
            self._order.repo_id, file.name, revision=self._cache.snapshot.name, endpoint=self._order.endpoint
        )
        return self._hub.open(url, start, file.size)


class _Growth:
    """A file on its way: its bytes on disk, and the sum of them."""

    def __init__(self, file: File, out: FileIO, teller: Teller, check: Check | None) -> None:
        self._file = file
        self._out = out
        self._teller = teller
        self._check = check
        self._hasher = file.hasher()
        self._size = 0

    def fill(self, body: Callable[[File, int], BaseHTTPResponse]) -> str:
        """Fetches what is missing, over as many connections as it takes. Returns the sum of the whole."""
        self._take_up()
        while self._size < self._file.size:
            try:
                patiently(lambda: self._grow(body), tries=TRIES)
            except _CameOnError:
                continue
        self._look()
        digest: str = self._hasher.hexdigest()
        return digest

    def _take_up(self) -> None:
        """Reads what an earlier attempt left: the sum goes over the whole."""
        if os.fstat(self._out.fileno()).st_size > self._file.size:
            self._out.truncate(0)
        with open(self._out.name, "rb", buffering=0) as earlier:
            while piece := earlier.read(PIECE):
                self._count(piece)

    def _grow(self, body: Callable[[File, int], BaseHTTPResponse]) -> None:
        before = self._size
        try:
            self._pour(body(self._file, before))
        except Exception as error:
            if self._size - before >= PROGRESS and is_passing(error):
                raise _CameOnError from error
            raise

    def _pour(self, response: BaseHTTPResponse) -> None:
        """Takes one response to its end. Raises urllib3's errors, ConnectionError where it ended early."""
        try:
            end = self._begin(response)
            while self._size < end and (chunk := response.read1(CHUNK)):
                self._write(chunk[: end - self._size])
        finally:
            response.close()
        if self._size < end:
            raise ConnectionError(f"the body of '{self._file.name}' ended early")

    def _begin(self, response: BaseHTTPResponse) -> int:
        """Where the response will end, after a check of where it begins."""
        if response.status == 200 and self._size:  # the server knows no ranges
            self._out.truncate(0)
            self._size, self._hasher = 0, self._file.hasher()
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status == 206 and (start is None or int(start[1]) != self._size):
            raise ConnectionError(f"the hub sent another part of '{self._file.name}' than was asked for")
        length = response.headers.get("Content-Length", "")
        return min(self._file.size, self._size + int(length)) if length.isdigit() and int(length) else self._file.size

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._out.write(rest) :]
        self._count(chunk)
        if self._check is not None and self._size >= HEAD:
            self._look()
        self._teller.stand(self._file, self._size)

    def _count(self, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self._size += len(chunk)

    def _look(self) -> None:
        check, self._check = self._check, None
        if check is not None:
            check(Path(self._out.name))
