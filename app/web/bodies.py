"""JSON as it arrives, over HTTP and WebSocket alike: one strict decoder, and an error that says what is wrong.

Strict means what Python's own decoder is not: half a surrogate pair is no text (no engine, database or socket could
carry it on), NaN is no number, and depth is bounded.
"""

from typing import Any

import msgspec
from flask.json.provider import DefaultJSONProvider

from app.errors import InvalidRequestError


class Provider(DefaultJSONProvider):
    """What `request.get_json()` reads with."""

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """Raises InvalidRequestError."""
        return decode(s, "The body")


def decode(raw: str | bytes, what: str) -> Any:
    """A JSON value; `what` begins the message where it is none. Raises InvalidRequestError."""
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        raise InvalidRequestError(f"{what} is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidRequestError(f"{what} is not valid JSON: {error}") from None


def decode_object(raw: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequestError."""
    value = decode(raw, what)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{what} must be a JSON object.")
    return value
