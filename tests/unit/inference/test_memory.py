"""How much memory there is, where a container bounds it."""

from pathlib import Path

import psutil
import pytest

from inference import memory

ALL = psutil.virtual_memory()._replace(available=64_000)


@pytest.mark.parametrize(
    ("limit", "used", "idle", "left"),
    [("8000", 7000, 0, 1000), ("8000", 7000, 5000, 6000), ("8000", 9000, 0, 0), ("max", 7000, 0, 64_000)],
    ids=["in use", "cached", "beyond", "no limit"],
)
def test_a_container_has_what_its_limit_leaves_cached_files_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: int, idle: int, left: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 10\nfile 6000\nactive_file 20\ninactive_file {idle}\nslab 5\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: ALL)
    assert memory.available() == left


def test_outside_of_a_container_the_machine_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: ALL)
    assert memory.available() == 64_000
