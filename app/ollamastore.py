"""Ollama's own store: manifests by name, which point to blobs by digest.

Since version 0.40 it keeps them under manifests-v2, with lists of manifests for several runners, and the older tree for
downgrades alone. https://github.com/ollama/ollama/tree/main/manifest
"""

import json
import re
from collections.abc import Iterator
from os.path import isfile
from pathlib import Path
from typing import Any

from app.found import Found, folders, listed

#: More than any manifest has, in bytes.
MOST_MANIFEST = 1 << 22
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_PUBLIC = {"registry.ollama.ai", "ollama.com"}
#: The child of a list that suits llama.cpp, the best first. Ollama also has some for MLX.
_RUNNERS = ("llamacpp", "ggml", "ollama", "")


def ollama(root: Path) -> Iterator[Found]:
    """Its models. Names that stand for one blob are one model here."""
    names: dict[Path, list[str]] = {}
    seen: set[str] = set()
    for tree in ("manifests-v2", "manifests"):
        for manifest in _manifests(root / tree):
            name = _ollama_name(manifest.relative_to(root / tree).parts)
            blob = _weights(root, manifest)
            if name not in seen and blob is not None:
                names.setdefault(blob, []).append(name)
            seen.add(name)
    for blob, alike in names.items():
        # Of `llama3.2` (its tag is `latest`) and `llama3.2:3b`, the one that will still mean this tomorrow.
        name, *also = sorted(alike, key=lambda name: (":" not in name.rpartition("/")[2], name))
        yield Found(name, blob, "ollama", also=tuple(also))


def _manifests(root: Path) -> Iterator[Path]:
    for host in folders(root):
        for namespace in folders(host):
            for model in folders(namespace):
                yield from (tag for tag in listed(model) if isfile(tag) and not tag.name.startswith("."))


def _ollama_name(parts: tuple[str, ...]) -> str:
    host, namespace, model, tag = parts
    host = host.replace("%3A", ":").replace("%3a", ":")
    spelled = "/".join((host, namespace, model))
    if host in _PUBLIC:
        spelled = model if namespace == "library" else f"{namespace}/{model}"
    return spelled if tag == "latest" else f"{spelled}:{tag}"


def _weights(root: Path, manifest: Path) -> Path | None:
    """The blob that holds a model's weights; None where it is not whole, or needs more than its weights."""
    value = _chosen(root, _json(manifest))
    layers = [layer for layer in value.get("layers", []) if isinstance(layer, dict)]
    models = [layer for layer in layers if str(layer.get("mediaType", "")).endswith(".image.model")]
    if len(models) != 1 or any(str(layer.get("mediaType", "")).endswith(".adapter") for layer in layers):
        return None
    blob = _blob(root, models[0])
    return blob if blob is not None and isfile(blob) and blob.stat().st_size == models[0].get("size") else None


def _chosen(root: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Of a list of manifests, the one for llama.cpp; else the manifest itself."""
    children = [child for child in value.get("manifests") or [] if isinstance(child, dict)]
    suitable = [child for child in children if str(child.get("runner", "")).lower() in _RUNNERS]
    if not children:
        return value
    child = min(suitable, key=lambda child: _RUNNERS.index(str(child.get("runner", "")).lower()), default={})
    blob = _blob(root, child)
    return child if "layers" in child or blob is None else _json(blob)


def _blob(root: Path, layer: dict[str, Any]) -> Path | None:
    match = _DIGEST.fullmatch(str(layer.get("digest", "")).lower())
    return root / "blobs" / f"sha256-{match[1]}" if match else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.stat().st_size <= MOST_MANIFEST else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
