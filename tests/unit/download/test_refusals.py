"""Each refusal has a code of its own, and names its remedy."""

import errno
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from inference.download import known
from inference.download.cache import make_room
from inference.download.errors import DownloadError, explain
from inference.download.order import Order
from tests.hub import FakeHub, Hole, gguf, safetensors
from tests.unit.download.conftest import Fetch

CONFIG = {"config.json": b'{"model_type": "gpt2"}'}
WEIGHTS = {"model.safetensors": safetensors(1000)}
REPOS: Mapping[str, Mapping[str, bytes]] = {
    "gpt2": CONFIG | WEIGHTS,
    "owner/tiny": {"tiny-Q4_0.gguf": gguf(100), "tiny-Q8_0.gguf": gguf(100)},
    "owner/pickled": CONFIG | {"pytorch_model.bin": b"pickle"},
    "owner/other-pickles": CONFIG | {"consolidated.00.pth": b"pickle"},
    "owner/docs": {"README.md": b"hi"},
    "owner/strange": {"config.json": b'{"model_type": "zebra", "architectures": ["ZebraForCausalLM"]}'} | WEIGHTS,
    "owner/remote": {"config.json": b'{"model_type": "zebra", "auto_map": {"AutoConfig": "evil.Zebra"}}'} | WEIGHTS,
    "owner/broken": {"config.json": b"{"} | WEIGHTS,
    "owner/new-gguf": {"new.gguf": gguf(100, architecture="zebra")},
    "owner/no-gguf": {"no.gguf": b"<html>" * 100},
    "owner/cut-gguf": {"cut.gguf": gguf(1000)[:-10]},
}


def refused(fetch: Fetch, hub: FakeHub | str, repo: str, **order: Any) -> DownloadError:
    fetched = fetch(hub, repo, **order)
    assert fetched.error is not None, fetched
    return fetched.error


@pytest.mark.parametrize(
    ("repo", "order", "code", "remedy"),
    [
        ("owner/nothing", {}, "model_not_found", "spelling"),
        ("no//name", {}, "model_not_found", "spelling"),
        ("gpt2", {"revision": "v9"}, "revision_not_found", "'v9'"),
        ("owner/docs", {}, "no_weights", "safetensors or GGUF"),
        ("owner/pickled", {}, "pickle_weights", "ALLOW_PICKLE_CONVERSION=1"),
        ("owner/other-pickles", {}, "pickle_weights", "Pull a repository"),
        ("gpt2:Q4_0", {}, "no_weights", "pull it as 'gpt2'"),
        ("owner/tiny:Q2_K", {}, "file_not_found", "tiny-Q8_0.gguf"),
        ("owner/strange", {}, "unsupported_model", "ZebraForCausalLM"),
        ("owner/remote", {}, "unsupported_model", "never run"),
        ("owner/broken", {}, "bad_model", "config.json"),
        ("owner/new-gguf", {}, "unsupported_model", "zebra"),
        ("owner/no-gguf", {}, "bad_model", "GGUF"),
        ("owner/cut-gguf", {}, "bad_model", "last tensor"),
        ("gpt2", {"reserve": 1 << 60}, "disk_full", "PULL_DISK_RESERVE"),
    ],
)
def test_a_refusal_names_its_code_and_its_remedy(
    fetch: Fetch, repo: str, order: dict[str, Any], code: str, remedy: str
) -> None:
    with FakeHub(REPOS) as hub:
        error = refused(fetch, hub, repo, **order)

    assert (error.code, remedy in error.message) == (code, True), error.message
    # Whatever is wrong with a model shows before its weights have come.
    weights = "model.safetensors"
    assert not hub.bodies(weights)


def test_a_wrong_token_is_told_from_a_wrong_name(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with FakeHub(REPOS, token="hf_right") as hub:
        error = refused(fetch, hub, "gpt2")

    assert error.code == "bad_token"
    assert "HF_TOKEN" in error.message
    assert "hf_wrong" not in error.message


def test_a_gated_model_says_how_to_get_in_and_opens_for_a_token(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(REPOS, gated={"gpt2"}, token="hf_right") as hub:
        error = refused(fetch, hub, "gpt2")
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        let_in = fetch(hub, "gpt2")

    assert error.code == "gated_model"
    assert "HF_TOKEN" in error.message
    assert let_in.folder


def test_a_hub_that_is_not_there_is_named(fetch: Fetch) -> None:
    with FakeHub({}) as hub:
        gone = hub.url

    error = refused(fetch, gone, "gpt2")

    assert error.code == "hub_unreachable"
    assert gone in error.message
    assert "HF_ENDPOINT" in error.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_on_the_way_is_told(number: int) -> None:
    error = explain(OSError(number, os.strerror(number)), Order("gpt2", "http://hub", "/cache"))

    assert error.code == "disk_full"
    assert "/cache" in error.message


def test_a_cache_that_nobody_may_write_to_is_told() -> None:
    error = explain(PermissionError(errno.EACCES, "no"), Order("gpt2", "http://hub", "/cache"))

    assert error.code == "cache_unwritable"


def test_room_is_made_only_for_what_is_missing(tmp_path: Any) -> None:
    make_room(tmp_path, 0, 1 << 60)
    with pytest.raises(DownloadError, match="HF_HOME"):
        make_room(tmp_path, 1, 1 << 60)


def test_names_of_files_never_lead_out_of_the_cache(fetch: Fetch, tmp_path: Any) -> None:
    evil = {"../../escaped.json": b"{}", "/etc/escaped.json": b"{}", "a\\..\\b.json": b"{}"}
    with FakeHub({"o/n": CONFIG | WEIGHTS | evil}) as hub:
        fetched = fetch(hub, "o/n")

    assert sorted(path.name for path in fetched.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not list(tmp_path.rglob("*escaped*"))


def test_sums_that_the_hub_makes_up_never_lead_out_of_the_cache(fetch: Fetch, tmp_path: Any) -> None:
    evil = Hole(3, "../../../escaped", b"{} ")
    with FakeHub({"o/n": CONFIG | WEIGHTS | {"tokenizer.json": evil}}) as hub:
        fetched = fetch(hub, "o/n")

    assert (fetched.folder / "tokenizer.json").read_bytes() == b"{} "
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "qwen3", "phi3", "gemma3", "mixtral", "gpt_neox"])
def test_what_the_installed_engines_know_is_known(tmp_path: Any, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": {}}))

    known.check_config(tmp_path / "config.json")


def test_without_engines_the_installation_is_what_is_missing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "find_spec", lambda name: None)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "a.gguf").write_bytes(gguf(100))

    with pytest.raises(DownloadError, match="vLLM or transformers") as safetensors_error:
        known.check_config(tmp_path / "config.json")
    with pytest.raises(DownloadError, match=r"llama\.cpp") as gguf_error:
        known.check_gguf(tmp_path / "a.gguf")
    assert safetensors_error.value.code == gguf_error.value.code == "backend_missing"
