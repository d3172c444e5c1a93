"""Sessions: conversations that the server remembers between requests.

A job carries the whole conversation as it stood when the job was submitted, so it needs the session no more until its
end: then the turn is appended, in the transaction that ends the job. Two jobs of one session that run at once see the
same history, and their turns are appended in the order in which they end.
"""

import time
from typing import Any

import sqlalchemy as sa
import tenacity
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import SessionNotFoundError
from app.jobs import State
from app.models import ChatSession, Job

Message = dict[str, Any]
#: A session's text has at most so many characters, however few its turns are.
MOST_TEXT = 1_000_000
#: Sessions forgotten in one transaction.
PRUNED = 500
#: Where a job's request keeps what is to be appended at its end.
KEY = "session"


class Sessions:
    """`ttl`: seconds without use after which a session is forgotten. `turns`: kept where nobody says how many."""

    def __init__(self, database: Database, *, ttl: float, turns: int) -> None:
        self._db = database
        self._ttl = ttl
        self._turns = turns

    def join(self, job: Job, ident: str, turns: int | None) -> None:
        """Puts what was said so far before a new job's messages, and notes that its turn belongs to the session.

        A session that is not there, or has expired, begins here. While the job may run the session does not expire.
        """
        new: list[Message] = job.request["messages"]
        turns = turns or self._turns
        row = self._open(job, ident)
        note = {"id": ident, "since": row.created_at, "max_history": turns, "messages": new}
        job.request = {**job.request, "messages": joined(trimmed(row.history["messages"], turns), new), KEY: note}

    # Where two requests begin one session at once, the second finds the first's.
    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(sa.exc.IntegrityError), stop=tenacity.stop_after_attempt(3), reraise=True
    )
    def _open(self, job: Job, ident: str) -> ChatSession:
        now = time.time()
        with self._db.write() as session:
            row = _locked(session, job.tenant, ident)
            if row is None or self._is_over(row, now):
                row = session.merge(_fresh(job.tenant, ident, now))
            row.used_at = max(row.used_at, now if job.held else job.expires_at)
        return row

    def get(self, ident: str, tenant: str = "") -> ChatSession:
        """Raises SessionNotFoundError."""
        with self._db.read() as session:
            row = session.get(ChatSession, (tenant, ident))
        if row is None or self._is_over(row, time.time()):
            raise SessionNotFoundError(ident)
        return row

    def remove(self, ident: str, tenant: str = "") -> None:
        """Forgets a conversation; jobs of it that still run leave nothing behind. Raises SessionNotFoundError."""
        gone = sa.delete(ChatSession).where(ChatSession.tenant == tenant, ChatSession.id == ident)
        with self._db.write() as session:
            if not session.execute(gone).rowcount:  # type: ignore[attr-defined]  # a CursorResult
                raise SessionNotFoundError(ident)

    def prune(self) -> int:
        """Forgets some of the sessions that nobody used for too long; returns how many."""
        old = sa.select(ChatSession.tenant, ChatSession.id).where(ChatSession.used_at <= time.time() - self._ttl)
        with self._db.write() as session:
            keys = [tuple(key) for key in session.execute(old.limit(PRUNED))]
            session.execute(sa.delete(ChatSession).where(sa.tuple_(ChatSession.tenant, ChatSession.id).in_(keys)))
        return len(keys)

    def expires_at(self, row: ChatSession) -> float:
        """When the session is forgotten, unless somebody uses it before."""
        return row.used_at + self._ttl

    def _is_over(self, row: ChatSession, now: float) -> bool:
        return self.expires_at(row) <= now


def remember(session: Session, job_id: str, state: str, answer: str) -> None:
    """Appends a job's turn to its session, in the transaction that ends the job. One that was forgotten stays so."""
    job = session.get(Job, job_id)
    note = job.request.get(KEY) if job is not None else None
    if job is None or note is None or state != State.SUCCEEDED:
        return
    row = _locked(session, job.tenant, note["id"])
    if row is None or row.created_at != note["since"]:
        return
    said = [*joined(row.history["messages"], note["messages"]), {"role": "assistant", "content": answer}]
    row.history = {"messages": trimmed(said, note["max_history"])}
    row.used_at = time.time()


def joined(history: list[Message], new: list[Message]) -> list[Message]:
    """A conversation that goes on. A system message in front of the new ones replaces the earlier one."""
    system, rest = _system(new)
    earlier, turns = _system(history)
    return [*(system or earlier), *turns, *rest]


def trimmed(messages: list[Message], turns: int) -> list[Message]:
    """The last turns, and the system message. A turn begins with what the user says."""
    system, rest = _system(messages)
    starts = [at for at, message in enumerate(rest) if message["role"] == "user"][-turns:]
    while len(starts) > 1 and sum(len(message["content"]) for message in rest[starts[0] :]) > MOST_TEXT:
        starts.pop(0)
    return [*system, *(rest[starts[0] :] if starts else rest)]


def _system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    count = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return messages[:count], messages[count:]


def _locked(session: Session, tenant: str, ident: str) -> ChatSession | None:
    """The row, which two ends at once must not both read before they write."""
    return session.get(ChatSession, (tenant, ident), with_for_update=True)


def _fresh(tenant: str, ident: str, now: float) -> ChatSession:
    return ChatSession(tenant=tenant, id=ident, history={"messages": []}, created_at=now, used_at=now)
