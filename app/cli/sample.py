"""Waits until a stack can answer, and shows that it does."""

import json
import threading
import time

import httpx
from rich.console import Console

from app.cli.starter import NAME
from app.settings import Settings

QUESTION = "What is the capital of France? Answer briefly."


def wait_ready(address: str, settings: Settings, stopping: threading.Event, seconds: float) -> str:
    """Polls the readiness. Returns why it is not, or an empty string."""
    deadline = time.monotonic() + seconds
    reason = "the web process does not answer"
    with httpx.Client(headers=headers(settings), timeout=5, trust_env=False) as client:
        while not stopping.wait(0.1) and time.monotonic() < deadline:
            try:
                answer = client.get(f"{address}/health/ready")
            except httpx.TransportError:
                continue
            # Where only keys of the database open the site, this command has none: that it asks is all it can tell.
            if answer.status_code in (200, 401):
                return ""
            reason = answer.text[:500]
    return reason


def show_sample(console: Console, address: str, settings: Settings) -> None:
    """Streams one answer and prints a line to copy. A stack without the starter model still stands."""
    body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0}
    console.print(f"\n{NAME}, asked “{QUESTION}”:")
    try:
        with httpx.Client(headers=headers(settings), timeout=120, trust_env=False) as client:
            _stream(console, client, f"{address}/chat", body)
    except httpx.TransportError as error:
        console.print(f"[yellow]No answer: {error}[/]")
    key = " -H 'Authorization: Bearer '$API_KEY" if settings.api_key else ""
    console.print(
        f"\nTry it:\n  curl -N {address}/chat{key} -H 'Content-Type: application/json' "
        f"-d '{json.dumps(body | {'temperature': 0.7})}'\n",
        markup=False,
    )


def _stream(console: Console, client: httpx.Client, url: str, body: dict[str, object]) -> None:
    with client.stream("POST", url, json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            console.print(f"[yellow]{answer.text[:300]}[/]")
            return
        for line in answer.iter_lines():
            if not line.startswith("data:"):
                continue
            event = json.loads(line[5:])
            console.print(event.get("delta", {}).get("content", ""), end="", markup=False)
            if "error" in event:
                console.print(f"[yellow]{event['error']['message']}[/]")
            elif event["done"]:
                rate = event["eval_count"] / max(event["eval_duration"], 1) * 1e9
                console.print(f"\n[dim]{event['eval_count']} tokens, {rate:.0f} tokens/s[/]")


def headers(settings: Settings) -> dict[str, str]:
    """What a request of ours must carry."""
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
