"""Answers that take their next tokens out of one pass: the weights are read once for all of them.

Their caches lie in one tensor a layer, the shorter ones padded on the left; a mask, and each row's own positions, keep
the padding out of what is computed. Prompts that are short enough are taken in together, too.
"""

from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

import structlog
import torch

from inference.transformersanswer import PASS, Network, Row
from inference.transformerscache import roomy

log = structlog.get_logger()
Item = TypeVar("Item", bound=Row)

#: Tokens by which a prompt may be padded to share a pass; one of its own would cost as much as some 50 more.
PADDING = 32
#: Rows of different lengths for the trial whether an architecture computes in groups as it does alone.
TRIAL = (range(9), range(5), range(7))
#: By how much scores may differ there, in parts of the largest one: precisions of 16 bits round.
TOLERANCE = 0.1


class Group(Generic[Item]):
    """Rows with one cache: all settled, or all with a prompt to take in, and of more than one in a single pass."""

    def __init__(self, network: Network, row: Item) -> None:
        self.rows = [row]
        self._network = network
        self._cache = roomy(network.model.config.get_text_config(decoder=True), row.cost)

    def cost(self, *others: Self) -> int:
        """Tokens of cache that it may come to need, together with others, padding included."""
        rows = [row for group in (self, *others) for row in group.rows]
        return len(rows) * max(row.cost for row in rows)

    @property
    def is_settled(self) -> bool:
        """Whether its passes give each row a token."""
        return all(row.is_settled for row in self.rows)

    def may_join(self, other: Self) -> bool:
        """Whether both can go on together."""
        rows = self.rows + other.rows
        if any(row.alone for row in rows):
            return False
        if any(row.taken for row in rows):
            return self.is_settled and other.is_settled
        sizes = [len(row.ids) for row in rows]
        return len(rows) * max(sizes) <= PASS and max(sizes) - min(sizes) <= PADDING

    @property
    def size(self) -> int:
        """Bytes of its cache, whatever its layers keep."""
        return sum(_bytes(value) for layer in self._cache.layers for value in vars(layer).values())

    @torch.inference_mode()
    def advance(self) -> torch.Tensor:
        """One pass. Scores, a row each, for the places behind what is pending now."""
        pending = [row.pending for row in self.rows]
        size = max(map(len, pending))
        ids = torch.tensor([[0] * (size - len(part)) + part for part in pending], device=self._network.device)
        scores: torch.Tensor = self._network.model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, **self._padding(size), **self._network.keep
        ).logits[:, -1]
        for row, part in zip(self.rows, pending, strict=True):
            row.taken += len(part)
        return scores

    def _padding(self, size: int) -> dict[str, torch.Tensor]:
        """Mask and positions of a pass of so many tokens. Nothing where no row is padded: the model knows both then."""
        lengths = [row.taken + len(row.pending) for row in self.rows]
        width = max(lengths)
        if min(lengths) == width:
            return {}
        padded = torch.tensor([[width - length] for length in lengths], device=self._network.device)
        places = torch.arange(width, device=self._network.device)[None]
        return {
            "attention_mask": (places >= padded).long(),
            "position_ids": (places[:, -size:] - padded).clamp(min=0),
        }

    def join(self, other: Self) -> None:
        """Take in another group's rows, which `may_join` allows."""
        for layer, added in zip(self._layers, other._layers, strict=True):
            layer.join(added)
        self.rows += other.rows

    def shed(self) -> None:
        """Let go of the rows that are over, and of padding that nobody needs any more."""
        kept = [number for number, row in enumerate(self.rows) if not row.over]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in kept]
        for layer in self._layers if self._width else ():
            layer.keep(kept, self._width)

    @property
    def _layers(self) -> list[Any]:
        return self._cache.layers

    @property
    def _width(self) -> int:
        return max((row.taken for row in self.rows), default=0)


def computes_in_groups(network: Network) -> bool:
    """Whether rows of different lengths get the scores together that each gets by itself."""
    try:
        apart = torch.cat([_begun(network, ids).advance() for ids in TRIAL])
        group = _begun(network, *TRIAL[:2])
        group.join(_begun(network, TRIAL[2]))
        together = group.advance()
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises
        log.info("transformers.no_groups", reason=repr(error))
        return False
    return bool((together - apart).abs().max() <= TOLERANCE * apart.abs().max())


def _begun(network: Network, *prompts: Sequence[int]) -> Group[Row]:
    group, *others = (Group(network, Row(ids[:-1])) for ids in prompts)
    for other in others:
        group.join(other)
    group.advance()
    for row, ids in zip(group.rows, prompts, strict=True):
        row.ids.append(ids[-1])
    return group


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0
