"""The tables. `jobs` is the queue itself; `pulls` and `results` keep what only one kind of job has."""

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.jobs import State
from app.tables import AnyText, Base


def _partial(name: str, *columns: str, where: str) -> Index:
    condition = text(where.format(open="finished_at IS NULL"))
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


class Job(Base):
    """One accepted request. The row is the job; a message in the broker is only a hint of it."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint(f"status IN ({', '.join(repr(s.value) for s in State)})", name="status"),
        Index("ix_jobs_status", "status", "id"),
        Index("ix_jobs_owner", "owner", "status"),
        # Most jobs have no group, and pay nothing for these: how a group stands and what it gave, and its newest job.
        _partial("ix_jobs_group_id", "group_id", "tenant", "status", "id", where="group_id IS NOT NULL"),
        _partial("ix_jobs_groups", "tenant", "group_id", "id", where="group_id IS NOT NULL"),
        Index("ix_jobs_tenant", "tenant", "id"),
        # The queue's own indexes leave finished jobs out, so that what was kept costs what waits nothing.
        _partial(
            "ix_jobs_turn", "model", "tenant", "group_id", "priority", "id", where="released_at IS NULL AND {open}"
        ),
        _partial("ix_jobs_window", "model", "status", "priority", where="released_at IS NOT NULL AND {open}"),
        _partial("ix_jobs_depth", "kind", "model", "status", "held", "tenant", where="{open}"),
        # What metrics count of those that ended, without a look at their rows.
        _partial(
            "ix_jobs_ended",
            *("kind", "model", "status", "error_code", "attempt", "losses", "finished_at"),
            where="finished_at IS NOT NULL",
        ),
        _partial("ix_jobs_expires", "expires_at", where="{open}"),
        # What keys with limits have open.
        _partial("ix_jobs_open", "tenant", "status", where="{open}"),
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
    #: When its last attempt began, and for how many seconds the ones before ran: a detached `timeout` covers both.
    claimed_at: Mapped[float | None]
    ran: Mapped[float] = mapped_column(default=0.0, server_default="0")
    finished_at: Mapped[float | None]

    attempt: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    #: The life that runs it now, or ran it last.
    owner: Mapped[str | None] = mapped_column(String(32))
    worker: Mapped[str | None] = mapped_column(String(200))
    #: The state that somebody asked a running job to end in: `cancelled` or `timed_out`.
    end_requested: Mapped[str | None] = mapped_column(String(16))
    #: The highest `seq` that its owner had sent when it last renewed its lease.
    last_seq: Mapped[int] = mapped_column(default=0)

    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(AnyText)
    traceback: Mapped[str | None] = mapped_column(AnyText)
    request: Mapped[dict[str, Any]]
    #: The HTTP request that brought it, as that one's answer and log line have it.
    request_id: Mapped[str | None] = mapped_column(String(64))
    #: What it was submitted together with: a batch, or a group that its submitter named.
    group_id: Mapped[str | None] = mapped_column(String(64))

    def lifetime(self, now: float) -> float:
        """Seconds for which its stream may be needed while it is open: it may wait, run, and do both once more."""
        return max(0.0, self.expires_at - now) + 2 * self.timeout


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
    revision: Mapped[str | None] = mapped_column(String(200))
    files_done: Mapped[int] = mapped_column(default=0, server_default="0")
    files_total: Mapped[int | None]
    bytes_per_second: Mapped[float | None]
    eta_seconds: Mapped[float | None]


class Result(Base):
    """What a generation gave, written in the transaction that ends it."""

    __tablename__ = "results"
    __table_args__ = (Index("ix_results_tokens", "prompt_tokens", "completion_tokens"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    done_reason: Mapped[str] = mapped_column(String(16))
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    total_ns: Mapped[int]
    load_ns: Mapped[int]
    prompt_ns: Mapped[int]
    completion_ns: Mapped[int]
    #: Of several choices, the text in the order in which it came; the log tells them apart.
    text: Mapped[str] = mapped_column(AnyText)
    log: Mapped[bytes] = mapped_column(LargeBinary)


class Tally(Base):
    """Jobs of one sort that ended in one way and were forgotten since: totals go on from here (app/totals.py)."""

    __tablename__ = "tallies"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    code: Mapped[str] = mapped_column(String(64), primary_key=True)
    jobs: Mapped[int]
    attempts: Mapped[int]
    losses: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    pulled_bytes: Mapped[int] = mapped_column(server_default="0")


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


class Drain(Base):
    """A node that gets no further work until somebody undoes it."""

    __tablename__ = "drains"

    node: Mapped[str] = mapped_column(String(200), primary_key=True)
    since: Mapped[float]


class ChatSession(Base):
    """A conversation that the server remembers between requests."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_used_at", "used_at"),)

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: The turns so far, oldest first: {"messages": [{"role", "content"}]}.
    history: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    used_at: Mapped[float]


class Idempotency(Base):
    """What a client's Idempotency-Key stood for: the same key and body give the same job."""

    __tablename__ = "idempotencies"
    __table_args__ = (
        Index("ix_idempotencies_created_at", "created_at"),
        # Keys go with their jobs, and the database looks for them by this.
        Index("ix_idempotencies_job_id", "job_id"),
    )

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    #: SHA-256 of the method, the path and the body, in hex.
    digest: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[float]


class ApiKey(Base):
    """A key that somebody may ask with (app/apikeys.py). Its secret is not here, only what tells whether one is it."""

    __tablename__ = "api_keys"

    #: The public part of the key.
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    #: The tenant: what keys of one name make belongs to all of them, so that a key can be replaced.
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    #: SHA-256 of the whole key, in hex.
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    #: What it may use; None: as much as there is.
    requests_per_minute: Mapped[int | None]
    max_running: Mapped[int | None]
    max_queued: Mapped[int | None]
    #: Bytes that its tenant's uploaded files may take together; None: FILES_QUOTA.
    files_quota: Mapped[int | None]
    #: The most urgent priority that its jobs may have.
    top_priority: Mapped[int]
    #: The models that it may use; empty: all.
    models: Mapped[list[str]] = mapped_column(default=list)


class File(Base):
    """A file that a client uploaded. What a batch gave is no file: it is read out of its jobs when asked for."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_tenant", "tenant", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), default="")
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int]
    created_at: Mapped[float]


class Batch(Base):
    """Many jobs under one name, as OpenAI's API has it. Its lines are the jobs whose group it is."""

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_status", "status"), Index("ix_batches_tenant", "tenant", "id"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), default="")
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(64))
    completion_window: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    total: Mapped[int] = mapped_column(default=0)
    #: {"errors": [{code, line, message, param}]}, where its file could not be taken.
    errors: Mapped[dict[str, Any] | None]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    created_at: Mapped[float]
    expires_at: Mapped[float]
    in_progress_at: Mapped[float | None]
    finalizing_at: Mapped[float | None]
    completed_at: Mapped[float | None]
    failed_at: Mapped[float | None]
    expired_at: Mapped[float | None]
    cancelling_at: Mapped[float | None]
    cancelled_at: Mapped[float | None]
