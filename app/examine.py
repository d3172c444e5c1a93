"""The facts of a model, read in a child whose memory and time are bounded: model files come from strangers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.errors import BadModelError

ROOT = Path(__file__).resolve().parent.parent
#: Longer than the child gives itself, in seconds.
PATIENCE = 90


def facts_of(path: Path) -> dict[str, Any]:
    """What inference.about.Facts holds, as plain JSON. Raises BadModelError."""
    argv = [sys.executable, "-P", "-m", "inference.facts", str(path.absolute())]
    try:
        done = subprocess.run(
            argv,
            env={"PYTHONPATH": str(ROOT)},  # nothing of ours: no key, no token
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        facts: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError, OSError):
        raise BadModelError("damaged_model", f"'{path.name}' takes too much memory or time to read.") from None
    if "error" in facts:
        raise BadModelError(facts["error"].replace("bad_model", "damaged_model"), facts["message"])
    return facts
