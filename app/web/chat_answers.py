"""Answers to chats, whole and in pieces, as the API's description shows them."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field, RootModel

from app.web.answers import Answer, ErrorDetail, stream_of

DoneReason = Literal["stop", "length"]


class Counts(Answer):
    """Tokens, and durations in nanoseconds."""

    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class Likely(Answer):
    """A token that could stand at one place."""

    id: int
    token: str
    logprob: float


class TokenLogprob(Likely):
    """A token, and the likeliest ones of its place."""

    top_logprobs: list[Likely]


class AssistantMessage(Answer):
    """The model's turn."""

    role: Literal["assistant"]
    content: str


class Choice(Answer):
    """One of several answers."""

    index: int
    message: AssistantMessage
    done_reason: DoneReason | Literal[""]
    logprobs: list[TokenLogprob] = Field([])


class Delta(Answer):
    """The next piece of an answer."""

    content: str = ""


class ChatDelta(Answer):
    """A streamed piece; its event's `id` is its number."""

    delta: Delta
    done: Literal[False]
    index: int = Field(0, description="Which of several answers; not shown of the first.")
    done_reason: DoneReason = Field("stop", description="Shown where one of several answers ends.")
    logprobs: list[TokenLogprob] = Field([])


class ChatEnd(Counts):
    """The last event of an answer."""

    delta: Delta
    done: Literal[True]
    done_reason: DoneReason


class ChatError(Answer):
    """The last event of an answer that failed."""

    error: ErrorDetail
    done: Literal[True]


class ChatEvent(RootModel[ChatDelta | ChatEnd | ChatError]):
    """The data of one event of POST /chat."""


class ChatAnswer(Counts):
    """A whole answer, or with `stream` its events."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(ChatEvent)})  # type: ignore[typeddict-unknown-key]

    model: str
    created_at: datetime
    message: AssistantMessage
    done: Literal[True]
    done_reason: DoneReason
    job_id: str
    logprobs: list[TokenLogprob] = Field([])
    choices: list[Choice] = Field([], description="Where several answers were asked for: all of them.")
