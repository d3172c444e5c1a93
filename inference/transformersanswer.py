"""One answer under transformers: its tokens, and how many of them a cache has taken in."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from inference.detok import Detokenizer, Vocabulary
from inference.prompts import Prompt
from inference.protocol import Chunk, Failure, Finish, Request
from inference.sampler import Drawn, Sampler
from inference.text import Piece

#: Tokens of a prompt that one pass takes: a cancel, and the other requests, wait for no more than that.
PASS = 512


class Network(NamedTuple):
    """A loaded model, and what is the same for each of its answers."""

    model: Any
    device: str
    keep: dict[str, int]  #: what has the model give the scores of the last place alone, where it can
    ends: frozenset[int]  #: the tokens by which it says that it has finished
    vocabulary: Vocabulary


class Row:
    """Tokens, of which a cache has taken in the first few. A row of a group."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.ids = list(ids)
        self.taken = 0
        self.over = False  #: nobody waits for it any more
        self.alone = False  #: it must not share its passes
        self.cost = len(self.ids)  #: tokens of cache that it may come to need

    @property
    def pending(self) -> list[int]:
        """What the next pass takes in: a part of the prompt, or the newest token."""
        return self.ids[self.taken : self.taken + PASS]

    @property
    def is_settled(self) -> bool:
        """Whether all but its newest token is taken in."""
        return 0 < self.taken == len(self.ids) - 1


class Answer(Row):
    """A request on its way: waiting first, then with its tokens in a cache."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request
        self.aborted = False
        self.prompt_tokens = 0

    def begin(self, prompt: Prompt, network: Network) -> None:
        """Take the prompt's tokens. Nothing is computed yet."""
        self.ids, self.prompt_tokens, self._budget = prompt.ids, prompt.tokens, prompt.budget
        self.cost = len(prompt.ids) + max(0, prompt.budget)
        self._place = self.request.emitted.count
        self._network = network
        self._sampler = Sampler(self.request.sampling, prompt.tokens)
        self._detokenizer = Detokenizer(network.vocabulary, prompt.ids, prompt.stop)

    @property
    def is_full(self) -> bool:
        """Whether it has all the tokens that it may get."""
        return self._budget <= 0

    def draw(self, scores: torch.Tensor, best: int) -> Chunk | None:
        """The next token, by the model's scores for it and the likeliest. None while nothing may be given out."""
        drawn = self._sampler.draw(scores, best, self.ids, self._place)
        self.ids.append(drawn.token)
        self._place += 1
        self._budget -= 1
        piece = self._detokenizer.feed(drawn.token, self._told(drawn))
        if self._detokenizer.stopped:
            return self.end(piece, "stop")
        if drawn.token in self._network.ends and not self.request.sampling.ignore_eos:
            return self.end(piece + self._detokenizer.flush(), "stop")
        if self.is_full:
            return self.end(piece + self._detokenizer.flush(), "length")
        return piece.chunk(self.request.id, self.prompt_tokens) if piece.count else None

    def _told(self, drawn: Drawn) -> tuple[Any, ...]:
        if drawn.logprob is None:
            return ()
        return (self._network.vocabulary.logprob(drawn.token, drawn.logprob, drawn.top),)

    def end(self, piece: Piece, finish: Finish) -> Chunk:
        """Its last chunk."""
        return piece.chunk(self.request.id, self.prompt_tokens, finish)

    def fail(self, failure: Failure) -> Chunk:
        """Its last chunk, too."""
        return Chunk(self.request.id, prompt_tokens=self.prompt_tokens, error=failure)
