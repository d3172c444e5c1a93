"""Interactive work beside batch lines that hold every slot they may."""

import json

from app.release import BATCH_SHARE
from tests.stack import Stack, eventually

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}


def test_interactive_requests_find_slots_beside_lines_that_saturate_theirs(stack: Stack) -> None:
    assert stack.http.post("/chat", json=CHAT | {"max_tokens": 1}).status_code == 200  # the model is loaded
    (worker,) = stack.http.get("/workers").json()["workers"]
    slots = next(model["slots"] for model in worker["models"] if model["model"] == "scripted")
    share = int(slots * BATCH_SHARE)
    line = json.dumps(CHAT | {"max_tokens": 1000, "scripted_tokens_per_second": 1})
    accepted = stack.http.post(
        "/jobs", content="\n".join([line] * 3 * slots), headers={"Content-Type": "application/x-ndjson"}
    )
    group = accepted.json()["group"]

    def running() -> set[str]:
        asked = {"group": group, "status": "running", "limit": 200}
        return {job["id"] for job in stack.http.get("/jobs", params=asked).json()["jobs"]}

    try:
        eventually(lambda: len(running()) == share, what=f"{share} lines to run")
        lines = running()
        # Each takes a slot that no line may have: none of them ends, or waits, for another.
        for _ in range(slots):
            assert stack.http.post("/chat", json=CHAT | {"max_tokens": 3, "timeout": 10}).status_code == 200
        assert running() == lines
    finally:
        stack.http.delete(f"/groups/{group}")
    # Nor do those that run: each is at its slow answer for a quarter of an hour.
    eventually(lambda: stack.http.get(f"/groups/{group}").json()["open"] == 0, what="the lines to end")
