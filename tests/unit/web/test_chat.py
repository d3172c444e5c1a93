"""POST /chat, whole and streamed, and what goes wrong in it."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.jobs import State
from app.web import held
from app.web.current import Site

from .conftest import Worker

BODY: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "timeout": 20}


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Plays the worker while the client waits."""
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        yield
        acting.result(timeout=20)


def frames(text: str) -> list[dict[str, Any]]:
    """SSE as its fields; comments are skipped."""
    found = []
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


def test_a_whole_answer_has_every_field_and_no_null(client: FlaskClient, worker: Worker) -> None:
    with meanwhile(lambda: worker.answer(worker.next_job())):
        response = client.post("/chat", json=BODY)
    assert response.status_code == 200
    body = response.get_json()
    assert body.pop("created_at").endswith("Z")
    assert body.pop("job_id") == response.headers["X-Job-Id"]
    assert body == {
        "model": "scripted",
        "message": {"role": "assistant", "content": "t1 t2 t3 "},
        "done": True,
        "done_reason": "stop",
        "total_duration": 50,
        "load_duration": 10,
        "prompt_eval_count": 3,
        "prompt_eval_duration": 15,
        "eval_count": 2,
        "eval_duration": 25,
    }


def test_a_stream_numbers_its_deltas_and_ends_with_counts(client: FlaskClient, worker: Worker) -> None:
    with meanwhile(lambda: worker.answer(worker.next_job())):
        response = client.post("/chat", json=BODY | {"stream": True})
        text = response.get_data(as_text=True)
    assert response.mimetype == "text/event-stream"
    assert "X-Job-Id" in response.headers
    found = frames(text)
    assert [frame["id"] for frame in found] == ["1", "2", "3", "4"]
    assert found[0]["data"] == {"delta": {"content": "t1 "}, "done": False}
    assert found[-1]["data"] == {
        "delta": {},
        "done": True,
        "done_reason": "stop",
        "total_duration": 50,
        "load_duration": 10,
        "prompt_eval_count": 3,
        "prompt_eval_duration": 15,
        "eval_count": 2,
        "eval_duration": 25,
    }


