"""Makes `.venv` and installs what this machine needs. Runs before anything is installed: standard library only.

`python3 bootstrap.py [requirements file]`; a second run with nothing to do takes milliseconds.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
#: Measured with `pip download -r requirements-cpu.txt` and `du -sm .venv` afterwards, in MB.
DOWNLOAD_MB, INSTALLED_MB = 110, 420
STARTER_MB = 93
PYTHON = (3, 11)


def main() -> None:
    """Installs, or says in one line why it cannot."""
    requirements = ROOT / (sys.argv[1] if len(sys.argv) > 1 else "requirements-cpu.txt")
    stamp = VENV / f".{requirements.stem}-{fingerprint()}"
    if stamp.exists():
        return
    check_machine()
    print(
        f"Installing into {VENV.name}: about {DOWNLOAD_MB} MB of Python packages to download "
        f"({INSTALLED_MB} MB on disk); the starter model is another {STARTER_MB} MB.",
        flush=True,
    )
    if not (VENV / "bin" / "python").exists():
        run([sys.executable, "-m", "venv", str(VENV)], "A virtual environment could not be made")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "-r", str(requirements)], "The packages could not be installed")
    run([*pip, "--no-deps", "-e", str(ROOT)], "Tokenyard itself could not be installed")
    stamp.touch()


def fingerprint() -> str:
    """Of everything that decides what is installed."""
    files = sorted([*ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def check_machine() -> None:
    """What would fail halfway through, said before it begins."""
    if sys.version_info < PYTHON:
        fail(
            f"Python {sys.version.split()[0]} is too old: Tokenyard needs 3.11 or newer. "
            "Try `make up PYTHON=python3.12`"
        )
    if importlib.util.find_spec("ensurepip") is None and not (VENV / "bin" / "python").exists():
        fail("This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv")
    free = shutil.disk_usage(ROOT).free // 2**20
    needed = INSTALLED_MB + DOWNLOAD_MB + 2 * STARTER_MB
    if free < needed:
        fail(f"Only {free} MB are free here and {needed} MB are needed. Free some, or clone to another disk.")


def run(command: list[str], trouble: str) -> None:
    """Runs a step; its output is shown only when it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = "\n".join("  " + line for line in done.stdout.strip().splitlines()[-8:])
        fail(f"{trouble}:\n{tail}\nCheck the network and the disk, then run the same command again: it resumes.")


def fail(message: str) -> None:
    """One clear message, and a status that make sees."""
    sys.exit(f"tokenyard: {message}")


if __name__ == "__main__":
    main()
