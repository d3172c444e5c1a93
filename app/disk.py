"""Files of models on disk: whether they are all there, which of them are ours, and how ours are deleted.

Ours are the folders under DATA_DIR/models, and of Hugging Face's cache the files that a pull of ours fetched: it keeps
their names in the model's facts, as `fetched`, relative to the cache. What others put there stays.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from app.catalog import SCRIPTED
from app.settings import Settings
from app.stock import Model

WEIGHTS = (".safetensors", ".gguf")
#: How the folder begins that a model is made in; the lock in it says that somebody is at it.
PARTIAL = ".new-"
LOCK = ".lock"
#: Seconds between such a folder's making and its lock that nobody needs to count.
FRESH = 60.0


def folder_of(settings: Settings, name: str) -> Path:
    """Where a model of this name is kept when its files become ours. A slash would nest models in each other."""
    return settings.models_dir / quote(name, safe=":@+ ")


def name_of(folder: Path) -> str:
    """The name that `folder_of` was given."""
    return unquote(folder.name)


@contextmanager
def making(root: Path) -> Iterator[Path]:
    """A folder to make a model in, beside where it is to stand. What a crash leaves of it, the next scan sweeps."""
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it with this process
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Deletes what was being made when its process died."""
    for folder in root.glob(f"{PARTIAL}*"):
        if time.time() - folder.stat().st_mtime > FRESH and not _is_locked(folder / LOCK):
            shutil.rmtree(folder, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_here(model: Model) -> bool:
    """Whether every file of weights that the model had when it was added is still there, on this node."""
    weights = [file for file in files_of(model) if file.name.endswith(WEIGHTS)]
    there = bool(model.path) and all(os.path.exists(file) for file in (Path(model.path), *weights))
    return there or model.format == SCRIPTED


def files_of(model: Model) -> list[Path]:
    """The files of a model, as they were when it was added."""
    path = Path(model.path)
    base = path if model.format == "safetensors" else path.parent
    return [base / file["name"] for file in model.facts.get("files", [])] or [path]


def delete_files(model: Model, others: Iterable[Model], settings: Settings) -> bool:
    """Deletes what is ours of a model's files and no other model's; tells whether that was anything. Raises OSError."""
    others = [other for other in others if other.path and other.name != model.name]
    deleted = _delete_own(model, others, settings.models_dir) if model.path else False
    return _delete_fetched(model, others, settings.hub_cache) or deleted


def _delete_own(model: Model, others: Iterable[Model], root: Path) -> bool:
    path = Path(os.path.abspath(model.path))  # as it is written: a link that leads here stays somebody else's
    held = Path(os.path.realpath(path.parent))
    if root not in path.parents or not held.is_relative_to(os.path.realpath(root)):
        return False
    kept = {file for other in others for file in (Path(other.path), *files_of(other))}
    whole = model.format == "safetensors" and not any(path == other or path in other.parents for other in kept)
    for target in [path] if whole else [file for file in files_of(model) if file not in kept]:
        _delete(target)
    for folder in path.parents[: len(path.parts) - len(root.parts) - 1]:
        with contextlib.suppress(OSError):  # not empty: it is another model's too
            folder.rmdir()
    return True


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError):  # somebody else is at it too, and gets it done
            shutil.rmtree(path)


def _delete_fetched(model: Model, others: Iterable[Model], cache: Path) -> bool:
    """Files of the hub's cache that we fetched: blobs, and where links cannot be, the files of a snapshot."""
    in_use = {os.path.realpath(file) for other in others for file in files_of(other)}
    repositories = set()
    for name in model.facts.get("fetched", []):
        path = Path(os.path.abspath(cache / name))
        if cache in path.parents and os.path.realpath(path) not in in_use:
            path.unlink(missing_ok=True)
            repositories.add(cache / path.relative_to(cache).parts[0])
    for repository in repositories:
        _tidy(repository)
    return bool(repositories)


def _tidy(repository: Path) -> None:
    """Removes the links of a repository that lead nowhere any more, and then what is empty."""
    for folder, _, names in os.walk(repository, topdown=False):
        place = Path(folder)
        for name in names:
            if (place / name).is_symlink() and not (place / name).exists():
                (place / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: somebody else's files are in it
            place.rmdir()
    if not any((repository / name).exists() for name in ("blobs", "snapshots")):
        shutil.rmtree(repository / ".tokenyard", ignore_errors=True)  # what a pull noted about its files
    if repository.is_dir():
        _forget_references(repository)


def _forget_references(repository: Path) -> None:
    """A branch whose snapshot is gone would make the hub's client believe that it is there."""
    for reference in [path for path in (repository / "refs").rglob("*") if path.is_file()]:
        if not (repository / "snapshots" / reference.read_text().strip()).is_dir():
            reference.unlink(missing_ok=True)
    for place in (repository / "refs", repository):
        with contextlib.suppress(OSError):
            place.rmdir()
