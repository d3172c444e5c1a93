"""Idempotency-Key, and a queue that is full, over HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.kernel import Kernel
from app.limits import Limits

from .conftest import Worker
from .test_chat import BODY

KEY = {"Idempotency-Key": "5ad1b6c4-1"}


def test_the_same_request_is_the_same_job(client: FlaskClient, kernel: Kernel) -> None:
    first = client.post("/jobs", json=BODY, headers=KEY)
    otherwise_written = json.dumps(dict(reversed(BODY.items())), indent=3)
    again = client.post("/jobs", data=otherwise_written, headers=KEY | {"Content-Type": "application/json"})

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.get_json()["id"] == again.get_json()["id"] == again.headers["X-Job-Id"]
    assert len(kernel.store.page()) == 1


@pytest.mark.parametrize("change", [{"max_tokens": 9}, {"seed": 1}])
def test_the_same_key_with_another_request_is_refused(
    client: FlaskClient, kernel: Kernel, change: dict[str, int]
) -> None:
    client.post("/jobs", json=BODY, headers=KEY)
    response = client.post("/jobs", json=BODY | change, headers=KEY)

    assert (response.status_code, response.get_json()["error"]["code"]) == (409, "idempotency_conflict")
    assert response.get_json()["error"]["param"] == "Idempotency-Key"
    assert len(kernel.store.page()) == 1


def test_a_key_stands_for_one_path_alone(client: FlaskClient) -> None:
    assert client.post("/jobs", json=BODY, headers=KEY).status_code == 202
    assert client.post("/pull", json={"model": "o/n"}, headers=KEY).status_code == 409


def test_a_pull_has_a_key_too(client: FlaskClient, kernel: Kernel) -> None:
    ids = {client.post("/pull", json={"model": "o/n"}, headers=KEY).get_json()["job_id"] for _ in range(3)}
    assert len(ids) == len(kernel.store.page()) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "ключ".encode().decode("latin-1")])
def test_a_key_that_cannot_be_one_is_told(client: FlaskClient, key: str) -> None:
    response = client.post("/jobs", json=BODY, headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == "Idempotency-Key"


def test_a_held_answer_that_was_lost_is_heard_again(client: FlaskClient, worker: Worker) -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.application.test_client().post, "/chat", json=BODY, headers=KEY) for _ in range(2)]
        worker.answer(worker.next_job())
        answers = [future.result(20).get_json() for future in asked]
    later = client.post("/chat", json=BODY, headers=KEY).get_json()

    assert answers[0] == answers[1] == later
    assert later["message"]["content"] == "t1 t2 t3 "


def test_many_lines_under_one_key_are_one_group(client: FlaskClient, kernel: Kernel) -> None:
    lines = "\n".join(['{"model": "scripted", "messages": [{"role": "user", "content": "x"}]}'] * 3)
    headers = KEY | {"Content-Type": "application/x-ndjson"}
    first, again = (client.post("/jobs", data=lines, headers=headers).get_json() for _ in range(2))
    other = client.post("/jobs", data=lines + "\n" + lines, headers=headers)

    assert first == again
    assert other.status_code == 409
    assert len(kernel.store.page()) == 3


def test_several_prompts_under_one_key_are_as_many_jobs(client: FlaskClient, kernel: Kernel, worker: Worker) -> None:
    body = {"model": "scripted", "prompt": ["one", "two"]}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/completions", json=body, headers=KEY)
        for _ in range(2):
            worker.answer(worker.next_job())
        first = asked.result(20).get_json()
    again = client.post("/v1/completions", json=body, headers=KEY).get_json()

    assert [choice["text"] for choice in first["choices"]] == [choice["text"] for choice in again["choices"]]
    assert len(kernel.store.page()) == 2


def test_a_full_queue_refuses_at_once_and_keeps_nothing(app: Flask, kernel: Kernel) -> None:
    object.__setattr__(kernel, "limits", Limits(kernel.store, held=1, detached=2))
    client = app.test_client()
    accepted = [client.post("/jobs", json=BODY, headers={"Idempotency-Key": f"k{n}"}) for n in range(3)]
    lines = '{"model": "scripted", "messages": [{"role": "user", "content": "x"}]}'
    many = client.post("/jobs", data=lines, headers={"Content-Type": "application/x-ndjson"})

    assert [response.status_code for response in accepted] == [202, 202, 429]
    for response in (accepted[2], many):
        assert response.get_json()["error"]["code"] == "queue_full"
        assert int(response.headers["Retry-After"]) > 0
    assert len(kernel.store.page()) == 2
    assert client.post("/jobs", json=BODY, headers={"Idempotency-Key": "k0"}).status_code == 202
