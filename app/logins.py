"""Logins: sessions of the console, in Redis: every web process knows them, and a logout ends them everywhere.

The cookie is a random word. Redis knows its hash alone, and the proof of the key that it stands for: whoever reads
Redis gets in with neither, and a session ends with its key.
"""

import hashlib
import hmac
import secrets

import redis

from app.apikeys import Proof
from app.broker import available
from app.bus import PREFIX

#: Seconds that a session lasts.
LASTS = 12 * 3600


class Logins:
    """Begins, finds and ends sessions. Each call raises UnavailableError."""

    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client

    def begin(self, proof: Proof) -> str:
        """The word of a new session."""
        word = secrets.token_urlsafe(32)
        with available():
            self._redis.set(_key(word), f"{proof.id}:{proof.digest}", ex=LASTS)
        return word

    def find(self, word: str) -> Proof | None:
        """The key that a session stands for."""
        with available():
            kept: bytes | None = self._redis.get(_key(word))  # type: ignore[assignment]
        if kept is None:
            return None
        ident, _, digest = kept.decode().partition(":")
        return Proof(ident, digest)

    def end(self, word: str) -> None:
        """It stands for nothing any more."""
        with available():
            self._redis.delete(_key(word))


def csrf(word: str) -> str:
    """What a page must say beside the cookie, which other sites' pages can have sent but cannot read."""
    return hmac.new(word.encode(), b"csrf", hashlib.sha256).hexdigest()


def _key(word: str) -> str:
    return f"{PREFIX}login:{hashlib.sha256(word.encode('utf-8', 'surrogateescape')).hexdigest()}"
