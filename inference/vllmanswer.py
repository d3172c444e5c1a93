"""One answer under vLLM: what is asked of it, and what becomes of the ids that it says."""

from pathlib import Path
from typing import Any, NamedTuple, Self

from inference import checkpoint, schema
from inference.detok import Detokenizer, Vocabulary, end_ids
from inference.prompts import Prompt
from inference.protocol import Chunk, Failure, Logprob, Request
from inference.source import Source
from inference.text import Piece


class Words(NamedTuple):
    """A model's vocabulary, and the tokens by which it says that it has finished."""

    vocabulary: Vocabulary
    ends: tuple[int, ...]
    size: int  #: ids from here on are nobody's
    adapters: dict[str, Path]  #: folders of LoRA adapters

    @classmethod
    def of(cls, source: Source, tokenizer: Any, size: int, adapters: dict[str, Path]) -> Self:
        """Ends are what the tokenizer, the configuration of its generation, or else its own, says."""
        generation = checkpoint.read_json(source.folder / "generation_config.json")
        configured = generation.get("eos_token_id", checkpoint.language(source.config).get("eos_token_id"))
        ends = end_ids(configured, tokenizer.eos_token_id)
        return cls(Vocabulary(tokenizer, ends), tuple(sorted(ends)), size, adapters)


class Answer:
    """A request on its way. `over`: nothing more is to come of it."""

    def __init__(self, request: Request, number: str, words: Words) -> None:
        self.request = request
        self.number = number  #: vLLM's name for it; a job's id may come again
        self.over = False
        self.prompt_tokens = 0
        self.budget = 0
        self._words = words

    def begin(self, prompt: Prompt) -> None:
        """Take the prompt's tokens."""
        self.prompt_tokens, self.budget = prompt.tokens, prompt.budget
        self._ids = prompt.ids
        self._detokenizer = Detokenizer(self._words.vocabulary, prompt.ids, prompt.stop)

    def given(self) -> Any:
        """The prompt, as vLLM takes it."""
        from vllm.inputs import tokens_input

        return tokens_input(self._ids, cache_salt=self.request.salt or None)

    def adapter(self) -> Any:
        """The LoRA adapter to answer with, as vLLM takes it. Raises ValueError where there is none of that name."""
        from vllm.lora.request import LoRARequest

        name = self.request.adapter
        if not name:
            return None
        if name not in self._words.adapters:
            raise ValueError(f"the model has no adapter '{name}'; engine_options.lora_adapters names them")
        number = 1 + list(self._words.adapters).index(name)
        return LoRARequest(name, number, str(self._words.adapters[name]))

    def params(self) -> Any:
        """The request in vLLM's words. Stop strings are not told: they are ours."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        sampling = self.request.sampling
        form = sampling.schema
        return SamplingParams(
            max_tokens=self.budget,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            stop_token_ids=None if sampling.ignore_eos else list(self._words.ends),
            ignore_eos=sampling.ignore_eos,
            logprobs=sampling.logprobs,
            logit_bias={token: value for token, value in sampling.logit_bias if token < self._words.size} or None,
            structured_outputs=None if form is None else StructuredOutputsParams(grammar=schema.grammar(form)),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def take(self, output: Any) -> Chunk | None:
        """vLLM's next tokens. None while nothing may be given out."""
        said = output.outputs[0]
        logprobs = said.logprobs or [None] * len(said.token_ids)
        piece = Piece()
        for token, likely in zip(said.token_ids, logprobs, strict=True):
            piece += self._detokenizer.feed(token, () if likely is None else (self._told(token, likely),))
        if self._detokenizer.stopped:
            return piece.chunk(self.request.id, self.prompt_tokens, "stop")
        if said.finish_reason in ("stop", "length"):
            piece += self._detokenizer.flush()
            return piece.chunk(self.request.id, self.prompt_tokens, said.finish_reason)
        if said.finish_reason is not None:
            return self.fail(Failure(Failure.ENGINE_FAILED, f"vLLM ended the request: {said.finish_reason}."))
        return piece.chunk(self.request.id, self.prompt_tokens) if piece.count else None

    def _told(self, token: int, likely: Any) -> Logprob:
        """vLLM tells the token that was drawn, and beside it the likeliest, by rank."""
        ranked = sorted(likely.items(), key=lambda item: item[1].rank)[: self.request.sampling.logprobs]
        return self._words.vocabulary.logprob(
            token, likely[token].logprob, [(other, about.logprob) for other, about in ranked]
        )

    def fail(self, failure: Failure) -> Chunk:
        """Its last chunk."""
        return Chunk(self.request.id, prompt_tokens=self.prompt_tokens, error=failure)


def is_refusal(error: Exception) -> bool:
    """Whether vLLM says that a request, and not vLLM, is at fault."""
    from vllm.exceptions import VLLMClientError

    return isinstance(error, VLLMClientError | ValueError)


async def trial(engine: Any, words: Words) -> None:
    """Have two tokens generated. Raises what vLLM does."""
    from vllm.inputs import tokens_input
    from vllm.sampling_params import SamplingParams

    given = tokens_input(list(words.vocabulary.anchor or (0,)) * 8)
    async for _ in engine.generate(given, SamplingParams(max_tokens=2, ignore_eos=True, detokenize=False), "trial"):
        pass
