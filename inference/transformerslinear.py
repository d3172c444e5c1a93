"""Layers of 16 bits on a CPU that has no instructions for them: with many tokens, they multiply in 32.

There, oneDNN's multiplication of a prompt takes two to four times as long as one in float32. The weights stay as they
are, a few of them at a time are widened. Sums were in 32 bits before, too.
"""

from typing import Any

import torch
from torch.nn.functional import linear

#: Instructions by which a CPU multiplies in these precisions.
NATIVE = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}
#: Tokens from which on it pays.
LEAST = 16
#: Weights that are widened at a time.
PART = 1 << 20


class WideLinear(torch.nn.Linear):
    """A linear layer that multiplies in float32, and gives what it was given."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input`: its last dimension is the layer's."""
        if input.numel() < LEAST * self.in_features:
            return super().forward(input)
        wide = input.float()
        parts = self.weight.split(max(1, PART // self.in_features))  # type: ignore[no-untyped-call]
        found = torch.cat([linear(wide, part.float()) for part in parts], -1)
        return (found if self.bias is None else found + self.bias).to(input.dtype)


def widen(model: torch.nn.Module) -> None:
    """Have the plain linear layers of a model on the CPU multiply so, where that is faster."""
    has: dict[str, Any] = dict(torch.cpu.get_capabilities())
    if has.get("architecture") != "x86_64":
        return
    slow = [precision for precision, names in NATIVE.items() if not any(has.get(name) for name in names)]
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype in slow:
            module.__class__ = WideLinear
