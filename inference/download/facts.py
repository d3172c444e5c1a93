"""What a downloaded model's own files tell of it, read in a confined child: they come from strangers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog

from inference.download.errors import DownloadError
from inference.remote import TOKENS

log = structlog.get_logger()

#: The child bounds itself to less, in seconds.
SECONDS = 120


def confined(module: str, *args: str, seconds: float) -> "subprocess.CompletedProcess[bytes]":
    """Runs a module of ours that reads what strangers made. Raises subprocess.TimeoutExpired.

    Its environment lacks the token: what it deleted of its own, it could find again (/proc).
    """
    env = {name: value for name, value in os.environ.items() if name not in TOKENS}
    argv = [sys.executable, "-m", module, *args]
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=seconds)


def facts_of(path: Path) -> dict[str, Any]:
    """The facts; {} where the files of a folder tell none. Raises DownloadError for a GGUF file with a bad header.

    A folder whose sums are right is what its hub has: whether its weights can be used, the engine tells.
    """
    try:
        facts = json.loads(confined("inference.facts", str(path), seconds=SECONDS).stdout or b"{}")
    except (subprocess.TimeoutExpired, ValueError):
        facts = {"error": "bad_model", "message": "its header takes too long to read"}
    if "error" not in facts:
        return dict(facts)
    if path.suffix == ".gguf" and facts["error"] == "bad_model":
        raise DownloadError("bad_model", str(facts["message"]))
    log.warning("download.no_facts", path=path.name, reason=facts["message"])
    return {}
