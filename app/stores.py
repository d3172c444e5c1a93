"""Where models lie on this machine, by the real layout of each tool that puts them there.

Nothing is read here but names; whether what is found is a model, its own files tell (app.examine).
"""

import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from os.path import isdir, isfile  # unlike Path's, they are false where a folder is closed to us
from pathlib import Path
from typing import Any, NamedTuple

from app.disk import name_of
from app.settings import Settings

#: Entries of one folder that are looked at.
MOST_LISTED = 50_000
#: Folders within folders, and entries in all, that a walk looks at.
MOST_DEPTH = 5
MOST_ENTRIES = 200_000
_PART = re.compile(r"-(\d{5})-of-\d{5}$")
_QUANT = re.compile(
    r"(?<![a-z0-9])((?:ud-)?(?:i?q\d[a-z0-9]*(?:_[a-z0-9]+)*|bf16|fp?16|fp?32|[mn]x?v?fp4|tq\d_\d))(?![a-z0-9])", re.I
)
#: More than any manifest has, in bytes.
MOST_MANIFEST = 1 << 22
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_PUBLIC = {"registry.ollama.ai", "ollama.com"}
#: The child of a list that suits llama.cpp, the best first. Ollama also has some for MLX.
_RUNNERS = ("llamacpp", "ggml", "ollama", "")


class Found(NamedTuple):
    """What may be a model. `also`: further names that its tool has for the very same file."""

    name: str
    path: Path
    source: str
    repo: str | None = None
    revision: str | None = None
    also: tuple[str, ...] = ()


def folders(place: Path) -> list[Path]:
    return [path for path in listed(place) if isdir(path) and not path.name.startswith(".")]


def listed(place: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it is none, or closed to us."""
    try:
        return sorted(islice(place.iterdir(), MOST_LISTED))
    except OSError:
        return []


def everything(settings: Settings) -> Iterator[Found]:
    """What may be a model, in every place that is looked at."""
    yield from own(settings.models_dir)
    for extra in settings.models_extra_scan_dirs:
        yield from folder(Path(extra).expanduser().absolute())
    if settings.scan_models:
        yield from hub_cache(settings.hub_cache)
        for root in settings.ollama_stores:
            yield from ollama(root)
        for root in settings.lmstudio_stores:
            yield from lmstudio(root)


def hub_cache(root: Path) -> Iterator[Found]:
    """Hugging Face's cache: models--owner--name/snapshots/<commit>/…, of each repository the commit of `main`."""
    for repository in listed(root):
        kind, _, rest = repository.name.partition("--")
        snapshot = _snapshot(repository)
        if kind != "models" or not rest or snapshot is None:
            continue
        repo = rest.replace("--", "/", 1)
        if _is_checkpoint(snapshot):
            yield Found(repo, snapshot, "hf-cache", repo, snapshot.name)
        for name, path in _quantizations(repo, list(_ggufs(snapshot))):
            yield Found(name, path, "hf-cache", repo, snapshot.name)


def _snapshot(repository: Path) -> Path | None:
    snapshots = [path for path in listed(repository / "snapshots") if isdir(path)]
    main = repository / "refs" / "main"
    if isfile(main) and main.stat().st_size < 200:
        commit = main.read_text(errors="replace").strip()
        snapshots = [path for path in snapshots if path.name == commit] or snapshots
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def lmstudio(root: Path) -> Iterator[Found]:
    """LM Studio's folder: publisher/model/…gguf, as the hub has them."""
    for publisher in folders(root):
        for place in folders(publisher):
            repo = f"{publisher.name}/{place.name}"
            if _is_checkpoint(place):
                yield Found(repo, place, "lmstudio", repo)
            for name, path in _quantizations(repo, list(_ggufs(place))):
                yield Found(name, path, "lmstudio", repo)


def folder(root: Path) -> Iterator[Found]:
    """Any folder: a model is named by its path in it."""
    for place in _walk(root):
        if place != root and _is_checkpoint(place):
            yield Found(place.relative_to(root).as_posix(), place, "folder")
        for path in _ggufs(place, deep=False):
            yield Found(path.relative_to(root).with_suffix("").as_posix(), path, "folder")


def own(root: Path) -> Iterator[Found]:
    """DATA_DIR/models: what was copied there, also where the database was lost. Each folder is named by its model."""
    for place in folders(root):
        if _is_checkpoint(place):
            yield Found(name_of(place), place, "import")
        ggufs = list(_ggufs(place, deep=False))
        if len(ggufs) == 1:
            yield Found(name_of(place), ggufs[0], "import")


def _quantizations(repo: str, paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """Each file under its repository's name and its quantization; where that tells no two apart, under its own name."""
    labels = [match[1].upper() if (match := _last(_QUANT, _stem(path))) else "" for path in paths]
    for label, path in zip(labels, paths, strict=True):
        if len(paths) == 1 and not label:
            yield repo, path
        else:
            yield f"{repo}:{label if label and labels.count(label) == 1 else _stem(path)}", path


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    return match


def _stem(path: Path) -> str:
    return _PART.sub("", path.stem)


def _ggufs(place: Path, *, deep: bool = True) -> Iterator[Path]:
    """The GGUF models in a folder: the first part of each, and no projectors, which are the eyes of others."""
    for holder in _walk(place) if deep else (place,):
        for path in listed(holder):
            part = _PART.search(path.stem)
            first = part is None or int(part[1]) == 1
            if path.suffix == ".gguf" and first and "mmproj" not in path.name.lower() and isfile(path):
                yield path


def _is_checkpoint(place: Path) -> bool:
    return isfile(place / "config.json") and any(path.suffix == ".safetensors" for path in listed(place))


def _walk(root: Path) -> Iterator[Path]:
    """A folder and those within, hidden ones left out, each once however many links lead there."""
    waiting, seen, entries = [(root, 0)], set(), 0
    while waiting and entries < MOST_ENTRIES:
        place, depth = waiting.pop()
        real = os.path.realpath(place)
        if real in seen or not isdir(place):
            continue
        seen.add(real)
        yield place
        if depth < MOST_DEPTH:
            inner = folders(place)
            entries += 1 + len(inner)
            waiting += [(path, depth + 1) for path in reversed(inner)]


def ollama(root: Path) -> Iterator[Found]:
    """Ollama's own store: manifests by name, which point to blobs by digest. Names of one blob are one model here.

    Since version 0.40 it keeps them under manifests-v2, with lists of manifests for several runners, and the older tree
    for downgrades alone. https://github.com/ollama/ollama/tree/main/manifest
    """
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
