"""The `tokenyard` command against a stack, as a user of a shell runs it."""

import json
import subprocess
import sys
from typing import Any

from tests.stack import ROOT, Stack


def tokenyard(
    stack: Stack, *words: str, given: str = "", code: int = 0, **env: str
) -> "subprocess.CompletedProcess[str]":
    """One verb, to its end, which must be this exit code."""
    command = [sys.executable, "-m", "app.cli", *words]
    settings = stack.env | {"NO_COLOR": "1"} | env
    done = subprocess.run(command, cwd=ROOT, env=settings, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def told(stack: Stack, *words: str, given: str = "") -> Any:
    """What a verb prints with --json."""
    return json.loads(tokenyard(stack, *words, "--json", given=given).stdout)
