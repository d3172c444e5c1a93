"""Sessions over the API."""

import pytest
from flask.testing import FlaskClient

from .conftest import Worker
from .test_chat import BODY


def test_a_conversation_goes_on_over_requests(client: FlaskClient, worker: Worker) -> None:
    body = BODY | {"session_id": "s-1", "max_history": 3}
    client.post("/jobs", json=body)
    worker.answer(worker.next_job(), 2)

    shown = client.get("/sessions/s-1").get_json()
    assert shown["messages"] == [*BODY["messages"], {"role": "assistant", "content": "t1 t2 "}]
    assert shown["expires_at"] > shown["created_at"]

    job = client.post("/jobs", json=body).get_json()
    assert job["request"]["messages"] == [*shown["messages"], *BODY["messages"]]
    assert client.delete("/sessions/s-1").get_json() == {"status": "removed", "session_id": "s-1"}
    for gone in (client.get("/sessions/s-1"), client.delete("/sessions/s-1")):
        assert (gone.status_code, gone.get_json()["error"]["code"]) == (404, "session_not_found")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"session_id": "a b"}, "session_id"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": "x" * 65}, "session_id"),
        ({"session_id": "s", "max_history": 0}, "max_history"),
        ({"max_history": 3}, "max_history"),
        ({"session_id": "s", "n": 2}, "n: a session"),
    ],
)
def test_what_no_session_can_be_is_refused_and_leaves_nothing(
    client: FlaskClient, fields: dict[str, object], word: str
) -> None:
    answer = client.post("/chat", json=BODY | fields)
    assert answer.status_code == 400
    assert word in answer.get_json()["detail"]
    assert client.get("/sessions/s").status_code == 404
    assert client.get("/jobs").get_json()["jobs"] == []
