"""The facts of a folder of safetensors."""

from collections import Counter
from pathlib import Path
from typing import Any

from inference import checkpoint
from inference.about import MOST_FILES, MOST_TEMPLATE, Facts, FactsError, File

MOST_DEPTH = 4
MOST_FRONT_MATTER = 1 << 16
_ANSWERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def of_folder(folder: Path) -> Facts:
    """Raises FactsError, BadCheckpointError, OSError."""
    config = checkpoint.read_json(folder / "config.json")
    names = checkpoint.weight_files(folder)
    if not config or not names:
        raise FactsError("not_a_model", _lack(folder, config, names))
    tensors = checkpoint.all_tensors(folder, names)
    quantized = checkpoint.quantization(config)
    method = quantized.get("quant_method", "mlx" if "group_size" in quantized else None)
    architecture = next((str(a) for a in _list(config.get("architectures"))), None)
    files = _files(folder)
    return Facts(
        format="safetensors",
        architecture=architecture,
        family=str(config["model_type"]) if "model_type" in config else None,
        task=_task(folder, architecture, config),
        parameters=checkpoint.parameters(tensors, quantized),
        context=checkpoint.context(config),
        dtype=_dtype(config, tensors),
        quantization=str(method) if method else None,
        template=_template(folder),
        licence=_licence(folder),
        kv_bytes=checkpoint.kv_bytes(config),
        weights_bytes=sum(tensor.size for tensor in tensors.values()),
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
    )


def _lack(folder: Path, config: dict[str, Any], names: list[str]) -> str:
    if names and not config:
        return f"'{folder.name}' has weights and no config.json, which says what they are."
    if next(folder.glob("*.gguf"), None) is not None:
        return f"'{folder.name}' holds GGUF files. Name one of them, the first where a model has several parts."
    if any(next(folder.glob(f"*{suffix}"), None) for suffix in (".bin", ".pt", ".pth")):
        return f"'{folder.name}' has its weights as pickle files alone, and reading those can run foreign code."
    return f"'{folder.name}' holds no weights (*.safetensors) or no config.json."


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _task(folder: Path, architecture: str | None, config: dict[str, Any]) -> str | None:
    if (folder / "modules.json").is_file():  # the mark of sentence-transformers
        return "embed"
    if architecture is None or config.get("is_encoder_decoder") is True:
        return None
    if architecture.endswith(_ANSWERS):
        return "generate"
    return "embed" if architecture.endswith("Model") else None


def _dtype(config: dict[str, Any], tensors: dict[str, checkpoint.Tensor]) -> str | None:
    if stated := checkpoint.dtype(config):
        return stated
    counted: Counter[str] = Counter()
    for tensor in tensors.values():
        counted[tensor.dtype] += tensor.size
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    most = max(counted, key=lambda dtype: counted[dtype], default="")
    return names.get(most, most.lower()) or None


def _template(folder: Path) -> str | None:
    """Where transformers looks for it, in its order."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file() and jinja.stat().st_size <= MOST_TEMPLATE:
        return jinja.read_text(errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = checkpoint.read_json(folder / name).get("chat_template")
        for entry in _list(found):
            if isinstance(entry, dict) and entry.get("name") == "default":
                found = entry.get("template")
        if isinstance(found, str) and len(found) <= MOST_TEMPLATE:
            return found
    return None


def _licence(folder: Path) -> str | None:
    """From the front matter of the model's card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(errors="replace") as file:
        lines = file.read(MOST_FRONT_MATTER).splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, mark, value = line.partition(":")
        if mark and key in ("license", "license_name"):
            found[key] = value.strip().strip("\"'")
    named = found.get("license")
    return (found.get("license_name") if named == "other" else None) or named or None


def _files(folder: Path) -> list[File]:
    """Every file of the folder, hidden ones left out. Links are followed to files, never to folders."""
    found: list[File] = []
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        for path in sorted(place.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink() and depth < MOST_DEPTH:
                waiting.append((path, depth + 1))
            elif path.is_file():
                found.append(File(path.relative_to(folder).as_posix(), path.stat().st_size))
            if len(found) > MOST_FILES:
                raise FactsError("not_a_model", f"'{folder.name}' has more than {MOST_FILES} files.")
    return sorted(found, key=lambda file: file.name)
