"""Files that clients uploaded: the bytes in DATA_DIR/files, what they are in the database."""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from app.database import Database
from app.errors import FilesFullError, NotFoundError
from app.jobs import new_id
from app.locks import alone
from app.models import File

#: A file without a row is one whose upload did not end; after so many seconds it is swept.
ABANDONED = 3600.0
#: Bytes a second: whoever uploads at less is sent away (app/web/arrival.py).
SLOWEST = 8 * 1024
#: Bytes that a file counts as at least: an empty one takes room too.
LEAST = 4096
#: The purpose of a row that only keeps room for what is on its way.
UPLOADING = "uploading"


class FileNotFoundInStoreError(NotFoundError):
    """No file has this id, or it belongs to somebody else."""

    code = "file_not_found"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"No file has the id '{file_id}'.", param="file_id")


class Files:
    """Uploaded files, by id."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._db = database
        self._folder = folder

    def begin(self, tenant: str, size: int | None, *, most: int, quota: int) -> File:
        """Reserves room for an upload, before a byte of it is read: it counts from here on, over all processes.

        `size` bytes come; None: nobody knows, so it may have `most`, or what is left. `quota` bytes are what all files
        of a tenant may take. Raises FilesFullError.
        """
        file = File(id=f"file-{new_id()}", tenant=tenant, filename="", purpose=UPLOADING, created_at=time.time())
        counted = sa.case((File.size_bytes < LEAST, LEAST), else_=File.size_bytes)
        with self._db.write() as session:
            alone(session, f"files:{tenant}")
            kept = int(session.scalar(sa.select(sa.func.sum(counted)).where(File.tenant == tenant)) or 0)
            file.size_bytes = max(1, min(most, quota - kept)) if size is None else size
            if kept + file.size_bytes > quota:
                raise FilesFullError(kept, quota)
            session.add(file)
        return file

    def keep(self, file: File, filename: str, purpose: str, save: Callable[[Path], None]) -> File:
        """Ends an upload well: `save` writes it to a path. What is listed is whole, as this comes last."""
        self._folder.mkdir(parents=True, exist_ok=True)
        save(self.path(file))
        size = self.path(file).stat().st_size
        with self._db.write() as session:
            kept = session.merge(file)
            kept.filename, kept.purpose, kept.size_bytes = filename[-255:], purpose, size
        return kept

    def drop(self, file: File) -> None:
        """Gives an upload's room back, and what came of it."""
        self.path(file).unlink(missing_ok=True)
        with self._db.write() as session:
            session.execute(sa.delete(File).where(File.id == file.id))

    def get(self, file_id: str, tenant: str) -> File:
        """Raises FileNotFoundInStoreError."""
        with self._db.read() as session:
            file = session.get(File, file_id)
        if file is None or file.tenant != tenant or file.purpose == UPLOADING:
            raise FileNotFoundInStoreError(file_id)
        return file

    def path(self, file: File) -> Path:
        """Where its bytes are."""
        return self._folder / file.id

    def page(
        self, tenant: str, *, purpose: str | None = None, after: str | None = None, limit: int, newest: bool = True
    ) -> list[File]:
        """By age, newest or oldest first; `after` is the last id of the page before."""
        query = sa.select(File).where(File.tenant == tenant, File.purpose != UPLOADING)
        query = query.order_by(File.id.desc() if newest else File.id)
        if purpose is not None:
            query = query.where(File.purpose == purpose)
        if after is not None:
            query = query.where(File.id < after if newest else File.id > after)
        with self._db.read() as session:
            return list(session.scalars(query.limit(limit)))

    def remove(self, file_id: str, tenant: str) -> None:
        """Forgets a file, then deletes it. Raises FileNotFoundInStoreError."""
        file = self.get(file_id, tenant)
        with self._db.write() as session:
            session.execute(sa.delete(File).where(File.id == file_id))
        self.path(file).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes what an upload or a removal that died left behind."""
        ended = File.created_at + ABANDONED + File.size_bytes / SLOWEST < time.time()
        with self._db.write() as session:
            session.execute(sa.delete(File).where(File.purpose == UPLOADING, ended))
        if not self._folder.is_dir():
            return
        with self._db.read() as session:
            known = set(session.scalars(sa.select(File.id)))
        for path in self._folder.iterdir():
            if path.name not in known and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
