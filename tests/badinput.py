"""Bad input by hand, over every dialect and WebSocket: what is sent, and the status that must come back at once.

Used by tests/acceptance/test_bad_input.py, one case after the other, and by bench/soak.py, all together.
"""

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

JSON = "application/json"
GOOD = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
#: Parts of our own insides, none of which may show in an answer.
INSIDES = ("Traceback", 'File "', "site-packages", "/app/", ".py", "sqlalchemy", "sqlite", "SELECT ", "redis://")
LIMIT = 2 * 1024 * 1024


@dataclass(frozen=True)
class Case:
    """A request. `status` is what must come back; the error's shape is that of the path's dialect."""

    name: str
    path: str
    status: int
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


def _of(path: str, status: int = 400, /, **fields: Any) -> Case:
    """A good request but for some fields."""
    body = json.dumps(_base(path) | fields).encode()
    shown = json.dumps(fields)
    return Case(shown if len(shown) < 60 else f"{shown[:40]}…{len(shown)}", path, status, body)


def _base(path: str) -> dict[str, Any]:
    words = {"/v1/completions": "prompt", "/api/generate": "prompt", "/v1/responses": "input"}
    words |= {"/v1/embeddings": "input", "/api/embed": "input"}
    if path in words:
        return {"model": "scripted", words[path]: "Hi"}
    return {"model": "scripted", "messages": GOOD["messages"]}


#: Where a body of every kind that is no JSON, or not ours, goes: one address a dialect.
CHATS = ("/chat", "/v1/chat/completions", "/api/chat")
_HEAD = b'{"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], '


def _tail(rest: bytes) -> bytes:
    return _HEAD + rest + b"}"


MALFORMED: dict[str, bytes] = {
    "nothing but a brace": b"{",
    "cut off": _HEAD,
    "cut off in a text": b'{"model": "scr',
    "a list": b"[]",
    "null": b"null",
    "a text": b'"chat"',
    "a number": b"1",
    "not JSON": b"model=scripted",
    "single quotes": b"{'model': 'scripted'}",
    "a comma too much": _tail(b'"max_tokens": 2,'),
    "a comment": _tail(b'/* two */ "max_tokens": 2'),
    "a name without quotes": _tail(b"max_tokens: 2"),
    "two documents": _tail(b'"max_tokens": 2') * 2,
    "words behind": _tail(b'"max_tokens": 2') + b" please",
    "NaN": _tail(b'"temperature": NaN'),
    "Infinity": _tail(b'"temperature": Infinity'),
    "-Infinity": _tail(b'"temperature": -Infinity'),
    "1e999": _tail(b'"temperature": 1e999'),
    "a leading zero": _tail(b'"max_tokens": 02'),
    "a plus": _tail(b'"max_tokens": +2'),
    "hexadecimal": _tail(b'"max_tokens": 0x2'),
    "2**64": _tail(b'"seed": 18446744073709551616'),
    "-2**63-1": _tail(b'"seed": -9223372036854775809'),
    "30 digits, nested": _tail(b'"metadata": {"x": [1' + b"0" * 30 + b"]}"),
    "100,000 digits": _tail(b'"seed": ' + b"9" * 100_000),
    "a name twice": _tail(b'"max_tokens": 2, "max_tokens": 2'),
    "a name twice, among 9,000": _tail(b",".join(b'"%d": 1' % number for number in range(9000)) + b', "99": 1'),
    "100,000 names": _tail(b",".join(b'"%d": 1' % number for number in range(100_000))),
    "a name twice, escaped": _tail(b'"seed": 1, "\\u0073eed": 2'),
    "a name twice, inside": b'{"model": "scripted", "messages": [{"role": "user", "role": "system", "content": "Hi"}]}',
    "half a surrogate pair": _tail(b'"stop": "\\ud800"'),
    "the other half": _tail(b'"stop": "\\udc00 x"'),
    "halves the wrong way round": _tail(b'"stop": "\\udc00\\ud800"'),
    "a surrogate as a name": _tail(b'"\\ud800": 1'),
    "a bad escape": _tail(b'"stop": "\\x41"'),
    "half an escape": _tail(b'"stop": "\\u00"'),
    "a raw newline in a text": _tail(b'"stop": "\n"'),
    "invalid UTF-8": _tail(b'"stop": "\xff"'),
    "overlong UTF-8": _tail(b'"stop": "\xc0\xaf"'),
    "surrogates in UTF-8": _tail(b'"stop": "\xed\xa0\x80"'),
    "a broken UTF-8 end": _tail(b'"stop": "\xf0\x9f\x98"'),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "UTF-32": json.dumps(GOOD).encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "NUL bytes": b"\0" * 64,
    "101 levels": _tail(b'"metadata": ' + b'{"x":' * 101 + b"1" + b"}" * 101),
    "101 lists": _tail(b'"metadata": {"x": ' + b"[" * 101 + b"]" * 101 + b"}"),
    "100,000 levels": b"[" * 100_000,
    "100,000 levels of objects": b'{"x":' * 100_000,
    "20,001 objects": _tail(b'"metadata": {"x": [' + b",".join([b"{}"] * 20_000) + b"]}"),
    "700,000 lists": _tail(b'"metadata": {"x": [' + b",".join([b"[]"] * 699_000) + b"]}"),
    "11,500 times 90 levels": _tail(b'"metadata": {"x": [' + b",".join([b"[" * 90 + b"]" * 90] * 11_500) + b"]}"),
    "2 MB and more": _tail(b'"stop": "' + b"x" * LIMIT + b'"'),
}


