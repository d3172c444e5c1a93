"""What enters and leaves an engine: requests and chunks, and the protocol that every engine speaks.

The structs are arrays on the wire (msgpack), so that a step of a hundred chunks costs microseconds.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Protocol

import msgspec

Finish = Literal["stop", "length"]
Option = str | int | float | bool | None
#: Called with the fraction of a load that is done, 0.0 to 1.0.
OnProgress = Callable[[float], None]

#: The most urgent priority is 0; this is what a request has that names none.
DEFAULT_PRIORITY = 5


class Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value that crosses the pipe. None can refer to itself, so the garbage collector need not look at any."""


class Tagged(Wire, frozen=True, array_like=True, tag=True):
    """A value that says on the wire which one it is, because it shares a pipe with others."""


class Message(Wire, frozen=True):
    """One turn of a chat."""

    role: str
    content: str
    #: JSON text of an object: the turn's other fields, as templates know them (`tool_calls`, `tool_call_id`, `name`).
    further: str = ""


class Sampling(Wire, frozen=True):
    """How the next token is drawn. `max_tokens` counts from the original prompt, also when continuing."""

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0  #: 0 is off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    #: How many of the likeliest tokens to tell at each place, 0 to 20; None: nothing at all.
    logprobs: int | None = None
    #: JSON text of the JSON schema that the answer must fit.
    schema: str | None = None
    #: What is added to the scores of some ids: (id, value) each.
    logit_bias: tuple[tuple[int, float], ...] = ()


class Emitted(Wire, frozen=True):
    """What earlier attempts at this request already gave out: the engine goes on exactly after it."""

    text: str = ""
    ids: tuple[int, ...] = ()
    count: int = 0


class Request(Wire, frozen=True):
    """One answer to generate. Beyond the engine's slots, requests wait by (priority, arrival).

    Several choices of one job are several requests; no engine knows of them. `prompt` is a text to go on with as it
    stands, instead of `messages` under the model's template.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    emitted: Emitted = Emitted()
    priority: int = DEFAULT_PRIORITY
    tokens_per_second: float | None = None  #: the scripted engine alone heeds it
    prompt: str | None = None
    tools: str = ""  #: JSON text of the tools that the template is told of, in OpenAI's form; "": none
    think: bool | None = None  #: what templates call enable_thinking; None: the template's own choice
    context: int | None = None  #: tokens, prompt and answer together; None: as many as the model has
    adapter: str = ""  #: of the model's LoRA adapters, the one to answer with; "": none
    salt: str = ""  #: only requests of the same one share what an engine keeps of their prompts' beginnings
    embed: bool = False  #: not to go on from `prompt`, but to tell its vector: base64 of float32, as one chunk

    @property
    def remaining(self) -> int:
        """How many tokens it may still get; below 1, it is finished."""
        return self.sampling.max_tokens - self.emitted.count


class Failure(Tagged, frozen=True):
    """Why a request (or a load) failed: a stable code, and a sentence that says what to do."""

    code: str
    message: str

    CONTEXT_OVERFLOW: ClassVar[str] = "context_overflow"
    ENGINE_FAILED: ClassVar[str] = "engine_failed"
    INVALID_REQUEST: ClassVar[str] = "invalid_request"
    OUT_OF_MEMORY: ClassVar[str] = "out_of_memory"


class Likely(Wire, frozen=True):
    """A token that could stand at one place: its id, its text by itself, and the natural log of its probability."""

    id: int
    text: str
    logprob: float


class Logprob(Likely, frozen=True):
    """The token that was drawn, and the likeliest ones of its place, the first first."""

    top: tuple[Likely, ...] = ()


class Chunk(Wire, frozen=True):
    """Some tokens of one request: `count` of them, whose text is exactly `text`.

    The end of any chunk is a clean seam. `ids` is () where the engine has none to give; `logprobs` has one entry a
    token where the request asked for them. `prompt_tokens` counts the original prompt and is set on every chunk. A
    request's last chunk has `finish` or `error`; one that was aborted has no last chunk. A chunk of no request (`id` is
    "") is for the engine's owner: with `error` it tells of the engine's end, else `text` is what the engine's library
    measures of itself, in Prometheus' form.
    """

    id: str
    text: str = ""
    ids: tuple[int, ...] = ()
    count: int = 0
    finish: Finish | None = None
    prompt_tokens: int = 0
    error: Failure | None = None
    logprobs: tuple[Logprob, ...] = ()


class Spec(Wire, frozen=True):
    """What an engine loads: a name of the catalogue, a model's path, and how many requests run at once.

    `quantize` is what to do with weights that are not quantized already: "no" (as they are), "q4" (NF4 by
    bitsandbytes, double quantization, bfloat16 compute), "q8" (LLM.int8), "fp16", "fp32".
    """

    engine: str
    path: str | None
    slots: int
    context: int | None = None  #: tokens, prompt and answer together; None: the model's own, if memory allows
    options: dict[str, Option] = {}  # msgspec copies it for each instance
    quantize: str = "no"
    memory: int | None = None  #: bytes of the device that weights and cache may take together; None: what is free


class Info(Tagged, frozen=True):
    """What an engine says when it is ready. `context`: tokens; None where nothing bounds it."""

    engine: str
    pid: int
    slots: int
    context: int | None
    dtype: str = ""  #: what it computes in: "bfloat16", "float32", …
    quantization: str = ""  #: how the weights lie in memory: "nf4", "int8", "gptq", "Q4_K_M", …; "": as they are
    weights_bytes: int = 0
    cache_bytes: int = 0  #: for keys and values, over all requests
    cache_tokens: int = 0  #: how many tokens these hold; 0: unknown
    note: str = ""  #: what an operator should know of how it was loaded


class Engine(Protocol):
    """One loaded model. `submit` and `abort` return at once and may be called from any thread."""

    @property
    def info(self) -> Info:
        """What was loaded."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request; its chunks come out of `steps`. Raises EngineDiedError when the engine is gone."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request and free its slot. What was under way may still come out; then nothing more does."""
        ...

    def steps(self) -> Iterator[list[Chunk]]:
        """Each engine step's chunks, of many requests; blocks between steps, for one reader.

        Ends after `close`. Raises EngineDiedError to the reader if the engine dies.
        """
        ...

    def close(self) -> None:
        """End the engine. Returns when its memory is given back."""
        ...
