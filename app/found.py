"""What a look at a folder found, and how folders are looked at."""

from itertools import islice
from os.path import isdir
from pathlib import Path
from typing import NamedTuple

#: Entries of one folder that are looked at.
MOST_LISTED = 50_000


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
