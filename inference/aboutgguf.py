"""The facts of a GGUF model: one file, or all parts of one that was cut."""

from pathlib import Path

from inference.about import MOST_TEMPLATE, Facts, FactsError, File
from inference.gguf import Header, Value, parts, read_header, shape_of


def of_gguf(path: Path) -> Facts:
    """Raises FactsError, BadGgufError, OSError."""
    whole = _parts(path)
    headers = [read_header(part) for part in whole]
    first = headers[0]
    _refuse_helpers(path, first)
    shape = shape_of(first.values)
    family = _text(first.values, "general.architecture")
    files = [File(part.name, part.stat().st_size) for part in whole]
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
    """All parts of the model. Raises FactsError where one is missing."""
    whole = parts(path)
    if path != whole[0]:
        raise FactsError("not_a_model", f"'{path.name}' is a part of a model; its first part stands for it.")
    for part in whole:
        if not part.is_file():
            raise FactsError("bad_model", f"'{path.name}' is not whole: its part {part.name} is missing.")
    return whole


def _refuse_helpers(path: Path, header: Header) -> None:
    kind = header.values.get("general.type", "model")
    if kind != "model" or header.values.get("general.architecture") == "clip":
        raise FactsError("not_a_model", f"'{path.name}' holds no language model but a part for one ({kind}).")
    if not header.tensors:
        raise FactsError("not_a_model", f"'{path.name}' holds no weights, only a vocabulary.")


def _text(values: dict[str, Value], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and 0 < len(value) <= MOST_TEMPLATE else None
