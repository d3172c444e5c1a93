"""The facts of a model, read in a child whose memory and time are bounded: model files come from strangers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog

from app.errors import BadModelError

log = structlog.get_logger(__name__)

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
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise _too_much(path) from None
    if done.returncode not in (0, 1):
        log.warning("facts_not_read", status=done.returncode, words=done.stderr[-1000:].decode(errors="replace"))
        raise _too_much(path)
    facts: dict[str, Any] = json.loads(done.stdout)
    if "error" in facts:
        raise BadModelError(facts["error"].replace("bad_model", "damaged_model"), facts["message"])
    return facts


def _too_much(path: Path) -> BadModelError:
    return BadModelError("damaged_model", f"'{path.name}' takes too much memory or time to read; the log tells more.")
