"""Models that are worth suggesting, under the short names that Ollama's users type. The table is suggested.toml."""

import functools
import tomllib
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).with_suffix(".toml")


class Suggestion(NamedTuple):
    """A model, and where the hub has it in both formats. Sizes are bytes, about."""

    name: str
    also: tuple[str, ...]
    parameters: int
    gguf: str
    gguf_bytes: int
    safetensors: str
    safetensors_bytes: int

    @property
    def targets(self) -> tuple[str, str]:
        """What the name may stand for, the form that runs anywhere first."""
        return self.gguf, self.safetensors


@functools.cache
def suggestions() -> tuple[Suggestion, ...]:
    """All of them, in the table's order."""
    with _TABLE.open("rb") as file:
        table = tomllib.load(file)
    return tuple(
        Suggestion(
            name=name,
            also=tuple(row.get("also", ())),
            parameters=int(row["parameters"]),
            gguf=row["gguf"],
            gguf_bytes=int(row["gguf_bytes"]),
            safetensors=row["safetensors"],
            safetensors_bytes=int(row["safetensors_bytes"]),
        )
        for name, row in table.items()
    )


@functools.cache
def by_name() -> dict[str, Suggestion]:
    """Each under all of its names, in lower case, as Ollama compares them."""
    return {name.lower(): entry for entry in suggestions() for name in (entry.name, *entry.also)}