def _malformed() -> Iterator[Case]:
    for path in CHATS:
        for name, body in MALFORMED.items():
            yield Case(name, path, 413 if len(body) > LIMIT else 400, body)


def _packed() -> Iterator[Case]:
    good = json.dumps(GOOD).encode()
    bomb = gzip.compress(b'{"x":"' + b" " * 50_000_000)
    for path in CHATS:
        for encoding, body in {"gzip": gzip.compress(good), "br": good, "deflate": good, "gzip, gzip": bomb}.items():
            yield Case(
                f"encoded {encoding}", path, 415, body, headers={"Content-Type": JSON, "Content-Encoding": encoding}
            )
        yield Case("a bomb", path, 415, bomb, headers={"Content-Type": JSON, "Content-Encoding": "gzip"})
        yield Case("no body", path, 400, b"")
    for path in CHATS[:2]:  # Ollama takes JSON under any name
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""):
            yield Case(f"as '{kind}'", path, 415, good, headers={"Content-Type": kind} if kind else {})


BIG = "x" * 257
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(70):
    DEEP = {"type": "array", "items": DEEP}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _native() -> Iterator[Case]:
    for fields in (
        {"messages": []},
        {"messages": "Hi"},
        {"messages": None},
        {"messages": [1]},
        {"messages": [{}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "root", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": GOOD["messages"] * 2049},
        {"model": ""},
        {"model": 1},
        {"model": "x" * 201},
        {"model": "a\nb"},
        {"model": "../../../etc/passwd"},
        {"model": "nowhere/to-be-found"},
        {"n": 0},
        {"n": 17},
        {"n": "many"},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 131_073},
        {"max_tokens": 1.5},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"presence_penalty": 3},
        {"frequency_penalty": -3},
        {"seed": -1},
        {"seed": 2**32},
        {"stop": [""]},
        {"stop": BIG},
        {"stop": ["x"] * 17},
        {"stop": [["x"]]},
        {"logprobs": 21},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {str(number): 1 for number in range(1025)}},
        {"format": "xml"},
        {"format": DEEP},
        {"format": {"enum": ["x" * 70_000]}},
        {"timeout": 0},
        {"timeout": 601},
        {"timeout": "long"},
        {"priority": 10},
        {"priority": -1},
        {"expires_in": 0},
        {"keep_alive": "soon"},
        {"keep_alive": [1]},
        {"session_id": "a b"},
        {"session_id": "../x"},
        {"session_id": "s", "n": 2},
        {"max_history": 3},
        {"stream": "yes please"},
        {"tools": [TOOL]},
        {"unknown": 1},
        {"__class__": "x"},
    ):
        yield _of("/chat", **fields)
    for fields in ({"messages": []}, {"unknown": 1}, {"stop": BIG}, {"model": "nowhere"}):
        yield _of("/jobs", **fields)


