"""Batches where something goes wrong: too many lines, a cancel while they are read, a database that fails."""

import errno
import io
import json
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage

from app.apikeys import Identity
from app.batches import Batches, Stage
from app.errors import UnavailableError
from app.kernel import Kernel
from app.keys import Key
from app.models import Batch, Job
from app.retention import Retention
from app.web import bodies
from app.web.current import Site
from app.web.openai import batches, lines
from tests.unit.conftest import make_job

from .conftest import Worker

ENDPOINT = "/v1/chat/completions"
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}


def upload(client: FlaskClient, count: int, **fields: Any) -> str:
    line = {"method": "POST", "url": ENDPOINT, "body": CHAT} | fields
    data = b"\n".join(json.dumps({"custom_id": str(n)} | line).encode() for n in range(count))
    sent = client.post("/v1/files", data={"purpose": "batch", "file": (io.BytesIO(data), "a.jsonl")})
    return str(sent.get_json()["id"])


def create(client: FlaskClient, file_id: str) -> Any:
    return client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "1h"})


def batch_of(kernel: Kernel, **values: Any) -> Batch:
    fields: dict[str, Any] = {
        "id": "batch_1",
        "tenant": "",
        "endpoint": ENDPOINT,
        "input_file_id": "file-1",
        "completion_window": "1h",
        "status": Stage.VALIDATING,
        "created_at": 1.0,
        "expires_at": 9e9,
    }
    batch = Batch(**fields | values)
    kernel.batches.create(batch)
    return batch


def test_each_line_takes_its_room_in_the_queue(
    client: FlaskClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.kernel.limits, "_detached", 2)
    file_id = upload(client, 3)

    with monkeypatch.context() as patch:
        patch.setattr(lines, "check", lambda *_: pytest.fail("the file was read before its room was asked for"))
        assert create(client, file_id).status_code == 429
    assert (site.kernel.batches.page(), site.kernel.store.page()) == ([], [])
    assert create(client, upload(client, 2)).get_json()["request_counts"]["total"] == 2


