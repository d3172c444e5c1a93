"""The child that downloads a model: `python -m inference.download ORDER FD`. It can be killed at any moment.

ORDER is JSON: {"repo": "gpt2" or "owner/name" or "owner/name:Q4_K_M", "revision": null, "file": null}. The hub, the
cache and the credential come from HF_ENDPOINT, HF_HOME and HF_TOKEN, so that no secret is on a command line. To FD go
JSON lines: first {"total": bytes, "files": n}, then {"downloaded": bytes} about once a second while bytes move (it
never falls), and last {"path", "format": "safetensors" | "gguf", "size_bytes"} or {"error": code, "message": remedy}.

Codes: model_not_found, gated_model, bad_token, revision_not_found, file_not_found, no_weights, hub_unreachable,
disk_full, download_failed.
"""

import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import httpx2
import msgspec
import tenacity
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm  # type: ignore[import-untyped]

#: What a safetensors model is made of, at the top of its repository. Code is never fetched, nor is a pickle.
PARTS = (".safetensors", ".json", ".txt", ".model", ".jinja")
#: Formats that run code when they are read.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
#: How often progress is told, in seconds.
TELL_SECONDS = 1.0
#: How many bytes the hub's client takes at a time: its own 10 MB would stand still for seconds on a slow line.
CHUNK_BYTES = 1 << 18
#: How often a hub that stumbles is asked, one listing or one file at a time.
TRIES = 4

_T = TypeVar("_T")


class Order(msgspec.Struct, frozen=True):
    """What to download. `repo` may name a quantization behind a colon; `file` picks one file by its name."""

    repo: str
    revision: str | None = None
    file: str | None = None

    @property
    def repo_id(self) -> str:
        """The repository alone."""
        return self.repo.partition(":")[0]

    @property
    def quant(self) -> str:
        """The quantization asked for, or nothing."""
        return self.repo.partition(":")[2]


class File(NamedTuple):
    """A file of a repository; its size in bytes."""

    name: str
    size: int


class DownloadError(Exception):
    """The model cannot be had; `message` says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Teller:
    """Writes JSON lines, and counts bytes between them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._finished = 0
        self._current = 0
        self._told = 0
        self._told_at = 0.0

    def say(self, line: dict[str, Any]) -> None:
        """One line, at once."""
        os.write(self._fd, msgspec.json.encode(line) + b"\n")

    def move(self, size: int) -> None:
        """Some bytes of the current file arrived (or were thrown away, where negative)."""
        self._current += size
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._tell()

    def restart(self) -> None:
        """The current file begins again; what was told stands until it is passed."""
        self._current = 0

    def finish(self, size: int) -> None:
        """The current file is whole."""
        self._finished += size
        self._current = 0
        self._tell()

    def _tell(self) -> None:
        downloaded = self._finished + max(self._current, 0)
        if downloaded > self._told:
            self._told, self._told_at = downloaded, time.monotonic()
            self.say({"downloaded": downloaded})

    def bar(self) -> type[tqdm]:
        """The progress bar that the hub's client moves; it draws nothing."""
        teller = self

        class Bar(tqdm):  # type: ignore[misc]  # untyped
            def __init__(self, *_: object, **__: object) -> None:
                super().__init__(disable=True)

            def update(self, n: float | None = 1) -> None:
                teller.move(int(n or 0))

        return Bar


def choose(names: Sequence[str], order: Order) -> list[str]:
    """The files to fetch out of a repository's. Raises DownloadError."""
    ggufs = sorted(name for name in names if name.endswith(".gguf") and ".." not in PurePosixPath(name).parts)
    if order.file is not None:
        return _split_parts(_named(order.file, names), ggufs)
    weights = _weights(names)
    if weights and not order.quant:
        return [name for name in names if _is_part(name) and (name in weights or not name.endswith(".safetensors"))]
    if ggufs:
        return _split_parts(_quantized(ggufs, order), ggufs)
    raise _no_weights(names, order)


