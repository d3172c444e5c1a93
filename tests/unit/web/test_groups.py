"""Many jobs in one request."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.bus import ENDS
from app.web import groups
from app.web.bodies import MAX_BODY
from app.web.current import Site
from tests.unit.web.conftest import Worker

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}
NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*bodies: Any) -> bytes:
    return b"\n".join(json.dumps(body).encode() for body in bodies)


def test_many_jobs_are_accepted_listed_and_ended_together(client: FlaskClient, worker: Worker) -> None:
    accepted = client.post("/jobs?group=mine", data=lines(*[BODY] * 3, BODY | {"priority": 2}), headers=NDJSON)
    body = accepted.get_json()
    listed = client.get("/jobs?group=mine").get_json()["jobs"]

    assert accepted.status_code == 202
    assert (body["group"], body["count"]) == ("mine", 4)
    assert sorted(job["id"] for job in listed) == sorted(body["ids"])
    assert sorted(job["priority"] for job in listed) == [2, 7, 7, 7]

    worker.claim(body["ids"][0])
    with worker.kernel.bus.redis.pubsub(ignore_subscribe_messages=True) as ends:  # type: ignore[no-untyped-call]
        ends.subscribe(ENDS)
        ends.get_message(timeout=5)
        cancelled = client.delete("/groups/mine").get_json()
        heard = ends.get_message(timeout=5)

    assert heard["data"].decode() == f"{body['ids'][0]} cancelled"  # its owner need not wait for its next renewal
    assert cancelled == {"group": "mine", "total": 4, "completed": 0, "failed": 3, "open": 1}
    assert client.get(f"/jobs/{body['ids'][0]}").get_json()["status"] == "running"


def test_one_bad_line_refuses_all_and_leaves_nothing(client: FlaskClient, site: Site) -> None:
    for bad, said in (
        (BODY | {"temperature": 9}, "temperature"),
        (BODY | {"model": "no"}, "not downloaded"),
        (BODY | {"session_id": "s"}, "session"),
        ([], ""),
        (BODY | {"messages": [{"role": "user", "content": "x" * MAX_BODY}]}, "longer than 2097152 bytes"),
    ):
        refused = client.post("/jobs", data=lines(BODY, bad), headers=NDJSON)
        assert refused.status_code == 400
        message = refused.get_json()["error"]["message"]
        assert message.startswith("Line 2: ")
        assert said in message
    assert client.post("/jobs", data=b"\n\n", headers=NDJSON).status_code == 400
    assert client.post("/jobs?group=a/b", data=lines(BODY), headers=NDJSON).status_code == 400
    assert site.kernel.store.page() == []
    assert client.get("/groups/none").status_code == 404


def test_the_lines_of_one_request_at_a_time_are_in_memory(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    read, accept = groups._read, groups._accept

    def note(fn: Any) -> Any:
        return lambda *args: (held.append(groups._reading.locked()), fn(*args))[1]

    monkeypatch.setattr(groups, "_read", note(read))
    monkeypatch.setattr(groups, "_accept", note(accept))
    for sent in (lines(BODY), lines({}), lines(BODY)):
        client.post("/jobs", data=sent, headers=NDJSON)
    assert held == [True] * 5  # the faulty one is read alone
    assert not groups._reading.locked()


def test_a_line_names_its_model_by_an_alias(client: FlaskClient) -> None:
    client.put("/aliases/fast", json={"model": "scripted"})
    ids = client.post("/jobs", data=lines(BODY | {"model": "fast"}), headers=NDJSON).get_json()["ids"]
    assert client.get(f"/jobs/{ids[0]}").get_json()["model"] == "scripted"


def test_a_group_is_followed_to_its_end(client: FlaskClient) -> None:
    client.post("/jobs?group=g", data=lines(BODY, BODY), headers=NDJSON)
    client.delete("/groups/g")
    events = client.get("/groups/g/stream").get_data(as_text=True)

    assert json.loads(events.removeprefix("data: ")) == {
        "group": "g",
        "total": 2,
        "completed": 0,
        "failed": 2,
        "open": 0,
        "done": True,
    }


def test_a_batchs_name_is_no_groups(client: FlaskClient, site: Site) -> None:
    refused = client.post("/jobs?group=batch_1", data=lines(BODY), headers=NDJSON)

    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "group")
    assert site.kernel.store.page() == []


def test_a_group_sent_again_is_its_own_jobs_alone(client: FlaskClient) -> None:
    key = NDJSON | {"Idempotency-Key": "k"}
    first = client.post("/jobs?group=mine", data=lines(BODY, BODY), headers=key).get_json()
    client.post("/jobs?group=mine", data=lines(BODY), headers=NDJSON)
    again = client.post("/jobs?group=mine", data=lines(BODY, BODY), headers=key).get_json()

    assert again == first | {"ids": sorted(first["ids"])}


def test_groups_are_listed_and_give_what_their_jobs_gave(client: FlaskClient, worker: Worker) -> None:
    assert client.get("/groups").get_json() == {"groups": []}
    ids = client.post("/jobs?group=old", data=lines(BODY, BODY), headers=NDJSON).get_json()["ids"]
    client.post("/jobs?group=new", data=lines(BODY), headers=NDJSON)
    worker.answer(ids[1], 2)
    client.delete(f"/jobs/{ids[0]}")

    listed = client.get("/groups").get_json()["groups"]
    counts = [{name: group[name] for name in ("group", "total", "completed", "failed", "open")} for group in listed]
    assert counts == [
        {"group": "new", "total": 1, "completed": 0, "failed": 0, "open": 1},
        {"group": "old", "total": 2, "completed": 1, "failed": 1, "open": 0},
    ]
    results = client.get("/groups/old/results")
    told = [json.loads(line) for line in results.data.splitlines()]
    assert [(one["id"], one["status"], one["text"]) for one in told] == [
        (ids[1], "succeeded", "t1 t2 "),
        (ids[0], "cancelled", ""),
    ]
    assert results.headers["Content-Disposition"] == 'attachment; filename="old.jsonl"'
    assert client.get("/groups/new/results").data == b""
    assert client.get("/groups/none/results").status_code == 404
