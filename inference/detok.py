"""From token ids to exactly their text, a token at a time, once for every engine that gives ids.

A token's text is read behind a fixed ordinary token (the anchor), so that it does not depend on what came before: a
continuation gives what an undisturbed answer would have given, no prompt can be told again, and a token costs one
decoding of two ids however long the answer is. The anchor is there because decoders of the sentencepiece family drop
the space in front of their very first token. What such a reading cannot see is a character cut over several tokens:
those wait for each other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from inference.protocol import Likely, Logprob
from inference.text import REPLACEMENT, Piece, Seam
from inference.tools import MARKS

#: A character has at most four bytes, and a token at least one: after so many tokens, something has become certain.
LONGEST = 4
#: The log probability of what cannot come, as behind a grammar: OpenAI's word for it. JSON has none for minus infinity.
NEVER = -9999.0


def end_ids(*said: object) -> set[int]:
    """Ids by which a model says that it has finished: configurations and tokenizers have one, a list, or none."""
    ends: set[int] = set()
    for one in said:
        ends.update(one if isinstance(one, list) else [one] if isinstance(one, int) else [])
    return ends


class Vocabulary:
    """A tokenizer, read backwards. `silent` ids have no text: the special tokens, and any that the caller adds."""

    def __init__(self, tokenizer: Any, silent: Iterable[int] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer = tokenizer
        # The library under it takes a third of the time, and never tidies spaces away before punctuation.
        self._backend_decode = None if backend is None else backend.decode
        self.silent = _special(tokenizer).union(silent)
        self.anchor = tuple(tokenizer.encode("a", add_special_tokens=False)[:1])
        self.anchor_text = self.decode(self.anchor)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens show here."""
        if self._backend_decode is not None:
            return str(self._backend_decode(ids, skip_special_tokens=False))
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def text_of(self, token: int) -> str:
        """One token by itself, within a text."""
        return self.decode((*self.anchor, token))[len(self.anchor_text) :]

    def logprob(self, token: int, logprob: float, top: Iterable[tuple[int, float]]) -> Logprob:
        """How likely a token was, and the likeliest of its place, in the words of the protocol."""
        others = tuple(Likely(other, self.text_of(other), max(value, NEVER)) for other, value in top)
        return Logprob(token, self.text_of(token), max(logprob, NEVER), others)


class Detokenizer:
    """One answer. `before` is all that the model was given, prompt and what earlier attempts emitted."""

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int], stop: tuple[str, ...] = ()) -> None:
        self._vocabulary = vocabulary
        self._seam = Seam(stop, lossy=False)
        #: Tokens whose text is not certain: each one that has text, and the silent ones behind it.
        self._pending: list[Piece] = []
        # Nothing but silent tokens before: the text begins here, and so does its decoder.
        begun = any(token not in vocabulary.silent for token in before)
        self._before = vocabulary.anchor if begun else ()
        self._said = vocabulary.anchor_text if begun else ""
        if half := self._half(before):
            self._before += half
            self._said = vocabulary.decode(self._before)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._seam.stopped

    def feed(self, token: int, logprobs: tuple[Logprob, ...] = ()) -> Piece:
        """Add a token; returns what may be given out now."""
        piece = Piece("", (token,), 1, logprobs)
        if token in self._vocabulary.silent:
            if not self._pending:
                return self._seam.feed("", (token,), 1, logprobs)
            self._pending[-1] += piece
            return Piece()
        self._pending.append(piece)
        text = self._text(len(self._pending))
        if text and not text.endswith(REPLACEMENT):
            return self._give(len(self._pending), text)
        if len(self._pending) < LONGEST:
            return Piece()
        size = self._certain(text)
        return self._give(size, self._text(size))

    def flush(self) -> Piece:
        """The answer has ended by itself: all that waits, half a character as the replacement character."""
        rest = self._give(len(self._pending), self._text(len(self._pending))) if self._pending else Piece()
        return rest + self._seam.flush()

    def _text(self, size: int) -> str:
        """What the first so many pending tokens add to the text."""
        whole = self._vocabulary.decode((*self._before, *(piece.ids[0] for piece in self._pending[:size])))
        return whole[_shared(self._said, whole) :]

    def _certain(self, text: str) -> int:
        """How many of the pending tokens no later one can change: broken bytes, of which some are a whole."""
        vocabulary = self._vocabulary
        for size in range(1, len(self._pending)):
            rest = vocabulary.decode((*vocabulary.anchor, *(piece.ids[0] for piece in self._pending[size:])))
            if self._text(size) + rest[len(vocabulary.anchor_text) :] == text:
                return size
        return 1

    def _give(self, size: int, text: str) -> Piece:
        given = sum(self._pending[:size], Piece())
        del self._pending[:size]
        self._before, self._said = self._vocabulary.anchor, self._vocabulary.anchor_text
        return self._seam.feed(text, given.ids, given.count, given.logprobs)

    def _half(self, before: Sequence[int]) -> tuple[int, ...]:
        """The last tokens, where they end in half a character: the answer may begin with its other half."""
        heard = tuple(token for token in before[-2 * LONGEST :] if token not in self._vocabulary.silent)
        for size in range(1, LONGEST + 1):
            if not self._vocabulary.decode((*self._vocabulary.anchor, *heard[-size:])).endswith(REPLACEMENT):
                return ()
        return heard[1 - LONGEST :]


def _special(tokenizer: Any) -> frozenset[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marks = {token for token, what in added.items() if what.content in MARKS}
    special = frozenset(token for token, what in added.items() if what.special).union(tokenizer.all_special_ids)
    return special - marks


def _shared(said: str, whole: str) -> int:
    """How many characters stand: all that was said, but for half a character that has become whole."""
    if whole.startswith(said):
        return len(said)
    return next((at for at, pair in enumerate(zip(said, whole, strict=False)) if pair[0] != pair[1]), len(whole))
