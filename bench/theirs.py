"""The servers that we are measured against, each as a process of its own.

`python -m bench.theirs MODEL PORT` is llama.cpp's own HTTP server out of the xllamacpp wheel.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.alone import CACHE, SLOTS
from bench.asked import ENVIRONMENT
from inference import remote
from tests.stack import end, eventually, free_port, launch


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
    """llama.cpp's own HTTP server, whose OpenMP threads wait as our engine's do: they spin for a moment, then sleep.

    By default they only spin: with a client on the same two cores, 16 tokens took it up to 40 s.
    """
    waits = [f"{name}={remote.ENVIRONMENT[name]}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")]
    return lambda port: ["env", *waits, sys.executable, "-m", "bench.theirs", model, str(port)]


def transformers(model: str) -> Callable[[int], list[str]]:
    """`transformers serve`, with its batching manager; unset, its number of blocks takes half a minute to find.

    A block holds 256 tokens, which is 6 MB of the starter model.
    """
    options = ["--continuous-batching", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512"]
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
    params.cache_ram_mib = 0
    params.ui = False
    params.verbosity = 1
    held = xllamacpp.Server(params)
    threading.Event().wait()
    del held


if __name__ == "__main__":
    _llamacpp(*sys.argv[1:])