def _openai() -> Iterator[Case]:
    chat = "/v1/chat/completions"
    for fields in (
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1"}}]}]},
        {"messages": [{"role": "user", "content": [1]}]},
        {"messages": [{"role": "tool", "content": {"x": 1}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1,"a":2}'}}]}
            ]
        },
        {"messages": [{"role": "assistant", "tool_calls": 1}]},
        {"messages": GOOD["messages"] * 2049},
        {"n": 17},
        {"n": -1},
        {"max_tokens": 0},
        {"max_tokens": 10**7},
        {"max_completion_tokens": 0},
        {"temperature": 3},
        {"top_p": 5},
        {"stop": ["x"] * 17},
        {"stop": BIG},
        {"stop": {"x": 1}},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 1e6}},
        {"logit_bias": [1]},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"tools": [1]},
        {"tools": [{"type": "browser"}]},
        {"tools": [TOOL] * 129},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 300_000}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tool_choice": "required"},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}},
        {"stream_options": {"include_usage": True}},
        {"seed": "x"},
        {"timeout": 0},
        {"priority": 99},
    ):
        yield _of(chat, **fields)
    yield _of(chat, 404, model="nowhere/to-be-found")
    yield _of(chat, 404, model="../../etc/passwd")
    for fields in (
        {"prompt": []},
        {"prompt": [1, 2, 3]},
        {"prompt": [[1, 2]]},
        {"prompt": ["x"] * 65},
        {"prompt": None},
        {"suffix": "x"},
        {"best_of": 5},
        {"logprobs": 21},
        {"max_tokens": 10**7},
    ):
        yield _of("/v1/completions", **fields)
    for fields in ({"input": []}, {"input": None}, {"input": [{"type": "image"}]}, {"max_output_tokens": 0}):
        yield _of("/v1/responses", **fields)
    for fields in ({"input": []}, {"input": {"x": 1}}, {"input": "Hi", "dimensions": 3}, {"input": ["x"] * 5000}):
        yield _of("/v1/embeddings", **fields)
    for fields, status in (
        ({"input_file_id": "file-none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}, 404),
        ({"input_file_id": "../x", "endpoint": "/v1/chat/completions", "completion_window": "24h"}, 404),
        ({"input_file_id": "x", "endpoint": "/jobs", "completion_window": "24h"}, 400),
        ({}, 400),
    ):
        yield Case(json.dumps(fields)[:50], "/v1/batches", status, json.dumps(fields).encode())
    for path in ("/v1/files/..%2f..%2fetc%2fpasswd", "/v1/files/x/content", "/v1/batches/x", "/v1/responses/x"):
        yield Case("nobody's", path, 404, method="GET", headers={})
    yield Case("limit=x", "/v1/files?limit=x", 400, method="GET", headers={})
    yield Case("no such address", "/v1/nothing", 404, b"{}")
    yield Case("wrong method", "/v1/chat/completions", 405, method="GET", headers={})


def _ollama() -> Iterator[Case]:
    for fields in (
        {"messages": 1},
        {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": GOOD["messages"] * 2049},
        {"options": 1},
        {"options": {"temperature": "hot"}},
        {"options": {"temperature": 9}},
        {"options": {"stop": ["x"] * 17}},
        {"options": {"stop": BIG}},
        {"options": {"num_predict": 10**7}},
        {"options": {"top_k": -5}},
        {"format": "xml"},
        {"format": DEEP},
        {"tools": [{}]},
        {"tools": [TOOL] * 129},
        {"keep_alive": "soon"},
        {"think": "deeply"},
        {"top_logprobs": 21},
        {"stream": "x"},
    ):
        yield _of("/api/chat", **fields)
    yield _of("/api/chat", 404, model="nowhere/to-be-found")
    yield _of("/api/chat", 404, model="../../etc/passwd")
    for fields in ({"prompt": 1}, {"suffix": "x"}, {"template": "{{ x }}"}, {"context": [999] * 16}, {"context": "x"}):
        yield _of("/api/generate", **fields)
    for path, body, status in (
        ("/api/show", {"model": "nowhere"}, 404),
        ("/api/show", {}, 400),
        ("/api/copy", {"source": "scripted", "destination": "a//b"}, 400),
        ("/api/copy", {"source": "nowhere", "destination": "b"}, 404),
        ("/api/pull", {"model": "../../x"}, 400),
        ("/api/pull", {"model": "http://evil.example/x"}, 400),
        ("/api/embed", {"model": "scripted", "input": {"x": 1}}, 400),
    ):
        yield Case(json.dumps(body)[:50], path, status, json.dumps(body).encode())
    yield Case("nowhere", "/api/delete", 404, b'{"model": "nowhere"}', method="DELETE")
    yield Case("not JSON", "/api/delete", 400, b"{", method="DELETE")
    yield Case("no such address", "/api/nothing", 404, b"{}")
    yield Case("wrong method", "/api/chat", 405, method="GET", headers={})


def _many() -> Iterator[Case]:
    """Lists of 350,000 items, each of them wrong: what looks at all of them takes seconds and gigabytes."""
    items = "[" + ",".join(["true"] * 350_000) + "]"
    for path, name in (
        ("/chat", "messages"),
        ("/chat", "stop"),
        ("/v1/chat/completions", "messages"),
        ("/v1/chat/completions", "stop"),
        ("/v1/chat/completions", "tools"),
        ("/v1/completions", "prompt"),
        ("/v1/completions", "stop"),
        ("/v1/responses", "input"),
        ("/v1/responses", "tools"),
        ("/v1/embeddings", "input"),
        ("/api/chat", "messages"),
        ("/api/chat", "tools"),
        ("/api/generate", "context"),
        ("/api/embed", "input"),
        ("/tokenize", "prompt"),
        ("/detokenize", "tokens"),
    ):
        body = json.dumps(_base(path) | {name: 0}).replace(f'"{name}": 0', f'"{name}": {items}')
        yield Case(f"350,000 {name}", path, 400, body.encode())
    inner = json.dumps(_base("/chat")).replace('"Hi"', items).encode()
    for path in CHATS:
        yield Case("350,000 parts", path, 400, inner)


def _form(*parts: tuple[str, bytes]) -> bytes:
    lines = [b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + body for head, body in parts]
    return b"\r\n".join([*lines, b"--b--\r\n"])


def _files() -> Iterator[Case]:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    file, purpose = ('name="file"; filename="a.jsonl"', b"{}"), ('name="purpose"', b"batch")
    for name, body, status in (
        ("no form", b"", 400),
        ("no boundaries", b"x" * 1000, 400),
        ("no file", _form(purpose), 400),
        ("no purpose", _form(file), 400),
        ("another purpose", _form(file, ('name="purpose"', b"fine-tune")), 400),
        ("the file as a field", _form(('name="file"', b"{}"), purpose), 400),
        ("17 parts", _form(*[(f'name="x{number}"', b"x") for number in range(17)], file, purpose), 413),
        ("a field of 1 MB", _form(('name="purpose"', b"x" * 1_000_000), file), 413),
        ("a part's head of 1 MB", b"--b\r\nContent-Disposition: form-data; name=" + b"x" * 1_000_000, 413),
    ):
        yield Case(f"a file: {name}", "/v1/files", status, body, headers=headers)
    yield Case("a file: as JSON", "/v1/files", 400, b"{}")
    nd = {"Content-Type": "application/x-ndjson"}
    line = json.dumps(GOOD).encode()
    for name, body in {
        "no lines": b"\n\n",
        "one that is none": line + b"\n{\n",
        "a name twice": line + b'\n{"model": "scripted", "model": "scripted"}',
        "a list": line + b"\n[]",
        "UTF-16": line.decode().encode("utf-16"),
        "a line of 30 MB": line + b"\n" + line.replace(b"Hi", b"x" * 30_000_000),
        "a model that is not here": line.replace(b"scripted", b"nowhere"),
    }.items():
        yield Case(f"lines: {name}", "/jobs", 400, body, headers=nd)


def _addresses() -> Iterator[Case]:
    for path, status in (
        ("/jobs/nobody", 404),
        ("/jobs/..%2f..%2fetc%2fpasswd", 404),
        ("/jobs/%00", 404),
        ("/jobs/%ff%fe", 404),
        ("/jobs/" + "x" * 3000, 404),
        ("/jobs/nobody/stream", 404),
        ("/jobs/nobody/stream?after=-1", 400),
        ("/jobs/nobody/stream?after=x", 400),
        ("/jobs/nobody/stream?after=99999999999999999999", 400),
        ("/jobs?limit=0", 400),
        ("/jobs?limit=201", 400),
        ("/jobs?status=asleep", 400),
        ("/jobs?since=yesterday", 400),
        ("/jobs?unknown=1", 400),
        ("/jobs/nobody?format=xml", 400),
        ("/models/nowhere", 404),
        ("/models/..%2f..%2fetc%2fpasswd", 404),
        ("/models/%00", 404),
        ("/models/https:%2f%2fevil.example%2fx", 404),
        ("/aliases/nowhere", 404),
        ("/sessions/nobody", 404),
        ("/sessions/%2e%2e%2fx", 404),
        ("/groups/nobody", 404),
        ("/groups/a%20b", 400),
        ("/console/..%2f..%2fapp.py", 404),
        ("/console/%2e%2e/security.py", 404),
        ("/docs/..%2f..%2fx", 404),
        ("/.env", 404),
        ("/ws", 400),
    ):
        yield Case(path[:60], path, status, method="GET", headers={})
    for path, body, status in (
        ("/pull", {"model": "../../etc/passwd"}, 400),
        ("/pull", {"model": "https://evil.example/x/y"}, 400),
        ("/pull", {"model": "a/b/c"}, 400),
        ("/pull", {"model": "a/b", "revision": "../main"}, 400),
        ("/pull", {"model": "a/b", "revision": "-x"}, 400),
        ("/pull", {"model": "a/b", "quantize": "q1"}, 400),
        ("/pull", {"model": "..%2fb"}, 400),
        ("/models/import", {"path": "relative/path"}, 400),
        ("/models/import", {"path": "/etc/passwd"}, 400),
        ("/models/import", {"path": "/proc/self/environ"}, 400),
        ("/models/import", {"path": "/dev/zero"}, 400),
        ("/models/import", {"path": "/etc\0/passwd"}, 400),
        ("/models/nowhere/load", {}, 400),
        ("/tokenize", {"model": "scripted", "prompt": 1}, 400),
        ("/detokenize", {"model": "scripted", "tokens": [-1]}, 400),
    ):
        yield Case(f"{path} {json.dumps(body)[:50]}", path, status, json.dumps(body).encode())
    yield Case(
        "an unsafe key",
        "/chat",
        400,
        json.dumps(GOOD).encode(),
        headers={"Content-Type": JSON, "Idempotency-Key": "x" * 300},
    )
    yield Case("an alias of itself", "/aliases/a%2f..%2fb", 400, b'{"model": "scripted"}', method="PUT")


CASES: list[Case] = [
    *_malformed(), *_packed(), *_many(), *_native(), *_openai(), *_ollama(), *_files(), *_addresses(),
]  # fmt: skip


#: Frames over WebSocket, and the error's code that comes back; the socket lives on.
FRAMES: dict[str, tuple[bytes | str, str]] = {
    **{
        f"malformed: {name}": (body, "invalid_request")
        for name, body in MALFORMED.items()
        if len(body) < LIMIT and not name.startswith(("UTF-", "invalid UTF", "overlong", "surrogates in", "a broken"))
    },
    **{
        f"as bytes: {name}": (MALFORMED[name], "invalid_request")
        for name in ("invalid UTF-8", "overlong UTF-8", "surrogates in UTF-8", "UTF-16")
    },
    **{
        f"{json.dumps(frame)[:60]}": (json.dumps(frame), code)
        for frame, code in (
            ({}, "invalid_request"),
            ({"type": None}, "invalid_request"),
            ({"type": "explode"}, "invalid_request"),
            ({"type": ["generate"]}, "invalid_request"),
            ({"type": "generate"}, "invalid_request"),
            ({"type": "generate", **GOOD, "unknown": 1}, "invalid_request"),
            ({"type": "generate", **GOOD, "stop": BIG}, "invalid_request"),
            ({"type": "generate", **GOOD, "n": 17}, "invalid_request"),
            ({"type": "generate", **GOOD, "format": DEEP}, "invalid_request"),
            ({"type": "generate", **GOOD, "model": "nowhere"}, "model_not_downloaded"),
            ({"type": "generate", **GOOD, "ref": "x" * 257}, "invalid_request"),
            ({"type": "generate", **GOOD, "ref": {"x": 1}}, "invalid_request"),
            ({"type": "follow"}, "invalid_request"),
            ({"type": "follow", "job_id": 1}, "invalid_request"),
            ({"type": "follow", "job_id": "nobody"}, "job_not_found"),
            ({"type": "follow", "job_id": "nobody", "after": -1}, "invalid_request"),
            ({"type": "follow", "job_id": "nobody", "after": 2**60}, "invalid_request"),
            ({"type": "cancel", "job_id": "../x"}, "job_not_found"),
            ({"type": "cancel", "job_id": "x" * 100_000}, "invalid_request"),
            ({"type": "ping", "extra": 1}, "invalid_request"),
        )
    },
}

_TEXT, _BINARY, _CLOSE, _PING = 0x1, 0x2, 0x8, 0x9


def frame(opcode: int, payload: bytes, *, end: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """A frame's bytes, right or wrong (RFC 6455, 5.2); the mask is nought."""
    length = len(payload)
    if length < 126:
        head = bytes([length | (masked << 7)])
    elif length < 1 << 16:
        head = bytes([126 | (masked << 7)]) + length.to_bytes(2, "big")
    else:
        head = bytes([127 | (masked << 7)]) + length.to_bytes(8, "big")
    return bytes([(end << 7) | bits | opcode]) + head + (b"\0\0\0\0" if masked else b"") + payload


#: Bytes that are no frames, after which the socket is closed with one of these codes.
BROKEN: dict[str, tuple[bytes, set[int]]] = {
    "not masked": (frame(_TEXT, b"{}", masked=False), {1002}),
    "an unknown opcode": (frame(0x3, b"x"), {1002}),
    "a reserved bit": (frame(_TEXT, b"{}", bits=0x40), {1002}),
    "a long ping": (frame(_PING, b"x" * 126), {1002}),
    "a ping in pieces": (frame(_PING, b"x", end=False), {1002}),
    "a piece of nothing": (frame(0x0, b"x"), {1002}),
    "a text within a text": (frame(_TEXT, b"{", end=False) + frame(_TEXT, b"}"), {1002}),
    "invalid UTF-8": (frame(_TEXT, b'{"type": "\xff"}'), {1007}),
    "half a character at the end": (frame(_TEXT, b"\xf0\x9f"), {1007}),
    "a close with half a code": (frame(_CLOSE, b"\x03"), {1002}),
    "a close with a code that is none": (frame(_CLOSE, (1005).to_bytes(2, "big")), {1002}),
    "a frame of 2 MB and more": (frame(_TEXT, b" " * (LIMIT + 1)), {1009}),
    "a message of 2 MB in pieces": (
        frame(_TEXT, b" " * LIMIT, end=False) + frame(0x0, b"  "),
        {1009},
    ),
    "a length that does not end": (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", {1002, 1009}),
}

_ASK = b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"
#: Bytes that are no request, or one beyond the limits of lines and headers; and the status.
RAW: dict[str, tuple[bytes, int]] = {
    "noise": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "an unknown version": (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "a long line": (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
    "many headers": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    "a long header": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX\r\n\r\n", 400),
    "a header that goes on": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y\r\n z\r\n\r\n", 400),
    "a header's name with a space": (b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n", 400),
    "two lengths": (_ASK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length below nought": (_ASK + b"Content-Length: -1\r\n\r\n", 400),
    "a length that is none": (_ASK + b"Content-Length: two\r\n\r\n{}", 400),
    "a length and chunks": (_ASK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    "an unknown coding": (_ASK + b"Transfer-Encoding: zip\r\n\r\n", 400),
    "a chunk that is none": (_ASK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a huge length": (_ASK + b"Content-Length: 99999999999\r\n\r\n{}", 413),
    "chunks without an end": (_ASK + b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNK * 40, 413),
    "a file of 300 MB": (_ASK.replace(b"/chat", b"/v1/files") + b"Content-Length: 300000000\r\n\r\n--b", 413),
    "lines of 100 MB": (
        _ASK.replace(b"/chat", b"/jobs").replace(b"json", b"x-ndjson") + b"Content-Length: 100000000\r\n\r\n{}",
        413,
    ),
    "another's name": (b"GET /models HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    "two names": (b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", 400),
}  # fmt: skip


def open_socket(url: str) -> socket.socket:
    """A connection to the site."""
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), parts.port or 80), timeout=5)


def exchange(url: str, sent: bytes) -> tuple[int, dict[str, Any]]:
    """Sends bytes; returns the status and the JSON of what comes back."""
    with open_socket(url) as sock:
        with contextlib.suppress(OSError):  # it may hang up, with an answer
            sock.sendall(sent)
        response = _read(sock)
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body.splitlines()[0])  # what is left may be a bad request of its own


def _read(sock: socket.socket) -> bytes:
    """An answer, to its end by its Content-Length."""
    got = b""
    while True:
        head, mark, body = got.partition(b"\r\n\r\n")
        length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0")
        if mark and len(body) >= int(length):
            return got
        piece = sock.recv(65536)
        if not piece:
            return got
        got += piece


def faults_of(case: Case, response: httpx.Response) -> list[str]:
    """What is wrong with the answer to a case."""
    faults = [] if response.status_code == case.status else [f"{response.status_code} instead of {case.status}"]
    faults += [f"shows '{word}'" for word in INSIDES if word in response.text and word not in case.path]
    if "X-Job-Id" in response.headers:
        faults.append("a job was made")
    try:
        shape = shape_of(response.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        shape = "none"
    dialect = "openai" if case.path.startswith("/v1/") else "ollama" if case.path.startswith("/api/") else "native"
    if shape != dialect:
        faults.append(f"an error in the shape '{shape}' instead of '{dialect}'")
    if len(response.content) > 4096:
        faults.append("a long error")
    return faults


def shape_of(answer: dict[str, Any]) -> str:
    """Which dialect's error this is. Raises KeyError and others where it is none."""
    error = answer["error"]
    if isinstance(error, str):
        return "ollama" if error and set(answer) == {"error"} else "none"
    if set(error) == {"code", "message", "param", "request_id"} and answer["detail"] == error["message"]:
        return "native"
    return "openai" if error["message"] and {"type", "param", "code"} <= set(error) else "none"
