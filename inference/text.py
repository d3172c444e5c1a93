"""The seam: which part of a growing answer may be given out, so that it never has to be taken back.

Used by every engine, once. What might be the start of a stop string waits, with the ids that made it, until it is
known; so a stop string never leaks, not even in part, and the end of all that was given out is a place from which
another attempt can go on.
"""

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
    not depend on how the text was cut into pieces. `lossy`: pieces may end in half a character, shown as the
    replacement character; otherwise one of those is meant, and as good as any other.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, lossy: bool = True) -> None:
        self.stopped = False  #: a stop string came: whatever follows is dropped
        self._stop = tuple(word for word in stop if word)
        #: The beginnings of stop strings, short of all of one.
        self._beginnings = tuple({word[:size] for word in self._stop for size in range(1, len(word))})
        self._doubts = (*self._beginnings, REPLACEMENT) if lossy else self._beginnings
        self._reach = max((len(word) for word in self._stop), default=1) - 1
        self._held: list[Piece] = []
        self._tail = ""  #: the last characters of what is held, where a stop string may have begun
        self._wordless: list[Piece] = []

    def feed(self, text: str, ids: tuple[int, ...] = (), count: int = 0, logprobs: tuple[Logprob, ...] = ()) -> Piece:
        """Add a piece; returns what may be given out now, often all of it, sometimes nothing."""
        if self.stopped:
            return Piece()
        piece = Piece(text, ids, count, logprobs)
        if not text:  # half a character, or a special token: it belongs to the text that follows
            self._wordless.append(piece)
            return Piece()
        if self._wordless:
            piece = _join([*self._wordless, piece])
            self._wordless.clear()
        self._held.append(piece)
        return self._release(text)

    def flush(self) -> Piece:
        """The answer has ended by itself: give out all that waits."""
        if self.stopped:
            return Piece()
        rest = _join([*self._held, *self._wordless])
        self._held.clear()
        self._wordless.clear()
        return rest

    def _release(self, text: str) -> Piece:
        """All that is held, unless its end may yet turn into a stop string, or into one whole character.

        What came after a doubtful end does not make it certain: an attempt that goes on from there may draw other
        tokens. So of what is held, no end but the newest can have become safe.
        """
        window = self._tail + text
        if (after := self._first_stop(window)) is not None:
            return self._cut(after)
        if window.endswith(self._doubts):
            self._tail = window[-self._reach :] if self._reach else ""
            return Piece()
        self._tail = ""
        held, self._held = self._held, []
        return held[0] if len(held) == 1 else _join(held)

    def _first_stop(self, text: str) -> int | None:
        """How many characters there are from the beginning of the first complete stop string on."""
        found = [(at + len(word), at) for word in self._stop if (at := text.find(word)) >= 0]
        return len(text) - min(found)[1] if found else None

    def _cut(self, after: int) -> Piece:
        """Every token that was made is counted; only those that begin before the stop string show their ids."""
        self.stopped = True
        text = "".join(piece.text for piece in self._held)
        end = len(text) - after
        shown: list[Piece] = []
        at = 0
        for piece in self._held:
            if at < end:
                shown.append(piece)
            at += len(piece.text)
        kept, count = _join(shown), sum(piece.count for piece in self._held)
        self._held.clear()
        return Piece(text[:end], kept.ids, count, kept.logprobs)


def _join(pieces: list[Piece]) -> Piece:
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.ids),
        sum(piece.count for piece in pieces),
        tuple(logprob for piece in pieces for logprob in piece.logprobs),
    )
