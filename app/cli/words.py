"""What the verbs print: tables, sizes, times and JSON, the same everywhere and readable without colour."""

import json
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from app import settings

if TYPE_CHECKING:
    from app.cli.client import Client

#: Results go to stdout, and what is said about them to stderr, so that a pipe gets the results alone.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]


def connect() -> "Client":
    """The stack that the settings name; loaded late, as not every verb asks it."""
    from app.cli.client import Client

    return Client(settings.load())


def dump(value: Any) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def table(*columns: str, rows: Iterable[tuple[Any, ...]]) -> str:
    """Columns as wide as their content, on every terminal and pipe: what is cut off cannot be copied."""
    lines = [columns, *(tuple("" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def size(count: int | float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    digits = 0 if units[0] in ("B", "kB") or amount >= 100 else 1
    return f"{amount:.{digits}f} {units[0]}"


def span(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(moment: str | None) -> str:
    """How long ago an ISO time was."""
    return "-" if moment is None else f"{span(max(0.0, time.time() - datetime.fromisoformat(moment).timestamp()))} ago"


def until(moment: str | None) -> str:
    """How far ahead an ISO time is."""
    return "-" if moment is None else f"in {span(max(0.0, datetime.fromisoformat(moment).timestamp() - time.time()))}"
