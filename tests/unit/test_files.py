"""Uploaded files: the room that they take, however many come at once, and what a crash leaves of them."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.database import Database
from app.errors import FilesFullError
from app.files import ABANDONED, LEAST, FileNotFoundInStoreError, Files
from app.models import File

ROOM = {"most": 50_000, "quota": 100_000}


@pytest.fixture
def files(database: Database, tmp_path: Path) -> Files:
    return Files(database, tmp_path / "files")


@pytest.mark.parametrize("size", [30_000, None])
def test_uploads_that_come_at_once_share_the_room(files: Files, size: int | None) -> None:
    def begin(_: int) -> int:
        try:
            return files.begin("alice", size, **ROOM).size_bytes
        except FilesFullError:
            return 0

    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(begin, range(32)))
    assert sorted(taken)[-4:] == ([0, 30_000, 30_000, 30_000] if size else [0, 0, 50_000, 50_000])
    assert files.begin("bob", 100_000, **ROOM).size_bytes == 100_000


def test_an_upload_is_nobody_s_to_see_until_it_is_whole(files: Files) -> None:
    file = files.begin("alice", 30_000, **ROOM)
    assert files.page("alice", limit=9) == []
    for look in (files.get, files.remove):
        with pytest.raises(FileNotFoundInStoreError):
            look(file.id, "alice")
    kept = files.keep(file, "a.jsonl", "batch", lambda path: path.write_bytes(b"12345") and None)
    assert [(found.id, found.size_bytes) for found in files.page("alice", limit=9)] == [(kept.id, 5)]


def test_files_that_hold_nothing_take_room_too(files: Files) -> None:
    for _ in range(100_000 // LEAST + 1):
        files.keep(files.begin("alice", 1, **ROOM), "empty", "batch", lambda path: path.touch())
    with pytest.raises(FilesFullError):
        files.begin("alice", 1, **ROOM)


def test_what_an_upload_that_died_left_gives_its_room_back(files: Files, database: Database, tmp_path: Path) -> None:
    dead, slow = (files.begin("alice", 40_000, **ROOM) for _ in range(2))
    (tmp_path / "files").mkdir()
    files.path(dead).write_bytes(b"part")
    long_ago = time.time() - ABANDONED - 60
    os.utime(files.path(dead), (long_ago, long_ago))
    with database.write() as session:
        session.execute(sa.update(File).where(File.id == dead.id).values(created_at=long_ago))
    files.sweep()
    assert list((tmp_path / "files").iterdir()) == []
    assert files.begin("alice", 60_000, **ROOM).size_bytes == 60_000
    assert files.keep(slow, "a", "batch", lambda path: path.write_bytes(b"1") and None).purpose == "batch"