def test_a_file_arrives_in_the_data_s_folder_and_leaves_nothing_beside_it(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SPOOLED", 100)
    made, make = [], tempfile.TemporaryFile

    def watched(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["dir"])
        return make(*args, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    data = {"purpose": "batch", "file": (io.BytesIO(b"x" * 1000), "a.jsonl")}
    assert client.post("/v1/files", data=data).status_code == 200
    uploads = kernel.settings.data_dir / "uploads"
    assert made == [str(uploads)]
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize("at", ["arrives", "is kept"])
def test_a_file_for_which_the_disk_has_no_room_is_told_so_and_takes_none(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if at == "arrives":
            patch.setattr(bodies, "SpooledTemporaryFile", full)
        else:
            patch.setattr(FileStorage, "save", full)
        data = {"purpose": "batch", "file": (io.BytesIO(b"x" * 1000), "a.jsonl")}
        told = client.post("/v1/files", data=data)
    assert told.status_code == 507
    assert told.get_json()["error"]["code"] == "disk_full"
    assert client.get("/v1/files").get_json()["data"] == []
    assert list((kernel.settings.data_dir / "files").glob("*")) == []
    assert upload(client, 1)


@pytest.mark.parametrize("body", [{"echo": True}, {"prompt": ["a", "b"]}])
def test_a_completion_s_line_asks_for_one_answer_alone(client: FlaskClient, kernel: Kernel, body: Any) -> None:
    url = "/v1/completions"
    file_id = upload(client, 1, url=url, body={"model": "scripted", "prompt": "a"} | body)
    client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": url, "completion_window": "1h"})
    (line,) = kernel.store.page()
    assert (line.job.status, line.job.error_code) == ("failed", "invalid_request")


def test_a_batch_and_its_lines_tell_the_broker_s_time(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = time.time() + 3600
    monkeypatch.setattr(kernel.clock, "now", lambda: ahead)
    batch = create(client, upload(client, 1)).get_json()
    ended = client.post(f"/v1/batches/{batch['id']}/cancel").get_json()

    (line,) = kernel.store.page()
    assert {batch["created_at"], batch["in_progress_at"], ended["cancelling_at"]} == {int(ahead)}
    assert (line.job.created_at, line.job.finished_at) == (ahead, ahead)


def test_no_line_comes_behind_a_cancel(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.batches.CHUNK", 1)
    batch = batch_of(kernel)

    def cancelled_at_the_second() -> Iterator[Job]:
        yield make_job(group_id=batch.id)
        kernel.batches.cancel(batch.id)
        kernel.batches.end_jobs(batch.id, "")
        yield make_job(group_id=batch.id)

    assert kernel.batches.fill(batch.id, cancelled_at_the_second()) == 1
    assert kernel.batches.counts(batch.id, "") == (1, 0, 1, 0)


def test_a_batch_that_could_not_be_filled_leaves_nothing(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = upload(client, 2)
    monkeypatch.setattr("app.batches.CHUNK", 1)
    whole = lines.jobs

    def broken(*args: Any) -> Iterator[Job]:
        yield next(whole(*args))
        raise UnavailableError("database_unavailable", "The database does not answer.")

    monkeypatch.setattr(lines, "jobs", broken)
    assert create(client, file_id).status_code == 503
    (batch,) = kernel.batches.page()
    assert (batch.status, kernel.store.page()) == (Stage.FAILED, [])


def test_lines_are_kept_as_long_as_their_batch(client: FlaskClient, kernel: Kernel, worker: Worker) -> None:
    batch = create(client, upload(client, 1)).get_json()
    worker.answer(worker.next_job())
    kernel.batches.advance()
    Retention(kernel.database, kernel.clock, days=30, jobs=0).prune()
    told = client.get(f"/v1/files/file-output-{batch['id']}/content").data

    assert json.loads(told)["custom_id"] == "0"
    kept = client.delete(f"/v1/files/file-output-{batch['id']}")
    assert (kept.status_code, "goes when its batch does" in kept.get_data(as_text=True)) == (400, True)

    Retention(kernel.database, kernel.clock, days=1e-9, jobs=0).prune()
    assert (kernel.batches.page(), kernel.store.page()) == ([], [])


def test_a_line_that_is_too_long_is_told(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lines, bodies):
        monkeypatch.setattr(module, "MAX_BODY", 1000)
    batch = create(client, upload(client, 2, padding="x" * 5000)).get_json()

    assert batch["status"] == "failed"
    (error,) = batch["errors"]["data"]
    assert (error["line"], error["message"]) == (1, "The line is longer than 1000 bytes.")


@pytest.mark.parametrize("body", [CHAT | {"model": "made-up"}, {"model": "made-up"}, {"model": ["made-up"]}])
def test_a_model_that_is_made_up_is_no_metric(client: FlaskClient, kernel: Kernel, body: dict[str, Any]) -> None:
    batch = create(client, upload(client, 3, body=body)).get_json()
    kernel.batches.advance()
    assert "made-up" not in client.get("/metrics").get_data(as_text=True)
    assert [detail.job.model for detail in kernel.store.page()] == [""] * 3
    shown = client.get(f"/v1/batches/{batch['id']}").get_json()
    told = client.get(f"/v1/files/{shown['error_file_id']}/content").get_data(as_text=True)
    assert ("made-up" in told) == ("messages" in body)  # whoever sent it is told


def test_a_line_that_is_refused_counts_for_the_model_of_an_earlier_one(client: FlaskClient, kernel: Kernel) -> None:
    pair = [CHAT, CHAT | {"n": 99}]
    data = b"\n".join(
        json.dumps({"custom_id": str(n), "method": "POST", "url": ENDPOINT, "body": body}).encode()
        for n, body in enumerate(pair)
    )
    sent = client.post("/v1/files", data={"purpose": "batch", "file": (io.BytesIO(data), "a.jsonl")}).get_json()
    create(client, sent["id"])
    assert [detail.job.model for detail in kernel.store.page()] == ["scripted", "scripted"]


def test_lines_are_counted_once_when_they_have_ended(
    client: FlaskClient, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = create(client, upload(client, 1)).get_json()
    asked: list[str] = []
    paths = ("batches", f"batches/{batch['id']}", f"files/file-output-{batch['id']}")
    for name in ("counts", "lines"):
        method = getattr(Batches, name)
        monkeypatch.setattr(Batches, name, lambda *a, m=method, **k: (asked.append(m.__name__), m(*a, **k))[1])

    def ask() -> list[Any]:
        asked.clear()
        return [client.get(f"/v1/{path}").get_json() for path in paths]

    ask()
    assert asked == ["counts", "counts", "lines"]
    worker.answer(worker.next_job())
    kernel.batches.advance()
    first = ask()
    assert set(asked) == {"counts", "lines"}
    assert ask() == first
    assert asked == []
    assert first[1]["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert first[2]["bytes"] == len(client.get(f"/v1/files/{first[1]['output_file_id']}/content").data)


def test_a_file_that_was_deleted_meanwhile_is_no_200(client: FlaskClient, kernel: Kernel) -> None:
    file_id = upload(client, 1)
    kernel.files.path(kernel.files.get(file_id, "")).unlink()

    assert client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_a_refused_batch_is_refused_once(kernel: Kernel) -> None:
    batch = batch_of(kernel)
    kernel.batches.fill(batch.id, [make_job(group_id=batch.id)])
    kernel.batches.open(batch.id)
    Batches(kernel.database).refuse(batch.id, [])

    assert kernel.batches.get(batch.id).status == Stage.IN_PROGRESS
    assert kernel.batches.counts(batch.id, "").open == 1


def test_the_same_key_is_the_same_batch(client: FlaskClient, kernel: Kernel) -> None:
    key, body = {"Idempotency-Key": "k"}, {"input_file_id": upload(client, 3), "endpoint": ENDPOINT}
    first, again = (client.post("/v1/batches", json=body, headers=key).get_json() for _ in range(2))
    other = client.post("/v1/batches", json=body | {"completion_window": "2h"}, headers=key)

    assert first["id"] == again["id"]
    assert other.status_code == 409
    assert (len(kernel.batches.page()), len(kernel.store.page())) == (1, 3)


def test_the_same_key_at_once_is_one_batch(client: FlaskClient, kernel: Kernel, site: Site) -> None:
    """The second request looks for the key before the first one has kept it."""
    key, file_id = Key("", "k", "d"), upload(client, 3)
    first, second = (batch_of(kernel, id=f"batch_{n}") for n in (1, 2))
    path = kernel.files.path(kernel.files.get(file_id, ""))
    with client.application.app_context():
        for batch in (first, second):
            batches._fill(site, path, batch, Identity(), key)

    assert kernel.batches.group_of(key) == first.id
    assert [kernel.batches.counts(batch.id, "").total for batch in (first, second)] == [3, 0]
    assert kernel.batches.get(second.id).status == Stage.FAILED


@pytest.mark.parametrize(("ran", "code"), [(20.0, "timed_out"), (None, "batch_expired")])
def test_a_line_that_timed_out_says_what_ran_out(
    client: FlaskClient, kernel: Kernel, ran: float | None, code: str
) -> None:
    batch = batch_of(kernel, status=Stage.IN_PROGRESS, expires_at=100.0)
    started = None if ran is None else 50.0
    end = 100.0 if started is None or ran is None else started + ran
    kernel.batches.add(
        [
            make_job(
                group_id=batch.id,
                status="timed_out",
                timeout=20.0,
                started_at=started,
                finished_at=end,
                expires_at=100.0,
                request={lines.LINE: "a"},
            )
        ]
    )
    kernel.batches.advance()
    shown = client.get(f"/v1/batches/{batch.id}").get_json()
    line = json.loads(client.get(f"/v1/files/{shown['error_file_id']}/content").data)

    assert shown["status"] == ("expired" if ran is None else "completed")
    told = line["error"] or line["response"]["body"]["error"]
    assert told["code"] == code
    assert (line["response"] or {}).get("status_code") == (None if ran is None else 408)


def test_files_are_listed_from_either_end(client: FlaskClient) -> None:
    ids = [upload(client, 1) for _ in range(3)]

    def listed(**query: Any) -> list[str]:
        return [file["id"] for file in client.get("/v1/files", query_string=query).get_json()["data"]]

    assert listed() == listed(order="desc") == ids[::-1]
    assert listed(order="asc", limit=2) == ids[:2]
    assert listed(order="asc", after=ids[1]) == ids[2:]