def _named(file: str, names: Sequence[str]) -> str:
    if file not in names:
        raise DownloadError("file_not_found", f"The repository has no file '{file}'. It has: {_listing(names)}.")
    if not file.endswith(".gguf"):
        raise DownloadError("no_weights", f"'{file}' cannot be loaded alone: name a .gguf file, or none at all.")
    return file


def _weights(names: Sequence[str]) -> list[str]:
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    # Mistral's repositories hold the same weights twice: `consolidated` is for their own runtime.
    return [name for name in found if not name.startswith("consolidated")] or found


def _is_part(name: str) -> bool:
    path = PurePosixPath(name)
    top = len(path.parts) == 1 or (path.parts[0] == "additional_chat_templates" and len(path.parts) == 2)
    pickle_index = any(name.endswith(f"{suffix}.index.json") for suffix in PICKLES)
    return top and path.suffix in PARTS and ".." not in path.parts and not pickle_index


def _quantized(ggufs: Sequence[str], order: Order) -> str:
    # A projector (mmproj) holds the eyes of a vision model, not its language.
    ggufs = [name for name in ggufs if "mmproj" not in name.lower()] or ggufs
    for wanted in [order.quant] if order.quant else ["Q4_K_M", "Q4_"]:
        pattern = re.compile(
            rf"(?<![a-z0-9]){re.escape(wanted)}{'' if wanted.endswith('_') else '(?![a-z0-9_])'}", re.I
        )
        for name in ggufs:
            if pattern.search(PurePosixPath(name).name):
                return name
    if order.quant:
        raise DownloadError(
            "file_not_found",
            f"'{order.repo_id}' has no file of quantization '{order.quant}'. It has: {_listing(ggufs)}.",
        )
    return ggufs[0]


_SPLIT = re.compile(r"-\d{5}-of-(\d{5}\.gguf)$")


def _split_parts(name: str, ggufs: Sequence[str]) -> list[str]:
    """All parts of a GGUF model that was cut into several files, the first one first; else just the file."""
    match = _SPLIT.search(name)
    if match is None:
        return [name]
    stem = name[: match.start()]
    return [
        part for part in ggufs if part.startswith(stem) and re.fullmatch(rf"-\d{{5}}-of-{match[1]}", part[len(stem) :])
    ]


def _no_weights(names: Sequence[str], order: Order) -> DownloadError:
    if order.quant and _weights(names):
        reason = f"has no GGUF files, so ':{order.quant}' picks nothing; pull it as '{order.repo_id}'"
        return DownloadError("no_weights", f"'{order.repo_id}' {reason}.")
    if any(name.endswith(PICKLES) for name in names):
        reason = "has its weights as pickle files alone (.bin, .pt), and reading those can run foreign code"
    else:
        reason = "holds no weights in safetensors or GGUF form"
    return DownloadError(
        "no_weights",
        f"'{order.repo_id}' {reason}. Pull a repository of the model that has .safetensors or .gguf.",
    )


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) + more) or "nothing"


def download(order: Order, teller: Teller) -> dict[str, Any]:
    """Fetch a model into the hub's cache, and say where it lies. Raises DownloadError, and the hub's own errors."""
    info = _retried(lambda: HfApi().model_info(order.repo_id, revision=order.revision, files_metadata=True))
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    files = [File(name, sizes[name]) for name in choose(list(sizes), order)]
    total = sum(file.size for file in files)
    _make_room(order.repo_id, info.sha, files)
    teller.say({"total": total, "files": len(files)})
    bar = teller.bar()
    # Configuration first: what is wrong with it shows before gigabytes have moved.
    paths = {
        file.name: _fetch(order.repo_id, info.sha, file, teller, bar) for file in sorted(files, key=lambda f: f.size)
    }
    first = files[0].name
    size = sum(path.stat().st_size for path in paths.values())
    if first.endswith(".gguf"):
        return {"path": str(paths[first]), "format": "gguf", "size_bytes": size}
    folder = paths[first].parents[len(PurePosixPath(first).parts) - 1]
    return {"path": str(folder), "format": "safetensors", "size_bytes": size}


