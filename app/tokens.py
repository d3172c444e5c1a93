"""Texts to token ids and back, by a model's own files; no engine is asked."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from app import vocabulary
from app.errors import InvalidRequestError
from app.stock import Model

#: Tokenizers that a process keeps; each takes some ten megabytes.
KEPT = 4


def encode(model: Model, text: str, *, special: bool) -> list[int]:
    """The ids; `special`: with what the tokenizer puts before or behind a text. Raises InvalidRequestError."""
    ids: list[int] = _of(model).encode(text, add_special_tokens=special).ids
    return ids


def decode(model: Model, ids: list[int]) -> str:
    """The text. Raises InvalidRequestError."""
    return str(_of(model).decode(ids, skip_special_tokens=False))


def _of(model: Model) -> Any:
    path = Path(model.path)
    path = path / "tokenizer.json" if model.format == "safetensors" else path
    if not path.is_file():
        raise InvalidRequestError(
            f"Model '{model.name}' has no tokenizer.json, so its tokens are known to its engine alone.", param="model"
        )
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(KEPT)
def _read(path: Path, _changed: int) -> Any:
    from tokenizers import Tokenizer  # few ever ask: a process that nobody does starts without it

    try:
        return Tokenizer.from_file(str(path)) if path.suffix == ".json" else vocabulary.read(path)
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        reason = str(error)[:200]
        raise InvalidRequestError(f"The tokenizer of this model cannot be read: {reason}.", param="model") from None
