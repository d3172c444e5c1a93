"""What other dialects ask beyond the native API: tools, thoughts, a smaller context."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.kernel import Kernel
from app.stock import Model
from app.web.access import usable
from app.web.bodies import encode
from app.web.schemas import MAX_MESSAGES, MAX_SCHEMA, ChatBody, Message, schema_text

MAX_TOOLS = 128
#: Where templates look for what a turn thought.
THOUGHT = "reasoning_content"
#: Seconds that a request of another dialect may take, queueing and loading included.
TIMEOUT = 600


class Lenient(BaseModel):
    """A body whose unknown fields do not matter."""

    model_config = ConfigDict(extra="ignore")


class Turn(Message):
    """One turn of a chat, with the fields by which templates tell calls of tools and their results."""

    further: dict[str, Any] = Field(default_factory=dict)


class DialectBody(ChatBody):
    """A chat as a dialect translates it."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]  # type: ignore[assignment]  # more than a Message
    tools: list[dict[str, Any]] = Field(default_factory=list)
    forced: bool = False  #: the answer is one call of one of the tools, held to a schema
    single: bool = False  #: of several calls only the first is told
    think: bool | None = None
    context: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _can_be_forced(self) -> Self:
        if self.forced:
            schema_text(call_schema(self.tools))
        return self

    def sampling(self) -> dict[str, Any]:
        """With the schema that a forced call is held to."""
        fields = super().sampling()
        return fields | {"schema": schema_text(call_schema(self.tools))} if self.forced else fields

    def request(self) -> dict[str, Any]:
        """With what was asked, and nothing of what was not."""
        request = super().request()
        for shown, turn in zip(request["messages"], self.messages, strict=True):
            if turn.further:
                shown["further"] = _text(turn.further)
        if self.tools:
            request["tools"] = _text(self.tools)
        if self.single:
            request["single"] = True
        if self.forced:
            request["forced"] = True
        if self.think is not None:
            request["think"] = self.think
        if self.context is not None:
            request["context"] = self.context
        return request


def checked(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools as every dialect here has them: functions. Raises ValueError."""
    if len(tools) > MAX_TOOLS:
        raise ValueError(f"tools: {MAX_TOOLS} at most")
    for tool in tools:
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise ValueError('tools: each is {"type": "function", "function": {"name", "description", "parameters"}}')
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise ValueError("tools: a function needs a name")
        if not isinstance(function.get("parameters") or {}, dict):
            raise ValueError("tools: a function's parameters are a JSON schema")
    if len(_text(tools)) > 4 * MAX_SCHEMA:
        raise ValueError(f"tools: {4 * MAX_SCHEMA // 1024} KiB in all at most")
    return tools


def chosen(tools: list[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """The tools of which one must be called: all, or the one that was named. Raises ValueError."""
    left = [tool for tool in tools if name is None or tool["function"]["name"] == name]
    if not left:
        raise ValueError(f"tool_choice: there is no tool named '{name}'" if name else "tool_choice: there are no tools")
    return left


def call_schema(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """What a call of one of the tools must look like."""
    calls = [_call(number, tool["function"]) for number, tool in enumerate(tools)]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _call(number: int, function: dict[str, Any]) -> dict[str, Any]:
    # With an id of its own a schema is a root to its references, such as pydantic's `#/$defs/…`, wherever it stands.
    arguments = {"$id": f"tool:{number}", **(function.get("parameters") or {"type": "object"})}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _text(value: Any) -> str:
    return encode(value).decode()


def named(kernel: Kernel) -> dict[str, Model]:
    """Every model that the key may use, under each of its names."""
    models = {model.name: model for model in usable(kernel.catalog.models())}
    return models | {alias.name: models[alias.model] for alias in kernel.aliases.all() if alias.model in models}
