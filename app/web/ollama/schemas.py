"""Ollama's requests, as its clients send them. Options that we do not have are dropped with a warning, as it does."""

from typing import Annotated, Any, Literal

import structlog
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from app.web.schemas import ChatBody, GenerateBody, ModelName, PromptBody

log = structlog.get_logger(__name__)

TIMEOUT = 600
#: Ollama's `num_predict` of -1 or -2 ends with the context; so does this.
UNLIMITED = 131_072
#: Its defaults where they differ from ours.
_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "max_tokens": 4096}
#: Its names for options that we have. The rest is dropped.
_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "scripted_tokens_per_second": "scripted_tokens_per_second",
}


class Lenient(BaseModel):
    """A body whose unknown fields do not matter."""

    model_config = ConfigDict(extra="ignore")


class Named(Lenient):
    """A body that names a model; `name` is the older word for it."""

    model: ModelName = Field(validation_alias=AliasChoices("model", "name"))


class Turn(Lenient):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    images: list[Any] | None = None

    @field_validator("images")
    @classmethod
    def _blind(cls, images: list[Any] | None) -> None:
        if images:
            raise ValueError("images: no model here sees; send text alone")


class Talk(Named):
    """What /api/chat and /api/generate have in common."""

    stream: bool = True
    options: dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    def common(self) -> dict[str, Any]:
        """The fields that mean the same in the one request type."""
        fields = {**_DEFAULTS, **_sampling(self.options or {}), "model": self.model, "timeout": TIMEOUT}
        return fields | ({"logprobs": self.top_logprobs} if self.logprobs else {})


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    fields = {ours: given.pop(theirs) for theirs, ours in _OPTIONS.items() if theirs in given}
    predict, seed, stop = given.pop("num_predict", None), given.pop("seed", None), given.pop("stop", None)
    if isinstance(predict, int):
        fields["max_tokens"] = predict if predict > 0 else UNLIMITED
    if isinstance(seed, int) and seed >= 0:
        fields["seed"] = seed % (1 << 32)
    if stop:
        fields["stop"] = stop
    if given:
        log.warning("options_dropped", names=sorted(given))
    return fields


class ChatRequest(Talk):
    """POST /api/chat. Without messages it only loads or unloads the model."""

    messages: list[Turn] = []

    def translated(self) -> GenerateBody:
        """The one request type. Raises ValidationError."""
        messages = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        return ChatBody.model_validate(self.common() | {"messages": messages})


class GenerateRequest(Talk):
    """POST /api/generate. Without a prompt it only loads or unloads the model."""

    prompt: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    suffix: str = ""
    images: list[Any] | None = None

    @field_validator("images")
    @classmethod
    def _blind(cls, images: list[Any] | None) -> None:
        if images:
            raise ValueError("images: no model here sees; send text alone")

    def translated(self) -> GenerateBody:
        """The one request type. Raises ValueError for what no engine here does."""
        if self.suffix:
            raise ValueError(f"'{self.model}' does not support insert")
        if self.template:
            raise ValueError("template: the model's own is used; send a whole prompt with raw instead")
        if self.raw:
            if self.system:
                raise ValueError("raw mode does not support template, system, or context")
            return PromptBody.model_validate(self.common() | {"prompt": self.prompt})
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": self.prompt}]
        return ChatBody.model_validate(self.common() | {"messages": messages})
