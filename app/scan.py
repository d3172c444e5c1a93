"""The scan: brings the catalogue in line with the disk, after any crash, and finds what other tools put there.

It may take minutes where there is much, so it runs beside the sweep, never in it. Each step may be done again: the scan
can die at any line, and the next one goes on.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app import disk
from app.catalog import Catalog
from app.errors import BadModelError, InvalidRequestError
from app.examine import facts_of
from app.jobs import Kind
from app.names import check_name
from app.settings import Settings
from app.stock import Model, Standing
from app.store import Store
from app.stores import Found, everything, listed

log = structlog.get_logger(__name__)

#: Files of other tools: such a row goes when they do.
FOREIGN = frozenset({"hf-cache", "ollama", "lmstudio", "folder"})
#: Bounds of one scan: candidates, and seconds.
MOST_FOUND = 5000
MOST_SECONDS = 1800.0
#: How many of those that are no models the report names.
MOST_SKIPPED = 200


class Skipped(msgspec.Struct, frozen=True):
    """What looked like a model and is not listed."""

    path: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """What a scan did. Names of models, and what was left out, with reasons."""

    state: str  #: running, done or failed
    started_at: float
    finished_at: float | None = None
    found: list[str] = []  # msgspec copies it for each instance
    missing: list[str] = []
    removed: list[str] = []
    skipped: list[Skipped] = []


class Scan:
    """One scan, of one stack."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        store: Store,
        read: Callable[[Path], dict[str, Any]] = facts_of,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._store = store
        self._read = read
        self._changes: dict[str, list[str]] = {"found": [], "missing": [], "removed": []}
        self._skipped: list[Skipped] = []

    def run(self, *, unhide: bool = False) -> Report:
        """Does it all. `unhide`: also lists again what somebody removed from the list alone."""
        started = time.time()
        deadline = time.monotonic() + MOST_SECONDS
        if unhide:
            self._catalog.unhide()
        for model in self._catalog.rows():
            try:
                self._reconcile(model)
            except OSError as error:
                log.warning("not_reconciled", model=model.name, reason=str(error))
                self._skipped.append(Skipped(model.path, f"Its files cannot be deleted: {error.strerror}."))
        disk.sweep(self._settings.models_dir)
        self._look(everything(self._settings), deadline)
        log.info("scanned", skipped=len(self._skipped), **Counter({k: len(v) for k, v in self._changes.items()}))
        return Report("done", started, time.time(), skipped=self._skipped[:MOST_SKIPPED], **self._changes)

    def _reconcile(self, model: Model) -> None:
        """Makes one row true. What is on other nodes alone, their own processes see to."""
        if not model.path and model.state != Standing.REMOVING:
            return
        here = disk.is_here(model)
        if model.state == Standing.REMOVING:
            disk.delete_files(model, self._catalog.rows(), self._settings)
            self._catalog.end_removal(model.name, hide=disk.is_here(model))
            self._changes["removed"].append(model.name)
        elif not here and (model.source in FOREIGN or model.state == Standing.HIDDEN):
            self._catalog.forget(model.name)
            self._changes["removed"].append(model.name)
        elif not here and self._catalog.mark(model.name, Standing.MISSING, was=Standing.READY):
            self._changes["missing"].append(model.name)
        elif here and self._catalog.mark(model.name, Standing.READY, was=Standing.MISSING):
            self._changes["found"].append(model.name)
        if here and model.path and "format" not in model.facts:
            self._describe(model)

    def _describe(self, model: Model) -> None:
        try:
            self._catalog.describe(model.name, self._read(Path(model.path)))
        except BadModelError as error:
            log.warning("no_facts", model=model.name, reason=error.message)

    def _look(self, candidates: Iterable[Found], deadline: float) -> None:
        rows = self._catalog.rows()
        known = {os.path.realpath(row.path): row for row in rows if row.path}
        pulled = {depth.model.partition(":")[0] for depth in self._store.depths() if depth.kind == Kind.PULL}
        for count, found in enumerate(candidates):
            if count >= MOST_FOUND or time.monotonic() > deadline:
                self._skip(found, "The scan ended before it: there is too much to look at.")
                return
            # What is being pulled is listed at its end, by the pull.
            if found.repo not in pulled and not _is_known(found, known.get(os.path.realpath(found.path))):
                self._consider(found)

    def _consider(self, found: Found) -> None:
        stamp = _stamp(found.path)
        try:
            check_name(found.name)
            facts = self._read(found.path)
        except (BadModelError, InvalidRequestError) as error:
            self._skip(found, error.message)
            return
        if facts["task"] is None:
            self._skip(found, f"It is no language model: {facts['architecture']}.")
        elif facts["quantization"] == "mlx":
            self._skip(found, "It is for MLX, which runs on Apple's machines alone.")
        elif self._catalog.add_found(_row(found, facts, stamp), found.also):
            self._changes["found"].append(found.name)
        else:
            self._skip(found, f"Another model has its name, '{found.name}'.")

    def _skip(self, found: Found, reason: str) -> None:
        self._skipped.append(Skipped(str(found.path), reason))


def _row(found: Found, facts: dict[str, Any], stamp: str) -> Model:
    return Model(
        name=found.name,
        path=str(found.path),
        format=facts["format"],
        size_bytes=facts["size_bytes"],
        quantize="auto",
        source=found.source,
        created_at=time.time(),
        facts=facts | {"stamp": stamp},
        repo=found.repo,
        revision=found.revision,
        devices=[],
        state=Standing.READY,
    )


def _is_known(found: Found, row: Model | None) -> bool:
    """Whether there is nothing to learn: a row has these very files, as they are now."""
    if row is None:
        return False
    ours = row.source not in FOREIGN or row.state == Standing.HIDDEN
    return ours or row.facts.get("stamp") == _stamp(found.path)


def _stamp(path: Path) -> str:
    """Changes when the weights do."""
    files = [path] if os.path.isfile(path) else [file for file in listed(path) if file.suffix == ".safetensors"]
    total, newest = 0, 0
    for file in files:
        try:
            about = file.stat()
        except OSError:
            continue  # a link whose file has not arrived; the facts say so
        total, newest = total + about.st_size, max(newest, about.st_mtime_ns)
    return f"{total}-{newest}"
