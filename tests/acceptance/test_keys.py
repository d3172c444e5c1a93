"""Keys over a whole stack: made by the command while it runs, used by clients of every dialect, revoked."""

import json

import httpx
import ollama
import openai
import pytest
from simple_websocket import Client

from tests.command import tokenyard, told
from tests.stack import Stack, eventually

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


def test_two_tenants_on_one_stack(own_stack: Stack) -> None:
    stack = own_stack
    before = stack.http.post("/jobs", json=CHAT).json()["id"]
    made = {
        name: told(stack, "keys", "create", name, "--role", role, *more)["key"]
        for name, role, *more in (("ops", "operator"), ("alice", "user", "--requests-per-minute", "9"), ("bob", "user"))
    }

    def ask(name: str, method: str, path: str, **how: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {made[name]}"}
        return stack.http.request(method, path, headers=headers, **how)  # type: ignore[arg-type]

    # From the first key on, the site is closed.
    eventually(lambda: stack.http.get("/jobs").status_code == 401, what="closed")
    assert stack.http.get("/health/live").status_code == 200
    assert ask("ops", "GET", f"/jobs/{before}").status_code == 200

    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=made["alice"], max_retries=0)
    raw = client.chat.completions.with_raw_response.create(**CHAT)  # type: ignore[call-overload]
    assert raw.parse().choices[0].message.content == "t0 t1 t2 t3"
    assert raw.headers["x-ratelimit-limit-requests"] == "9"
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as nobody,
        pytest.raises(openai.AuthenticationError),
    ):
        nobody.models.list()
    spoken = ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {made['bob']}"})
    assert (
        spoken.chat(model="scripted", messages=CHAT["messages"], options={"num_predict": 2}).message.content == "t0 t1"
    )

    job = raw.headers["x-job-id"]
    assert ask("bob", "GET", f"/jobs/{job}/stream").status_code == 404
    assert ask("ops", "GET", f"/jobs/{job}").json()["tenant"] == "alice"
    assert ask("bob", "POST", "/pull", json={"model": "o/n"}).status_code == 403

    socket = Client(stack.url.replace("http", "ws") + "/ws")
    socket.send(json.dumps({"type": "auth", "key": made["bob"]}))
    assert json.loads(socket.receive(timeout=10))["name"] == "bob"
    socket.close()
    socket.thread.join(5)
    socket.sock.close()

    for _ in range(8):
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
    assert 0 < int(limited.value.response.headers["retry-after"]) <= 60

    client.close()
    spoken._client.close()
    listed = tokenyard(stack, "jobs", TOKENYARD_API_KEY=made["bob"]).stdout
    assert job not in listed
    tokenyard(stack, "keys", "revoke", "bob")
    eventually(lambda: ask("bob", "GET", "/jobs").status_code == 401, seconds=5, what="revoked")
    tokenyard(stack, "jobs", code=5, TOKENYARD_API_KEY=made["bob"])
