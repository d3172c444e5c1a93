"""Which of llama.cpp's slots a request takes: each keeps the tokens of its last prompt, for the next one like it.

How long a prompt takes tells how much of it was kept, so what is kept of one tenant's is used for that tenant alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

#: The part of a prompt that a slot must have kept to be chosen for it; else the one that is free longest is.
ALIKE = 0.1


class _Kept(NamedTuple):
    salt: str | None
    ids: Sequence[int]

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens both begin with."""
        pairs = enumerate(zip(self.ids, ids, strict=False))
        return next((place for place, (one, other) in pairs if one != other), min(len(self.ids), len(ids)))


class Slots:
    """The free slots, the one that is free longest first. Not locked: its owner is."""

    def __init__(self, count: int) -> None:
        self._free = {number: _Kept(None, ()) for number in range(count)}

    def take(self, salt: str, ids: Sequence[int]) -> tuple[int, bool]:
        """A slot's number, and whether what it keeps may be used."""
        alike = {number: kept.shared(ids) for number, kept in self._free.items() if kept.salt == salt}
        best = max(alike, key=alike.__getitem__, default=None)
        number = best if best is not None and alike[best] > ALIKE * len(ids) else next(iter(self._free))
        return number, self._free.pop(number).salt == salt

    def leave(self, number: int, salt: str, ids: Sequence[int]) -> None:
        """It is free, and keeps these."""
        self._free[number] = _Kept(salt, ids)
