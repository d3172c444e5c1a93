"""Imports: a model that lies on this machine becomes one of the catalogue, where it is or as a copy of ours.

In steps, because the web process runs each where it may wait: `locate`, `examine.facts_of`, `copied`, `register`.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from app.catalog import Catalog
from app.disk import folder_of, is_here, making
from app.errors import BadModelError, InvalidRequestError, ModelExistsError
from app.examine import facts_of
from app.names import check_name
from app.settings import Settings
from app.stock import Model, Standing

_REFUSAL = (
    "Where keys are asked for, models are imported out of MODELS_EXTRA_SCAN_DIRS alone. Add the folder there, or run "
    "`tokenyard import` on the machine."
)


def import_model(
    settings: Settings,
    catalog: Catalog,
    path: Path,
    name: str | None = None,
    *,
    copy: bool = False,
    source: str = "import",
) -> str:
    """All steps, for the command line, where whoever asks may read whatever the path leads to. Returns the name.

    Raises BadModelError, InvalidRequestError, ModelExistsError.
    """
    name = name_for(path, name)
    refuse_taken(catalog, name, path)
    facts = facts_of(path)
    if copy:
        path = copied(settings, name, path, facts)
    register(catalog, name, path, facts, source=source)
    return name


def locate(settings: Settings, given: str, *, keyed: bool) -> Path:
    """The path that a client named.

    Whoever has to show a key (`keyed`) need not be somebody who may read every file that this process can, so it must
    lie where models are expected. Raises InvalidRequestError.
    """
    if not os.path.isabs(given):
        raise InvalidRequestError("path must be absolute: the server has a folder of its own.", param="path")
    path = Path(os.path.abspath(given))
    if keyed and not _may_read(settings, path):
        raise InvalidRequestError(_REFUSAL, param="path")
    return path


def check_files(settings: Settings, path: Path, facts: dict[str, Any], *, keyed: bool) -> None:
    """The same for each of its files, which may be links. Raises InvalidRequestError."""
    base = path if path.is_dir() else path.parent
    if keyed and not all(_may_read(settings, base / file["name"]) for file in facts["files"]):
        raise InvalidRequestError(_REFUSAL, param="path")


def _may_read(settings: Settings, path: Path) -> bool:
    real = os.path.realpath(path)
    return any(Path(real).is_relative_to(root) for root in roots(settings))


def roots(settings: Settings) -> list[Path]:
    """Where a client with a key may import from."""
    extra = [Path(root).expanduser() for root in settings.models_extra_scan_dirs]
    return [root.resolve() for root in (*extra, settings.models_dir)]


def name_for(path: Path, name: str | None) -> str:
    """The name that was asked for, else the folder's or the file's own. Raises InvalidRequestError."""
    return check_name(name or (path.name if path.is_dir() else path.name.removesuffix(".gguf")))


def refuse_taken(catalog: Catalog, name: str, path: Path) -> None:
    """Raises ModelExistsError where a name stands for other files: what it means must not change unseen."""
    there = catalog.own(name)
    if there is not None and there.state != Standing.HIDDEN and there.path != str(path) and is_here(there):
        raise ModelExistsError(name)


def copied(settings: Settings, name: str, path: Path, facts: dict[str, Any]) -> Path:
    """A copy among our own models, which is there only when it is whole. Raises BadModelError."""
    target = folder_of(settings, name)
    base = path if path.is_dir() else path.parent
    try:
        with making(settings.models_dir) as folder:
            whole = folder / "model"
            for file in facts["files"]:
                _copy(base / file["name"], whole / file["name"])
            if target.exists():
                shutil.rmtree(target)  # it has no row, or one whose files are gone
            whole.rename(target)
            _sync(settings.models_dir)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadModelError("disk_full", f"There is no room for a copy of {facts['size_bytes']} bytes.") from None
        raise BadModelError("unreadable", f"'{path.name}' cannot be copied: {error.strerror}.") from None
    return target if path.is_dir() else target / path.name


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    _sync(target)


def _sync(path: Path) -> None:
    """What the database will say is here must be here after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def register(
    catalog: Catalog, name: str, path: Path, facts: dict[str, Any], *, source: str = "import", quantize: str = "auto"
) -> Model:
    """Lists it. Raises BadModelError where no engine could answer with it."""
    if facts["task"] is None:
        raise BadModelError("not_a_model", f"It is no language model: its architecture is {facts['architecture']}.")
    size = facts["size_bytes"]
    catalog.add(name, path, format=facts["format"], size_bytes=size, source=source, quantize=quantize, facts=facts)
    return catalog.find(name)
