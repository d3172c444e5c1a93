"""What belongs to one key is not there for another, whatever it asks and in whichever dialect."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.apikeys import Role
from app.errors import Failure
from app.kernel import Kernel
from app.stock import Model

from .conftest import NODE, Worker
from .test_chat import BODY

LINE = {"method": "POST", "url": "/v1/chat/completions", "body": {key: BODY[key] for key in ("model", "messages")}}
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def api_key() -> str:
    return "sesame"


class Tenant:
    """A client with a key of its own."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self._client = client
        self._key = {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, **how: Any) -> Any:
        how["headers"] = self._key | how.pop("headers", {})
        return self._client.open(path, method=method, **how)

    def job(self, **fields: Any) -> str:
        return str(self("POST", "/jobs", json=BODY | fields).get_json()["id"])


@pytest.fixture
def tenant(client: FlaskClient, kernel: Kernel) -> Callable[..., Tenant]:
    def make(name: str, role: Role = Role.USER, **may: Any) -> Tenant:
        return Tenant(client, kernel.api_keys.create(name, role, **may))

    return make


@pytest.fixture
def alice(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant("alice")


@pytest.fixture
def bob(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant("bob")


@pytest.fixture
def ops(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant("ops", Role.OPERATOR)


@pytest.fixture
def owned(alice: Tenant, worker: Worker) -> dict[str, str]:
    """One of everything that alice has."""
    job = alice.job()
    told = alice("POST", "/jobs?group=nightly", data=json.dumps(BODY), headers=NDJSON)
    assert told.status_code == 202
    form = {"purpose": "batch", "file": (io.BytesIO(json.dumps(LINE | {"custom_id": "1"}).encode()), "a.jsonl")}
    file = alice("POST", "/v1/files", data=form).get_json()["id"]
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    response = alice("POST", "/v1/responses", json={"model": "scripted", "input": "Hi", "background": True})
    chat = alice.job(session_id="talk")
    worker.answer(chat)
    return {
        "job": job,
        "group": "nightly",
        "file": file,
        "batch": alice("POST", "/v1/batches", json=batch).get_json()["id"],
        "response": response.get_json()["id"],
        "session": "talk",
        "chat": chat,
    }


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("GET", "/jobs/{}", "job"),
        ("GET", "/jobs/{}?format=html", "job"),
        ("DELETE", "/jobs/{}", "job"),
        ("GET", "/jobs/{}/stream", "job"),
        ("GET", "/groups/{}", "group"),
        ("DELETE", "/groups/{}", "group"),
        ("GET", "/groups/{}/stream", "group"),
        ("GET", "/groups/{}/results", "group"),
        ("GET", "/groups/{}/results?tenant=alice", "group"),
        ("GET", "/groups/{}/stream?tenant=alice", "group"),
        ("GET", "/groups/{}/results", "batch"),
        ("GET", "/groups/{}?tenant=alice", "group"),
        ("DELETE", "/groups/{}?tenant=alice", "group"),
        ("GET", "/groups/{}", "batch"),
        ("DELETE", "/groups/{}", "batch"),
        ("GET", "/sessions/{}", "session"),
        ("DELETE", "/sessions/{}", "session"),
        ("GET", "/v1/files/{}", "file"),
        ("GET", "/v1/files/{}/content", "file"),
        ("DELETE", "/v1/files/{}", "file"),
        ("GET", "/v1/files/file-output-{}", "batch"),
        ("GET", "/v1/files/file-errors-{}/content", "batch"),
        ("GET", "/v1/batches/{}", "batch"),
        ("POST", "/v1/batches/{}/cancel", "batch"),
        ("GET", "/v1/responses/{}", "response"),
        ("GET", "/v1/responses/{}?stream=true", "response"),
        ("POST", "/v1/responses/{}/cancel", "response"),
        ("DELETE", "/v1/responses/{}", "response"),
        ("GET", "/v1/responses/{}/input_items", "response"),
        ("GET", "/jobs/{}", "chat"),
    ],
)
def test_another_s_is_not_there(
    owned: dict[str, str], bob: Tenant, kernel: Kernel, method: str, path: str, what: str
) -> None:
    before = {detail.job.id: detail.job.status for detail in kernel.store.page()}
    ident, unknown = owned[what], _alike(owned[what])
    theirs, nobodys = bob(method, path.format(ident)), bob(method, path.format(unknown))
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    # Not even a word tells that there is something.
    assert _words(theirs, ident) == _words(nobodys, unknown)
    assert {detail.job.id: detail.job.status for detail in kernel.store.page()} == before


def _alike(ident: str) -> str:
    return ident[:-1] + ("0" if ident[-1] != "0" else "1")


def _words(response: Any, ident: str) -> str:
    body = response.get_data(as_text=True).replace(response.headers["X-Request-Id"], "…")
    return str(body.replace(ident, "…"))


@pytest.mark.parametrize(
    ("path", "key", "what"),
    [
        ("/jobs?before={}", "jobs", "job"),
        ("/v1/files?after={}", "data", "file"),
        ("/v1/batches?after={}", "data", "batch"),
    ],
)
def test_a_page_behind_another_s_holds_one_s_own_alone(
    owned: dict[str, str], alice: Tenant, bob: Tenant, path: str, key: str, what: str
) -> None:
    assert bob("GET", path.format(owned[what])).get_json()[key] == []
    assert len(alice("GET", path.format("x" * 40)).get_json()[key]) > 0


def test_a_list_holds_what_is_one_s_own(owned: dict[str, str], alice: Tenant, bob: Tenant, ops: Tenant) -> None:
    mine = bob.job()
    assert [job["id"] for job in bob("GET", "/jobs").get_json()["jobs"]] == [mine]
    assert bob("GET", "/jobs?group=nightly").get_json()["jobs"] == []
    assert bob("GET", "/v1/files").get_json()["data"] == []
    assert bob("GET", "/v1/batches").get_json()["data"] == []
    assert {job["tenant"] for job in alice("GET", "/jobs").get_json()["jobs"]} == {"alice"}
    assert {job["tenant"] for job in ops("GET", "/jobs").get_json()["jobs"]} == {"alice", "bob"}
    assert [batch["id"] for batch in ops("GET", "/v1/batches").get_json()["data"]] == [owned["batch"]]


def test_numbers_are_one_s_own_and_where_things_lie_is_not_told(
    owned: dict[str, str], alice: Tenant, bob: Tenant, ops: Tenant, worker: Worker, kernel: Kernel
) -> None:
    worker.announce()
    with kernel.database.write() as session:
        options = {"lora_adapters": {"tone": "/srv/secret/tone"}}
        place = {"path": "/srv/secret/m", "format": "gguf", "size_bytes": 1, "source": "pulled", "created_at": 0.0}
        session.add(Model(name="m", engine_options=options, **place))
    bob.job()
    sums = {
        who: sum(lane["queued"] for lane in who("GET", "/queues").get_json()["queues"]) for who in (alice, bob, ops)
    }
    assert sums[bob] == 1
    assert sums[ops] == sums[bob] + sums[alice]
    assert sums[alice] > 1
    assert [who("GET", "/queues").get_json()["finished"] for who in (alice, bob, ops)] == [1, 0, 1]
    for path in ("/health", "/models", "/models/m", "/queues", "/api/ps", "/api/tags", "/v1/models"):
        told, whole = bob("GET", path), ops("GET", path)
        assert told.status_code in (200, 503)
        assert "/srv/secret" not in told.get_data(as_text=True)
        assert set(told.get_json()) == set(whole.get_json())
    assert "/srv/secret/m" in ops("GET", "/models/m").get_data(as_text=True)
    assert "/srv/secret/tone" in ops("GET", "/models").get_data(as_text=True)
    health = bob("GET", "/health").get_json()
    assert (health["workers"], health["queues"]) == ([], {})
    assert ops("GET", "/health").get_json()["workers"]
    assert ops("GET", "/queues").get_json()["flower_url"] == kernel.settings.flower_url


def test_a_user_is_told_of_no_worker(
    owned: dict[str, str], alice: Tenant, ops: Tenant, worker: Worker, kernel: Kernel
) -> None:
    worker.announce()
    with kernel.database.write() as session:
        session.add(Model(name="broken", path="/srv/b", format="gguf", size_bytes=1, source="pulled", created_at=0.0))
    kernel.loads.not_fetched("broken", "test", Failure("bad_model", "its files are damaged"))
    ask = {"chat": f"/jobs/{owned['chat']}", "group": "/groups/nightly/results"}
    told = 0
    for path in (
        "/jobs",
        *ask.values(),
        "/models",
        "/models/scripted",
        "/models/broken",
        "/queues",
        "/health",
        "/api/ps",
    ):
        answer = alice("GET", path)
        assert answer.status_code in (200, 503), path
        assert NODE not in answer.get_data(as_text=True), path
        told += NODE in ops("GET", f"{path}?tenant=alice" if "groups" in path else path).get_data(as_text=True)
    assert told == 6
    assert "scripted_tokens_per_second" not in alice("GET", ask["chat"]).get_data(as_text=True)


def test_an_operator_sees_and_ends_every_job(owned: dict[str, str], ops: Tenant, alice: Tenant) -> None:
    assert ops("GET", f"/jobs/{owned['job']}").get_json()["tenant"] == "alice"
    assert ops("DELETE", f"/jobs/{owned['job']}").get_json()["status"] == "cancelled"
    assert ops("POST", f"/v1/batches/{owned['batch']}/cancel").status_code == 200
    assert ops("GET", "/groups/nightly").status_code == 404  # its own group of that name is another
    assert ops("DELETE", "/groups/nightly?tenant=alice").get_json()["open"] == 0
    assert ops("GET", f"/jobs/{owned['job']}?traceback=true").status_code == 200
    assert alice("GET", f"/jobs/{owned['job']}?traceback=true").status_code == 403


def test_names_that_clients_choose_are_each_tenant_s_own(alice: Tenant, bob: Tenant, kernel: Kernel) -> None:
    key = {"Idempotency-Key": "k1", "X-Request-Id": "same"}
    ours, theirs = (who("POST", "/jobs", json=BODY, headers=key) for who in (alice, bob))
    assert (ours.status_code, theirs.status_code) == (202, 202)
    assert ours.get_json()["id"] != theirs.get_json()["id"]
    other = bob("POST", "/jobs", json=BODY | {"max_tokens": 3}, headers={"Idempotency-Key": "k2"})
    assert other.status_code == 202

    many = {who: who("POST", "/jobs?group=g", data=json.dumps(BODY), headers=NDJSON | key | {"Idempotency-Key": "k3"})
            for who in (alice, bob)}  # fmt: skip
    again = alice("POST", "/jobs?group=g", data=json.dumps(BODY), headers=NDJSON | key | {"Idempotency-Key": "k3"})
    assert again.get_json()["ids"] == many[alice].get_json()["ids"] != many[bob].get_json()["ids"]
    assert alice("DELETE", "/groups/g").get_json()["total"] == 1
    assert bob("GET", "/groups/g").get_json()["open"] == 1


def test_a_session_of_the_same_name_is_another(alice: Tenant, bob: Tenant, worker: Worker) -> None:
    worker.answer(alice.job(session_id="talk", messages=[{"role": "user", "content": "secret"}]))
    job = bob.job(session_id="talk")
    assert "secret" not in bob("GET", f"/jobs/{job}").get_data(as_text=True)
    assert bob("GET", "/sessions/talk").get_json()["messages"] == []


def test_a_context_of_another_is_gone(alice: Tenant, bob: Tenant, owned: dict[str, str]) -> None:
    body = {"model": "scripted", "prompt": "and?", "context": list(bytes.fromhex(owned["chat"])), "stream": False}
    response = bob("POST", "/api/generate", json=body)
    assert (response.status_code, "is gone" in response.get_json()["error"]) == (400, True)


def test_a_batch_reads_no_file_of_another(bob: Tenant, owned: dict[str, str]) -> None:
    body = {"input_file_id": owned["file"], "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    assert bob("POST", "/v1/batches", json=body).status_code == 404
