"""What a request leaves behind in the process: nothing."""

import gc
import json

import pytest
from flask import Request
from flask.testing import FlaskClient

from tests.badinput import CASES, GOOD

#: Refused by validators of ours, whose errors once held their requests, bodies and all, for ever.
REFUSED = (
    ("/chat", {"messages": [{"role": "user", "content": 3}]}),
    ("/chat", {"timeout": 0}),
    ("/v1/completions", {"prompt": [1, 2]}),
    ("/v1/chat/completions", {"tools": [{"type": "function"}]}),
    ("/api/chat", {"tools": [3]}),
    ("/jobs", {"keep_alive": "soon"}),
)


def alive() -> int:
    gc.collect()
    # By type: what else is alive may not like to be asked for its class.
    return sum(issubclass(type(thing), Request) for thing in gc.get_objects())


@pytest.mark.parametrize(("path", "fields"), REFUSED)
def test_a_refused_request_is_gone(client: FlaskClient, path: str, fields: dict[str, object]) -> None:
    client.get("/health/live")
    before = alive()
    for _ in range(5):
        assert client.post(path, json=GOOD | fields).status_code == 400
    assert alive() == before


def test_a_refused_line_is_gone(client: FlaskClient) -> None:
    client.get("/health/live")
    before = alive()
    for _ in range(5):
        lines = {"data": json.dumps(GOOD | {"timeout": 0}), "content_type": "application/x-ndjson"}
        assert client.post("/jobs", **lines).status_code == 400
    assert alive() == before


def test_whatever_bad_input_comes_is_gone(client: FlaskClient) -> None:
    client.get("/health/live")
    before = alive()
    for case in CASES:
        with client.open(case.path, method=case.method, data=case.body, headers=case.headers):
            pass
    client.get("/health/live")
    assert alive() == before
