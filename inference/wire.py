"""Messages over a pipe: four bytes of length (big endian), then msgpack."""

import os
import select
import struct
import time
from typing import Any, Generic, TypeVar

import msgspec

from inference.protocol import Chunk, Failure, Info, Request, Spec, _Tagged

Value = TypeVar("Value")
_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class Submit(_Tagged, frozen=True):
    """Owner to engine: run this."""

    request: Request


class Abort(_Tagged, frozen=True):
    """Owner to engine: end this."""

    id: str


class Close(_Tagged, frozen=True):
    """Owner to engine: end yourself."""


class Progress(_Tagged, frozen=True):
    """Engine to owner, while it loads."""

    fraction: float


Command = Submit | Abort | Close
#: What the engine says before its first step: how far it is, then that it is ready, or why it is not.
Greeting = Progress | Info | Failure


class Writer:
    """Writes messages to a descriptor that it owns. Not locked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, value: Any) -> None:
        """Write one message, whole. Raises BrokenPipeError when nobody reads any more."""
        body = _encode(value)
        left = memoryview(_LENGTH.pack(len(body)) + body)
        while left:
            left = left[os.write(self._fd, left) :]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class Reader(Generic[Value]):
    """Reads messages of one type from a descriptor that it owns."""

    def __init__(self, fd: int, decoder: "msgspec.msgpack.Decoder[Value]") -> None:
        self._file = os.fdopen(fd, "rb")
        self._decode = decoder.decode

    def read(self) -> Value | None:
        """The next message, or None at the end (a message that was cut short by its writer's death included)."""
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        size = _LENGTH.unpack(head)[0]
        body = self._file.read(size)
        return self._decode(body) if len(body) == size else None

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()


def wait_readable(fd: int, deadline: float) -> bool:
    """Whether a descriptor has something (or its end) before `deadline`, a time of time.monotonic()."""
    poll = select.poll()  # not select(): a busy worker has descriptors above 1024
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


spec_decoder = msgspec.msgpack.Decoder(Spec)
command_decoder: "msgspec.msgpack.Decoder[Command]" = msgspec.msgpack.Decoder(Command)
greeting_decoder: "msgspec.msgpack.Decoder[Greeting]" = msgspec.msgpack.Decoder(Greeting)
step_decoder = msgspec.msgpack.Decoder(list[Chunk])
