"""The demonstration that docs/guarantees.md shows; `make demo-durable` runs it and prints what curl gets."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import Yard

MODEL = "smollm2-float32"
ASKED = "Write a short story about the keeper of a lighthouse and a storm."
#: How many tokens have come when the worker is killed.
KILLS = (50, 120)
TOKENS = 200

pytestmark = pytest.mark.faults


def test_a_real_answer_over_two_deaths_is_that_of_an_undisturbed_run(
    yard: Yard, ledger: Ledger, starter_bf16: Path
) -> None:
    """Greedy and in float32, whose arithmetic hides no seam: the texts are equal to the last letter."""
    model = {"path": str(starter_bf16), "name": MODEL, "quantize": "fp32"}
    yard.http.post("/models/import", json=model).raise_for_status()
    asked = {"text": ASKED, "model": MODEL, "max_tokens": TOKENS, "ignore_eos": True, "timeout": 300}
    with yard.holding_model(MODEL):
        engine = yard.http.get(f"/models/{MODEL}").json()["backend"]
        print(f"\n{MODEL} on {engine}, {TOKENS} tokens, undisturbed:")
        job_id = ledger.submit(**asked, follow=1)
        ledger.of(job_id)[0].ended(300)
        undisturbed = yard.job(job_id)["text"]
        print(f"{undisturbed}\n")

        job_id = ledger.submit(**asked)
        text = curl(yard, job_id, list(KILLS))
        job = yard.job(job_id)
        shown = {name: job[name] for name in ("status", "attempt", "losses", "eval_count")}
        print(f"\n{shown}; the texts are {'equal' if text == undisturbed else 'different'}")
    yard.http.delete(f"/models/{MODEL}?force=true").raise_for_status()
    ledger.hold()
    assert shown == {"status": "succeeded", "attempt": 3, "losses": 2, "eval_count": TOKENS}
    assert text == job["text"] == undisturbed


def curl(yard: Yard, job_id: str, kills: list[int]) -> str:
    """Follows a job over one connection, and kills its worker whenever so many tokens have come; the text."""
    command = ["curl", "--silent", "--show-error", "--no-buffer", f"{yard.url}/jobs/{job_id}/stream"]
    print("$", *command)
    text, number = "", 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("id:"):
                number = int(line[3:])
            if line.startswith("data:"):
                piece = json.loads(line[5:]).get("delta", {}).get("content", "")  # or it tells how a load goes
                text += piece
                print(piece, end="", flush=True)
            if kills and number >= kills[0]:
                del kills[0]
                victim = yard.owner(job_id)
                print(f" [kill -9 {yard.processes[victim].pid}: {victim}] ", end="", flush=True)
                yard.kill(victim)
    assert process.returncode == 0
    return text
