"""One model over the API: its facts, its names, its removal."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.jobs import MAINTENANCE_QUEUE, State
from app.kernel import Kernel
from app.scan import Report, Scan, Skipped
from tests.modelfiles import write_folder

from .conftest import Worker, submitted

FACTS = {
    "architecture": "LlamaForCausalLM", "family": "llama", "task": "generate", "parameters": 6464, "context": 2048,
    "dtype": "bfloat16", "quantization": None, "template": "{{ x }}", "licence": "mit", "kv_bytes": 256,
    "files": [{"name": "model.safetensors", "size_bytes": 12}],
}  # fmt: skip


@pytest.fixture
def folder(kernel: Kernel) -> Path:
    """A model of ours, under a name with a slash and a colon."""
    folder = write_folder(kernel.settings.models_dir / "m")
    kernel.catalog.add("o/n:x", folder, format="safetensors", size_bytes=99, source="import", facts=FACTS)
    return folder


def test_an_alias_stands_for_what_is_here_or_for_a_whole_name_of_the_hub(client: FlaskClient, kernel: Kernel) -> None:
    refused = client.put("/aliases/fast", json={"model": "smolm2"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "model_not_found")
    assert "owner/name" in refused.get_json()["error"]["message"]
    assert client.get("/aliases").get_json()["aliases"] == []
    for model in ("scripted", "owner/name"):
        assert client.put("/aliases/fast", json={"model": model}).get_json()["model"] == model
    assert client.put("/aliases/faster", json={"model": "fast"}).get_json()["model"] == "owner/name"


def test_a_model_shows_what_its_files_tell(client: FlaskClient, kernel: Kernel, folder: Path) -> None:
    kernel.aliases.put("short", "o/n:x")
    shown = client.get("/models/o/n:x").get_json()
    assert shown.items() >= {**{k: v for k, v in FACTS.items() if k != "kv_bytes"}, "kv_bytes_per_token": 256}.items()
    assert (shown["model"], shown["aliases"], shown["state"], shown["loaded"]) == ("o/n:x", ["short"], "ready", False)
    assert (shown["fits"], shown["fits_in_4_bits"], shown["needs_bytes"]) == (True, True, 118)
    assert client.get("/models/short").get_json() == shown
    assert client.get("/models/SHORT:latest").get_json() == shown
    assert client.get("/models").get_json()["models"][0]["aliases"] == ["short"]


def test_a_model_too_large_for_the_machine_does_not_fit(client: FlaskClient, kernel: Kernel) -> None:
    kernel.catalog.add("huge", Path("/m"), format="gguf", size_bytes=1 << 50, source="pull")
    shown = client.get("/models/huge").get_json()
    assert shown["fits"] is False
    assert "fits_in_4_bits" not in shown


def test_an_unknown_model_is_not_found(client: FlaskClient) -> None:
    for answer in (client.get("/models/a/b"), client.delete("/models/a/b")):
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "model_not_found")


def test_suggestions_say_what_fits_and_what_is_here(client: FlaskClient, kernel: Kernel) -> None:
    kernel.catalog.add("microsoft/phi-4", Path("/m"), format="safetensors", size_bytes=1, source="pull")
    kernel.catalog.add("llama3.2:3b", Path("/m"), format="gguf", size_bytes=1, source="ollama")
    models = {entry["name"]: entry for entry in client.get("/models/suggested").get_json()["models"]}
    assert models["llama3.2"]["downloaded"] == ["llama3.2:3b"]
    assert len({name.partition(":")[0] for name in models}) >= 20
    assert models["smollm2:135m"]["gguf"]["fits"] is True
    assert models["phi4"]["downloaded"] == ["microsoft/phi-4"]
    assert models["qwen3"]["downloaded"] == []
    assert "qwen3:8b" in models["qwen3"]["also"]


def test_aliases_are_put_listed_and_removed(client: FlaskClient, kernel: Kernel) -> None:
    shown = client.put("/aliases/my/fast:one", json={"model": "scripted"})
    assert (shown.status_code, shown.get_json()["model"]) == (200, "scripted")
    assert client.get("/aliases/my/fast:one").get_json() == shown.get_json()
    assert [a["alias"] for a in client.get("/aliases").get_json()["aliases"]] == ["my/fast:one"]
    assert client.delete("/aliases/my/fast:one").get_json() == {"status": "removed", "alias": "my/fast:one"}
    assert client.get("/aliases/my/fast:one").get_json()["error"]["code"] == "alias_not_found"


@pytest.mark.parametrize(
    ("name", "model", "status", "code"),
    [
        ("x/load", "scripted", 400, "invalid_request"),
        ("x", "", 400, "invalid_request"),
        ("x", "x", 400, "invalid_request"),
        ("o/n:x", "scripted", 409, "alias_taken"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(
    client: FlaskClient, folder: Path, name: str, model: str, status: int, code: str
) -> None:
    answer = client.put(f"/aliases/{name}", json={"model": model})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code)
    assert client.get("/aliases").get_json() == {"aliases": []}


def test_a_chat_names_its_model_by_an_alias(client: FlaskClient, worker: Worker) -> None:
    client.put("/aliases/fast", json={"model": "scripted"})
    body = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/jobs", json=body).get_json()["model"] == "scripted"
    assert worker.kernel.store.waiting_models() == ["scripted"]
    assert len(client.get("/jobs?model=fast").get_json()["jobs"]) == 1


def test_a_pull_names_its_model_by_a_short_name(client: FlaskClient, kernel: Kernel) -> None:
    job = client.post("/pull", json={"model": "phi4"}).get_json()["job_id"]
    assert kernel.store.get(job).job.model == "bartowski/phi-4-GGUF:Q4_K_M"


def test_a_model_is_removed_with_its_files(client: FlaskClient, folder: Path) -> None:
    client.put("/aliases/short", json={"model": "o/n:x"})
    answer = client.delete("/models/short")
    assert answer.get_json() == {"status": "removed", "model": "o/n:x", "files_deleted": True}
    assert not folder.exists()
    assert client.get("/models/o/n:x").status_code == 404


def test_a_model_at_work_is_removed_by_force_alone(client: FlaskClient, kernel: Kernel, folder: Path) -> None:
    queued = submitted(kernel, model="o/n:x")
    answer = client.delete("/models/o/n:x")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (409, "model_in_use")
    assert folder.exists()

    assert client.delete("/models/o/n:x?force=true").status_code == 200

    row = kernel.store.get(queued.id).job
    assert (row.status, row.error_code) == (State.FAILED, "model_removed")
    assert not folder.exists()


def test_files_that_cannot_be_deleted_are_told_and_tried_again(
    client: FlaskClient, kernel: Kernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("app.disk.shutil.rmtree", refuse)
        answer = client.delete("/models/o/n:x")
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (500, "not_deleted")
        assert "Permission denied" in answer.get_json()["detail"]
        report = Scan(kernel.settings.model_copy(update={"scan_models": False}), kernel.catalog, kernel.store).run()
        assert ["cannot be deleted" in skipped.reason for skipped in report.skipped] == [True]
    assert client.get("/models/o/n:x").get_json()["state"] == "removing"
    assert client.delete("/models/o/n:x").get_json()["files_deleted"] is True
    assert client.get("/models/o/n:x").status_code == 404


def test_force_cancels_what_runs(client: FlaskClient, kernel: Kernel, worker: Worker, folder: Path) -> None:
    running = submitted(kernel, model="o/n:x")
    worker.claim(running.id)
    assert client.delete("/models/o/n:x?force=true").status_code == 200
    assert kernel.store.get(running.id).job.end_requested == State.CANCELLED


def test_the_built_in_model_stays(client: FlaskClient) -> None:
    assert client.delete("/models/scripted").status_code == 400


def test_a_model_on_this_machine_is_imported(client: FlaskClient, kernel: Kernel, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tuned", chat_template_jinja="{{ x }}")
    shown = client.post("/models/import", json={"path": str(folder), "name": "me/tuned"})
    assert shown.status_code == 201
    assert shown.get_json() == client.get("/models/me/tuned").get_json()
    assert (shown.get_json()["template"], shown.get_json()["local_path"]) == ("{{ x }}", str(folder))
    assert client.delete("/models/me/tuned").get_json()["files_deleted"] is False
    assert folder.exists()
    assert client.get("/models/me/tuned").status_code == 404


def test_an_import_may_copy(client: FlaskClient, kernel: Kernel, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tuned")
    shown = client.post("/models/import", json={"path": str(folder), "copy": True, "quantize": "fp32"}).get_json()
    assert shown["quantize"] == "fp32"
    assert shown["local_path"] == str(kernel.settings.models_dir / "tuned")
    assert client.delete("/models/tuned").get_json()["files_deleted"] is True
    assert (folder.exists(), (kernel.settings.models_dir / "tuned").exists()) == (True, False)


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({"path": "relative"}, 400, "invalid_request", "absolute"),
        ({"path": "/nothing/here"}, 400, "unreadable", "nothing at 'here'"),
        ({"path": "/etc"}, 400, "not_a_model", "no weights"),
        ({"path": "/etc", "name": "a//b"}, 400, "invalid_request", "no name"),
        ({"path": "/etc", "name": "o/n:x"}, 409, "model_exists", "DELETE"),
        ({}, 400, "invalid_request", "path"),
    ],
)
def test_an_import_that_cannot_be_says_why(
    client: FlaskClient, folder: Path, body: dict[str, object], status: int, code: str, word: str
) -> None:
    answer = client.post("/models/import", json=body)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code)
    assert word in answer.get_json()["detail"]


def test_a_scan_is_the_keepers_and_its_report_is_shown(client: FlaskClient, kernel: Kernel) -> None:
    assert client.get("/models/scan").status_code == 404
    assert client.post("/models/scan?unhide=true").get_json() == {"status": "accepted"}
    assert client.post("/models/scan").status_code == 202
    assert kernel.bus.queue_length(MAINTENANCE_QUEUE) == 2
    kernel.scans.tell(Report("running", 1.0))
    assert client.get("/models/scan").get_json()["state"] == "running"
    kernel.scans.tell(Report("done", 1.0, 2.0, found=["a"], skipped=[Skipped("/x", "no weights")]))
    shown = client.get("/models/scan").get_json()
    assert (shown["found"], shown["skipped"]) == (["a"], [{"path": "/x", "reason": "no weights"}])
