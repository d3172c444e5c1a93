"""Models that are here already, over real processes: found by the keeper, answered by a real engine, removed."""

from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, eventually
from tests.unit.test_stores import Ollama

pytestmark = pytest.mark.slow

BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France? Answer briefly."}],
    "max_tokens": 32,
    "temperature": 0,
}


def scanned(stack: Stack) -> dict[str, Any]:
    before = stack.http.get("/models/scan").json().get("started_at")
    assert stack.http.post("/models/scan").status_code == 202

    def report() -> dict[str, Any] | None:
        told = stack.http.get("/models/scan").json()
        return told if told.get("state") == "done" and told["started_at"] != before else None

    return eventually(report, what="the scan")


def test_a_model_of_ollamas_is_found_and_answers(stack: Stack, starter_gguf: Path) -> None:
    store = Ollama(stack.folder / "ollama")
    manifest = store.manifest(starter_gguf.read_bytes())
    store.put("ollama.com/library/smollm2/135m", manifest, tree="manifests-v2")

    assert scanned(stack)["found"] == ["smollm2:135m"]

    shown = stack.http.get("/models/smollm2:135m").json()
    assert (shown["source"], shown["parameters"], shown["fits"]) == ("ollama", 134_515_008, True)
    stack.http.put("/aliases/tiny", json={"model": "SmolLM2:135m"})
    answer = stack.http.post("/chat", json=BODY | {"model": "tiny", "session_id": "keep"}).json()
    assert answer["model"] == "smollm2:135m"
    assert "Paris" in answer["message"]["content"]
    turns = stack.http.get("/sessions/keep").json()["messages"]
    assert turns == [*BODY["messages"], answer["message"]]

    removed = stack.http.delete("/models/tiny").json()
    assert (removed["model"], removed["files_deleted"]) == ("smollm2:135m", False)
    assert scanned(stack)["found"] == []
    assert store.path(starter_gguf.read_bytes()).exists()
    stack.http.delete("/aliases/tiny")
