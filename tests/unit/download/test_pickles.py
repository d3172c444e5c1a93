"""Weights that are pickles alone: converted once, in a confined process, and never run."""

import io
import os
import pickle
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inference import pickles, remote
from inference.download import conversion
from inference.download.facts import facts_of
from tests.hub import FakeHub
from tests.unit.download.conftest import Fetch, Fetched

CONFIG = {"config.json": b'{"model_type": "opt", "architectures": ["OPTForCausalLM"]}', "vocab.json": b"{}"}
STATE = {
    "embed.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "norm.weight": torch.ones(4, dtype=torch.bfloat16),
    "strided.weight": torch.arange(6).reshape(2, 3).t(),
    "scalar": torch.tensor(3.5, dtype=torch.float16),
}
TIED = STATE | {"head.weight": STATE["embed.weight"]}


def saved(state: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **how)
    return file.getvalue()


def converted(fetch: Fetch, tmp_path: Path, **files: bytes) -> tuple[Fetched, FakeHub]:
    named = {name.replace("_bin", ".bin"): data for name, data in files.items()}
    with FakeHub({"facebook/opt": CONFIG | named}) as hub:
        fetched = fetch(
            hub, "facebook/opt", converted=str(tmp_path / "models" / "opt"), staging=str(tmp_path / "pulls")
        )
    return fetched, hub


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_repository_of_pickles_becomes_a_safetensors_folder(
    fetch: Fetch, tmp_path: Path, how: dict[str, Any]
) -> None:
    fetched, _ = converted(fetch, tmp_path, pytorch_model_bin=saved(TIED, **how))

    assert fetched.folder == tmp_path / "models" / "opt"
    tensors = load_file(fetched.folder / "model.safetensors")
    assert tensors.keys() == TIED.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TIED.items())
    assert (fetched.folder / "config.json").read_bytes() == CONFIG["config.json"]
    # The pickles are gone, and no tool finds any in the shared cache.
    assert not list(tmp_path.rglob("*.bin"))
    assert not (tmp_path / "hub").exists()
    assert [line for line in fetched.lines if "phase" in line] == [{"phase": "converting"}]


def test_shards_are_converted_one_by_one_and_what_is_done_is_not_done_again(fetch: Fetch, tmp_path: Path) -> None:
    shards = {f"pytorch_model-0000{n}-of-00002_bin": saved({f"layer.{n}": torch.full((3,), float(n))}) for n in (1, 2)}
    fetched, _ = converted(fetch, tmp_path, **shards)
    again, hub = converted(fetch, tmp_path, **shards)

    assert sorted(path.name for path in fetched.folder.glob("model*")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert again.done == fetched.done
    assert hub.served == []


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def test_a_pickle_that_would_run_something_is_refused(fetch: Fetch, tmp_path: Path) -> None:
    fetched, _ = converted(fetch, tmp_path, pytorch_model_bin=pickle.dumps({"w": Evil()}))

    assert fetched.error is not None
    assert fetched.error.code == "conversion_failed"
    assert "not read as weights" in fetched.error.message
    assert not Path("pwned").exists()
    assert not list((tmp_path / "models").iterdir())


def test_the_converter_is_confined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bounds: dict[int, Any] = {}
    monkeypatch.setattr(resource, "setrlimit", bounds.__setitem__)
    monkeypatch.setattr(pickles, "convert", lambda into, files: None)
    (tmp_path / "w.bin").write_bytes(b"x" * 1_000_000)
    monkeypatch.setattr("sys.argv", ["pickles", str(tmp_path), str(tmp_path / "w.bin")])

    assert pickles.main() == 0

    assert bounds[resource.RLIMIT_AS][0] == pickles.OWN_MEMORY + 2_000_000
    assert bounds[resource.RLIMIT_CPU][0] <= 3600


def test_who_reads_a_stranger_s_files_is_not_told_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[dict[str, str]] = []

    def run(argv: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        told.append(env)
        return subprocess.CompletedProcess(argv, 0, b"{}")

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(subprocess, "run", run)
    facts_of(tmp_path)
    conversion._run([], tmp_path, 0)
    assert ["secret" in env.values() for env in (*told, remote._environment())] == [False] * 3
