"""Events: what travels on the bus, and their form in bytes.

A job's stored events are numbered by `seq`, from 1 without a gap. On the wire each one is a frame: the job's id in
ASCII, the length of the rest, the rest in msgpack. Frames stand one behind the other in a message, so that a reader
finds the jobs that it follows without decoding the others.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

ID_LENGTH = 32
_HEADER = ID_LENGTH + 4

T = TypeVar("T")


class BadEventError(ValueError):
    """Bytes that are no event. Whoever reads them skips them."""


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a generation counted and measured: tokens, and nanoseconds. Nothing is ever null."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    completion_ns: int = 0


class Likely(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token that could stand at one place: its id, its text by itself, and the natural log of its probability."""

    id: int
    text: str
    logprob: float


class Logprob(Likely, frozen=True, array_like=True, gc=False):
    """The token that was drawn, and the likeliest ones of its place, the first first."""

    top: tuple[Likely, ...] = ()


class Closing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the next attempt has to know of a choice that has ended: the answer may be whole, and not committed yet."""

    reason: str
    prompt_tokens: int = 0


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="t"):
    """Some output of one choice: exactly the text that its `count` token ids stand for.

    `ids` is empty where the engine tells none. The end of any event is a clean seam: no half character and no half
    stop string lies behind it. `finish` is the reason why this choice, one of several, ended with this event; of a
    single choice the terminal event tells it. `logprobs` has an entry a token where the request asked for them.
    `closing` stands in the last event of any choice, for a further attempt alone: followers are told nothing of it.
    """

    seq: int
    text: str
    count: int = 1
    ids: tuple[int, ...] = ()
    choice: int = 0
    finish: str = ""
    logprobs: tuple[Logprob, ...] = ()
    closing: Closing | None = None


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="e"):
    """The job's terminal event, and the last of its stream."""

    seq: int
    state: str
    done_reason: str = ""
    usage: Usage = Usage()
    code: str = ""
    message: str = ""


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """Where a pull or a queued job stands. It has no number and is not stored: the row is the truth."""

    state: str
    fields: dict[str, Any] = {}


Stored = Token | Ended
Event = Token | Ended | Progress

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(job_id: str, event: Event) -> bytes:
    """One frame."""
    body = _encoder.encode(event)
    return job_id.encode("ascii") + len(body).to_bytes(4, "big") + body


def frames(message: bytes) -> Iterator[tuple[str, bytes]]:
    """Each frame in a message as (job id, body). Raises BadEventError where the bytes break off."""
    at = 0
    while at < len(message):
        end = at + _HEADER + int.from_bytes(message[at + ID_LENGTH : at + _HEADER], "big")
        if end > len(message) or at + _HEADER > len(message):
            raise BadEventError(f"a frame at byte {at} runs past the message's end at {len(message)}")
        yield message[at : at + ID_LENGTH].decode("ascii", "replace"), message[at + _HEADER : end]
        at = end


def decode(body: bytes) -> Event:
    """The event of one frame's body. Raises BadEventError."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:  # a text that is no UTF-8 is told by Python itself
        raise BadEventError(str(error)) from error


class Log(msgspec.Struct, frozen=True, array_like=True):
    """A finished job's events, compact: `text` is kept beside it, and `ends[i]` is where token event i+1 ends in it.

    The last three hold nothing where no event has anything of their kind, which is nearly always.
    """

    ends: tuple[int, ...]
    counts: tuple[int, ...]
    choices: tuple[int, ...] = ()
    finishes: tuple[str, ...] = ()
    logprobs: tuple[tuple[Logprob, ...], ...] = ()

    @classmethod
    def of(cls, tokens: list[Token]) -> "Log":
        """The log of a whole transcript, in order of `seq`."""
        ends, at = [], 0
        for token in tokens:
            at += len(token.text)
            ends.append(at)
        return cls(
            tuple(ends),
            tuple(token.count for token in tokens),
            _unless_empty(tuple(token.choice for token in tokens)),
            _unless_empty(tuple(token.finish for token in tokens)),
            _unless_empty(tuple(token.logprobs for token in tokens)),
        )

    def tokens(self, text: str, after: int = 0) -> Iterator[Token]:
        """The token events behind `after`, as followers saw them."""
        start = self.ends[after - 1] if 0 < after <= len(self.ends) else 0
        for index in range(after, len(self.ends)):
            yield Token(
                seq=index + 1,
                text=text[start : self.ends[index]],
                count=self.counts[index],
                choice=self.choices[index] if self.choices else 0,
                finish=self.finishes[index] if self.finishes else "",
                logprobs=self.logprobs[index] if self.logprobs else (),
            )
            start = self.ends[index]

    def encode(self) -> bytes:
        """The form in the database."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "Log":
        """Raises BadEventError."""
        try:
            return _log_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise BadEventError(str(error)) from error


def _unless_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    return values if any(values) else ()


_log_decoder = msgspec.msgpack.Decoder(Log)
