"""API keys: who may ask, as what, and how much.

A key is `ty-<id>-<secret>`. The id is public and finds the row; the secret has 256 random bits, so a plain SHA-256 of
the whole keeps it (a slow hash guards what people can remember). The row goes on telling that a revoked key was one.
"""

import hashlib
import re
import secrets
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

import sqlalchemy as sa

from app.clock import Clock
from app.database import Database
from app.errors import BadSettingsError, InvalidRequestError, NotAllowedError, NotFoundError
from app.jobs import DEFAULT_PRIORITY
from app.models import ApiKey
from app.names import resolve
from app.settings import Settings

T = TypeVar("T")

#: Characters that API_KEY has at least where others may guess at it: a word is found in hours.
SHORTEST = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"ty-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")


class Role(StrEnum):
    """What a key is for."""

    USER = "user"  #: asks, and sees what is its own
    OPERATOR = "operator"  #: manages models and workers too, and sees all jobs
    MONITOR = "monitor"  #: reads metrics alone


class KeyNotFoundError(NotFoundError):
    """No key has this name or id."""

    code = "key_not_found"

    def __init__(self, which: str) -> None:
        super().__init__(f"No key that works has the name or id '{which}'. `tokenyard keys list` lists them.")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whoever asks. Without a key, and with API_KEY, that is the first operator, whose tenant has no name."""

    tenant: str = ""
    role: Role = Role.OPERATOR
    requests_per_minute: int | None = None
    max_running: int | None = None
    max_queued: int | None = None
    files_quota: int | None = None
    top_priority: int = 0
    models: tuple[str, ...] = ()
    keyed: bool = True  #: showed a key; False: is on this machine, where none is needed

    @property
    def scope(self) -> str | None:
        """Whose jobs it may see; None: everybody's."""
        return None if self.role == Role.OPERATOR else self.tenant

    def told(self, value: T) -> T | None:
        """What is for operators alone: where things lie, and what others do."""
        return value if self.role is Role.OPERATOR else None

    def may_use(self, model: str) -> bool:
        """Whether a model, by its own name, is one of its."""
        return not self.models or model in self.models

    def check_model(self, model: str) -> None:
        """Raises NotAllowedError."""
        if not self.may_use(model):
            raise NotAllowedError(
                "forbidden_model", f"This key may not use '{model}'. It may use: {', '.join(self.models)}."
            )

    def priority(self, asked: int, *, said: bool) -> int:
        """What a job gets that asks for a priority, or that says nothing of it. Raises NotAllowedError."""
        if said and asked < self.top_priority:
            raise NotAllowedError(
                "forbidden_priority", f"Jobs of this key have priority {self.top_priority} at best; 9 is the last."
            )
        return max(asked, self.top_priority)


class Proof(NamedTuple):
    """What is left of a key that was shown: enough to tell later whether it still holds, and useless to a thief."""

    id: str
    digest: str

    @classmethod
    def of(cls, key: str) -> "Proof":
        """Of a key as it was sent."""
        made = _KEY.fullmatch(key)
        return cls(made[1] if made else "", hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest())


class ApiKeys:
    """The table of keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    def create(
        self,
        name: str,
        role: Role,
        *,
        again: bool = False,
        expires_in: float | None = None,
        top_priority: int | None = None,
        **may: object,
    ) -> str:
        """Makes a key and returns it, this once. `may`: limits, as ApiKey has them. Raises InvalidRequestError.

        A name that was used before is refused unless `again` says that this is the same tenant's. Of `top_priority`
        None, a user's jobs are as urgent as all others at best: turns are taken within a priority.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequestError("A key's name has 1 to 64 letters, digits, dots, dashes or underscores.")
        if top_priority is None:
            top_priority = DEFAULT_PRIORITY if role == Role.USER else 0
        now, ident = self._clock.now(), secrets.token_hex(6)
        key = f"ty-{ident}-{secrets.token_urlsafe(32)}"
        row = ApiKey(
            id=ident,
            name=name,
            role=role.value,
            digest=Proof.of(key).digest,
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in,
            top_priority=top_priority,
            **may,
        )
        with self._db.write() as session:
            if not again and session.scalar(sa.select(ApiKey.id).where(ApiKey.name == name).limit(1)):
                raise InvalidRequestError(
                    f"There is, or was, a key named '{name}', and a further one shares all that is its own. "
                    "With --again that is what you want; else take another name."
                )
            session.add(row)
        return key

    def all(self) -> list[ApiKey]:
        """Every key that was ever made, the oldest first."""
        with self._db.read() as session:
            return list(session.scalars(sa.select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))

    def known(self) -> list[ApiKey]:
        """The same, to judge by: the models of a key are under their own names, whichever names it was made with."""
        with self._db.read() as session:
            rows = list(session.scalars(sa.select(ApiKey)))
            own = {name: resolve(session, name).name for row in rows for name in row.models}
            session.expunge_all()
        for row in rows:
            row.models = sorted({own[name] for name in row.models})
        return rows

    def revoke(self, which: str) -> int:
        """Ends a key by its id, or all of a name; returns how many. Raises KeyNotFoundError."""
        named = sa.or_(ApiKey.id == which, ApiKey.name == which)
        ended = sa.update(ApiKey).where(named, ApiKey.revoked_at.is_(None)).values(revoked_at=self._clock.now())
        with self._db.write() as session:
            count = int(session.execute(ended).rowcount)  # type: ignore[attr-defined]  # a CursorResult
        if not count:
            raise KeyNotFoundError(which)
        return count


def require_key(settings: Settings) -> None:
    """What a server asks before it binds. Raises BadSettingsError where it serves others without a key to hold."""
    if settings.is_private:
        return
    if settings.api_key is not None:
        if len(settings.api_key.get_secret_value()) < SHORTEST:
            raise BadSettingsError(
                f"API_KEY: others could guess it. Take {SHORTEST} characters or more: openssl rand -hex 24"
            )
        return
    clock = Clock()
    with closing(Database(settings.database_url)) as database:
        rows = ApiKeys(database, clock).all()
    if not any(holds(row, clock.now()) for row in rows):
        raise BadSettingsError(
            f"{_opened(settings)} would serve beyond this machine without a key. Make one: tokenyard keys create NAME "
            "--role operator. Or set API_KEY to a long random string, or HOST=127.0.0.1 and no ALLOWED_HOSTS"
        )


def _opened(settings: Settings) -> str:
    """The setting by which others are served."""
    hosts = ",".join(settings.allowed_hosts)
    return f"ALLOWED_HOSTS={hosts}" if settings.is_loopback else f"HOST={settings.host}"


def holds(row: ApiKey, now: float) -> bool:
    """Whether a key still works."""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)
