"""How fast /health answers while the machine generates: `.venv/bin/python bench/health.py [URL] [MODEL]`.

Eight streams run all the while; `/health` is asked at a steady pace on one connection, and each answer is timed from
the moment at which it was due, so that a pause is not hidden by the questions that it held up.
"""

import sys
import threading
import time

import httpx

CLIENTS = 8
QUESTIONS = 1000
PACE = 0.02


def main() -> None:
    """Measure, and print one line."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8005"
    model = sys.argv[2] if len(sys.argv) > 2 else "smollm2"
    over = threading.Event()
    streams = [threading.Thread(target=_generate, args=(url, model, over)) for _ in range(CLIENTS)]
    for stream in streams:
        stream.start()
    times = _ask(url)
    over.set()
    for stream in streams:
        stream.join()
    shown = ", ".join(f"p{share} {times[len(times) * share // 100] * 1000:.1f} ms" for share in (50, 90, 99))
    print(f"/health beside {CLIENTS} streams of {model}: {shown}, worst {times[-1] * 1000:.1f} ms")


def _generate(url: str, model: str, over: threading.Event) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}
    while not over.is_set():
        with httpx.stream("POST", f"{url}/chat", json=body, timeout=60, trust_env=False) as answer:
            answer.raise_for_status()
            for _ in answer.iter_lines():
                if over.is_set():
                    return


def _ask(url: str) -> list[float]:
    times = []
    with httpx.Client(timeout=60, trust_env=False) as client:
        client.get(f"{url}/health").raise_for_status()
        due = time.monotonic()
        for _ in range(QUESTIONS):
            due += PACE
            time.sleep(max(0.0, due - time.monotonic()))
            client.get(f"{url}/health").raise_for_status()
            times.append(time.monotonic() - due)
    return sorted(times)


if __name__ == "__main__":
    main()
