"""Idempotency-Key: the same request, sent again because its answer was lost, is the same job."""

import hashlib
import re

import msgspec
from flask import g, has_request_context, request

from app.errors import InvalidRequestError
from app.store import Key
from app.web.access import identity

_ALLOWED = re.compile(r"[\x21-\x7e]{1,200}")
_encode = msgspec.json.Encoder(order="deterministic").encode


def key_of_request() -> Key | None:
    """What the request at hand asked to be known by. Raises InvalidRequestError.

    A request that makes several jobs asks once for each, in order; each has a key of its own.
    """
    if not has_request_context() or request.method != "POST":
        return None
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    if not _ALLOWED.fullmatch(given):
        raise InvalidRequestError(
            "Idempotency-Key must be 1 to 200 visible ASCII characters, a UUID for example.", param="Idempotency-Key"
        )
    number = g.setdefault("keyed", 0)
    g.keyed = number + 1
    # A blank cannot be in a key of the client's own.
    return Key(identity().tenant, f"{given} {number}" if number else given, _digest())


def _digest() -> str:
    """The request's own; the order of fields and blanks between them make no difference."""
    body = _encode(request.get_json(force=True)) if request.is_json else request.get_data()
    return hashlib.sha256(b"\0".join((request.method.encode(), request.path.encode(), body))).hexdigest()
