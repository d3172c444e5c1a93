"""JSON schemas that come in requests: bounded here, understood by the engine that holds answers to them."""

from typing import Any

import msgspec

from app.web.bodies import is_deeper

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64


def schema_text(schema: dict[str, Any]) -> str:
    """The schema as JSON text. Raises ValueError for one that is too large."""
    if is_deeper(schema, MAX_DEPTH):
        raise ValueError(f"a JSON schema is nested {MAX_DEPTH} deep at most")
    text = msgspec.json.encode(schema).decode()
    if len(text) > MAX_BYTES:
        raise ValueError(f"a JSON schema has {MAX_BYTES // 1024} KiB at most")
    return text
