"""Files that clients uploaded: the bytes in DATA_DIR/files, what they are in the database."""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from app.database import Database
from app.errors import NotFoundError
from app.jobs import new_id
from app.models import File

#: A file without a row is one whose upload did not end; after so many seconds it is swept.
ABANDONED = 3600.0


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

    def add(self, filename: str, purpose: str, save: Callable[[Path], None], tenant: str) -> File:
        """Keeps an upload: `save` writes it to a path. The row comes last, so that what has a row is whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = File(
            id=f"file-{new_id()}",
            tenant=tenant,
            filename=filename[-255:],
            purpose=purpose,
            size_bytes=0,
            created_at=time.time(),
        )
        path = self._folder / file.id
        try:
            save(path)
            file.size_bytes = path.stat().st_size
            with self._db.write() as session:
                session.add(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return file

    def get(self, file_id: str, tenant: str) -> File:
        """Raises FileNotFoundInStoreError."""
        with self._db.read() as session:
            file = session.get(File, file_id)
        if file is None or file.tenant != tenant:
            raise FileNotFoundInStoreError(file_id)
        return file

    def path(self, file: File) -> Path:
        """Where its bytes are."""
        return self._folder / file.id

    def page(
        self, tenant: str, *, purpose: str | None = None, after: str | None = None, limit: int, newest: bool = True
    ) -> list[File]:
        """By age, newest or oldest first; `after` is the last id of the page before."""
        query = sa.select(File).where(File.tenant == tenant).order_by(File.id.desc() if newest else File.id)
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
        if not self._folder.is_dir():
            return
        with self._db.read() as session:
            known = set(session.scalars(sa.select(File.id)))
        for path in self._folder.iterdir():
            if path.name not in known and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
