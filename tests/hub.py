"""A Hugging Face hub on loopback: as much of its protocol as its client needs to list and to fetch models."""

import hashlib
import json
import re
import threading
from collections.abc import Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 16384


class FakeHub:
    """Repositories as {name: {file: bytes}}, each with the one branch `main`. A context manager; `url` is its address.

    `gated` repositories are listed, but their files want `token`. `throttle` is in bytes a second, for each file.
    The first `stumbles` requests are answered 503; the first `cuts` large bodies break off in their middle.
    """

    def __init__(
        self,
        repos: Mapping[str, Mapping[str, bytes]],
        *,
        gated: Collection[str] = (),
        token: str | None = None,
        throttle: float | None = None,
        stumbles: int = 0,
        cuts: int = 0,
    ) -> None:
        self.repos = repos
        self.gated = gated
        self.token = token
        self.throttle = throttle
        self.stumbles = stumbles
        self.cuts = cuts
        #: Every request as (method, path), in order.
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()
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
            digest.update(name.encode() + hashlib.sha256(data).digest())
        return digest.hexdigest()

    def is_fetched(self, file: str) -> bool:
        """Whether anybody asked for a file's bytes."""
        return any(method == "GET" and path.endswith(f"/{file}") for method, path in self.requests)


class _Refusal(Exception):  # noqa: N818 - an answer, not a fault
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


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
        try:
            self._route(path)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            body = json.dumps({"error": refusal.message}).encode()
            self._send(refusal.status, body, {name: value for name, value in headers.items() if value})
        except ConnectionError:
            pass  # the reader was killed, which is what some tests do

    def _route(self, path: str) -> None:
        if self.hub.stumbles > 0:
            self.hub.stumbles -= 1
            raise _Refusal(503, message="a moment, please")
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {self.hub.token}":
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        if match := _API.fullmatch(path):
            self._api(**match.groupdict())
        elif match := _ENTRY.fullmatch(path):
            self._entry(**match.groupdict(), allowed=given is not None)
        else:
            raise _Refusal(404, message=f"no such page: {path}")

    def _api(self, repo: str, verb: str | None, revision: str | None) -> None:
        files = _files(self.hub, repo, revision)
        if verb == "tree":
            tree = [{"type": "file", "path": name, **_blob(name, data)} for name, data in files.items()]
            return self._send_json([{**entry, "oid": entry["blobId"]} for entry in tree])
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [{"rfilename": name, **(_blob(name, data) if blobs else {})} for name, data in files.items()]
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

    def _entry(self, repo: str, revision: str, file: str, *, allowed: bool) -> None:
        files = _files(self.hub, repo, revision)
        if repo in self.hub.gated and not allowed:
            raise _Refusal(401, "GatedRepo", f"Access to model {repo} is restricted.")
        if file not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data, start = files[file], 0
        headers = {"ETag": f'"{_blob(file, data)["blobId"]}"', "X-Repo-Commit": self.hub.commit(repo)}
        headers["Accept-Ranges"] = "bytes"
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, throttle=self.hub.throttle)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], throttle: float | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cuts > 0 and len(body) > 2 * CHUNK:
            self.hub.cuts -= 1
            body = body[: len(body) // 2]
        for at in range(0, len(body), CHUNK):
            self.wfile.write(body[at : at + CHUNK])
            if throttle and self.hub.closing.wait(CHUNK / throttle):
                return


def _files(hub: FakeHub, repo: str, revision: str | None) -> Mapping[str, bytes]:
    if repo not in hub.repos:
        raise _Refusal(404, "RepoNotFound", "Repository not found")
    if revision not in (None, "main", hub.commit(repo)):
        raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return hub.repos[repo]


def _blob(name: str, data: bytes) -> dict[str, Any]:
    """Size and ids; large kinds of files are in LFS and go by their SHA-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    if name.endswith((".safetensors", ".gguf", ".bin")):
        return {"size": len(data), "blobId": sha256, "lfs": {"size": len(data), "sha256": sha256, "pointerSize": 134}}
    return {"size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
