"""What comes from a hub, what is told on the way, and what is never fetched twice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download, snapshot_download

from inference.download import teller
from inference.download.order import Order
from inference.download.run import download
from tests.hub import FakeHub, digest_of, gguf, safetensors
from tests.unit.download.conftest import Fetch

GPT2 = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}" * 100,
    "merges.txt": b"a b\n",
    "model.safetensors": safetensors(300_000),
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "onnx/config.json": b"{}",
}
WANTED = ("config.json", "tokenizer.json", "merges.txt", "model.safetensors")
SIZE = sum(len(GPT2[name]) for name in WANTED)


def test_a_safetensors_model_comes_without_code_and_pickles(fetch: Fetch) -> None:
    with FakeHub({"gpt2": GPT2}) as hub:
        fetched = fetch(hub, "gpt2")

    assert fetched.lines[0] == {"total": SIZE, "files": 4, "commit": hub.commit("gpt2"), "downloaded": 0}
    assert fetched.lines[-1]["files_done"] == 4
    assert fetched.counts[-1] == SIZE
    assert sorted(path.name for path in fetched.folder.rglob("*")) == sorted(WANTED)
    assert (fetched.folder / "model.safetensors").read_bytes() == GPT2["model.safetensors"]


def test_bytes_only_rise_and_the_file_at_hand_is_named(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "TELL_SECONDS", 0.0)
    with FakeHub({"owner/name": {"config.json": b"{}", "model.safetensors": GPT2["model.safetensors"]}}) as hub:
        fetched = fetch(hub, "owner/name")

    assert fetched.counts == sorted(fetched.counts)
    assert len(set(fetched.counts)) > 3
    last = fetched.lines[-1]["file"]
    assert last["name"] == "model.safetensors"
    assert last["digest"] == digest_of("model.safetensors", GPT2["model.safetensors"])
    assert last["completed"] == last["total"] == len(GPT2["model.safetensors"])


def test_what_is_there_already_is_not_fetched_again(fetch: Fetch) -> None:
    with FakeHub({"gpt2": GPT2}) as hub:
        first = fetch(hub, "gpt2")
        hub.served.clear()
        second = fetch(hub, "gpt2")

    assert second.done == first.done
    assert second.lines[0]["downloaded"] == SIZE
    assert hub.served == []


@pytest.mark.parametrize("symlinks", [True, False])
def test_other_tools_find_what_we_fetched_and_we_what_they_did(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symlinks: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not symlinks)
    monkeypatch.setattr(file_download, "_are_symlinks_supported_in_dir", {})
    cache = tmp_path / "hub"
    with FakeHub({"gpt2": GPT2, "their/own": GPT2}) as hub:
        ours = fetch(hub, "gpt2")
        theirs = snapshot_download("their/own", cache_dir=cache, endpoint=hub.url)
        hub.served.clear()
        found = fetch(hub, "their/own")

    assert snapshot_download("gpt2", cache_dir=cache, local_files_only=True, allow_patterns=["*.json"])
    links = [path for path in ours.folder.iterdir() if path.is_symlink()]
    assert len(links) == (len(WANTED) if symlinks else 0)
    assert found.folder == Path(theirs)
    assert hub.served == []
    # Only what we fetched is ours to delete.
    assert ours.done is not None
    assert found.done is not None
    assert len(ours.done.facts["fetched"]) == len(WANTED)
    assert all((cache / name).is_file() for name in ours.done.facts["fetched"])
    assert found.done.facts["fetched"] == []


def test_a_file_of_another_tool_that_went_bad_is_fetched_anew(fetch: Fetch, tmp_path: Path) -> None:
    with FakeHub({"gpt2": GPT2}) as hub:
        folder = Path(snapshot_download("gpt2", cache_dir=tmp_path / "hub", endpoint=hub.url))
        (folder / "model.safetensors").resolve().write_bytes(bytes(len(GPT2["model.safetensors"])))
        fetched = fetch(hub, "gpt2")

    assert (fetched.folder / "model.safetensors").read_bytes() == GPT2["model.safetensors"]


@pytest.mark.parametrize(("repo", "file"), [("owner/tiny", "Q4_K_M"), ("owner/tiny:q8_0", "Q8_0")])
def test_one_file_of_a_gguf_repository_is_fetched(fetch: Fetch, repo: str, file: str) -> None:
    files = {f"tiny-{quant}.gguf": gguf(40_000) for quant in ("F16", "Q3_K_S", "Q4_0", "Q4_K_M", "Q8_0")}
    with FakeHub({"owner/tiny": {"README.md": b"hi", **files}}) as hub:
        fetched = fetch(hub, repo)

    assert fetched.folder.name == f"tiny-{file}.gguf"
    assert [served.file for served in hub.served] == [f"tiny-{file}.gguf"]
    assert fetched.done is not None
    assert (fetched.done.format, fetched.done.size_bytes) == ("gguf", len(gguf(40_000)))
    assert fetched.done.facts["architecture"] == "llama"


def test_a_hub_that_lists_no_sizes_is_asked_file_by_file(fetch: Fetch) -> None:
    with FakeHub({"gpt2": GPT2}, sizes=False) as hub:
        fetched = fetch(hub, "gpt2")

    assert fetched.lines[0]["total"] == SIZE
    assert fetched.folder


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FakeHub({"gpt2": GPT2}) as store, FakeHub({"gpt2": GPT2}, token="hf_secret", redirect=store.url) as hub:
        fetched = fetch(hub, "gpt2")

    assert fetched.folder
    assert set(hub.credentials) == {"Bearer hf_secret"}
    assert set(store.credentials) == {None}
    assert hub.served == []


def test_a_redirect_to_a_stranger_is_refused_unless_it_is_named(fetch: Fetch) -> None:
    with FakeHub({"gpt2": GPT2}) as store:
        elsewhere = store.url.replace("127.0.0.1", "localhost")
        with FakeHub({"gpt2": GPT2}, redirect=elsewhere) as hub:
            refused = fetch(hub, "gpt2")
            allowed = fetch(hub, "gpt2", hosts=["localhost"])

    assert refused.error is not None
    assert refused.error.code == "redirect_refused"
    assert "HF_REDIRECT_HOSTS" in refused.error.message
    assert allowed.folder


def test_a_listing_that_has_moved_is_followed_within_the_hub_alone(fetch: Fetch) -> None:
    with FakeHub({"gpt2": GPT2}) as there:
        with FakeHub({"gpt2": GPT2}, moved=there.url) as hub:
            fetched = fetch(hub, "gpt2")
        asked = len(there.requests)
        with FakeHub({"gpt2": GPT2}, moved=there.url.replace("127.0.0.1", "localhost")) as hub:
            refused = fetch(hub, "gpt2")

    assert fetched.folder
    assert refused.error is not None
    assert refused.error.code == "redirect_refused"
    assert len(there.requests) == asked


def test_two_at_once_fetch_each_file_once(fetch: Fetch, tmp_path: Path) -> None:
    order = {"repo": "gpt2", "cache": str(tmp_path / "hub")}
    with FakeHub({"gpt2": GPT2}, throttle=300_000) as hub, ThreadPoolExecutor(2) as pool:
        orders = [Order(**order, endpoint=hub.url)] * 2
        with (tmp_path / "both").open("wb", buffering=0) as file:
            first, second = pool.map(lambda order: download(order, teller.Teller(file.fileno())), orders)

    assert first == second
    assert sorted(served.file for served in hub.served) == sorted(WANTED)
