"""One answer under transformers: the model's passes over its tokens, a bounded number of them a pass."""

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

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

    def new_cache(self) -> DynamicCache:
        """Empty room for keys and values, of the kinds that this architecture's layers need. It grows."""
        return DynamicCache(config=self.model.config.get_text_config(decoder=True))

    @torch.inference_mode()
    def forward(self, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Scores for the place after `ids`, which the cache takes in."""
        row = torch.tensor([ids], device=self.device)
        scores: torch.Tensor = self.model(input_ids=row, past_key_values=cache, use_cache=True, **self.keep).logits
        return scores[0, -1]


class Answer:
    """A request on its way: waiting first, then with a cache of its own."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.aborted = False
        self.prompt_tokens = 0
        self.budget = 0

    def begin(self, prompt: Prompt, network: Network) -> None:
        """Take the prompt's tokens. Nothing is computed yet."""
        sampling = self.request.sampling
        self.prompt_tokens, self.budget = prompt.tokens, prompt.budget
        self._network = network
        self._ids = prompt.ids
        self._taken = 0  #: how many of the ids are in the cache
        self._cache = network.new_cache()
        self._place = self.request.emitted.count
        self._sampler = Sampler(sampling, prompt.tokens)
        self._detokenizer = Detokenizer(network.vocabulary, prompt.ids, prompt.stop)

    @property
    def cost(self) -> int:
        """Tokens of cache that it may need."""
        return len(self._ids) + max(0, self.budget)

    def advance(self) -> Chunk | None:
        """One pass: a part of the prompt, or the next token. None while nothing may be given out."""
        if self.budget <= 0:
            return self.end(Piece(), "length")
        part = self._ids[self._taken : self._taken + PASS]
        scores = self._network.forward(part, self._cache)
        self._taken += len(part)
        if self._taken < len(self._ids):
            return None
        return self._take(self._sampler.draw(scores, self._ids, self._place))

    def _take(self, drawn: Drawn) -> Chunk | None:
        self._ids.append(drawn.token)
        self._place += 1
        self.budget -= 1
        words = self._network.vocabulary
        told = () if drawn.logprob is None else (words.logprob(drawn.token, drawn.logprob, drawn.top),)
        piece = self._detokenizer.feed(drawn.token, told)
        if self._detokenizer.stopped:
            return self.end(piece, "stop")
        if drawn.token in self._network.ends and not self.request.sampling.ignore_eos:
            return self.end(piece + self._detokenizer.flush(), "stop")
        if self.budget <= 0:
            return self.end(piece + self._detokenizer.flush(), "length")
        return piece.chunk(self.request.id, self.prompt_tokens) if piece.count else None

    def end(self, piece: Piece, finish: Finish) -> Chunk:
        """Its last chunk."""
        return piece.chunk(self.request.id, self.prompt_tokens, finish)

    def fail(self, failure: Failure) -> Chunk:
        """Its last chunk, too."""
        return Chunk(self.request.id, prompt_tokens=self.prompt_tokens, error=failure)
