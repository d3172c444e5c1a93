"""Sessions: conversations that the server remembers between requests.

A job carries the whole conversation as it stood when the job was submitted, so it needs the session no more until its
end: then the turn is appended, in the transaction that ends the job. Two jobs of one session that run at once see the
same history, and their turns are appended in the order in which they end.
"""

from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.clock import Clock
from app.database import Database
from app.errors import SessionNotFoundError
from app.models import ChatSession, Job

Message = dict[str, Any]
#: A session's text has at most so many characters, however few its turns are. A message counts as ENVELOPE more.
MOST_TEXT = 1_000_000
ENVELOPE = 50
#: Sessions forgotten in one transaction.
PRUNED = 500
#: Where a job's request keeps what is to be appended at its end.
KEY = "session"


class Sessions:
    """`ttl`: seconds without use after which a session is forgotten. `turns`: kept where nobody says how many."""

    def __init__(self, database: Database, *, ttl: float, turns: int, clock: Clock | None = None) -> None:
        self._db = database
        self._ttl = ttl
        self._turns = turns
        self._clock = clock or Clock()

    def note(self, ident: str, turns: int | None) -> dict[str, Any]:
        """What a new job's request keeps under KEY, for `join` to take up when the job is accepted."""
        return {"id": ident, "max_history": turns or self._turns, "ttl": self._ttl}

    def get(self, ident: str, tenant: str) -> ChatSession:
        """Raises SessionNotFoundError."""
        with self._db.read() as session:
            row = session.get(ChatSession, (tenant, ident))
        if row is None or self.expires_at(row) <= self._clock.now():
            raise SessionNotFoundError(ident)
        return row

    def remove(self, ident: str, tenant: str) -> None:
        """Forgets a conversation; jobs of it that still run leave nothing behind. Raises SessionNotFoundError."""
        gone = sa.delete(ChatSession).where(ChatSession.tenant == tenant, ChatSession.id == ident)
        with self._db.write() as session:
            if not session.execute(gone).rowcount:  # type: ignore[attr-defined]  # a CursorResult
                raise SessionNotFoundError(ident)

    def prune(self) -> int:
        """Forgets some of the sessions that nobody used for too long; returns how many."""
        old = ChatSession.used_at <= self._clock.now() - self._ttl
        query = sa.select(ChatSession.tenant, ChatSession.id).where(old).limit(PRUNED)
        with self._db.write() as session:
            keys = [tuple(key) for key in session.execute(query)]
            # Again: on PostgreSQL somebody may have used one meanwhile.
            these = sa.tuple_(ChatSession.tenant, ChatSession.id).in_(keys)
            session.execute(sa.delete(ChatSession).where(these, old))
        return len(keys)

    def expires_at(self, row: ChatSession) -> float:
        """When the session is forgotten, unless somebody uses it before."""
        return row.used_at + self._ttl


def join(session: Session, job: Job) -> None:
    """Puts what was said so far before a new job's messages, in the transaction that accepts the job.

    A session that is not there, or has expired, begins here. While the job may run the session does not expire.
    """
    note = job.request.get(KEY)
    if note is None:
        return
    new: list[Message] = job.request["messages"]
    row = _locked(session, job.tenant, note["id"]) or _begun(session, job, note["id"])
    if row.used_at + note["ttl"] <= job.created_at:
        row.history, row.created_at = {"messages": []}, job.created_at
    row.used_at = max(row.used_at, job.created_at if job.held else job.expires_at)
    earlier = trimmed(row.history["messages"], note["max_history"])
    kept = {"id": note["id"], "since": row.created_at, "max_history": note["max_history"], "messages": new}
    job.request = {**job.request, "messages": joined(earlier, new), KEY: kept}


def remember(session: Session, tenant: str, note: dict[str, Any], answer: str, now: float) -> None:
    """Appends a job's turn to its session, in the transaction that ends the job. One that was forgotten stays so."""
    row = _locked(session, tenant, note["id"])
    if row is None or row.created_at != note["since"]:
        return
    said = [*joined(row.history["messages"], note["messages"]), {"role": "assistant", "content": answer}]
    row.history = {"messages": trimmed(said, note["max_history"])}
    row.used_at = now


def joined(history: list[Message], new: list[Message]) -> list[Message]:
    """A conversation that goes on. A system message in front of the new ones replaces the earlier one."""
    system, rest = _system(new)
    earlier, turns = _system(history)
    return [*(system or earlier), *turns, *rest]


def trimmed(messages: list[Message], turns: int) -> list[Message]:
    """The last turns, and the system message. A turn begins with what the user says.

    Of a last turn that alone is too long the oldest messages go; the last message stays as it is.
    """
    system, rest = _system(messages)
    starts = [at for at, message in enumerate(rest) if message["role"] == "user"][-turns:] or [0]
    sizes = list(accumulate((len(message["content"]) + ENVELOPE for message in reversed(rest)), initial=0))
    short = (at for at in (*starts, *range(starts[-1], len(rest))) if sizes[len(rest) - at] <= MOST_TEXT)
    return [*system, *rest[next(short, -1) :]]


def _system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    count = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return messages[:count], messages[count:]


def _locked(session: Session, tenant: str, ident: str) -> ChatSession | None:
    """The row, which two ends at once must not both read before they write."""
    return session.get(ChatSession, (tenant, ident), with_for_update=True)


def _begun(session: Session, job: Job, ident: str) -> ChatSession:
    now = job.created_at
    fresh = ChatSession(tenant=job.tenant, id=ident, history={"messages": []}, created_at=now, used_at=now)
    try:
        with session.begin_nested():
            session.add(fresh)
            session.flush()
    except sa.exc.IntegrityError:
        # On PostgreSQL another request began it at the same moment; SQLite's writers come one after the other.
        row = _locked(session, job.tenant, ident)
        if row is None:
            raise
        return row
    return fresh
