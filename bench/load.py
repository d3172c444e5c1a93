"""vLLM's own benchmark client, kept in one process: importing it takes longer than a short run.

`python -m bench.load` takes one Load a line and answers with one Told a line. The prompts are random, of the model's
own tokenizer, the same for the same seed; all goes over /v1/chat/completions, streaming. It needs no network.
"""

import argparse
import asyncio
from importlib import import_module
from typing import Any

import msgspec

from bench.asked import Asked, answer

#: What the client says of an answer without text.
EMPTY = "Never received a valid chunk"


class Load(msgspec.Struct):
    """What to ask of whom: `prompts` requests, `concurrency` at a time, of so many tokens in and out."""

    url: str
    model: str
    tokenizer: str
    concurrency: int
    prompts: int
    tokens_in: int = 64
    tokens_out: int = 64
    seed: int = 0
    strict: bool = False  #: of a server that refuses what OpenAI's API has not: an answer may end by itself then
    anew: bool = (
        False  #: a connection a request: llama.cpp's server ends each one after a stream, and says it would not
    )


class Told(msgspec.Struct):
    """What came of it: output tokens a second, milliseconds to the first token."""

    completed: int
    tokens: int
    rate: float
    first: float
    between: float
    empty: int = 0  #: answers without any text, which count for nothing: random prompts have such
    error: str = ""  #: what the first of those said that were not answered


class Client(Asked):
    """The process."""

    def __init__(self) -> None:
        super().__init__("bench.load")

    def run(self, load: Load) -> Told:
        """Raises RuntimeError where not every request was answered."""
        told = self.ask(load, Told)
        if told.completed + told.empty != load.prompts or not told.completed:
            why = f"{told.completed} of {load.prompts} requests to {load.url} were answered: {told.error}"
            raise RuntimeError(why)
        return told


def _arguments(load: Load) -> list[str]:
    return [
        *("--backend", "openai-chat", "--base-url", load.url, "--endpoint", "/v1/chat/completions"),
        *("--model", load.model, "--tokenizer", load.tokenizer, "--dataset-name", "random", "--seed", str(load.seed)),
        *("--random-input-len", str(load.tokens_in), "--random-output-len", str(load.tokens_out)),
        *("--num-prompts", str(load.prompts), "--max-concurrency", str(load.concurrency)),
        *_length(load),
        *(("--header", "Connection=close") if load.anew else ()),
        *("--temperature", "0", "--disable-tqdm", "--save-detailed"),
    ]


def _length(load: Load) -> tuple[str, ...]:
    """transformers refuses `ignore_eos`, and reads the older name of the limit alone."""
    return ("--extra-body", f'{{"max_tokens": {load.tokens_out}}}') if load.strict else ("--ignore-eos",)


async def _as_they_are(_url: str, _model: str, requests: Any, *_: Any) -> Any:
    """It would change the prompts of a server that tells its tokens: both sides are to get the same."""
    return requests


def _unforced(payload: dict[str, Any], given: Any) -> None:
    """Of random prompts it would always ask for whole lengths."""
    payload.update(given.extra_body or {})


def _run(load: Load) -> Told:
    if load.strict:
        requests: Any = import_module("vllm.benchmarks.lib.endpoint_request_func")
        requests._update_payload_common = _unforced
    serve: Any = import_module("vllm.benchmarks.serve")
    serve._align_prompts_to_server_tokenizer = _as_they_are
    parser: Any = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    said: dict[str, Any] = asyncio.run(serve.main_async(parser.parse_args(_arguments(load))))
    rate, first, between = (float(said[name]) for name in ("output_throughput", "median_ttft_ms", "median_tpot_ms"))
    errors = [error for error in said["errors"] if error]
    others = [error for error in errors if EMPTY not in error]
    empty = len(errors) - len(others)
    error = others[0].strip().splitlines()[-1] if others else ""  # what comes before is a traceback
    return Told(said["completed"], said["total_output_tokens"], rate, first, between, empty, error)


if __name__ == "__main__":
    answer(Load, lambda: _run)
