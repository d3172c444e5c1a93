"""Ollama's requests, as its clients send them. Options that we do not have are dropped with a warning, as it does."""

from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, AliasChoices, Field, model_validator

from app.web.dialect import MAX_TOOLS, THOUGHT, TIMEOUT, DialectBody, Lenient, checked
from app.web.schemas import MAX_MESSAGES, GenerateBody, KeepAlive, ModelName, PromptBody

log = structlog.get_logger(__name__)

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


def _blind(images: list[Any] | None) -> None:
    if images:
        raise ValueError("images: no model here sees; send text alone")


Images = Annotated[list[Any] | None, AfterValidator(_blind)]


class Loose(Lenient):
    """A body in which a field that is null is one that was left out, as Go reads it."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class Named(Loose):
    """A body that names a model; `name` is the older word for it."""

    model: ModelName = Field(validation_alias=AliasChoices("model", "name"))


class CopyRequest(Lenient):
    """A further name for a model."""

    source: ModelName
    destination: ModelName


class BlobPath(Lenient):
    """A blob's address."""

    digest: str


class OllamaTurn(Loose):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str = ""
    images: Images = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def translated(self) -> dict[str, Any]:
        """As the one request type has it. Raises ValueError."""
        further = {
            "name": self.tool_name,
            "tool_call_id": self.tool_call_id,
            THOUGHT: self.thinking,
            "tool_calls": self._calls(),
        }
        kept = {name: value for name, value in further.items() if value}
        return {"role": self.role, "content": self.content, "further": kept}

    def _calls(self) -> list[dict[str, Any]]:
        calls = []
        for call in self.tool_calls or ():
            function = call.get("function")
            if not isinstance(function, dict):
                function = {}
            said = {"name": function.get("name"), "arguments": function.get("arguments", {})}
            if not isinstance(said["name"], str) or not isinstance(said["arguments"], dict):
                raise ValueError('tool_calls: each is {"function": {"name": "…", "arguments": {…}}}')
            known = {"id": call["id"]} if isinstance(call.get("id"), str) and call["id"] else {}
            calls.append({**known, "type": "function", "function": said})
        return calls


class Talk(Named):
    """What /api/chat and /api/generate have in common."""

    stream: bool = True
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: KeepAlive | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    def common(self) -> dict[str, Any]:
        """The fields that mean the same in the one request type."""
        fields = {**_DEFAULTS, **_sampling(self.options or {}), "model": self.model, "timeout": TIMEOUT}
        fields |= {"format": self.format or None, "keep_alive": self.keep_alive}
        return fields | ({"logprobs": self.top_logprobs} if self.logprobs else {})

    def beyond(self) -> dict[str, Any]:
        """The fields of a chat's request alone."""
        size = (self.options or {}).get("num_ctx")
        return {
            "think": None if self.think is None else bool(self.think),
            "context": size if isinstance(size, int) and size > 0 else None,
        }


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
    given.pop("num_ctx", None)
    if given:
        log.warning("options_dropped", count=len(given), first=[name[:40] for name in sorted(given)[:5]])
    return fields


class ChatRequest(Talk):
    """POST /api/chat. Without messages it only loads or unloads the model."""

    messages: Annotated[list[OllamaTurn], Field(max_length=MAX_MESSAGES)] = Field([])
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to answer."""
        return not self.messages

    def translated(self, _before: list[dict[str, Any]]) -> GenerateBody:
        """The one request type. Raises ValidationError, ValueError."""
        fields = {"messages": [turn.translated() for turn in self.messages], "tools": checked(self.tools or [])}
        return DialectBody.model_validate(self.common() | self.beyond() | fields)


class GenerateRequest(Talk):
    """POST /api/generate. Without a prompt it only loads or unloads the model."""

    prompt: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    suffix: str = ""
    context: Annotated[list[int], Field(max_length=1_000_000, fail_fast=True)] | None = None
    images: Images = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to answer."""
        return not self.prompt

    def translated(self, before: list[dict[str, Any]]) -> GenerateBody:
        """The one request type, behind earlier messages. Raises ValueError for what no engine here does."""
        if self.suffix:
            raise ValueError(f"'{self.model}' does not support insert")
        if self.template:
            raise ValueError("template: the model's own is used; send a whole prompt with raw instead")
        if self.raw:
            if self.system or self.context:
                raise ValueError("raw mode does not support template, system, or context")
            return PromptBody.model_validate(self.common() | {"prompt": self.prompt})
        if self.system:
            system = {"role": "system", "content": self.system}
            before = [system, *(turn for turn in before if turn["role"] != "system")]
        messages = [*before, {"role": "user", "content": self.prompt}]
        return DialectBody.model_validate(self.common() | self.beyond() | {"messages": messages})
