"""Lives: which runs of workers hold jobs. A life that ended may write nothing any more."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.clock import Clock
from app.database import Database
from app.endings import Outcome, requeue
from app.jobs import State, new_id
from app.models import Job, Life


class Lives:
    """The leases of all workers. No wall clocks are compared: a lease is a counter that moves, or stands still."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._db = database
        self._clock = clock or Clock()

    def begin(self, node: str, host: str, pid: int, pid_started: float) -> tuple[str, list[Outcome]]:
        """Starts a life on a device and declares the earlier ones on it dead.

        The caller holds the device, so they are. Returns the life's id, and the jobs that ended with them.
        """
        now = self._clock.now()
        life = Life(id=new_id(), node=node, host=host, pid=pid, pid_started=pid_started, counter=0, started_at=now)
        with self._db.write() as session:
            earlier = session.scalars(sa.select(Life.id).where(Life.node == node, Life.ended_at.is_(None))).all()
            session.add(life)
        return life.id, [outcome for dead in earlier for outcome in self.bury(dead)]

    def renew(self, life: str, seqs: dict[str, int]) -> dict[str, str] | None:
        """Bumps a life's counter and notes how far its jobs have emitted. None: it was declared dead.

        Returns the running jobs that somebody asked to end, and how.
        """
        with self._db.write() as session:
            alive = sa.update(Life).where(Life.id == life, Life.ended_at.is_(None)).values(counter=Life.counter + 1)
            if not session.execute(alive).rowcount:  # type: ignore[attr-defined]  # a CursorResult
                return None
            _note(session, life, seqs)
            asked = sa.select(Job.id, Job.end_requested).where(
                Job.owner == life, Job.status == State.RUNNING, Job.end_requested.is_not(None)
            )
            return {job_id: state for job_id, state in session.execute(asked) if state}

    def bury(self, life: str) -> list[Outcome]:
        """Declares a life dead; its running jobs go back into the queue. Returns those that ended instead."""
        with self._db.write() as session:
            session.execute(self._ending(life))
            return requeue(session, self._clock.now(), Job.owner == life, lost=True)

    def leave(self, life: str, seqs: dict[str, int]) -> list[Outcome]:
        """Ends a life of its own will: all its jobs go back into the queue at once, which is no loss to them."""
        with self._db.write() as session:
            session.execute(self._ending(life))
            _note(session, life, seqs)
            return requeue(session, self._clock.now(), Job.owner == life, lost=False)

    def _ending(self, life: str) -> sa.Update:
        return sa.update(Life).where(Life.id == life, Life.ended_at.is_(None)).values(ended_at=self._clock.now())

    def open(self) -> list[Life]:
        """The lives that nobody has declared dead."""
        with self._db.read() as session:
            return list(session.scalars(sa.select(Life).where(Life.ended_at.is_(None))))


def _note(session: Session, life: str, seqs: dict[str, int]) -> None:
    """Keeps how far a life's jobs have come, as their followers know it."""
    if seqs:
        session.connection().execute(
            sa.update(Job).where(Job.id == sa.bindparam("job"), Job.owner == life).values(last_seq=sa.bindparam("seq")),
            [{"job": job_id, "seq": seq} for job_id, seq in sorted(seqs.items())],
        )
