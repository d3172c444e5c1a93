"""A repository's folder in a cache laid out as the hub's own client has it, so that every tool finds the files.

    models--owner--name/
      blobs/<digest>                              a whole file
      blobs/<digest>.tokenyard.incomplete         ours, on its way; `hf cache prune` knows the ending
      snapshots/<commit>/<name>                   a symlink to the blob, or the file itself where there are none
      refs/<revision>                             its commit
      .tokenyard/<digest>                         what we have held against the hub's sum: {size, mtime_ns, fetched}
    .locks/models--owner--name/<digest>.lock      the client's own lock: one process fetches a file

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name

from inference.download.errors import MAKE_ROOM, DownloadError
from inference.download.listing import File
from inference.memory import gigabytes

PARTIAL = ".tokenyard.incomplete"
#: An unfinished file that nobody came back for in so long goes, in seconds.
KEPT = 7 * 86_400.0
#: How much of a file is read at a time to check it, in bytes.
PIECE = 1 << 22


class Mark(msgspec.Struct, frozen=True):
    """A file that was held against its sum, for as long as it has this size and time. `fetched`: by us."""

    size: int
    mtime_ns: int
    fetched: bool


class Cache:
    """One commit of one repository. Nothing is written outside `root`."""

    def __init__(self, root: Path, repo: str, commit: str) -> None:
        self.root = root
        self.folder = root / _folder_name(repo)
        self.snapshot = self.folder / "snapshots" / commit
        self._symlinks = are_symlinks_supported(root)

    def pointer(self, file: File) -> Path:
        """Where users of the model find a file. Raises DownloadError for a name that leads elsewhere."""
        path = self.snapshot / file.name
        real = Path(os.path.realpath(path.parent))
        if not real.is_relative_to(os.path.realpath(self.folder)) or ".." in path.parts:
            raise DownloadError("file_not_found", f"The repository names a file outside of itself: '{file.name}'.")
        return path

    def partial(self, file: File) -> Path:
        """Where a file grows."""
        return self.folder / "blobs" / (file.digest + PARTIAL)

    def found(self, file: File) -> Path | None:
        """A file that is here whole, by its size; under its name, or only as a blob."""
        for path in (self._blob(file), self.pointer(file)):
            if path.is_file() and path.stat().st_size == file.size:
                return path
        return None

    def standing(self, file: File) -> int:
        """How many bytes of a file are here, whole or not."""
        if self.found(file) is not None:
            return file.size
        partial = self.partial(file)
        return min(partial.stat().st_size, file.size) if partial.is_file() else 0

    def is_sound(self, file: File, path: Path) -> bool:
        """Whether a whole file is what the hub promised. Reads it once, and remembers."""
        if not file.is_verifiable or self._marked(file, path):
            return True
        if digest_of(path, file) != file.digest:
            return False
        self._mark(file, path, fetched=False)
        return True

    def settle(self, file: File) -> Path:
        """Makes a grown file, already verified, a whole one. Returns its pointer."""
        partial, blob = self.partial(file), self._blob(file)
        # First, so that whoever dies between the two still leaves a file that is known to be ours.
        self._mark(file, partial, fetched=True)
        partial.replace(blob)
        _sync(blob.parent)
        return self.point(file, fresh=True)

    def point(self, file: File, *, fresh: bool = False) -> Path:
        """Shows a whole blob under its file's name. A fresh one is no other snapshot's yet."""
        pointer, blob = self.pointer(file), self._blob(file)
        alone = not blob.is_file() or (not self._symlinks and not fresh)
        if alone and pointer.is_file() and pointer.stat().st_size == file.size:
            return pointer
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not self._symlinks:
            (blob if fresh else _twin(blob, pointer)).replace(pointer)
        elif os.path.realpath(pointer) != os.path.realpath(blob):
            link = _beside(pointer)
            link.symlink_to(os.path.relpath(blob, pointer.parent))
            link.replace(pointer)
        _sync(pointer.parent)
        return pointer

    def remember(self, revision: str) -> None:
        """Notes which commit a branch or a tag stands for."""
        ref = self.folder / "refs" / revision
        if revision != self.snapshot.name:
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = _beside(ref)
            fresh.write_text(self.snapshot.name)
            fresh.replace(ref)

    def fetched(self, files: list[File]) -> list[str]:
        """The files of the cache that are ours, relative to it: who removes the model may delete them."""
        return [
            str(path.relative_to(self.root))
            for file in files
            if (path := self.found(file)) and (mark := self._marked(file, path)) and mark.fetched
        ]

    @contextmanager
    def locked(self, file: File, seconds: float) -> Iterator[bool]:
        """Holds a file's lock, which every tool with this cache heeds. False: another process had it so long."""
        path = self.root / ".locks" / self.folder.name / f"{file.digest}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(path, timeout=seconds, mode=0o664):
                yield True
                return
        except filelock.Timeout:
            pass
        yield False

    def prepare(self) -> None:
        """Makes the folders, and lets go what was left behind long ago."""
        for name in ("blobs", "snapshots", "refs", ".tokenyard"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        sweep(self.root, older=KEPT)

    def _blob(self, file: File) -> Path:
        return self.folder / "blobs" / file.digest

    def _marked(self, file: File, path: Path) -> Mark | None:
        try:
            mark = msgspec.json.decode((self.folder / ".tokenyard" / file.digest).read_bytes(), type=Mark)
        except (OSError, msgspec.MsgspecError):
            return None
        about = path.stat()
        return mark if (mark.size, mark.mtime_ns) == (about.st_size, about.st_mtime_ns) else None

    def _mark(self, file: File, path: Path, *, fetched: bool) -> None:
        about = path.stat()
        place = self.folder / ".tokenyard" / file.digest
        fresh = _beside(place)
        fresh.write_bytes(msgspec.json.encode(Mark(about.st_size, about.st_mtime_ns, fetched)))
        fresh.replace(place)


def _beside(path: Path) -> Path:
    """A free name in the same folder, to be renamed."""
    free = path.with_name(f"{path.name}.tokenyard.{os.getpid()}.{threading.get_ident()}")
    free.unlink(missing_ok=True)
    return free


def _twin(blob: Path, pointer: Path) -> Path:
    """The same content once more, without a further copy where the disk can."""
    twin = _beside(pointer)
    try:
        twin.hardlink_to(blob)
    except OSError:
        shutil.copyfile(blob, twin)
    return twin


def _sync(folder: Path) -> None:
    """A power cut forgets no name of a file that was told to be here."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: Path, file: File) -> str:
    """The sum of a file on disk."""
    hasher = file.hasher()
    with path.open("rb", buffering=0) as content:
        while piece := content.read(PIECE):
            hasher.update(piece)
    digest: str = hasher.hexdigest()
    return digest


def sweep(root: Path, repo: str | None = None, *, older: float = 0.0) -> None:
    """Removes unfinished files of ours, of one repository or of all, that stood still for `older` seconds.

    Those stay whose lock another process holds.
    """
    for path in root.glob(f"{_folder_name(repo) if repo else 'models--*'}/blobs/*{PARTIAL}"):
        lock = root / ".locks" / path.parent.parent.name / f"{path.name.removesuffix(PARTIAL)}.lock"
        try:
            if time.time() - path.stat().st_mtime >= older:
                with filelock.FileLock(lock, timeout=0, mode=0o664):
                    path.unlink(missing_ok=True)
        except (filelock.Timeout, FileNotFoundError):
            continue


def _folder_name(repo: str) -> str:
    return repo_folder_name(repo_id=repo, repo_type="model")


def make_room(folder: Path, missing: int, reserve: int) -> None:
    """Raises DownloadError where the disk cannot hold what is missing and keep its reserve."""
    free = shutil.disk_usage(folder).free
    if missing and missing + reserve > free:
        raise DownloadError(
            "disk_full",
            f"{gigabytes(missing)} are still to download and {folder.parent} has {gigabytes(free)} free, of which "
            f"PULL_DISK_RESERVE keeps {gigabytes(reserve)}. {MAKE_ROOM}",
        )
