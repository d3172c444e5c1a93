"""Holds answers against the API's own description, /openapi.json: in it or out of it, nothing may differ."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
from flask import Flask, Response, request
from jsonschema import Draft202012Validator

STREAMS = ("text/event-stream", "application/x-ndjson")
#: Before names that may hold slashes.
NAMED = ("/models/", "/aliases/", "/v1/models/")


class Description:
    """An OpenAPI document that answers are checked against."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document["components"]
        self._operations = [
            (_pattern(path), method.upper(), operation)
            # Most words of its own first, as the routes do it: a model's name may hold slashes.
            for path, operations in sorted(document["paths"].items(), key=lambda item: -_literal(item[0]))
            for method, operation in operations.items()
        ]
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, method: str, path: str, status: int, mimetype: str, body: bytes) -> None:
        """Fails where an operation of ours gave something that its description does not."""
        operation = self._operation(method, path)
        if operation is None:
            return
        responses = operation["responses"]
        described = responses.get(str(status)) or responses.get(f"{status // 100}XX")
        assert described is not None, f"{method} {path} answered {status}, which is not described"
        content = described.get("content", {})
        if not content:
            assert not body, f"{method} {path} answered {status} with a body, which is not described"
            return
        assert mimetype in content, f"{method} {path} answered {status} as {mimetype}; described: {list(content)}"
        if mimetype == "application/json":
            self._hold(content[mimetype]["schema"], json.loads(body), f"{method} {path} {status}")
        elif "x-itemSchema" in content[mimetype]:
            for line in body.decode().splitlines():
                if (event := line.removeprefix("data: ")).startswith("{"):
                    self._hold(content[mimetype]["x-itemSchema"], json.loads(event), f"{method} {path}'s event")

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        found = (op for pattern, verb, op in self._operations if verb == method and pattern.fullmatch(path))
        return next(found, None)

    def _hold(self, schema: dict[str, Any], value: Any, what: str) -> None:
        name = json.dumps(schema)
        if name not in self._validators:
            self._validators[name] = Draft202012Validator(schema | {"components": self._components})
        errors = [f"{error.json_path}: {error.message[:500]}" for error in self._validators[name].iter_errors(value)]
        assert not errors, f"{what} is not as described: {errors}"


def hold(app: Flask) -> None:
    """Checks every answer that an application gives in a test, streams at their end."""
    description = Description(dict(app.api_doc))  # type: ignore[attr-defined]

    @app.after_request
    def check(response: Response) -> Response:
        about = (request.method, request.path, response.status_code, response.mimetype)
        if response.mimetype in STREAMS:
            response.response = _watched(response.response, lambda body: description.check(*about, body))
        elif not response.is_streamed:
            description.check(*about, response.get_data())
        return response


def _watched(parts: Iterable[str | bytes], check: Callable[[bytes], None]) -> Iterator[str | bytes]:
    """The same stream; when it has ended, all of it is checked."""
    whole = bytearray()
    for part in parts:
        whole += part.encode() if isinstance(part, str) else part
        yield part
    check(bytes(whole))


def hook(document: dict[str, Any]) -> Any:
    """The same for an httpx client: one of its hooks for responses."""
    description = Description(document)

    def check(response: httpx.Response) -> None:
        mimetype = response.headers.get("Content-Type", "").partition(";")[0]
        if mimetype not in STREAMS:
            sent = response.request
            description.check(sent.method, sent.url.path, response.status_code, mimetype, response.read())

    return check


def _literal(path: str) -> int:
    return len(re.sub(r"\{[^}]+\}", "", path))


def _pattern(path: str) -> re.Pattern[str]:
    names = re.sub(r"\\\{[^}]+\\\}", "(?:.+)" if path.startswith(NAMED) else "[^/]+", re.escape(path))
    return re.compile(names)
