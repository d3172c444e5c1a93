"""A Hugging Face hub on loopback: as much of its protocol as its clients need to list and to fetch models."""

import hashlib
import json
import re
import struct
import threading
from base64 import b64encode
from collections.abc import Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

CHUNK = 16384
#: Files of these kinds are in LFS, and go by their SHA-256.
LARGE = (".safetensors", ".gguf", ".bin")
#: A prime: whoever puts a piece of so many KiB into a wrong place gets a wrong sum. To draw 2 GB would take 9 s.
PERIOD = 16_000_057


class Hole(NamedTuple):
    """A huge file that nobody has to hold: zeros, and `tail` at its end. Its SHA-256 is computed once, elsewhere."""

    size: int
    sha256: str
    tail: bytes = b""

    def piece(self, start: int, stop: int) -> bytes:
        zeros = self.size - len(self.tail)
        return bytes(max(0, min(stop, zeros) - start)) + self.tail[max(0, start - zeros) : max(0, stop - zeros)]


class Served(NamedTuple):
    """A body that went out: from which byte, and how many."""

    file: str
    start: int
    sent: int


Content = bytes | Hole


class FakeHub:
    """Repositories as {name: {file: content}}, each with the one branch `main`. A context manager with a `url`.

    With a `login` ("name:password") everything wants it. `gated` repositories are listed, but their files want `token`.
    `throttle` is in bytes a second, for each body.
    Faults, each counted down: `stumbles` requests are answered 503, and `limits` with 429 and `retry_after`; of large
    bodies `cuts` break off in their middle, `stalls` fall silent there, and `flips` have a wrong byte. Bodies come
    from `redirect` where it is set, as from a content network, and listings from `moved`. Without `ranges`, each body
    begins at its beginning; without `sizes`, listings tell none.
    """

    def __init__(
        self,
        repos: Mapping[str, Mapping[str, Content]],
        *,
        gated: Collection[str] = (),
        login: str = "",
        token: str | None = None,
        throttle: float | None = None,
        stumbles: int = 0,
        limits: int = 0,
        retry_after: str = "1",
        cuts: int = 0,
        stalls: int = 0,
        flips: int = 0,
        redirect: str = "",
        moved: str = "",
        ranges: bool = True,
        sizes: bool = True,
    ) -> None:
        self.repos = repos
        self.gated = gated
        self.login = login
        self.token = token
        self.throttle = throttle
        self.faults = {"stumbles": stumbles, "limits": limits, "cuts": cuts, "stalls": stalls, "flips": flips}
        self.retry_after = retry_after
        self.redirect = redirect
        self.moved = moved
        self.ranges = ranges
        self.sizes = sizes
        #: Every request as (method, path), in order, and the credential of each.
        self.requests: list[tuple[str, str]] = []
        self.credentials: list[str | None] = []
        self.served: list[Served] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._digests: dict[tuple[str, int], tuple[Content, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = False  # so that closing waits for each
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake-hub")

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def commit(self, repo: str) -> str:
        """The repository's only commit: 40 hex digits of its content."""
        digest = hashlib.sha1(repo.encode())
        for name, data in sorted(self.repos[repo].items()):
            digest.update(name.encode() + self.digest(name, data).encode())
        return digest.hexdigest()

    def digest(self, name: str, data: Content) -> str:
        """As `digest_of`, computed once: of gigabytes it takes longer than to send them.

        The content is kept beside it, so that nothing else can come to have its identity.
        """
        if (key := (name, id(data))) not in self._digests:
            self._digests[key] = data, digest_of(name, data)
        return self._digests[key][1]

    def bodies(self, file: str) -> list[Served]:
        """What went out of a file, in order."""
        with self._lock:
            return [served for served in self.served if served.file == file]

    def is_fetched(self, file: str) -> bool:
        """Whether anybody asked for a file's bytes."""
        return any(method == "GET" and path.endswith(f"/{file}") for method, path in self.requests)

    def strikes(self, fault: str) -> bool:
        """Whether a fault is due; counts it down."""
        with self._lock:
            due = self.faults[fault] > 0
            self.faults[fault] -= due
            return due

    def note(self, served: Served) -> None:
        """Keeps what went out."""
        with self._lock:
            self.served.append(served)


class _Refusal(Exception):  # noqa: N818 - an answer, not a fault
    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code, "X-Error-Message": message} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        self.status, self.message = status, message
        self.headers = {name: value for name, value in named.items() if value}


_ENTRY = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repo>.+?)(?:/(?P<verb>revision|tree)/(?P<revision>[^/]+))?/?")


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.hub.credentials.append(self.headers.get("Authorization"))
        try:
            self._route(path)
        except _Refusal as refusal:
            self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), refusal.headers)
        except ConnectionError:
            pass  # the reader was killed, which is what some tests do

    def _route(self, path: str) -> None:
        if self.hub.strikes("stumbles"):
            raise _Refusal(503, message="a moment, please")
        if self.hub.strikes("limits"):
            raise _Refusal(429, message="too many", Retry_After=self.hub.retry_after)
        given = self.headers.get("Authorization")
        login = "Basic " + b64encode(self.hub.login.encode()).decode() if self.hub.login else None
        if given != login and (login or given != f"Bearer {self.hub.token}"):
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        if match := _API.fullmatch(path):
            self._api(**match.groupdict())
        elif match := _ENTRY.fullmatch(path):
            self._entry(path, **match.groupdict(), allowed=given is not None)
        else:
            raise _Refusal(404, message=f"no such page: {path}")

    def _api(self, repo: str, verb: str | None, revision: str | None) -> None:
        files = _files(self.hub, repo, revision)
        if self.hub.moved:
            return self._send(307, b"", {"Location": self.hub.moved + self.path})
        if verb == "tree":
            return self._send_json([self._in_tree(name, data) for name, data in files.items()])
        blobs = "blobs" in parse_qs(urlsplit(self.path).query) and self.hub.sizes
        siblings = [{"rfilename": name, **(self._blob(name, data) if blobs else {})} for name, data in files.items()]
        self._send_json(
            {
                "_id": self.hub.commit(repo)[:24],
                "id": repo,
                "modelId": repo,
                "sha": self.hub.commit(repo),
                "private": False,
                "gated": "manual" if repo in self.hub.gated else False,
                "tags": [],
                "siblings": siblings,
            }
        )

    def _entry(self, path: str, repo: str, revision: str, file: str, *, allowed: bool) -> None:
        files = _files(self.hub, repo, revision)
        if repo in self.hub.gated and not allowed:
            raise _Refusal(401, "GatedRepo", f"Access to model {repo} is restricted.")
        if file not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data = files[file]
        size, start = _size(data), 0
        headers = {"ETag": f'"{self.hub.digest(file, data)}"', "X-Repo-Commit": self.hub.commit(repo)}
        if self.hub.redirect:
            return self._send(302, b"", {**headers, "Location": self.hub.redirect + quote(path)})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.hub.ranges else None
        stop = min(size, int(wanted[2]) + 1) if wanted and wanted[2] else size
        if wanted:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._pour(206 if wanted else 200, file, data, headers, (start, stop))

    def _pour(self, status: int, file: str, data: Content, headers: Mapping[str, str], part: tuple[int, int]) -> None:
        """Sends a part of a file, in small pieces; what happens to large bodies on the way is up to the faults."""
        start, stop = part
        self._head(status, {**headers, "Content-Length": str(stop - start), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        large = stop - start > 2 * CHUNK
        middle = (start + stop) // 2 if large and self.hub.strikes("cuts") else stop
        silent = (start + stop) // 2 if large and self.hub.strikes("stalls") else None
        flipped = large and self.hub.strikes("flips")
        sent = start
        try:
            for at in range(start, middle, CHUNK):
                if silent is not None and at >= silent:
                    self.hub.closing.wait()
                    return
                piece = _piece(data, at, min(at + CHUNK, middle))
                self.wfile.write(bytes(len(piece)) if flipped and at == start else piece)
                sent = at + len(piece)
                if self.hub.throttle and self.hub.closing.wait(CHUNK / self.hub.throttle):
                    return
        finally:
            self.hub.note(Served(file, start, sent - start))

    def _blob(self, name: str, data: Content) -> dict[str, Any]:
        """Size and ids. A file in LFS has its git id too, that of its pointer."""
        size, digest = _size(data), self.hub.digest(name, data)
        if name.endswith(LARGE):
            pointer = hashlib.sha1(digest.encode()).hexdigest()
            return {"size": size, "blobId": pointer, "lfs": {"size": size, "sha256": digest, "pointerSize": 134}}
        return {"size": size, "blobId": digest}

    def _in_tree(self, name: str, data: Content) -> dict[str, Any]:
        """The same in the words of the API of trees."""
        blob = self._blob(name, data)
        entry = {"type": "file", "path": name, "size": blob["size"], "oid": blob["blobId"]}
        if "lfs" in blob:
            entry["lfs"] = {**blob["lfs"], "oid": blob["lfs"]["sha256"]}
        return entry

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _files(hub: FakeHub, repo: str, revision: str | None) -> Mapping[str, Content]:
    if repo not in hub.repos:
        raise _Refusal(404, "RepoNotFound", "Repository not found")
    if revision not in (None, "main", hub.commit(repo)):
        raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return hub.repos[repo]


def _size(data: Content) -> int:
    return data.size if isinstance(data, Hole) else len(data)


def _piece(data: Content, start: int, stop: int) -> bytes:
    return data.piece(start, stop) if isinstance(data, Hole) else data[start:stop]


def digest_of(name: str, data: Content) -> str:
    """What names the content: git's SHA-1 of it, or the SHA-256 of files in LFS."""
    if isinstance(data, Hole):
        return data.sha256
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def safetensors(size: int) -> bytes:
    """A sound file of weights: one tensor of so many bytes, which repeats after `PERIOD` bytes at the soonest."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    piece = hashlib.shake_128(str(size).encode()).digest(min(size, PERIOD))
    times, rest = divmod(size, PERIOD)
    return b"".join([struct.pack("<Q", len(header)), header, *[piece] * times, piece[:rest]])


def gguf(size: int, architecture: str = "llama") -> bytes:
    """A sound GGUF file: a header, and one tensor of about so many bytes."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    values = {"general.architecture": architecture, "general.name": "tiny"}
    pairs = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in values.items())
    tensor = text("w") + struct.pack("<IQIQ", 1, size // 4, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + pairs + tensor
    return header + bytes(-len(header) % 32) + hashlib.shake_128(header).digest(size)
