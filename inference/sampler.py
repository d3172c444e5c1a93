"""Drawing the next token from a model's scores, for the engine that runs the forward pass itself (transformers).

The processors are transformers' own, in the order of its `generate`. Where a token falls is decided by one number a
place, made from the seed and how many tokens came before: so a seeded answer that goes on elsewhere draws what it would
have drawn here.
"""

import math
import random
import secrets
from typing import Any, NamedTuple

import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.protocol import Sampling

#: Below this temperature the likeliest token is drawn; scores divided by less would be infinite.
COLDEST = 1e-5


class Drawn(NamedTuple):
    """A token; where asked for, the natural log of its probability, and the likeliest ids of its place with theirs."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class NoNumbersError(ArithmeticError):
    """The model's scores are not numbers."""


def likeliest(scores: torch.Tensor) -> list[int]:
    """Each row's token with the highest score, found at once for all of them; -1 where scores are not numbers."""
    highest = scores.max(-1)
    return [int(token) for token in torch.where(highest.values.isfinite(), highest.indices, -1).tolist()]


class CountPenalty(LogitsProcessor):
    """Presence and frequency penalties, which transformers has not: they count what was answered, not the prompt.

    The formula is OpenAI's: a token's score loses `frequency` as often as it came, and `presence` if it ever came.
    """

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids`: one row, prompt and answer; `scores`: one row, a score for each token of the vocabulary."""
        size = scores.shape[-1]
        answer = input_ids[0, self._prompt_tokens :]
        counts = torch.bincount(answer[answer < size], minlength=size)
        return scores - counts * self._frequency - (counts > 0) * self._presence


class Bias(LogitsProcessor):
    """Adds to the scores of some ids. transformers' own sums over all sequences of tokens; these are single ones."""

    def __init__(self, bias: tuple[tuple[int, float], ...]) -> None:
        self._bias = bias

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the interface
        """`scores`: one row. Ids beyond the vocabulary are nobody's."""
        known = [(token, value) for token, value in self._bias if 0 <= token < scores.shape[-1]]
        ids = torch.tensor([token for token, _ in known], dtype=torch.long, device=scores.device)
        return scores.index_add(1, ids, torch.tensor([[value for _, value in known]], device=scores.device))


class Sampler:
    """One answer's way of drawing. `prompt_tokens`: how many of the ids are the original prompt."""

    def __init__(self, sampling: Sampling, prompt_tokens: int) -> None:
        self._greedy = sampling.temperature < COLDEST
        self._penalties = _penalties(sampling, prompt_tokens)
        self._warpers = [] if self._greedy else _warpers(sampling)
        self._logprobs = sampling.logprobs
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed

    def draw(self, scores: torch.Tensor, best: int, ids: list[int], place: int) -> Drawn:
        """The token at `place` (0 is the answer's first), after `ids`. Raises NoNumbersError.

        `scores` are the model's for that place, one a token of the vocabulary, in any precision, on any device; `best`
        is the `likeliest`.
        """
        if best < 0:
            raise NoNumbersError
        if self._greedy and not self._penalties and self._logprobs is None:
            return Drawn(best)
        raw = scores.float()[None]
        token = self._pick(self._penalized(raw, ids), place)
        return Drawn(token) if self._logprobs is None else _told(raw[0], token, self._logprobs)

    def _penalized(self, scores: torch.Tensor, ids: list[int]) -> torch.Tensor:
        if self._penalties:
            row = torch.tensor([ids], device=scores.device)
            for penalty in self._penalties:
                scores = penalty(row, scores)
        return scores

    def _pick(self, scores: torch.Tensor, place: int) -> int:
        if self._greedy:
            return int(scores.argmax())
        for warper in self._warpers:
            scores = warper(None, scores)
        sums = scores[0].double().softmax(-1).cumsum(-1)
        whole = float(sums[-1])
        point = random.Random(f"{self._seed} {place}").random() * whole  # noqa: S311 - no secret depends on it
        # The first token whose share reaches beyond the point; rounding may not carry that beyond the last one.
        return int(torch.searchsorted(sums, min(point, math.nextafter(whole, 0.0)), right=True))


def _penalties(sampling: Sampling, prompt_tokens: int) -> list[Any]:
    found: list[Any] = []
    if sampling.logit_bias:
        found.append(Bias(sampling.logit_bias))
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(CountPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_tokens))
    return found


def _warpers(sampling: Sampling) -> list[Any]:
    found: list[Any] = []
    if sampling.temperature != 1:
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(float(sampling.top_p)))
    if sampling.min_p > 0:
        found.append(MinPLogitsWarper(float(sampling.min_p)))
    return found


def _told(raw: torch.Tensor, token: int, most: int) -> Drawn:
    """With the model's own probabilities, before any penalty or temperature, as other engines tell them."""
    logs = raw.log_softmax(-1)
    values, ids = logs.topk(min(most, len(logs)))
    return Drawn(token, float(logs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