def _fetch(repo: str, commit: str | None, file: File, teller: Teller, bar: type[tqdm]) -> Path:
    def once() -> str:
        teller.restart()
        return hf_hub_download(repo, file.name, revision=commit, tqdm_class=bar)

    path = Path(_retried(once))
    teller.finish(file.size)
    return path


def _make_room(repo: str, commit: str | None, files: Sequence[File]) -> None:
    """Raises DownloadError where the disk cannot hold what is still missing: the hub's client only warns."""
    missing = sum(
        file.size for file in files if not isinstance(try_to_load_from_cache(repo, file.name, revision=commit), str)
    )
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if missing > free:
        raise DownloadError(
            "disk_full",
            f"{missing / 1e9:.1f} GB are still to download and {cache} has {free / 1e9:.1f} GB free. "
            "Make room (DELETE /models/{name} removes a model), or set HF_HOME to a larger disk.",
        )


def _retried(call: Callable[[], _T]) -> _T:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=8),
        reraise=True,
    )
    return retrying(call)


def _is_passing(error: BaseException) -> bool:
    """Whether the same call may go well a moment later."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _is_passing(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, OSError):
        # The client's own check of a file's length has no number; a connection that broke is worth another try.
        return error.errno is None and not isinstance(error, FileMetadataError | OfflineModeIsEnabled)
    return isinstance(error, httpx2.TransportError)


def explain(error: BaseException, order: Order) -> DownloadError:
    """What to tell the user about any failure."""
    if isinstance(error, DownloadError):
        return error
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return explain(error.__cause__, order)
    if isinstance(error, HfHubHTTPError | HFValidationError | EntryNotFoundError):
        return _refused(error, order)
    if isinstance(error, httpx2.TransportError | FileMetadataError | ConnectionError):
        return _unreachable(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            "disk_full",
            f"The disk of {constants.HF_HUB_CACHE} is full. "
            "Make room (DELETE /models/{name} removes a model), or set HF_HOME to a larger disk.",
        )
    return DownloadError("download_failed", f"The download broke off: {type(error).__name__}: {error}")


def _refused(error: Exception, order: Order) -> DownloadError:
    """What the hub said no to. GatedRepoError is a RepositoryNotFoundError too, so it is asked for first."""
    repo, status = order.repo_id, error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return DownloadError(
            "gated_model",
            f"'{repo}' is gated. Accept its terms at {page}, make a read token at "
            f"{constants.ENDPOINT}/settings/tokens, set HF_TOKEN to it (in .env), restart, and pull again.",
        )
    if isinstance(error, RevisionNotFoundError):
        return DownloadError("revision_not_found", f"'{repo}' has no revision '{order.revision}'. {page} lists them.")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return DownloadError(
            "model_not_found",
            f"{constants.ENDPOINT} has no model '{repo}' that you may see. Check the spelling (owner/name); "
            "for a private model set HF_TOKEN.",
        )
    if isinstance(error, EntryNotFoundError):
        return DownloadError("file_not_found", f"A file of '{repo}' is gone from the hub. Pull again. ({error})")
    if status in (401, 403):
        return DownloadError(
            "bad_token",
            f"The hub refuses HF_TOKEN (HTTP {status}). Make a read token at {constants.ENDPOINT}/settings/tokens.",
        )
    return _unreachable(error)


def _unreachable(error: BaseException) -> DownloadError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DownloadError(
        "hub_unreachable",
        f"{constants.ENDPOINT} does not serve the model ({reason}). Check the network, HTTPS_PROXY and HF_ENDPOINT, "
        "and that HF_HUB_OFFLINE is not set.",
    )


def main() -> None:
    """One download, told line by line."""
    order, teller = msgspec.json.decode(sys.argv[1], type=Order), Teller(int(sys.argv[2]))
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    try:
        teller.say(download(order, teller))
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent hears of it; the process ends here
        said = explain(error, order)
        teller.say({"error": said.code, "message": said.message})
        sys.exit(1)


if __name__ == "__main__":
    main()
