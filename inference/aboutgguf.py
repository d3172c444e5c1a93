"""The facts of a GGUF model: one file, or all parts of one that was cut."""

import re
from pathlib import Path

from inference.about import MOST_FILES, MOST_TEMPLATE, Facts, FactsError, File
from inference.gguf import Header, Value, read_header, shape_of

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def of_gguf(path: Path) -> Facts:
    """Raises FactsError, BadGgufError, OSError."""
    parts = _parts(path)
    headers = [read_header(part) for part in parts]
    first = headers[0]
    _refuse_helpers(path, first)
    shape = shape_of(first.values)
    family = _text(first.values, "general.architecture")
    files = [File(part.name, part.stat().st_size) for part in parts]
    return Facts(
        format="gguf",
        architecture=family,
        family=family,
        task="embed" if f"{family}.pooling_type" in first.values else "generate",
        parameters=sum(header.elements for header in headers),
        context=shape.context or None,
        dtype=first.quantization or None,
        quantization=None if first.quantization in ("F32", "F16", "BF16", "") else first.quantization,
        template=_text(first.values, "tokenizer.chat_template"),
        licence=_text(first.values, "general.license"),
        kv_bytes=shape.kv_bytes or None,
        weights_bytes=sum(header.bytes for header in headers),
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
    )


def _parts(path: Path) -> list[Path]:
    """All parts of a model that was cut into several files. Raises FactsError where one is missing."""
    match = _PART.search(path.name)
    if match is None:
        return [path]
    if int(match[1]) != 1:
        raise FactsError("not_a_model", f"'{path.name}' is a part of a model; its first part stands for it.")
    count = min(int(match[2]), MOST_FILES)
    parts = [path.with_name(f"{path.name[: match.start()]}-{n:05d}-of-{match[2]}.gguf") for n in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise FactsError("bad_model", f"'{path.name}' is not whole: its part {part.name} is missing.")
    return parts


def _refuse_helpers(path: Path, header: Header) -> None:
    kind = header.values.get("general.type", "model")
    if kind != "model" or header.values.get("general.architecture") == "clip":
        raise FactsError("not_a_model", f"'{path.name}' holds no language model but a part for one ({kind}).")
    if not header.tensors:
        raise FactsError("not_a_model", f"'{path.name}' holds no weights, only a vocabulary.")


def _text(values: dict[str, Value], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and 0 < len(value) <= MOST_TEMPLATE else None
