"""Engines without a server: `python -m bench.alone offline MODEL` is vLLM's offline engine, `plain` is transformers.

That one takes a request at a time. Each takes a Run a line, and tells output tokens/s.

Nothing here may import Flask: the processes that vLLM starts import this module anew, and vLLM's look at all that is
imported there trips over Flask's `request`, which nobody may touch outside of one.
"""

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import msgspec

from bench.asked import answer

SLOTS = 64
#: Bytes of keys and values, on both sides.
CACHE = 2 << 30


class Run(msgspec.Struct):
    """How many prompts, of how many tokens in and out."""

    prompts: int
    tokens_in: int = 64
    tokens_out: int = 64


def _prompts(run: Run, size: int) -> list[list[int]]:
    draw = random.Random(run.prompts)  # noqa: S311 - not a secret
    return [[draw.randrange(100, size) for _ in range(run.tokens_in)] for _ in range(run.prompts)]


def _offline(model: str) -> Callable[[Run], None]:
    vllm: Any = import_module("vllm")
    engine = vllm.LLM(model, enforce_eager=True, dtype="bfloat16", max_num_seqs=SLOTS, kv_cache_memory_bytes=CACHE)

    def generate(run: Run) -> None:
        params = vllm.SamplingParams(temperature=0, max_tokens=run.tokens_out, ignore_eos=True)
        prompts: Any = [{"prompt_token_ids": ids} for ids in _prompts(run, 49_000)]
        engine.generate(prompts, params, use_tqdm=False)

    return generate


def _plain(model: str) -> Callable[[Run], None]:
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    def generate(run: Run) -> None:
        for ids in _prompts(run, 49_000):
            length = {"max_new_tokens": run.tokens_out, "min_new_tokens": run.tokens_out}
            loaded.generate(torch.tensor([ids]), do_sample=False, pad_token_id=0, **length)

    return generate


def _rate(generate: Callable[[Run], None], run: Run) -> float:
    began = time.monotonic()
    generate(run)
    return run.prompts * run.tokens_out / (time.monotonic() - began)


if __name__ == "__main__":
    kind, model = sys.argv[1:]
    answer(Run, lambda: partial(_rate, {"offline": _offline, "plain": _plain}[kind](model)))
