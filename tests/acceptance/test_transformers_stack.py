"""Safetensors on transformers, through the whole stack, with 4-bit weights by a lowered threshold."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import running_stack
from tests.needs import needs
from tests.stack import Stack, eventually, sse

pytestmark = needs("torch", "transformers", "bitsandbytes")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str]) -> Iterator[Stack]:
    # vLLM comes first, and has no 4-bit on a CPU.
    settings = {"MODEL_Q4_THRESHOLD_BYTES": "1000000"}
    yield from running_stack(tmp_path_factory.mktemp("stack"), starters | settings)


def question(**fields: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    return {"model": "smollm2-bf16", "messages": asked, "temperature": 0, "timeout": 300, **fields}


def test_it_answers_and_shows_how_it_was_loaded(small: Stack) -> None:
    body = small.http.post("/chat", json=question(max_tokens=24), timeout=300).json()
    assert "Paris" in body["message"]["content"]
    shown = next(model for model in small.http.get("/models").json()["models"] if model["model"] == "smollm2-bf16")
    assert (shown["backend"], shown["quantization"], shown["dtype"]) == ("transformers", "nf4", "bfloat16")
    assert shown["context"] == 8192
    assert "vLLM" in shown["why"]


def test_an_engine_that_is_killed_midway_leaves_no_gap(small: Stack) -> None:
    body = question(stream=True, max_tokens=60, ignore_eos=True)
    with small.http.stream("POST", "/chat", json=body, timeout=300) as response:
        events = []
        for event in sse(response.iter_lines()):
            events.append(event)
            if len(events) == 5:
                os.kill(engine(small), signal.SIGKILL)
    assert events[-1]["done"]
    assert events[-1]["eval_count"] == 60
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))


def engine(stack: Stack) -> int:
    """The process that holds the model."""
    hosts = [process for process in stack.family("worker") if "inference.host" in process.cmdline()]
    return eventually(lambda: hosts[0].pid, what="an engine's process")
