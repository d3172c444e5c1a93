"""/metrics and the log over real processes: they agree with the database, and with what was asked."""

import json
import re
import sqlite3
from contextlib import closing

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
        lines = stream.iter_lines()  # kept: without it the stream would be closed
        next(lines)
        during = sampled(stack)
        eventually(lambda: of(sampled(stack), "tokenyard_streams_open") == open_before + 2, what="both are counted")
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

    told = "route=/chat", "status=200", "model=scripted", "tokens_out=1", "key="
    audit = eventually(lambda: lines("web"), what="audit")
    assert any(all(word in line for word in told) for line in audit)
    assert any("ended" in line for line in eventually(lambda: lines("worker"), what="the worker's line"))
    assert json.dumps(stack.job(job)).count("asked-by-a-test") == 0  # the operators' business


def rows(stack: Stack) -> tuple[dict[str, int], dict[str, list[int]]]:
    """What the database itself says: tokens in and out, and of each kind of end how many jobs, attempts and losses."""
    with closing(sqlite3.connect(stack.folder / "jobs.db")) as db:
        ends = db.execute(
            "SELECT kind, model, status, coalesce(error_code, ''), count(*), sum(attempt), sum(losses) FROM jobs "
            "WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"
        ).fetchall()
        spent = db.execute("SELECT sum(prompt_tokens), sum(completion_tokens) FROM results").fetchone()
    labels = 'code="{3}",kind="{0}",model="{1}",outcome="{2}"'
    return dict(zip(("in", "out"), spent, strict=True)), {labels.format(*end): [*end[4:]] for end in ends}


def told(stack: Stack) -> tuple[dict[str, int], dict[str, list[int]]]:
    """The same as /metrics says it."""
    samples = sampled(stack)
    names = ("jobs_ended", "job_attempts", "job_losses")
    counts = [{where: v for (name, where), v in samples.items() if name == f"tokenyard_{one}_total"} for one in names]
    tokens = {way: int(of(samples, "tokenyard_tokens_total", f'"{way}"')) for way in ("in", "out")}
    return tokens, {where: [int(count[where]) for count in counts] for where in counts[0]}


def test_metrics_agree_with_the_database_to_the_job_after_500_jobs_and_kills(own_stack: Stack) -> None:
    line = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
    lines = [{**line, "scripted_tokens_per_second": 40, "priority": number % 10} for number in range(499)]
    body = "\n".join(map(json.dumps, lines)).encode()
    sent = own_stack.http.post("/jobs?group=many", content=body, headers={"Content-Type": "application/x-ndjson"})
    long = submitted(own_stack, max_tokens=1000, scripted_tokens_per_second=5, priority=0)

    def standing() -> dict[str, int]:
        counts: dict[str, int] = own_stack.http.get("/groups/many").json()
        return counts

    eventually(lambda: standing()["open"] < 480, what="the first ends")
    own_stack.kill("worker")
    own_stack.start("worker")
    eventually(lambda: standing()["open"] < 380, what="ends of the second life")
    own_stack.http.delete(f"/jobs/{long}")  # after two losses it would run alone, for minutes
    for name in ("web", "worker"):
        own_stack.kill(name)
        own_stack.start(name)
    own_stack.ready()
    for job in sent.json()["ids"][-5:]:
        own_stack.http.delete(f"/jobs/{job}")
    eventually(lambda: standing()["open"] == 0, seconds=300, what="the end of all")
    own_stack.finished(long)

    spent, ends = rows(own_stack)
    assert told(own_stack) == (spent, ends)
    assert sum(jobs for jobs, _, _ in ends.values()) == 500
    assert sum(losses for _, _, losses in ends.values()) > 0
    assert of(sampled(own_stack), "tokenyard_jobs_queued") == of(sampled(own_stack), "tokenyard_jobs_running") == 0
