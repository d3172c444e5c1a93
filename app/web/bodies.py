"""Bodies and JSON as they arrive, over HTTP and WebSocket alike: one strict decoder, and errors that say what is wrong.

Strict means what Python's own decoder is not: half a surrogate pair is no text (no engine, database or socket could
carry it on), NaN is no number, a name stands once in an object (two readers would choose differently), and depth,
whole numbers, and lists and objects are bounded.
"""

import json
import re
from collections import Counter
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

import msgspec
from flask import Flask, Request, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.errors import InvalidRequestError
from app.settings import Settings
from app.web.offload import offload_one

MAX_BODY = 2 * 1024 * 1024
MAX_FILE = 200 * 1024 * 1024
#: So much of a file lies in memory while it arrives; beyond, it goes to the disk.
SPOOLED = 512 * 1024
MAX_JOBS = 32 * 1024 * 1024
#: A form's parts: OpenAI's clients send two to four.
MAX_PARTS = 16
#: A schema has 64 levels; what stands around it has the rest.
MAX_DEPTH = 100
#: Lists and objects in one body: two bytes each, and microseconds. The longest chat with the most tools has thousands.
MAX_PLACES = 20_000
#: Their brackets with those in texts: the arguments of calls are JSON again.
MAX_BRACKETS = 5 * MAX_PLACES
#: Bytes beyond which a body is read off the event loop: the longest takes some tenths of a second.
LARGE = 64 * 1024
#: Names in one object. Each one that is wrong costs a fault in the making, and the first is all that is told.
MAX_NAMES = 10_000
#: Whole numbers are within what databases and MessagePack hold.
INTEGERS = range(-(2**63), 2**64)
#: What a page without a script sends; the login alone is taken so.
FORM = "application/x-www-form-urlencoded"
#: Many JSON objects, a line each.
NDJSON = "application/x-ndjson"

#: A value as JSON, in bytes.
encode = msgspec.json.Encoder().encode
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
#: A text, ended or not; it never goes back, whatever stands there.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class Provider(DefaultJSONProvider):
    """What `request.get_json()` reads with."""

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """Raises InvalidRequestError."""
        return decode(s, "The body")


def decode(raw: str | bytes, what: str) -> Any:
    """A JSON value; `what` begins the message where it is none. Raises InvalidRequestError."""
    if len(raw) > MAX_BODY:  # a line of many; of a request's body nobody reads so much
        raise InvalidRequestError(f"{what} is longer than {MAX_BODY} bytes.")
    return offload_one(_decode, raw, what) if len(raw) > LARGE else _decode(raw, what)


def _decode(raw: str | bytes, what: str) -> Any:
    try:
        data = raw.encode() if isinstance(raw, str) else raw
        places = _places(data)
        if places > MAX_BRACKETS or (places > MAX_PLACES and _places(_TEXT.sub(b"", data)) > MAX_PLACES):
            raise InvalidRequestError(f"{what} has too many lists and objects; {MAX_PLACES} are the limit.")
        value = msgspec.json.decode(data)
    except RecursionError:
        raise InvalidRequestError(f"{what} is nested too deeply; {MAX_DEPTH} levels are the limit.") from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidRequestError(f"{what} is not valid JSON: {error}") from None
    if places > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise InvalidRequestError(f"{what} is nested too deeply; {MAX_DEPTH} levels are the limit.")
    try:
        (_bounded if _LONG_NUMBER.search(data) else _plain).decode(data.decode())
    except ValueError as error:
        raise InvalidRequestError(f"{what} {error}.") from None
    return value


def _places(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def decode_object(raw: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequestError."""
    value = decode(raw, what)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{what} must be a JSON object.")
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie more than `depth` within each other. No deeper is looked."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise ValueError(f"has more than {MAX_NAMES} names in one object")
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"has the name '{twice[:100]}' twice in one object")
    return found


def _within(digits: str) -> int:
    if len(digits) > 21 or int(digits) not in INTEGERS:
        raise ValueError(f"has a whole number with {len(digits.lstrip('-'))} digits, which is too large")
    return 0


# They only look: what is used is what msgspec read.
_plain = json.JSONDecoder(object_pairs_hook=_once)
_bounded = json.JSONDecoder(object_pairs_hook=_once, parse_int=_within)


def register(app: Flask, settings: Settings) -> None:
    """Holds the bodies of all requests to their form, once it is known who sends them."""
    folder = settings.data_dir / "uploads"

    class Received(Request):
        def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
            # Where the system keeps temporary files may be memory; in containers it is. None of these has a name, so
            # nothing is left of one whose process dies.
            folder.mkdir(parents=True, exist_ok=True)
            return cast(IO[bytes], SpooledTemporaryFile(SPOOLED, dir=str(folder)))

    app.request_class = Received
    app.json = Provider(app)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["MAX_FORM_PARTS"] = MAX_PARTS
    app.before_request(_check)


def _check() -> None:
    """Raises InvalidRequestError; 400, 413 and 415."""
    # What leads nowhere is told so by the router, whatever its body.
    if request.routing_exception is not None or request.method not in ("POST", "PUT", "PATCH", "DELETE"):
        return
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # A small body could become a huge one.
        raise UnsupportedMediaType
    if _is_large():
        request.max_content_length = MAX_FILE if request.path == "/v1/files" else MAX_JOBS
        return
    if (request.path, request.mimetype) == ("/login", FORM):
        return
    if not request.content_length and not request.headers.get("Transfer-Encoding"):
        return  # some routes need no body; where one is needed, its model says so
    whole()
    # Raises 400 and 415, with their reasons. Ollama asks for no content type, and its users' curl lines send none.
    if not isinstance(request.get_json(force=request.path.startswith("/api/")), dict):
        raise InvalidRequestError("The body must be a JSON object.")


def whole(*, cache: bool = True) -> bytes:
    """The body, no longer than it may be: of one without a length, werkzeug would give the beginning. Raises 413."""
    body = request.get_data(cache=cache)
    if request.content_length is None and len(body) >= (request.max_content_length or MAX_BODY):
        raise RequestEntityTooLarge
    return body


def _is_large() -> bool:
    """Whether the body is a file, or many jobs: it is read as it comes, and not as one JSON object."""
    return request.method == "POST" and (
        request.path == "/v1/files" or (request.path == "/jobs" and request.mimetype == NDJSON)
    )
