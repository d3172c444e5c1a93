"""What batch work costs an interactive request: its time to first token, idle and beside lines that saturate theirs.

`.venv/bin/python -m bench.first [URL] [MODEL] [TIMES]`, beside a stack that does nothing else. A line of MODEL
`scripted` leaves the processor idle, so that what is measured is the queue's part; one of a real model shares it.
"""

import statistics
import sys
import time

import httpx

#: More lines than any model's slots hold; they are cancelled at the end.
LINES = 200
SETTLE = 3.0


def main() -> None:
    """Measures, and prints one line."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8005"
    model = sys.argv[2] if len(sys.argv) > 2 else "scripted"
    times = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        _first(client, model)  # the load is not measured
        idle = [_first(client, model) for _ in range(times)]
        group = _saturate(client, model)
        try:
            running = len(
                client.get("/jobs", params={"group": group, "status": "running", "limit": 200}).json()["jobs"]
            )
            busy = [_first(client, model) for _ in range(times)]
            still = len(client.get("/jobs", params={"group": group, "status": "running", "limit": 200}).json()["jobs"])
        finally:
            client.delete(f"/groups/{group}").raise_for_status()
    print(
        f"time to first token of {model}: idle p50 {_ms(idle)}, beside {running} to {still} running lines of "
        f"{LINES} p50 {_ms(busy)}: {statistics.median(busy) / statistics.median(idle):.2f} times"
    )


def _ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1000:.1f} ms"


def _first(client: httpx.Client, model: str) -> float:
    """Seconds from the request to the first event."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}
    began = time.monotonic()
    with client.stream("POST", "/chat", json=body) as answer:
        answer.raise_for_status()
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        took = time.monotonic() - began
        for _ in lines:
            pass
    return took


def _saturate(client: httpx.Client, model: str) -> str:
    pace = ', "scripted_tokens_per_second": 2' if model == "scripted" else ""
    line = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Count."}}], "max_tokens": 1000{pace}}}'
    accepted = client.post("/jobs", content="\n".join([line] * LINES), headers={"Content-Type": "application/x-ndjson"})
    time.sleep(SETTLE)
    return str(accepted.raise_for_status().json()["group"])


if __name__ == "__main__":
    main()
