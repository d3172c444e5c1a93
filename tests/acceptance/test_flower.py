"""Flower itself, over its own API: what its pages show, and what their buttons do."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.secrets import kept
from tests.stack import Stack, end, eventually, free_port


@pytest.fixture(scope="module")
def flower(stack: Stack) -> Iterator[httpx.Client]:
    port = free_port()
    stack.env["FLOWER_PORT"] = str(port)
    stack.start("flower")
    password = eventually(lambda: kept(stack.folder / "secrets" / "flower"), what="Flower's password")
    url, auth = f"http://127.0.0.1:{port}", ("tokenyard", password)
    with httpx.Client(base_url=url, auth=auth, timeout=20, trust_env=False) as client:
        node = stack.http.get("/health").json()["workers"][0]["node"]
        eventually(lambda: node in client.get("/api/workers", params={"refresh": 1}).json(), what="Flower")
        yield client
    end(stack.processes.pop("flower"))


def submitted(stack: Stack, text: str = "one two", **fields: Any) -> str:
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
    return str(stack.http.post("/jobs", json=body).json()["id"])


def told(flower: httpx.Client, job_id: str) -> dict[str, Any]:
    """What Flower says of a task; nothing before its first event is here."""
    answer = flower.get(f"/api/task/info/{job_id}")
    return dict(answer.json()) if answer.status_code == 200 else {}


def test_tasks_stand_under_their_jobs_ids_as_they_ended_and_without_prompts(stack: Stack, flower: httpx.Client) -> None:
    well = submitted(stack, "a secret wish", max_tokens=3)
    badly = submitted(stack, "a secret wish " * 5000, model="smollm2")
    stack.finished(well)
    assert stack.finished(badly)["error"]["code"] == "context_overflow"

    for job_id, state in ((well, "SUCCESS"), (badly, "FAILURE")):
        task = eventually(
            lambda wanted=(job_id, state): (
                found if (found := told(flower, wanted[0])).get("state") == wanted[1] else None
            ),
            what=f"{job_id} as {state}",
        )
        assert (task["name"], task["uuid"]) == ("tokenyard.generate", job_id)
    assert "secret" not in flower.get("/api/tasks").text
    assert "secret" not in flower.get("/tasks").text


@pytest.mark.parametrize("terminate", [False, True])
def test_revoking_a_task_cancels_its_job(stack: Stack, flower: httpx.Client, terminate: bool) -> None:
    job_id = submitted(stack, max_tokens=5000, scripted_tokens_per_second=10)
    eventually(lambda: stack.job(job_id)["status"] == "running")

    pressed = flower.post(f"/api/task/revoke/{job_id}", params={"terminate": str(terminate).lower()})

    assert pressed.status_code == 200
    assert stack.finished(job_id)["status"] == "cancelled"


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_no_page_from_elsewhere_presses_a_button(stack: Stack, flower: httpx.Client, headers: dict[str, str]) -> None:
    job_id = submitted(stack, max_tokens=20, scripted_tokens_per_second=50)

    assert flower.post(f"/api/task/revoke/{job_id}", headers=headers).status_code == 403
    assert "Access-Control-Allow-Origin" not in flower.get("/api/tasks", headers=headers).headers
    assert stack.finished(job_id)["status"] == "succeeded"


@pytest.mark.parametrize("auth", [None, ("tokenyard", ""), ("tokenyard", "wrong"), ("", "wrong")])
def test_nothing_is_told_without_the_password(flower: httpx.Client, auth: tuple[str, str] | None) -> None:
    with httpx.Client(base_url=flower.base_url, auth=auth, trust_env=False) as client:
        for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/metrics"):
            assert client.get(path).status_code == 401, path
        assert client.post("/api/worker/shutdown/any").status_code == 401


def test_no_page_shows_a_secret(stack: Stack, flower: httpx.Client) -> None:
    node = stack.http.get("/health").json()["workers"][0]["node"]
    flower.get("/api/workers", params={"refresh": 1}).raise_for_status()
    for path in ("/workers", f"/worker/{node}", "/broker", "/tasks", "/api/workers", "/api/queues/length", "/about"):
        shown = flower.get(path).text
        for name in ("broker", "flower"):
            assert str(kept(stack.folder / "secrets" / name)) not in shown, path
