"""Faults while a batch runs."""

import json
from typing import Any

from tests.faults.ledger import GRACE
from tests.faults.yard import Yard
from tests.stack import eventually

LINES = 2_000
ENDPOINT = "/v1/chat/completions"


def line(number: int) -> str:
    """Every fiftieth one takes a while, so that some run whenever a fault comes."""
    pace = {"scripted_tokens_per_second": 20} if number % 50 == 0 else {}
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], **pace, "max_tokens": tokens(number)}
    return json.dumps({"custom_id": f"line {number}", "method": "POST", "url": ENDPOINT, "body": body})


def tokens(number: int) -> int:
    return 20 if number % 50 == 0 else number % 7 + 1


def create(yard: Yard) -> str:
    file = {"file": ("lines.jsonl", "\n".join(map(line, range(LINES))).encode())}
    uploaded = yard.http.post("/v1/files", files=file, data={"purpose": "batch"}).raise_for_status().json()
    body = {"input_file_id": uploaded["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    return str(yard.http.post("/v1/batches", json=body).raise_for_status().json()["id"])


def done(yard: Yard, batch_id: str) -> int:
    """By the database: what answers HTTP may be dead."""
    query = "SELECT COUNT(*) FROM jobs WHERE group_id = :batch AND finished_at IS NOT NULL"
    return int(yard.rows(query, batch=batch_id)[0][0])


def wait_for(yard: Yard, batch_id: str, lines: int) -> None:
    eventually(lambda: done(yard, batch_id) >= lines, seconds=2 * GRACE, what=f"{lines} lines")


def test_a_batch_outlives_worker_web_and_broker(yard: Yard) -> None:
    batch_id = create(yard)
    wait_for(yard, batch_id, 200)
    yard.kill("cpu.0")
    wait_for(yard, batch_id, 600)
    yard.kill("web")
    wait_for(yard, batch_id, 1_000)
    yard.broker.kill()
    yard.broker.start()
    wait_for(yard, batch_id, 1_200)
    yard.kill("cpu.1")
    yard.kill("web")
    wait_for(yard, batch_id, 1_400)
    # By itself: where a worker and what it had emitted are lost together, a line ends as `worker_lost`, rightly.
    yard.broker.kill()
    yard.broker.forget()
    yard.broker.start()
    assert done(yard, batch_id) < LINES, "the batch was over before the last fault"

    yard.ready()
    batch = eventually(lambda: _completed(yard, batch_id), seconds=2 * GRACE, what="the end of the batch")
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert batch["error_file_id"] is None
    output = yard.http.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status().text.splitlines()
    assert [_told(json.loads(row)) for row in output] == [_expected(number) for number in range(LINES)]
    assert yard.rows("SELECT * FROM fault_changes") == [], "a line that had ended was run again"


def _completed(yard: Yard, batch_id: str) -> dict[str, Any] | None:
    batch: dict[str, Any] = yard.http.get(f"/v1/batches/{batch_id}").raise_for_status().json()
    return batch if batch["status"] == "completed" else None


def _told(row: dict[str, Any]) -> tuple[str, str, int]:
    body = row["response"]["body"]
    return row["custom_id"], body["choices"][0]["message"]["content"], body["usage"]["completion_tokens"]


def _expected(number: int) -> tuple[str, str, int]:
    count = tokens(number)
    return f"line {number}", " ".join(f"t{n}" for n in range(count)), count
