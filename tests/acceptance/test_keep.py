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
    before = eventually(lambda: _done(stack), what="the keeper's first scan")["started_at"]
    assert stack.http.post("/models/scan").status_code == 202

    return eventually(
        lambda: told if (told := _done(stack)).get("started_at", before) != before else None, what="a scan"
    )


def _done(stack: Stack) -> dict[str, Any]:
    told: dict[str, Any] = stack.http.get("/models/scan").json()
    return told if told.get("state") == "done" else {}


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


def test_a_file_is_imported_by_the_web_process_and_answers(stack: Stack, starter_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.symlink_to(starter_gguf)

    shown = stack.http.post("/models/import", json={"path": str(path), "name": "me/mine:1", "copy": True}).json()

    assert (shown["model"], shown["licence"], shown["state"]) == ("me/mine:1", "apache-2.0", "ready")
    answer = stack.http.post("/chat", json=BODY | {"model": "me/mine:1"}).json()
    assert "Paris" in answer["message"]["content"]
    copy = Path(shown["local_path"])
    assert copy.is_relative_to(stack.folder)
    assert stack.http.delete("/models/me/mine:1").json()["files_deleted"] is True
    assert (copy.exists(), path.exists()) == (False, True)


def test_a_model_is_loaded_anew_as_operators_say(stack: Stack) -> None:
    def entry() -> dict[str, Any]:
        models = stack.http.get("/models").json()["models"]
        return next(model for model in models if model["model"] == "smollm2")

    assert stack.http.post("/chat", json=BODY | {"model": "smollm2"}).status_code == 200
    before = entry()["context"]
    options = {"context": 512, "slots": 2, "kv_cache_dtype": "q8_0"}

    said = stack.http.put("/models/smollm2/engine_options", json={"engine_options": options})

    assert said.json() == {"model": "smollm2", "engine_options": options}
    eventually(lambda: (shown := entry())["loaded"] and shown["context"] == 512, what="the new context")
    assert entry()["engine_options"] == options
    answer = stack.http.post("/chat", json=BODY | {"model": "smollm2"}).json()
    assert "Paris" in answer["message"]["content"]
    for wrong, param in (({"contxt": 1}, "contxt"), ({"slots": "2"}, "slots")):
        refused = stack.http.put("/models/smollm2/engine_options", json={"engine_options": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)

    stack.http.put("/models/smollm2/engine_options", json={"engine_options": {}})
    eventually(lambda: (shown := entry())["loaded"] and shown["context"] == before, what="the context as before")
