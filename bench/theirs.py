"""The servers and engines that we are measured against, each as a process of its own.

`python -m bench.theirs llamacpp MODEL PORT` is llama.cpp's own HTTP server out of the xllamacpp wheel. `offline`
(vLLM's offline engine) and `plain` (transformers, a request at a time) take a Run a line, and tell output tokens/s.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.asked import ENVIRONMENT, answer
from tests.stack import end, eventually, free_port, launch

SLOTS = 64
#: Bytes of keys and values, on both sides.
CACHE = 2 << 30


class Run(msgspec.Struct):
    """How many prompts, of how many tokens in and out."""

    prompts: int
    tokens_in: int = 64
    tokens_out: int = 64


class Server:
    """One that answers at `url`, and its process."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self.process = process


@contextmanager
def server(command: Callable[[int], list[str]], path: str = "/health") -> Iterator[Server]:
    """A server on a free port, for as long as the block lasts; its command is made from the port."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        process = launch(command(port), os.environ | ENVIRONMENT, log)
        try:

            def answers() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"{command(port)[:4]} ended: {log.read_text()[-500:]}")
                return httpx.get(url + path, timeout=5, trust_env=False).status_code == 200

            eventually(answers, seconds=180, what=url)
            yield Server(url, process)
        finally:
            end(process)


def vllm(model: str) -> Callable[[int], list[str]]:
    """vLLM's own OpenAI server, with the settings of our engine."""
    options = ["--enforce-eager", "--dtype", "bfloat16", "--max-num-seqs", str(SLOTS), "--generation-config", "vllm"]
    options += ["--kv-cache-memory-bytes", str(CACHE), "--scheduling-policy", "priority"]
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1"]
    return lambda port: [*start, "--served-model-name", "model", "--port", str(port), *options]


def llamacpp(model: str) -> Callable[[int], list[str]]:
    """llama.cpp's own HTTP server."""
    return lambda port: [sys.executable, "-m", "bench.theirs", "llamacpp", model, str(port)]


def transformers(model: str) -> Callable[[int], list[str]]:
    """`transformers serve`, with its batching manager; unset, its number of blocks takes half a minute to find."""
    options = ["--continuous-batching", "--cb-num-blocks", "2048", "--cb-max-batch-tokens", "512"]
    start = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        model,
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
    ]
    return lambda port: [*start, *options, "--host", "127.0.0.1", "--port", str(port)]


def _llamacpp(model: str, port: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = 16
    params.n_ctx = 16 * 1024
    params.kv_unified = True
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    # As ours: with threads that spin while they wait, its default, two busy engines on two cores crawl.
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    params.ui = False
    params.verbosity = 1
    held = xllamacpp.Server(params)
    threading.Event().wait()
    del held


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
    kind, model = sys.argv[1:3]
    if kind == "llamacpp":
        _llamacpp(model, sys.argv[3])
    else:
        answer(Run, lambda: partial(_rate, {"offline": _offline, "plain": _plain}[kind](model)))
