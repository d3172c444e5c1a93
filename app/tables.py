"""What all tables are made of.

Times are seconds since the epoch as floats (UTC), durations are nanoseconds, sizes are bytes. JSON columns hold plain
JSON text, so that SQLite and PostgreSQL keep the same.
"""

import re
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, MetaData, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The metadata that migrations are compared with."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {int: BigInteger, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class AnyText(TypeDecorator[str]):
    """Text that may hold a NUL, as a model may well say: PostgreSQL cannot keep one, and keeps it behind an escape."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """As the database keeps it."""
        if value is None or dialect.name != "postgresql":
            return value
        return re.sub("[\0\x10]", lambda found: "\x10" + ("0" if found[0] == "\0" else "1"), value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """As it was."""
        if value is None or dialect.name != "postgresql":
            return value
        return re.sub("\x10(.)", lambda found: "\0" if found[1] == "0" else "\x10", value)
