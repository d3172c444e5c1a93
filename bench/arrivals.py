"""Rows about what comes to a machine: the project itself, and models."""

import os
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx

from bench.results import ROOT, Row, ratio, say, turns
from bench.yard import yard
from tests.hub import FakeHub, safetensors
from tests.stack import BIN, end, eventually, free_port, launch


def up(quick: bool) -> list[Row]:
    """A fresh clone, with packages that pip has downloaded before: `make up`, to the first token."""
    took = []
    for _ in range(1 if quick else 2):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            clone = Path(folder) / "clone"
            subprocess.run(["git", "clone", "--quiet", f"file://{ROOT}", str(clone)], check=True)
            port = free_port()
            env = {name: value for name, value in os.environ.items() if not name.startswith(("STARTER_", "PYTHON"))}
            command = ["make", "-C", str(clone), "up", f"PORT={port}", f"DATA_DIR={folder}/data", "FLOWER=0"]
            began = time.monotonic()
            process = launch(command, env, Path(folder) / "log")
            try:
                eventually(partial(_speaks, port), seconds=300, what="a first token")
                took.append(round(time.monotonic() - began, 1))
                say(f"{took[-1]} s")
            finally:
                end(process, patience=60)
    what = "fresh clone, packages already downloaded: `make up` to the first token"
    return [Row("up", what, "s", statistics.median(took), 60, at_least=False, sides={"ours": took})]


def _speaks(port: int) -> bool:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": True}
    with httpx.stream("POST", f"http://127.0.0.1:{port}/chat", json=body, timeout=60, trust_env=False) as answer:
        return any('"content"' in line for line in answer.iter_lines())


def pull(quick: bool) -> list[Row]:
    """A model of one large file, from a hub on loopback: `POST /pull` and `hf download` in turns."""
    size, runs = (500_000_000, 1) if quick else (2_000_000_000, 3)
    files = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": safetensors(size)}
    repos = [f"owner/large{number}" for number in range(runs)]
    ours: list[float] = []
    theirs: list[float] = []
    with FakeHub(dict.fromkeys(repos, files)) as hub, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for repo in repos:
            hub.commit(repo)  # the sums are made before anybody is timed
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/ours", "HF_TOKEN": "", "NO_PROXY": "*"}
        with yard("web", "puller", "keeper", "beat", **settings) as stack:

            def mine(repo: str) -> None:
                job = stack.http.post("/pull", json={"model": repo}).json()["job_id"]
                done = stack.finished(job, seconds=300)
                if done["status"] != "succeeded":
                    raise RuntimeError(f"the pull {done['status']}: {done['error']}")

            def its(repo: str) -> None:
                env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/theirs", "HF_HUB_DISABLE_XET": "1"}
                subprocess.run([str(BIN / "hf"), "download", repo], check=True, capture_output=True, env=env)

            sides = (("ours", mine, ours), ("theirs", its, theirs))
            for pair, repo in enumerate(repos):
                for name, fetch, rates in turns(sides, pair):
                    os.sync()  # what the one left to be written is not the other's
                    began = time.monotonic()
                    fetch(repo)
                    rates.append(round(size / (time.monotonic() - began) / 1e6, 1))
                    say(f"{name}: {rates[-1]} MB/s")
    note = (
        f"MB/s: ours {statistics.median(ours):.0f}, theirs {statistics.median(theirs):.0f}. Ours checks sums besides."
    )
    what = f"pull against `hf download`, loopback hub, {size / 1e9:g} GB"
    return [Row("pull", what, "ratio", ratio(ours, theirs), 0.95, sides={"ours": ours, "theirs": theirs}, note=note)]
