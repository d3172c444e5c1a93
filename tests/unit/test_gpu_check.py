"""`make gpu-check` where there is no GPU, and where NVML shows one."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.gpu.__main__ import NO_GPU, Report
from tests.stack import ROOT


def look(gpus: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "fakes"), "FAKE_GPUS": json.dumps(gpus)}
    command = [sys.executable, "-m", "tests.gpu", "--look"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_without_a_gpu_it_says_so_and_checks_nothing() -> None:
    done = look([])
    assert done.returncode == NO_GPU
    assert "There is no NVIDIA GPU on this machine" in done.stdout


def test_with_one_the_report_begins_with_the_machine() -> None:
    done = look([{"uuid": "GPU-1", "name": "NVIDIA L4", "total": 24 * 10**9, "free": 23 * 10**9}])
    assert done.returncode == 0, done.stderr
    assert "gpu.0: NVIDIA L4, 23.0 of 24.0 GB free, GPU-1" in done.stdout


class Told:
    """What pytest tells of one phase of one test."""

    nodeid = "tests/gpu/test_checks.py::test_it[vllm]"
    duration = 1.5

    def __init__(self, when: str, outcome: str, longrepr: object = None, **figures: object) -> None:
        self.when, self.outcome, self.longrepr = when, outcome, longrepr
        self.user_properties = list(figures.items())


def test_the_report_has_outcomes_figures_and_reasons() -> None:
    report = Report()
    for told in (
        Told("setup", "passed"),
        Told("call", "passed", loaded="3 s"),
        Told("teardown", "passed"),
        Told("setup", "failed", "no worker came"),
        Told("setup", "skipped", ("file", 1, "Skipped: needs two GPUs")),
        Told("teardown", "failed", "left a process"),
    ):
        report.pytest_runtest_logreport(told)

    text = "\n".join(report.lines)
    assert report.failed == 2
    assert text.count("gpu: it[vllm]") == 4
    for part in ("ok ", "loaded: 3 s", "FAILED", "no worker came", "left a process", "Skipped: needs two GPUs"):
        assert part in text
