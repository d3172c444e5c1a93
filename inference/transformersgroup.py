"""Answers that take their next tokens out of one pass: the weights are read once for all of them.

Their caches lie in one tensor a layer, the shorter ones padded on the left; a mask, and each row's own positions, keep
the padding out of what is computed.
"""

from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

import structlog
import torch

from inference.transformersanswer import Network, Row
from inference.transformerscache import Layer, roomy

log = structlog.get_logger()
Item = TypeVar("Item", bound=Row)

#: Rows of different lengths for the trial whether an architecture computes in groups as it does alone.
TRIAL = (range(9), range(5))
#: By how much scores may differ there, in parts of the largest one: precisions of 16 bits round.
TOLERANCE = 0.1


class Group(Generic[Item]):
    """Rows with one cache. A row that joins is settled; a row by itself may still have a prompt to take in."""

    def __init__(self, network: Network, row: Item) -> None:
        self.rows = [row]
        self._network = network
        self._cache = roomy(network.model.config.get_text_config(decoder=True), row.cost)

    def cost(self, *others: Self) -> int:
        """Tokens of cache that it may come to need, together with others, padding included."""
        rows = [row for group in (self, *others) for row in group.rows]
        return len(rows) * max(row.cost for row in rows)

    @property
    def may_join(self) -> bool:
        """Whether it can go on together with others."""
        return all(row.is_settled and not row.alone for row in self.rows)

    @property
    def size(self) -> int:
        """Bytes of its cache, whatever its layers keep."""
        return sum(_bytes(value) for layer in self._cache.layers for value in vars(layer).values())

    @torch.inference_mode()
    def advance(self) -> torch.Tensor:
        """One pass. Scores, a row each, for the places behind what is pending now."""
        pending = [row.pending for row in self.rows]
        ids = torch.tensor(pending, device=self._network.device)
        scores: torch.Tensor = self._network.model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, **self._padding(), **self._network.keep
        ).logits[:, -1]
        for row, part in zip(self.rows, pending, strict=True):
            row.taken += len(part)
        return scores

    def _padding(self) -> dict[str, torch.Tensor]:
        """Nothing where there is none: the model then knows mask and positions by itself."""
        taken = torch.tensor([row.taken for row in self.rows], device=self._network.device)[:, None]
        width = int(taken.max())
        if int(taken.min()) == width:
            return {}
        places = torch.arange(width + 1, device=self._network.device)[None]
        return {"attention_mask": (places >= width - taken).long(), "position_ids": taken}

    def join(self, other: Self) -> None:
        """Take in another group's rows. Both are settled."""
        for layer, added in zip(self._layers, other._layers, strict=True):
            layer.join(added)
        self.rows += other.rows

    def shed(self) -> None:
        """Let go of the rows that are over, and of padding that nobody needs any more."""
        kept = [number for number, row in enumerate(self.rows) if not row.over]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in kept]
        for layer in self._layers if self.rows else ():
            layer.keep(kept, self._width)

    @property
    def _layers(self) -> list[Any]:
        return self._cache.layers

    @property
    def _width(self) -> int:
        return max((row.taken for row in self.rows), default=0)

    @property
    def is_plain(self) -> bool:
        """Whether its layers keep keys and values of all tokens and nothing else, so that rows can lie together."""
        return all(type(layer) is Layer for layer in self._layers)


def computes_in_groups(network: Network) -> bool:
    """Whether rows of different lengths get the scores together that each gets by itself."""
    try:
        apart = torch.cat([_begun(network, ids).advance() for ids in TRIAL])
        first, second = (_begun(network, ids) for ids in TRIAL)
        if not first.is_plain:
            return False
        first.join(second)
        together = first.advance()
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises
        log.info("transformers.no_groups", reason=repr(error))
        return False
    return bool((together - apart).abs().max() <= TOLERANCE * apart.abs().max())


def _begun(network: Network, ids: Sequence[int]) -> Group[Row]:
    group = Group(network, Row(ids[:-1]))
    group.advance()
    group.rows[0].ids.append(ids[-1])
    return group


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0
