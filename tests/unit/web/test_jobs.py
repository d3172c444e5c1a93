"""Jobs, pulls and models over HTTP."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.jobs import State
from app.kernel import Kernel
from app.web.current import Site

from .conftest import Worker, submitted, until
from .test_chat import BODY, frames, meanwhile

PULL_FIELDS = {
    "id", "model", "quantize", "init", "status", "created_at", "started_at", "finished_at", "error", "traceback",
    "local_path", "size_bytes", "downloaded_bytes", "progress", "total_bytes", "preferred_quantized",
}  # fmt: skip


def test_a_job_is_shown_from_its_acceptance_to_its_text(client: FlaskClient, worker: Worker) -> None:
    job = client.post("/jobs", json=BODY).get_json()
    assert (job["status"], job["text"], job["error"], job["attempt"]) == ("queued", "", None, 0)
    worker.answer(job["id"])
    job = client.get(f"/jobs/{job['id']}").get_json()
    assert (job["status"], job["text"], job["eval_count"], job["attempt"]) == ("succeeded", "t1 t2 t3 ", 2, 1)
    assert job["worker"] == "cpu.0@test"
    assert job["finished_at"].endswith("Z")


def test_a_queued_job_is_cancelled_at_once_and_for_ever(client: FlaskClient) -> None:
    job = client.post("/jobs", json=BODY).get_json()
    for _ in range(2):
        response = client.delete(f"/jobs/{job['id']}")
        assert (response.status_code, response.get_json()["status"]) == (200, "cancelled")


def test_a_running_job_is_asked_to_end(client: FlaskClient, kernel: Kernel, worker: Worker) -> None:
    job = submitted(kernel)
    worker.claim(job.id)
    assert client.delete(f"/jobs/{job.id}").get_json()["status"] == "running"
    assert kernel.store.get(job.id).job.end_requested == State.CANCELLED


@pytest.mark.parametrize("address", ["/jobs/nope", "/jobs/nope/stream"])
def test_an_unknown_job_is_404(client: FlaskClient, address: str) -> None:
    response = client.get(address)
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "job_not_found"


def test_jobs_come_in_pages_newest_first(client: FlaskClient, kernel: Kernel) -> None:
    ids = [submitted(kernel).id for _ in range(5)][::-1]
    first = client.get("/jobs?limit=2").get_json()
    second = client.get(f"/jobs?limit=2&before={first['next']}").get_json()
    third = client.get(f"/jobs?limit=2&before={second['next']}").get_json()
    assert [job["id"] for page in (first, second, third) for job in page["jobs"]] == ids
    assert third["next"] is None


def test_a_list_leaves_out_what_may_be_long(client: FlaskClient, worker: Worker) -> None:
    job = client.post("/jobs", json=BODY | {"n": 2}).get_json()
    worker.answer(job["id"])
    (listed,) = client.get("/jobs").get_json()["jobs"]
    whole = client.get(f"/jobs/{job['id']}").get_json()
    assert whole.keys() - listed.keys() == {"request", "text", "choices"}
    assert listed.items() <= whole.items()


def test_jobs_are_filtered(client: FlaskClient, kernel: Kernel) -> None:
    old = submitted(kernel, created_at=1000.0, model="other")
    new = submitted(kernel)
    kernel.dispatcher.end(old.id, State.CANCELLED)
    client.post("/pull", json={"model": "gpt2"})

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/jobs?{query}").get_json()["jobs"]]

    assert ids("status=cancelled") == [old.id]
    assert ids("status=queued&kind=generate") == [new.id]
    assert ids("model=other") == [old.id]
    assert ids("since=1970-01-01T00:20:00&kind=generate") == [new.id]
    assert ids(f"since={time.time() + 60}") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "status=done", "kind=x", "since=yesterday", "colour=red"])
def test_a_bad_filter_is_400(client: FlaskClient, query: str) -> None:
    response = client.get(f"/jobs?{query}")
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == query.split("=")[0]


@pytest.mark.parametrize("how", ["after", "header"])
def test_a_stream_resumes_behind_the_last_event(client: FlaskClient, kernel: Kernel, worker: Worker, how: str) -> None:
    job = submitted(kernel)
    worker.answer(job.id)
    query, headers = ("?after=2", {}) if how == "after" else ("", {"Last-Event-ID": "2"})
    response = client.get(f"/jobs/{job.id}/stream{query}", headers=headers)
    assert [frame["id"] for frame in frames(response.get_data(as_text=True))] == ["3", "4"]


def test_a_last_event_id_that_is_no_number_is_400(client: FlaskClient, kernel: Kernel) -> None:
    response = client.get(f"/jobs/{submitted(kernel).id}/stream", headers={"Last-Event-ID": "x"})
    assert response.status_code == 400


def test_progress_is_an_event_of_its_own_name_and_has_no_number(
    client: FlaskClient, site: Site, worker: Worker
) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    worker.tokens(job.id, attempt, 1, 1)
    response = client.get(f"/jobs/{job.id}/stream")
    chunks = response.iter_encoded()
    assert json.loads(next(chunks).decode().split("data: ")[1])["delta"] == {"content": "t1 "}
    until(lambda: site.kernel.bus.redis.pubsub_numpat() == 2)
    worker.progress(job.id)
    assert (
        next(chunk for chunk in chunks if not chunk.startswith(b":"))
        == b'event: progress\ndata: {"status":"running","progress":0.5}\n\n'
    )
    response.close()
    assert site.hub.followers() == 0


def test_a_pull_is_accepted_and_has_its_sixteen_fields(client: FlaskClient, kernel: Kernel) -> None:
    response = client.post("/pull", json={"model": "owner/name", "quantize": "q4", "init": True})
    assert response.status_code == 202
    body = response.get_json()
    assert body == {"status": "accepted", "job_id": response.headers["X-Job-Id"]}
    shown = client.get(f"/jobs/{body['job_id']}").get_json()
    assert set(shown) >= PULL_FIELDS
    assert (shown["quantize"], shown["init"], shown["progress"]) == ("q4", True, 0.0)
    job = kernel.store.get(body["job_id"]).job
    assert job.request == {"model": "owner/name", "revision": None, "quantize": "q4", "init": True}


def test_a_pull_takes_a_revision_and_a_priority(client: FlaskClient, kernel: Kernel) -> None:
    body = {"model": "owner/name:Q4_K_M", "revision": "refs/pr/1", "priority": 2}
    job = kernel.store.get(client.post("/pull", json=body).get_json()["job_id"]).job

    assert (job.model, job.request["revision"], job.priority) == ("owner/name:Q4_K_M", "refs/pr/1", 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "../etc"}, "model"),
        ({"model": "a/b/c"}, "model"),
        ({"model": "https://evil.example/m"}, "model"),
        ({"model": "owner/na--me"}, "model"),
        ({"model": "owner/"}, "model"),
        ({"model": "owner/name:"}, "model"),
        ({"model": "-owner/name"}, "model"),
        ({"model": "m", "revision": "a/../b"}, "revision"),
        ({"model": "m", "revision": "-x"}, "revision"),
        ({"model": "m", "quantize": "q5"}, "quantize"),
        ({"model": "m", "priority": 10}, "priority"),
    ],
)
def test_a_name_that_no_hub_has_is_refused_at_once(client: FlaskClient, fields: dict[str, Any], param: str) -> None:
    response = client.post("/pull", json=fields)

    assert response.status_code == 400
    assert (response.get_json()["error"]["code"], response.get_json()["error"]["param"]) == ("invalid_request", param)
    assert client.get("/jobs").get_json()["jobs"] == []


def test_a_traceback_is_shown_only_where_it_is_asked_for(client: FlaskClient, kernel: Kernel) -> None:
    job_id = client.post("/pull", json={"model": "m"}).get_json()["job_id"]
    with kernel.database.write() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET traceback = 'Trace'")
    assert client.get(f"/jobs/{job_id}").get_json()["traceback"] is None
    assert client.get(f"/jobs/{job_id}?traceback=true").get_json()["traceback"] == "Trace"


def test_models_tell_who_holds_them(client: FlaskClient, worker: Worker) -> None:
    worker.announce()
    (model,) = client.get("/models").get_json()["models"]
    assert (model["model"], model["loaded"], model["backend"]) == ("scripted", True, "scripted")
    assert (model["load_duration"], model["workers"]) == (7, ["cpu.0@test"])


def test_only_files_of_ours_are_deleted_with_a_model(client: FlaskClient, kernel: Kernel, tmp_path: Path) -> None:
    ours, theirs = kernel.settings.models_dir / "a" / "b.gguf", tmp_path / "theirs.gguf"
    for name, path in (("own/a", ours), ("b", theirs)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        kernel.catalog.add(name, path, format="gguf", size_bytes=1, source="test")
    assert client.delete("/models/own/a").get_json() == {"status": "removed", "model": "own/a", "files_deleted": True}
    assert client.delete("/models/b").get_json()["files_deleted"] is False
    assert (ours.exists(), theirs.exists()) == (False, True)
    assert client.delete("/models/b").status_code == 404


def test_a_detached_chat_outlives_its_request(client: FlaskClient, kernel: Kernel, worker: Worker) -> None:
    with meanwhile(lambda: worker.answer(worker.next_job())):
        response = client.post("/chat", json=BODY | {"detach": True, "expires_in": 60})
    job = kernel.store.get(response.get_json()["job_id"]).job
    assert not job.held
    assert job.expires_at == pytest.approx(job.created_at + 60)
