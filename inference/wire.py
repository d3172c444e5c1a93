"""Messages over a pipe: four bytes of length (big endian), then msgpack."""

import os
import struct
from typing import Any, BinaryIO, Generic, TypeVar

import msgspec

from inference.protocol import Chunk, Failure, Info, Request, Spec, Tagged

Value = TypeVar("Value")
_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class Submit(Tagged, frozen=True):
    """Owner to engine: run this."""

    request: Request


class Abort(Tagged, frozen=True):
    """Owner to engine: end this."""

    id: str


class Close(Tagged, frozen=True):
    """Owner to engine: end yourself."""


class Progress(Tagged, frozen=True):
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
        """Close the descriptor. Later writes raise OSError; closing twice is no fault."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Reader(Generic[Value]):
    """Reads messages of one type from a file, which it may share with a reader of an earlier type."""

    def __init__(self, file: BinaryIO, decoder: "msgspec.msgpack.Decoder[Value]") -> None:
        self._file = file
        self._decode = decoder.decode

    def read(self) -> Value | None:
        """The next message, or None at the end (a message that was cut short by its writer's death included)."""
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        size = _LENGTH.unpack(head)[0]
        body = self._file.read(size)
        return self._decode(body) if len(body) == size else None


spec_decoder = msgspec.msgpack.Decoder(Spec)
command_decoder: "msgspec.msgpack.Decoder[Command]" = msgspec.msgpack.Decoder(Command)
greeting_decoder: "msgspec.msgpack.Decoder[Greeting]" = msgspec.msgpack.Decoder(Greeting)
step_decoder = msgspec.msgpack.Decoder(list[Chunk])
