"""The seam: which part of a growing answer may be given out, so that it never has to be taken back.

Used by every engine, once. What might be the start of a stop string waits, with the ids that made it, until it is
known; so a stop string never leaks, not even in part, and the end of all that was given out is a place from which
another attempt can go on.
"""

from collections import deque

import msgspec

from inference.protocol import Chunk, Finish, Logprob

#: What detokenisers show for bytes that are not (yet) a character.
REPLACEMENT = "\ufffd"


class Piece(msgspec.Struct, frozen=True):
    """Tokens and exactly their text."""

    text: str = ""
    ids: tuple[int, ...] = ()
    count: int = 0
    logprobs: tuple[Logprob, ...] = ()

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(
            self.text + other.text, self.ids + other.ids, self.count + other.count, self.logprobs + other.logprobs
        )

    def chunk(self, request_id: str, prompt_tokens: int, finish: Finish | None = None) -> Chunk:
        """The form in which it leaves the engine."""
        return Chunk(request_id, self.text, self.ids, self.count, finish, prompt_tokens, logprobs=self.logprobs)


class Seam:
    """Takes pieces as they are generated and gives out those that are safe.

    Of several stop strings the one that is complete first counts (of those, the longest), so that the outcome does
    not depend on how the text was cut into pieces.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False  #: a stop string came: whatever follows is dropped
        self._stop = tuple(word for word in stop if word)
        self._held: deque[Piece] = deque()
        self._wordless = Piece()

    def feed(self, text: str, ids: tuple[int, ...] = (), count: int = 0, logprobs: tuple[Logprob, ...] = ()) -> Piece:
        """Add a piece; returns what may be given out now, often all of it, sometimes nothing."""
        if self.stopped:
            return Piece()
        piece = self._wordless + Piece(text, ids, count, logprobs)
        if not text:  # half a character, or a special token: it belongs to the text that follows
            self._wordless = piece
            return Piece()
        self._wordless = Piece()
        if not self._held and not self._stop and not text.endswith(REPLACEMENT):
            return piece
        self._held.append(piece)
        return self._release()

    def flush(self) -> Piece:
        """The answer has ended by itself: give out all that waits."""
        if self.stopped:
            return Piece()
        rest = sum(self._held, Piece()) + self._wordless
        self._held.clear()
        self._wordless = Piece()
        return rest

    def _release(self) -> Piece:
        text = "".join(piece.text for piece in self._held)
        end = self._first_stop(text)
        if end is not None:
            return self._cut(text, end)
        free = at = 0
        for number, piece in enumerate(self._held, 1):
            at += len(piece.text)
            if not self._is_doubtful(text[:at]):
                free = number
        return sum((self._held.popleft() for _ in range(free)), Piece())

    def _first_stop(self, text: str) -> int | None:
        """Where the text before the first complete stop string ends."""
        found = [(at + len(word), at) for word in self._stop if (at := text.find(word)) >= 0]
        return min(found)[1] if found else None

    def _cut(self, text: str, end: int) -> Piece:
        """Every token that was made is counted; only those that begin before the stop string show their ids."""
        self.stopped = True
        count = sum(piece.count for piece in self._held)
        shown = Piece()
        at = 0
        for piece in self._held:
            shown += piece if at < end else Piece()
            at += len(piece.text)
        self._held.clear()
        return Piece(text[:end], shown.ids, count, shown.logprobs)

    def _is_doubtful(self, text: str) -> bool:
        """Whether its end may yet turn into a stop string, or into one whole character.

        What already came after it does not count: an attempt that goes on from here may draw other tokens.
        """
        return text.endswith(REPLACEMENT) or any(_begins(word, text) for word in self._stop)


def _begins(word: str, text: str) -> bool:
    """Whether the end of `text` is the beginning of `word`, short of all of it."""
    return any(text.endswith(word[:size]) for size in range(1, len(word)))
