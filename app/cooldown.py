"""Cooldowns: which worker failed to load which model, for as long as trying again would be in vain.

A key in Redis for each pair, which forgets by itself. A model is in cooldown only where every worker that may hold it
has failed: what is too large for one device may fit on another.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import redis

from app.broker import available
from app.bus import PREFIX
from app.errors import Failure

#: An engine that is not installed may be by then, in seconds: `make up` installs engines beside the running stack.
SOON = 30.0
_INDEX = PREFIX + "cooldowns"


class Cooldown(msgspec.Struct, frozen=True):
    """A load that failed."""

    node: str
    model: str
    code: str
    message: str
    seconds: float = 0.0  #: until it is over

    @property
    def failure(self) -> Failure:
        """What the jobs that wait for the model fail with."""
        return Failure(self.code, self.message)


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Cooldown)


class Cooldowns:
    """Failures to load, kept for `seconds` each."""

    def __init__(self, client: "redis.Redis", seconds: float) -> None:
        self._redis = client
        # Even where nobody wants a cooldown, a sweep must not ask the same worker again in the same breath.
        self._ms = max(1000, int(seconds * 1000))

    def note(self, model: str, nodes: Iterable[str], failure: Failure) -> None:
        """Keeps that these workers cannot load a model. Raises UnavailableError."""
        ms = min(self._ms, int(SOON * 1000)) if failure.code == "backend_missing" else self._ms
        with available(), self._redis.pipeline() as pipe:
            for node in nodes:
                key = _key(node, model)
                pipe.set(key, _encode(Cooldown(node, model, failure.code, failure.message)), px=ms)
                pipe.sadd(_INDEX, key)
            pipe.execute()

    def of(self, model: str, nodes: Sequence[str]) -> dict[str, Cooldown]:
        """Those of these workers that failed to load it lately. Raises UnavailableError."""
        found = self._read([_key(node, model) for node in nodes])
        return {cooldown.node: cooldown for cooldown in found.values()}

    def all(self) -> list[Cooldown]:
        """Every failure that still counts. Raises UnavailableError."""
        with available():
            members: set[bytes] = self._redis.smembers(_INDEX)  # type: ignore[assignment]
        keys = sorted(member.decode() for member in members)
        found = self._read(keys)
        self._delete([key for key in keys if key not in found])
        return list(found.values())

    def clear(self, model: str | None = None) -> list[str]:
        """Forgets the failures of a model, or all; returns the models that had some. Raises UnavailableError."""
        found = [cooldown for cooldown in self.all() if model in (None, cooldown.model)]
        self._delete([_key(cooldown.node, cooldown.model) for cooldown in found])
        return sorted({cooldown.model for cooldown in found})

    def _read(self, keys: list[str]) -> dict[str, Cooldown]:
        if not keys:
            return {}
        with available(), self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
                pipe.pttl(key)
            answers: list[Any] = pipe.execute()
        rows = zip(keys, answers[::2], answers[1::2], strict=True)
        return {
            key: msgspec.structs.replace(_decoder.decode(value), seconds=max(0, left) / 1000)
            for key, value, left in rows
            if value is not None
        }

    def _delete(self, keys: list[str]) -> None:
        if keys:
            with available(), self._redis.pipeline() as pipe:
                pipe.delete(*keys)
                pipe.srem(_INDEX, *keys)
                pipe.execute()


def _key(node: str, model: str) -> str:
    return f"{PREFIX}cooldown:{node}:{model}"
