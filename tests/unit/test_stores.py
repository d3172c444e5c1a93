"""Where other tools keep models: their real layouts, imitated."""

import hashlib
import json
from pathlib import Path
from typing import Any

from app.stores import Found, folder, hub_cache, lmstudio, ollama, own
from tests.modelfiles import gguf, write_folder, write_gguf


class Ollama:
    """Ollama's store: blobs by digest, manifests by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def manifest(self, weights: bytes, *further: str, kind: str = "model") -> dict[str, Any]:
        layers = [{"mediaType": f"application/vnd.ollama.image.{kind}", **self.blob(weights)}]
        layers += [
            {"mediaType": f"application/vnd.ollama.image.{name}", **self.blob(name.encode())}
            for name in ("template", "license", "params", *further)
        ]
        return {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **self.blob(b"{}")},
            "layers": layers,
        }

    def put(self, path: str, manifest: dict[str, Any], tree: str = "manifests") -> None:
        file = self.root / tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(manifest))

    def path(self, weights: bytes) -> Path:
        return self.root / "blobs" / f"sha256-{hashlib.sha256(weights).hexdigest()}"


def small(n: int) -> bytes:
    """A model of its own."""
    return gguf({"general.name": f"number {n}"})


def test_ollamas_models_have_its_names_and_its_blobs(tmp_path: Path) -> None:
    store = Ollama(tmp_path)
    store.put("registry.ollama.ai/library/llama3.2/3b", store.manifest(small(1)))
    store.put("registry.ollama.ai/library/llama3.2/latest", store.manifest(small(1)))
    store.put("registry.ollama.ai/ada/mine/latest", store.manifest(small(2)))
    store.put("hf.co/owner/name-GGUF/Q4_K_M", store.manifest(small(3)))

    assert sorted(ollama(tmp_path)) == [
        Found("ada/mine", store.path(small(2)), "ollama"),
        Found("hf.co/owner/name-GGUF:Q4_K_M", store.path(small(3)), "ollama"),
        Found("llama3.2:3b", store.path(small(1)), "ollama", also=("llama3.2",)),
    ]


def test_ollamas_newer_tree_goes_before_the_older_one(tmp_path: Path) -> None:
    store = Ollama(tmp_path)
    store.put("registry.ollama.ai/library/qwen3/8b", store.manifest(small(1)))
    store.put("ollama.com/library/qwen3/8b", store.manifest(small(2)), tree="manifests-v2")
    store.put("registry.box%3A5000/ada/m/1", store.manifest(small(3)), tree="manifests-v2")
    assert [(found.name, found.path) for found in sorted(ollama(tmp_path))] == [
        ("qwen3:8b", store.path(small(2))),
        ("registry.box:5000/ada/m:1", store.path(small(3))),
    ]


def test_of_ollamas_lists_the_manifest_for_llama_cpp_is_taken(tmp_path: Path) -> None:
    store = Ollama(tmp_path)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    referred = {"mediaType": kind, "runner": "llamacpp", **store.blob(json.dumps(store.manifest(small(1))).encode())}
    inline = store.manifest(small(2)) | {"runner": "ollama"}
    mlx = store.manifest(small(3), kind="tensor") | {"runner": "mlx"}
    listing = "application/vnd.ollama.manifest.list.v2+json"
    store.put("ollama.com/library/a/x", {"mediaType": listing, "manifests": [mlx, inline, referred]}, "manifests-v2")
    store.put("ollama.com/library/b/x", {"mediaType": listing, "manifests": [mlx, inline]}, "manifests-v2")
    store.put("ollama.com/library/c/x", {"mediaType": listing, "manifests": [mlx]}, "manifests-v2")
    assert [(found.name, found.path) for found in sorted(ollama(tmp_path))] == [
        ("a:x", store.path(small(1))),
        ("b:x", store.path(small(2))),
    ]


def test_what_ollama_has_not_whole_or_not_alone_is_no_model(tmp_path: Path) -> None:
    store = Ollama(tmp_path)
    library = "registry.ollama.ai/library"
    store.put(f"{library}/partial/x", store.manifest(small(1)))
    store.path(small(1)).rename(f"{store.path(small(1))}-partial")
    store.put(f"{library}/short/x", store.manifest(small(2)))
    store.path(small(2)).write_bytes(b"GGUF")
    store.put(f"{library}/adapted/x", store.manifest(small(3), "adapter"))
    store.put(f"{library}/remote/x", store.manifest(small(4), kind="remote"))
    outside = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../secret", "size": 1}
    store.put(f"{library}/outside/x", {"layers": [outside]})
    for name, text in (("junk", "{"), ("deep", "[" * 100_000), ("list", "[]"), ("odd", '{"layers": ["x", null]}')):
        store.put(f"{library}/{name}/x", {})
        (tmp_path / "manifests" / library / name / "x").write_text(text)
    assert list(ollama(tmp_path)) == []
    assert list(ollama(tmp_path / "none")) == []


def test_the_hubs_cache_gives_the_commit_of_main(tmp_path: Path) -> None:
    repo = tmp_path / "models--own--m--x"
    for commit in ("old", "new"):
        write_folder(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("old")
    write_folder(tmp_path / "models--gpt2" / "snapshots" / "c")
    write_folder(tmp_path / "datasets--d" / "snapshots" / "c")
    (tmp_path / "models--empty").mkdir()
    assert list(hub_cache(tmp_path)) == [
        Found("gpt2", tmp_path / "models--gpt2" / "snapshots" / "c", "hf-cache", "gpt2", "c"),
        Found("own/m--x", repo / "snapshots" / "old", "hf-cache", "own/m--x", "old"),
    ]


def test_a_gguf_repository_in_the_hubs_cache_gives_a_model_for_each_quantization(tmp_path: Path) -> None:
    place = tmp_path / "models--o--M-GGUF" / "snapshots" / "c"
    names = ["M-q4_k_m.gguf", "M-UD-Q2_K_XL.gguf", "sub/M-Q8_0-00001-of-00002.gguf", "sub/M-Q8_0-00002-of-00002.gguf",
             "mmproj-M-f16.gguf", "M-IQ3_M.gguf.incomplete"]  # fmt: skip
    for name in names:
        write_gguf(place / name)
    assert [found.name for found in hub_cache(tmp_path)] == [
        "o/M-GGUF:UD-Q2_K_XL",
        "o/M-GGUF:Q4_K_M",
        "o/M-GGUF:Q8_0",
    ]


def test_two_files_of_one_quantization_keep_their_own_names(tmp_path: Path) -> None:
    place = tmp_path / "models--o--n" / "snapshots" / "c"
    for name in ("a-Q4_0.gguf", "b-Q4_0.gguf", "plain.gguf"):
        write_gguf(place / name)
    assert [found.name for found in hub_cache(tmp_path)] == ["o/n:a-Q4_0", "o/n:b-Q4_0", "o/n:plain"]


def test_lm_studios_folder_is_the_hubs_names_as_folders(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "lmstudio-community" / "gemma-3-4b-it-GGUF" / "gemma-3-4b-it-Q4_K_M.gguf")
    write_gguf(path.with_name("mmproj-model-f16.gguf"))
    path.with_name("downloading_gemma-3-4b-it-Q8_0.gguf.part").write_bytes(b"GGUF")
    mlx = write_folder(tmp_path / "mlx-community" / "Qwen3-4bit")
    single = write_gguf(tmp_path / "me" / "mine" / "model.gguf")
    assert list(lmstudio(tmp_path)) == [
        Found(
            "lmstudio-community/gemma-3-4b-it-GGUF:Q4_K_M", path, "lmstudio", "lmstudio-community/gemma-3-4b-it-GGUF"
        ),
        Found("me/mine", single, "lmstudio", "me/mine"),
        Found("mlx-community/Qwen3-4bit", mlx, "lmstudio", "mlx-community/Qwen3-4bit"),
    ]


def test_in_a_folder_a_model_is_named_by_its_path(tmp_path: Path) -> None:
    write_folder(tmp_path / "team" / "tuned")
    write_gguf(tmp_path / "loose.Q4_0.gguf")
    write_gguf(tmp_path / "team" / "g" / "m-00001-of-00002.gguf")
    write_gguf(tmp_path / ".hidden" / "h.gguf")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "team")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    names = [found.name for found in folder(tmp_path)]
    assert names == ["loose.Q4_0", "again/g/m-00001-of-00002", "again/tuned"]
    assert list(folder(tmp_path / "none")) == []


def test_our_own_folder_tells_its_models_after_the_database_was_lost(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "o%2Fn:Q4" / "m.gguf")
    write_folder(tmp_path / "tuned")
    write_folder(tmp_path / ".new-x" / "model")
    assert list(own(tmp_path)) == [Found("o/n:Q4", path, "import"), Found("tuned", tmp_path / "tuned", "import")]