@pytest.mark.parametrize(
    ("code", "status"),
    [("context_overflow", 400), ("invalid_request", 400), ("worker_lost", 500), ("poisoned", 500)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_token_decides_the_status(
    client: FlaskClient, worker: Worker, code: str, status: int, stream: bool
) -> None:
    def fail() -> None:
        job_id = worker.next_job()
        worker.fail(job_id, worker.claim(job_id), 1, code)

    with meanwhile(fail):
        response = client.post("/chat", json=BODY | {"stream": stream})
    assert response.status_code == status
    assert response.get_json()["error"]["code"] == code
    assert response.get_json()["detail"] == f"because {code}"
    assert "X-Job-Id" in response.headers


def test_a_failure_after_the_first_token_is_the_last_event(client: FlaskClient, worker: Worker) -> None:
    def fail() -> None:
        job_id = worker.next_job()
        attempt = worker.claim(job_id)
        worker.tokens(job_id, attempt, 1, 1)
        worker.fail(job_id, attempt, 2, "engine_failed")

    with meanwhile(fail):
        response = client.post("/chat", json=BODY | {"stream": True})
        last = frames(response.get_data(as_text=True))[-1]["data"]
    assert response.status_code == 200
    assert last["done"] is True
    assert last["error"]["code"] == "engine_failed"
    assert last["error"]["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_expired_request_is_408_and_its_job_has_ended(client: FlaskClient, site: Site, stream: bool) -> None:
    response = client.post("/chat", json=BODY | {"timeout": 1, "stream": stream})
    assert response.status_code == 408
    assert response.get_json()["detail"] == "Request timed out after 1 seconds"
    assert site.kernel.store.get(response.headers["X-Job-Id"]).job.status == State.TIMED_OUT
    assert site.hub.followers() == 0


def test_a_running_job_that_expires_is_asked_to_end(
    client: FlaskClient, site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "GRACE", 0.1)

    def run() -> None:
        job_id = worker.next_job()
        worker.tokens(job_id, worker.claim(job_id), 1, 2)

    with meanwhile(run):
        response = client.post("/chat", json=BODY | {"timeout": 1, "stream": True})
        found = frames(response.get_data(as_text=True))
    assert response.status_code == 200
    assert found[-1]["id"] == "3"
    assert found[-1]["data"]["error"]["message"] == "Request timed out after 1 seconds"
    assert site.kernel.store.get(response.headers["X-Job-Id"]).job.end_requested == State.TIMED_OUT


def test_a_quiet_stream_begins_with_200_and_heartbeats(
    client: FlaskClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "FIRST", 0.0)
    response = client.post("/chat", json=BODY | {"stream": True})
    assert response.status_code == 200
    job_id = response.headers["X-Job-Id"]
    with meanwhile(lambda: worker.fail(job_id, worker.claim(job_id), 1, "engine_failed")):
        text = response.get_data(as_text=True)
    assert text.startswith(": heartbeat\n\n")
    assert frames(text)[-1]["data"]["error"]["code"] == "engine_failed"


def test_a_cancelled_answer_is_409(client: FlaskClient, site: Site, worker: Worker) -> None:
    with meanwhile(lambda: site.kernel.dispatcher.end(worker.next_job(), State.CANCELLED)):
        response = client.post("/chat", json=BODY)
    assert response.status_code == 409
    assert response.get_json()["error"]["code"] == "cancelled"


def test_a_client_that_hangs_up_leaves_nothing_behind(client: FlaskClient, site: Site, worker: Worker) -> None:
    def begin() -> None:
        job_id = worker.next_job()
        worker.tokens(job_id, worker.claim(job_id), 1, 1)

    with meanwhile(begin):
        response = client.post("/chat", json=BODY | {"stream": True})
    assert site.hub.followers() == 1
    response.close()
    assert site.hub.followers() == 0


def test_the_row_keeps_what_an_engine_takes(client: FlaskClient, site: Site) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    body = BODY | {"messages": [{"role": "user", "content": parts}], "stop": "x", "seed": 1, "top_k": 5}
    response = client.post("/jobs", json=body)
    assert response.status_code == 202
    job = site.kernel.store.get(response.get_json()["id"]).job
    assert not job.held
    assert job.expires_at == pytest.approx(job.created_at + 86_400)
    assert job.request == {
        "messages": [{"role": "user", "content": "Hello"}],
        "sampling": {
            "max_tokens": 512,
            "temperature": 0.7,
            "top_p": 1.0,
            "top_k": 5,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": 1,
            "stop": ["x"],
            "ignore_eos": False,
            "logprobs": None,
        },
        "n": 1,
        "keep_alive": None,
    }


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"timeout": 0}, "Timeout must be between 1 and 600 seconds", "timeout"),
        ({"timeout": 601}, "Timeout must be between 1 and 600 seconds", "timeout"),
        ({"temprature": 1}, "temprature: no such field", "temprature"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2", "temperature"),
        ({"messages": []}, "messages: List should have at least 1 item after validation, not 0", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            'messages: content must be a string, or a list of parts {"type": "text", "text": "…"}',
            "messages.0.content",
        ),
        ({"stop": [""]}, "stop.0: String should have at least 1 character", None),
        (
            {"model": "gpt2"},
            'Model \'gpt2\' is not downloaded. Pull it first: POST /pull {"model": "gpt2"}',
            "model",
        ),
    ],
)
def test_a_bad_request_is_400_and_says_what_is_wrong(
    client: FlaskClient, change: dict[str, Any], message: str, param: str | None
) -> None:
    response = client.post("/chat", json=BODY | change)
    assert response.status_code == 400
    body = response.get_json()
    if param is not None:
        assert body["detail"] == body["error"]["message"] == message
        assert body["error"]["param"] == param
    assert body["error"]["request_id"] == response.headers["X-Request-Id"]
