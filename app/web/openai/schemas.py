"""OpenAI's requests, as their clients send them. What they send beyond it is dropped, as vLLM's server does.

Of what vLLM would honour there, that is done or refused without which an answer is none to what was asked.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from app.jobs import DEFAULT_PRIORITY
from app.web.bodies import decode_object
from app.web.dialect import MAX_TOOLS, THOUGHT, TIMEOUT, DialectBody, Lenient, checked, chosen
from app.web.schemas import MAX_CHOICES, MAX_MESSAGES, MAX_STOPS, ModelName, PromptBody

#: Tokens of an answer to a request that names no limit: the model's context bounds it too.
DEFAULT_MAX_TOKENS = 4096
MAX_PROMPTS = 64
#: vLLM's extras that are refused.
_NOT_DONE = (
    *("continue_final_message", "prompt_logprobs", "use_beam_search"),
    *("stop_token_ids", "allowed_token_ids", "bad_words"),
)


class StreamOptions(Lenient):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class Sampled(Lenient):
    """What both kinds of completions have; the last ones are vLLM's extras."""

    model: ModelName
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    timeout: float = TIMEOUT
    detach: bool = False
    priority: int = DEFAULT_PRIORITY
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    scripted_tokens_per_second: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None

    def common(self) -> dict[str, Any]:
        """The fields that mean the same in the one request type; what was not said keeps its defaults there."""
        fields = {
            "model": self.model,
            "n": self.n,
            "max_tokens": self.max_tokens or DEFAULT_MAX_TOKENS,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": None if self.seed is None else self.seed % (1 << 32),
            "stop": self.stop or None,
            "timeout": self.timeout,
            "detach": self.detach,
            "priority": self.priority if "priority" in self.model_fields_set else None,
            # vLLM says -1 where we say 0: off.
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "ignore_eos": self.ignore_eos,
            "scripted_tokens_per_second": self.scripted_tokens_per_second,
            "logit_bias": self.logit_bias,
            "format": form_of(self.response_format) if self.structured_outputs is None else self._held_to(),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _held_to(self) -> str | dict[str, Any]:
        wanted = self.structured_outputs or {}
        if wanted.get("json_object"):
            return "json"
        schema = wanted.get("json")
        if isinstance(schema, str):
            return decode_object(schema, "structured_outputs: json")
        if not isinstance(schema, dict):
            raise ValueError('structured_outputs: {"json": schema} or {"json_object": true}; there are no others here')
        return schema

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @model_validator(mode="before")
    @classmethod
    def _done(cls, body: Any) -> Any:
        asked = next((name for name in _NOT_DONE if isinstance(body, dict) and body.get(name)), None)
        if asked is not None:
            raise ValueError(f"{asked}: it is not done here; leave it out")
        return body

    @model_validator(mode="after")
    def _options_belong_to_streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self


class CalledFunction(Lenient):
    """What a call names."""

    name: str
    arguments: str = "{}"


class ToolCall(Lenient):
    """A call that an earlier answer made."""

    id: str | None = None
    function: CalledFunction

    def translated(self) -> dict[str, Any]:
        """As templates have it: its arguments an object. Raises ValueError."""
        arguments = decode_object(self.function.arguments or "{}", "tool_calls: arguments")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ChatMessage(Lenient):
    """One turn. `developer` is what newer models call `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    def translated(self) -> dict[str, Any]:
        """As the one request type has it."""
        roles = {"developer": "system", "function": "tool"}
        turn: dict[str, Any] = {"role": roles.get(self.role, self.role), "content": text_of(self.content)}
        further = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            # Templates show a model what it thought before its last calls, and leave out older thoughts.
            THOUGHT: self.reasoning or self.reasoning_content,
            "tool_calls": [call.translated() for call in self.tool_calls or ()],
        }
        return turn | {"further": {name: value for name, value in further.items() if value}}


def form_of(wanted: dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A `response_format` as the one request type has it."""
    kind = "text" if wanted is None else wanted.get("type")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return "json"
    form = wanted.get("json_schema") if kind == "json_schema" else None
    schema = form.get("schema") if isinstance(form, dict) else None
    if not isinstance(schema, dict):
        raise ValueError('response_format: "text", "json_object", or "json_schema" with {"json_schema": {"schema": …}}')
    return schema


def text_of(content: str | list[dict[str, Any]] | None) -> str:
    """A content's parts, each on lines of its own, as vLLM's and llama.cpp's servers have them. Raises ValueError."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "input_text", "output_text", "reasoning_text") or not isinstance(part.get("text"), str):
            raise ValueError(f"content: parts of type '{kind}' are not understood; only text is")
        texts.append(part["text"])
    return "\n".join(texts)


class ChatCompletionBody(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _likelier_ones_need_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def translated(self) -> DialectBody:
        """The one request type. Raises ValidationError, ValueError."""
        fields = self.common()
        formed, single = "format" in fields, self.parallel_tool_calls is False
        fields |= tools_of(self.tools or [], self.tool_choice, single=single, formed=formed)
        fields["messages"] = [message.translated() for message in self.messages]
        if self.max_completion_tokens is not None:
            fields["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            fields["logprobs"] = self.top_logprobs or 0
        if isinstance(think := (self.chat_template_kwargs or {}).get("enable_thinking"), bool):
            fields["think"] = think
        elif self.reasoning_effort is not None:
            fields["think"] = self.reasoning_effort != "none"
        return DialectBody.model_validate(fields)


def tools_of(
    tools: list[dict[str, Any]], choice: str | dict[str, Any] | None, *, single: bool, formed: bool
) -> dict[str, Any]:
    """Which calls an answer may make, or must, as the one request type has it. Raises ValueError."""
    tools, choice = checked(tools), choice or "auto"
    if choice == "none" or (choice == "auto" and not tools):
        return {}
    if choice == "auto":
        return {"tools": tools, "single": single}
    if formed:
        raise ValueError("response_format: an answer that must call a tool has no other form; leave one out")
    if choice == "required":
        return {"tools": chosen(tools, None), "forced": True}
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise ValueError('tool_choice: "none", "auto", "required", or a function by its name')
    return {"tools": chosen(tools, name), "forced": True}


def _no_ids(texts: object) -> object:
    if isinstance(texts, list) and any(not isinstance(text, str) for text in texts):
        raise ValueError("send a text or a list of texts; token ids are not taken here")
    return texts


#: Of a text or several: OpenAI's API takes the ids of its own models' tokens there too.
NoIds = BeforeValidator(_no_ids)


class CompletionBody(Sampled):
    """POST /v1/completions."""

    prompt: Annotated[str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)], NoIds]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.suffix:
            raise ValueError("suffix: no engine here fills in the middle of a text")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must equal n: answers are not ranked here")
        if self.echo and self.logprobs is not None:  # whoever adds up a prompt's probabilities would add up none
            raise ValueError("logprobs: the prompt's own are not told here; leave echo out, or logprobs")
        return self

    @property
    def prompts(self) -> list[str]:
        """One or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def translated(self) -> list[PromptBody]:
        """The one request type, for each prompt. Raises ValidationError."""
        fields = self.common()
        fields["max_tokens"] = self.max_tokens or 16  # their default
        if self.logprobs is not None:
            fields["logprobs"] = self.logprobs
        return [PromptBody.model_validate(fields | {"prompt": prompt}) for prompt in self.prompts]
