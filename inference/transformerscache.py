"""How a step computes with what came before, without copying it: keys and values with room, and heads that share them.

transformers' own layer makes a new tensor of all keys and values for each token, and its attention repeats them for
each head that shares them, where there is a mask. On a CPU, at 32 requests at a time, both took a third of a step.
"""

from typing import Any, Self

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

#: Tokens for which room is made at a time.
ROOM = 64


class Layer(DynamicLayer):
    """Keys and values of all tokens; those of the next ones are written behind them. `most`: tokens, ever."""

    keys: Any  # None before the first pass
    values: Any

    def __init__(self, most: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a pass's; all that there are then. Each has the shape (rows, heads, tokens, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, self.length = self.length, self.length + key_states.shape[2]
        self.keys = self._written(self.keys, key_states, before)
        self.values = self._written(self.values, value_states, before)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _written(self, held: torch.Tensor, new: torch.Tensor, before: int) -> torch.Tensor:
        if before == 0 or held.shape[2] < self.length:
            rows, heads, _, width = new.shape
            room = max(self.length, min(self.length + ROOM, self.most))
            larger = new.new_empty((rows, heads, room, width))
            if before:
                larger[:, :, :before] = held[:, :, :before]
            held = larger
        held[:, :, before : self.length] = new
        return held

    def get_seq_length(self) -> int:
        """Tokens, without the room."""
        return self.length

    def join(self, other: Self) -> None:
        """Take in another's rows, if either has any yet. The shorter ones are padded on the left."""
        self.most = max(self.most, other.most)
        if not self.length:
            return
        length = max(self.length, other.length)
        self.keys = torch.cat([_padded(part.keys, part.length, length) for part in (self, other)])
        self.values = torch.cat([_padded(part.values, part.length, length) for part in (self, other)])
        self.length = length

    def keep(self, rows: list[int], length: int) -> None:
        """Let go of the other rows, and of padding: `length` tokens are left."""
        kept = slice(self.length - length, self.length)
        self.keys, self.values = self.keys[rows, :, kept], self.values[rows, :, kept]
        self.length = length


def roomy(config: Any, most: int) -> DynamicCache:
    """A model's cache; its plain layers have room for up to `most` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [Layer(most) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' "sdpa"; but for one token a row, the heads that share keys are computed as if places of one head.

    No place among them comes before another, so the row's mask is that of each.
    """
    rows, heads, places, width = query.shape
    shared = key.shape[1]
    by_row = attention_mask is None or attention_mask.shape[1] == 1
    if places > 1 or heads == shared or heads % shared or not by_row or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    merged = query.reshape(rows, shared, heads // shared, width)
    found = scaled_dot_product_attention(merged, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, value.shape[-1]), None


#: Of this process alone, which computes for one model.
AttentionInterface.register("sdpa", attend)


def _padded(held: torch.Tensor, length: int, to: int) -> torch.Tensor:
    return pad(held[:, :, :length], (0, 0, to - length, 0))
