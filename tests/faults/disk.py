"""A small disk of its own for a folder, which a test may fill."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts one over a folder. Skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=1k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a process may be about to close a file there


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Somebody else's files take all that there is of it, within the block."""
    filler = disk / "somebody-else-s"
    filler.mkdir()
    with contextlib.suppress(OSError), (filler / "bytes").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (filler / str(number)).touch()
    try:
        yield
    finally:
        subprocess.run(["rm", "-r", str(filler)], check=True)
