"""Batches from upload to download, by OpenAI's own Python package."""

import json
from typing import Any

import openai
import pytest

from tests.stack import Stack, eventually

OVER = {"completed", "failed", "expired", "cancelled"}


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    data = "\n".join(text if isinstance(text, str) else json.dumps(text) for text in lines)
    return client.files.create(file=("lines.jsonl", data.encode()), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, window: Any = "24h") -> Any:
    return client.batches.create(
        input_file_id=file_id,
        endpoint="/v1/chat/completions",
        completion_window=window,
        metadata={"name": "mine"},
    )


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    def over() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in OVER else None

    return eventually(over, seconds=60, what=f"batch {batch_id}")


def rows(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_batch_from_upload_to_download(client: openai.OpenAI) -> None:
    bad = line("bad", temperature=9)
    file_id = upload(client, [*(line(f"r{n}") for n in range(300)), bad, line("lost", model="no/such")])
    created = create(client, file_id)
    batch = ended(client, created.id)

    assert created.status == "in_progress"
    assert (batch.status, batch.metadata) == ("completed", {"name": "mine"})
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (302, 300, 2)
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    output = rows(client, batch.output_file_id)
    assert [row["custom_id"] for row in output] == [f"r{n}" for n in range(300)]
    body = output[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "t0 t1 t2"
    assert (body["object"], body["usage"]["completion_tokens"]) == ("chat.completion", 3)
    problems = {row["custom_id"]: row["response"] for row in rows(client, batch.error_file_id)}
    assert {name: problem["status_code"] for name, problem in problems.items()} == {"bad": 400, "lost": 404}
    assert problems["bad"]["body"]["error"]["message"].startswith("temperature")
    shown = client.files.retrieve(batch.output_file_id)
    assert shown.bytes == len(client.files.content(batch.output_file_id).content)
    assert batch.id in {other.id for other in client.batches.list(limit=5)}


def test_a_file_with_faults_is_refused_by_line_and_leaves_nothing(client: openai.OpenAI, stack: Stack) -> None:
    faults = [line("a"), "not json", line("a"), {**line("c"), "method": "GET"}, {**line("d"), "url": "/v1/other"}]
    batch = create(client, upload(client, faults))

    assert batch.status == "failed"
    assert [error.line for error in batch.errors.data] == [2, 3, 4, 5]
    assert "line 1 too" in batch.errors.data[1].message
    assert batch.request_counts.total == 0
    assert client.batches.retrieve(batch.id).failed_at


def test_a_cancelled_batch_keeps_what_it_had(client: openai.OpenAI) -> None:
    slow = [line(f"r{n}", max_tokens=400, scripted_tokens_per_second=20) for n in range(60)]
    batch = create(client, upload(client, [line("quick"), *slow]))
    eventually(lambda: client.batches.retrieve(batch.id).request_counts.completed == 1, what="the quick line")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    over = ended(client, batch.id)

    assert over.status == "cancelled"
    assert (over.request_counts.completed, over.request_counts.failed) == (1, 60)
    assert [row["custom_id"] for row in rows(client, over.output_file_id)] == ["quick"]
    assert {row["error"]["code"] for row in rows(client, over.error_file_id)} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        client.batches.cancel(batch.id)


def test_files(client: openai.OpenAI) -> None:
    file_id = upload(client, [line("a")])

    assert client.files.retrieve(file_id).purpose == "batch"
    assert rows(client, file_id) == [line("a")]
    assert file_id in {file.id for file in client.files.list(purpose="batch")}
    assert client.files.delete(file_id).deleted
    for gone in (file_id, "file-output-batch_none", "../jobs.db"):
        with pytest.raises(openai.NotFoundError):
            client.files.content(gone)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"x", purpose="assistants")
