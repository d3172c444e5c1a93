"""/metrics and the log over real processes: they agree with the database, and with what was asked."""

import json
import re

import pytest
import websocket

from tests.stack import Stack, eventually

pytestmark = pytest.mark.slow

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)


def sampled(stack: Stack) -> dict[tuple[str, str], float]:
    """Every sample under its name and its labels."""
    answer = stack.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(answer.text)}


def of(samples: dict[tuple[str, str], float], name: str, *labels: str) -> float:
    return sum(v for (found, told), v in samples.items() if found == name and all(label in told for label in labels))


def submitted(stack: Stack, **fields: object) -> str:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "a secret"}], **fields}
    return str(stack.http.post("/jobs", json=body).json()["id"])


def test_metrics_agree_with_the_database_and_with_what_is_open(stack: Stack) -> None:
    before = sampled(stack)
    for _ in range(3):
        stack.finished(submitted(stack, max_tokens=7))
    slow = submitted(stack, max_tokens=1000, scripted_tokens_per_second=20)
    eventually(lambda: stack.job(slow)["status"] == "running", what="running")

    open_before = of(before, "tokenyard_streams_open")
    socket = websocket.create_connection(f"ws://127.0.0.1:{stack.port}/ws", timeout=30)
    with stack.http.stream("GET", f"/jobs/{slow}/stream") as stream:
        next(stream.iter_lines())
        during = sampled(stack)
        assert of(during, "tokenyard_streams_open") == open_before + 2
        assert of(during, "tokenyard_jobs_running", 'model="scripted"') == 1
        eventually(lambda: of(sampled(stack), "tokenyard_relay_lag_seconds_count") > 0, what="the relay's lag")
    socket.close()
    stack.http.delete(f"/jobs/{slow}")
    stack.finished(slow)
    eventually(lambda: of(sampled(stack), "tokenyard_streams_open") <= open_before, what="closed")

    after = sampled(stack)
    name = "tokenyard_jobs_ended_total"
    for outcome, count in (("succeeded", 3), ("cancelled", 1)):
        labels = 'model="scripted"', f'outcome="{outcome}"'
        assert of(after, name, *labels) - of(before, name, *labels) == count
    assert of(after, "tokenyard_tokens_total", 'direction="out"') >= of(before, "tokenyard_tokens_total", '"out"') + 21
    assert of(after, name) == stack.http.get("/queues").json()["finished"]
    posted = 'method="POST"', 'route="/jobs"', 'status="202"'
    total = "tokenyard_http_requests_total"
    assert of(after, total, *posted) - of(before, total, *posted) == 4
    assert of(after, "tokenyard_worker_up") == 1
    assert of(after, "tokenyard_up") == 2
    eventually(lambda: measured(sampled(stack), before), what="what the worker measured")


def measured(now: dict[tuple[str, str], float], before: dict[tuple[str, str], float]) -> bool:
    """Whether the worker has told of four jobs, and of their tokens but the first ones."""

    def grown(name: str) -> float:
        return of(now, name, 'model="scripted"') - of(before, name, 'model="scripted"')

    firsts, waits = grown("tokenyard_time_to_first_token_seconds_count"), grown("tokenyard_queue_wait_seconds_count")
    return firsts == waits == 4 and grown("tokenyard_inter_token_seconds_count") >= 18


def test_one_request_id_leads_from_the_answer_through_both_logs(stack: Stack) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 1}
    answer = stack.http.post("/chat", json=body, headers={"X-Request-Id": "asked-by-a-test"})
    job = answer.headers["X-Job-Id"]

    def lines(process: str) -> list[str]:
        text = (stack.folder / f"{process}.log").read_text(errors="replace")
        assert "a secret" not in text
        return [line for line in text.splitlines() if "asked-by-a-test" in line and job in line]

    assert any(
        "route=/chat" in line and "status=200" in line for line in eventually(lambda: lines("web"), what="audit")
    )
    assert any("ended" in line for line in eventually(lambda: lines("worker"), what="the worker's line"))
    assert json.dumps(stack.job(job)).count("asked-by-a-test") == 0  # the operators' business
