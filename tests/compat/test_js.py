"""npm's `openai` and `ollama`, unmodified; `make compat-js` installs them where Node is there."""

import subprocess
from pathlib import Path

import pytest

from tests.stack import Stack, eventually

FOLDER = Path(__file__).parent / "js"


@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="make compat-js installs the packages")
def test_npms_clients(stack: Stack) -> None:
    said = subprocess.run(["node", "clients.mjs", stack.url], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "all well", said.stderr

    def left_alone() -> bool:
        jobs = stack.http.get("/jobs", params={"model": "scripted"}).json()["jobs"]
        return any(job["status"] == "cancelled" for job in jobs)

    eventually(left_alone, what="the job whose client hung up")
