"""Requests to /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from app.web.dialect import MAX_TOOLS, THOUGHT, TIMEOUT, DialectBody, Lenient
from app.web.openai.schemas import DEFAULT_MAX_TOKENS, ChatMessage, ToolCall, form_of, text_of, tools_of
from app.web.schemas import MAX_MESSAGES, ModelName


class MessageItem(ChatMessage):
    """A message."""

    type: Literal["message"] = "message"


class CallItem(Lenient):
    """A call that an earlier response made; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"


class CallOutputItem(Lenient):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)]


class ReasoningItem(Lenient):
    """An earlier response's thoughts, which the model's template shows it or not."""

    type: Literal["reasoning"]
    content: Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None


def _kind(item: object) -> object:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="items are messages, function_call, function_call_output and reasoning",
    ),
]


class ResponseBody(Lenient):
    """POST /v1/responses. What would change the answer and is not done here is refused, never dropped."""

    model: ModelName
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    scripted_tokens_per_second: float | None = None

    def translated(self) -> DialectBody:
        """The one request type. Raises ValidationError, ValueError."""
        self._refuse_what_is_not_done()
        form, effort = self._format(), (self.reasoning or {}).get("effort")
        fields = {
            "model": self.model,
            "messages": self._messages(),
            "max_tokens": self.max_output_tokens or DEFAULT_MAX_TOKENS,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "timeout": TIMEOUT,
            "scripted_tokens_per_second": self.scripted_tokens_per_second,
            "format": form,
            "think": None if effort is None else effort != "none",
            **tools_of(*self._tools(), single=self.parallel_tool_calls is False, formed=form is not None),
        }
        return DialectBody.model_validate({name: value for name, value in fields.items() if value is not None})

    def _refuse_what_is_not_done(self) -> None:
        if self.previous_response_id is not None or self.conversation is not None:
            raise ValueError("previous_response_id and conversation are not kept here; send the whole conversation")
        if self.prompt is not None:
            raise ValueError("prompt: templates are not kept here; send instructions and input")
        if self.background and self.store is False:
            raise ValueError("background needs store to be true")
        if self.top_logprobs or "message.output_text.logprobs" in (self.include or ()):
            raise ValueError("top_logprobs, include: probabilities are told of chats and completions alone")

    def _tools(self) -> tuple[list[dict[str, Any]], str | dict[str, Any] | None]:
        """Tools and the choice among them, flat here, where a chat's have the function one step deeper."""
        for tool in self.tools or ():
            if tool.get("type") != "function":
                raise ValueError('tools: functions alone are called here: {"type": "function", "name", "parameters"}')
        choice = self.tool_choice
        return [_deeper(tool) for tool in self.tools or ()], _deeper(choice) if isinstance(choice, dict) else choice

    def _format(self) -> str | dict[str, Any] | None:
        """Flat too."""
        form = (self.text or {}).get("format")
        return form_of(form | {"json_schema": form} if isinstance(form, dict) else None)

    def _messages(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        if self.instructions:
            turns.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*turns, {"role": "user", "content": self.input}]
        names: dict[str, str] = {}  # of the functions that were called, as templates want them with their results
        for item in self.input:
            if isinstance(item, MessageItem):
                _append(turns, item.translated())
            elif isinstance(item, ReasoningItem):
                if thought := text_of(item.content):
                    turns.append({"role": "assistant", "content": "", "further": {THOUGHT: thought}})
            elif isinstance(item, CallItem):
                names[item.call_id] = item.name
                _append_call(turns, item)
            elif isinstance(item, CallOutputItem):
                further = {"tool_call_id": item.call_id, "name": names.get(item.call_id)}
                turns.append({"role": "tool", "content": text_of(item.output), "further": _said(further)})
        return turns

    def kept(self) -> dict[str, Any]:
        """What the answer repeats of the request."""
        return {
            "instructions": self.instructions,
            "metadata": self.metadata or {},
            "background": bool(self.background),
            "max_output_tokens": self.max_output_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "store": self.store is not False,
            "format": (self.text or {}).get("format"),
            "tools": self.tools or [],
            "tool_choice": self.tool_choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": None, "summary": None} | (self.reasoning or {}),
        }


def _deeper(flat: dict[str, Any]) -> dict[str, Any]:
    return {"type": flat.get("type"), "function": {name: value for name, value in flat.items() if name != "type"}}


def _append(turns: list[dict[str, Any]], turn: dict[str, Any]) -> None:
    """Thoughts stand in the message that came of them."""
    last = turns[-1] if turns else {}
    if turn["role"] == last.get("role") == "assistant" and not last["content"]:
        turn["further"] = turns.pop()["further"] | turn["further"]
    turns.append(turn)


def _append_call(turns: list[dict[str, Any]], item: CallItem) -> None:
    """A turn's calls stand in one message, behind what it said."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": "", "further": {}})
    call = ToolCall.model_validate({"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}})
    turns[-1]["further"].setdefault("tool_calls", []).append(call.translated())


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


class ResponseQuery(Lenient):
    """How to read a response."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
