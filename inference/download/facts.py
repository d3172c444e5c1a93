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


def without_token() -> dict[str, str]:
    """The environment of a child that reads what strangers made. It could find what it deletes of its own (/proc)."""
    return {name: value for name, value in os.environ.items() if name not in TOKENS}


def facts_of(path: Path) -> dict[str, Any]:
    """The facts; {} where the files of a folder tell none. Raises DownloadError for a GGUF file with a bad header.

    A folder whose sums are right is what its hub has: whether its weights can be used, the engine tells.
    """
    argv = [sys.executable, "-m", "inference.facts", str(path)]
    try:
        child = subprocess.run(
            argv, env=without_token(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=SECONDS, check=False
        )
        facts = json.loads(child.stdout or b"{}")
    except (subprocess.TimeoutExpired, ValueError):
        facts = {"error": "bad_model", "message": "its header takes too long to read"}
    if "error" not in facts:
        return dict(facts)
    if path.suffix == ".gguf" and facts["error"] == "bad_model":
        raise DownloadError("bad_model", str(facts["message"]))
    log.warning("download.no_facts", path=path.name, reason=facts["message"])
    return {}
