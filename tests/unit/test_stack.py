"""The tests' own stack: what it started does not outlive it."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.stack import ROOT, eventually

OWNER = """
import pathlib, sys, time
from tests.stack import broker, take_sigterm_for_ctrl_c

take_sigterm_for_ctrl_c()
with broker(pathlib.Path(sys.argv[1])):
    print("started", flush=True)
    time.sleep(60)
"""


def test_what_was_started_ends_with_who_started_it_and_was_asked_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        owner.terminate()
        owner.wait(30)

    assert children
    eventually(lambda: not any(child.is_running() for child in children), what="the end of the broker")
