"""Names of models: which are allowed, and what one that somebody typed stands for.

A name is a model's own, or an alias, or one of the suggested short names. Capitals matter only where they tell two
models apart: the hub and Ollama find `qwen/qwen3-8b` too. Ollama's tag `latest` means the name without it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.errors import InvalidRequestError
from app.fit import is_better_as_safetensors
from app.stock import Alias, Model, Standing
from app.suggested import Suggestion, by_name

LATEST = ":latest"
#: Last words of addresses under /models/<name>, and whole ones beside it.
RESERVED_LAST = frozenset({"load", "unload", "reload", "devices", "keep_alive", "engine_options"})
RESERVED = frozenset({"suggested", "scan", "import"})
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
#: As the hub has them: https://huggingface.co/docs/huggingface_hub/package_reference/utilities
_HUB_NAME = re.compile(rf"{_PART}(?:/{_PART})?(?::[A-Za-z0-9][A-Za-z0-9._-]{{0,63}})?")
#: A folder whose name begins with a dot is no model's: what is being made has such names (app.disk).
_CONTROL = re.compile(r"^\.|[\x00-\x1f\x7f\\]")


class Meaning(NamedTuple):
    """What a name stands for: the model's own name, and whether a model of that name is known here."""

    name: str
    known: bool


def check_name(name: str) -> str:
    """A name that a new model or alias may have. Raises InvalidRequestError."""
    parts = name.split("/")
    if _CONTROL.search(name) or name != name.strip() or any(part in ("", ".", "..") for part in parts):
        raise InvalidRequestError(f"'{name}' is no name for a model: name/… parts must hold something.", param="name")
    if len(name) > 200:
        raise InvalidRequestError("A model's name has at most 200 characters.", param="name")
    if parts[-1].lower() in RESERVED_LAST or name.lower() in RESERVED:
        raise InvalidRequestError(f"'{name}' is reserved: its last word is part of addresses here.", param="name")
    return name


def check_hub_name(name: str) -> str:
    """The name of a repository of the hub, perhaps with a quantization. Raises InvalidRequestError."""
    repo = name.partition(":")[0]
    if _HUB_NAME.fullmatch(name) and not any(bad in repo for bad in ("..", "--")) and not repo.endswith(".git"):
        return name
    raise InvalidRequestError(
        f"'{name}' cannot be pulled: the hub has models as name or owner/name, and of GGUF files owner/name:Q4_K_M. "
        "GET /models/suggested lists models by short names.",
        param="model",
    )


def resolve(session: Session, name: str) -> Meaning:
    """What a name stands for; one that nobody knows stands for itself, as it may be pulled."""
    for spelling in _spellings(name):
        if _is_listed(session, spelling):
            return Meaning(spelling, True)
        alias = session.get(Alias, spelling)
        if alias is not None:
            return _meaning(session, alias.target)
    return _regardless_of_case(session, name) or _suggested(session, name) or Meaning(name, False)


def download_name(session: Session, name: str, gpu: int) -> str:
    """What a pull of a name fetches: a repository of the hub, and of a suggested model the form that suits the machine.

    `gpu`: bytes of its largest GPU; 0: it has none.
    """
    for spelling in _spellings(name):
        alias = session.get(Alias, spelling)
        if alias is not None and alias.source == "user":
            return alias.target
        model = session.get(Model, spelling)
        if model is not None and model.source == "pull":
            return model.name
    entry = _suggestion(name)
    if entry is None:
        return name.removesuffix(LATEST)
    return entry.safetensors if is_better_as_safetensors(entry, gpu) else entry.gguf


def _spellings(name: str) -> Iterator[str]:
    yield name
    if name.endswith(LATEST):
        yield name.removesuffix(LATEST)


def _is_listed(session: Session, name: str) -> bool:
    model = session.get(Model, name)
    return model is not None and model.state != Standing.HIDDEN


def _meaning(session: Session, name: str) -> Meaning:
    return Meaning(name, _is_listed(session, name))


def _regardless_of_case(session: Session, name: str) -> Meaning | None:
    for spelling in _spellings(name):
        same = spelling.lower()
        own = sa.select(Model.name).where(sa.func.lower(Model.name) == same, Model.state != Standing.HIDDEN)
        alias = sa.select(Alias.target).where(sa.func.lower(Alias.name) == same)
        for query in (own.order_by(Model.name), alias.order_by(Alias.name)):
            found = session.scalars(query.limit(1)).first()
            if found is not None:
                return _meaning(session, found)
    return None


def _suggestion(name: str) -> Suggestion | None:
    return next((by_name()[s] for s in map(str.lower, _spellings(name)) if s in by_name()), None)


def _suggested(session: Session, name: str) -> Meaning | None:
    entry = _suggestion(name)
    if entry is None:
        return None
    here = (target for target in entry.targets if _is_listed(session, target))
    return _meaning(session, next(here, entry.gguf))
