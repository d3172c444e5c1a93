"""The tables. `jobs` is the queue itself; `pulls` and `results` keep what only one kind of job has.

Times are seconds since the epoch as floats (UTC), durations are nanoseconds, sizes are bytes. JSON columns hold plain
JSON text, so that SQLite and PostgreSQL keep the same.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.jobs import State

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
    type_annotation_map = {int: BigInteger, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Job(Base):
    """One accepted request. The row is the job; a message in the broker is only a hint of it."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint(f"status IN ({', '.join(repr(s.value) for s in State)})", name="status"),
        Index("ix_jobs_release", "model", "status", "released_at", "priority", "tenant", "id"),
        Index("ix_jobs_status", "status", "id"),
        Index("ix_jobs_owner", "owner", "status"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16), default=State.QUEUED.value)
    priority: Mapped[int]
    tenant: Mapped[str] = mapped_column(String(64), default="")
    #: Whether a client waits for the answer: then `timeout` covers queueing and loading too.
    held: Mapped[bool]
    timeout: Mapped[float]
    #: When a queued job gives up; for a held job this is the end of its timeout.
    expires_at: Mapped[float]

    created_at: Mapped[float]
    released_at: Mapped[float | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]

    attempt: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    #: The life that runs it now, or ran it last.
    owner: Mapped[str | None] = mapped_column(String(32))
    worker: Mapped[str | None] = mapped_column(String(200))
    #: The state that somebody asked a running job to end in: `cancelled` or `timed_out`.
    end_requested: Mapped[str | None] = mapped_column(String(16))
    #: The highest `seq` that its owner had emitted when it last renewed its lease.
    last_seq: Mapped[int] = mapped_column(default=0)

    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)
    request: Mapped[dict[str, Any]]


class Pull(Base):
    """What only a pull has: where the bytes stand."""

    __tablename__ = "pulls"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    quantize: Mapped[str] = mapped_column(String(8))
    init: Mapped[bool]
    local_path: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int | None]
    downloaded_bytes: Mapped[int] = mapped_column(default=0)
    total_bytes: Mapped[int | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    preferred_quantized: Mapped[bool] = mapped_column(default=False)


class Result(Base):
    """What a generation gave, written in the transaction that ends it."""

    __tablename__ = "results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    done_reason: Mapped[str] = mapped_column(String(16))
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    total_ns: Mapped[int]
    load_ns: Mapped[int]
    prompt_ns: Mapped[int]
    completion_ns: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    log: Mapped[bytes] = mapped_column(LargeBinary)


class Life(Base):
    """One run of a worker, from its start to its end. A life that ended may write nothing any more."""

    __tablename__ = "lives"
    __table_args__ = (Index("ix_lives_node", "node", "ended_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    node: Mapped[str] = mapped_column(String(200))
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    #: The kernel's start time of that pid, which tells it from a later process with the same number.
    pid_started: Mapped[float]
    #: Bumped at each renewal. The sweeper watches it stand still by its own clock; no clocks are compared.
    counter: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[float]
    ended_at: Mapped[float | None]


class Model(Base):
    """A model whose files are on this machine."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    size_bytes: Mapped[int]
    quantize: Mapped[str] = mapped_column(String(8), default="auto")
    source: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
