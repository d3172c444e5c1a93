"""What a hub says of a repository: its commit, and its files with their sizes and sums."""

import hashlib
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, set_client_factory
from huggingface_hub.hf_api import RepoSibling

from inference.download.choice import choose
from inference.download.errors import DownloadError, refused_redirect
from inference.download.order import Order, credentials
from inference.download.patience import patiently

#: How often a hub is asked for its listing before it counts as unreachable.
TRIES = 5
#: How long it may think about one answer, in seconds.
TIMEOUT = 30.0
_SHA256, _SHA1 = 64, 40
_DIGEST = re.compile(rf"[0-9a-f]{{{_SHA1}}}|[0-9a-f]{{{_SHA256}}}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class File(NamedTuple):
    """A file of a repository. `digest` also names its blob in a cache."""

    name: str
    size: int  #: bytes
    digest: str  #: its SHA-256 in hex, or for small files git's SHA-1 of it; else the hub told none

    @property
    def is_verifiable(self) -> bool:
        """Whether the hub told a sum to hold it against."""
        return len(self.digest) in (_SHA256, _SHA1)

    def hasher(self) -> Any:
        """Feeds on the content; its `hexdigest()` is then `digest`."""
        if len(self.digest) == _SHA1:  # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return hashlib.sha256()


class Listing(NamedTuple):
    """The chosen files of one commit."""

    commit: str
    files: list[File]


def list_files(order: Order) -> Listing:
    """Ask the hub, and choose. Raises DownloadError, RefusedError, and the hub's client's own errors."""
    _confine(order)
    api = HfApi(endpoint=order.endpoint)
    revision = order.commit or order.revision
    info = patiently(
        lambda: api.model_info(order.repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT), tries=TRIES
    )
    if not _COMMIT.fullmatch(info.sha or ""):
        raise DownloadError("hub_unreachable", f"{order.endpoint} names no commit of '{order.repo_id}'.")
    commit = str(info.sha)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    chosen = [siblings[name] for name in choose(list(siblings), order)]
    return Listing(commit, [_told(sibling) or _asked(order, commit, sibling.rfilename) for sibling in chosen])


def _confine(order: Order) -> None:
    """The hub's client follows redirects, so that models may be renamed; it shall not be led to another host."""
    hosts = {urlsplit(order.endpoint).hostname, *order.hosts}

    def check(request: httpx2.Request) -> None:
        if request.url.host not in hosts:
            raise refused_redirect(order.endpoint, f"{request.url.scheme}://{request.url.host}")

    hooks, own = {"request": [check]}, credentials()
    set_client_factory(lambda: httpx2.Client(auth=own, event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT))


def _told(sibling: RepoSibling) -> File | None:
    if sibling.lfs is not None:
        return _file(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    if sibling.size is not None and sibling.blob_id:
        return _file(sibling.rfilename, sibling.size, sibling.blob_id)
    return None


def _asked(order: Order, commit: str, name: str) -> File:
    """A mirror's listing may lack sizes; then each file's own headers tell."""
    url = hf_hub_url(order.repo_id, name, revision=commit, endpoint=order.endpoint)
    found = patiently(lambda: get_hf_file_metadata(url, timeout=TIMEOUT, endpoint=order.endpoint), tries=TRIES)
    if found.size is None:
        raise DownloadError("hub_unreachable", f"{order.endpoint} does not tell the size of '{name}'.")
    return _file(name, found.size, found.etag or "")


def _file(name: str, size: int, digest: str) -> File:
    """A digest becomes the name of a file here, so what is none gets a harmless one."""
    if _DIGEST.fullmatch(digest):
        return File(name, size, digest)
    return File(name, size, "unsigned-" + hashlib.sha256(f"{name} {digest}".encode()).hexdigest())
