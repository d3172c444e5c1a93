"""Requests to /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.web.dialect import TIMEOUT, DialectBody, Lenient
from app.web.openai.schemas import DEFAULT_MAX_TOKENS, ChatMessage, form_of
from app.web.schemas import ModelName


class InputItem(ChatMessage):
    """One item of an input: a message."""

    type: str = "message"


class ResponseBody(Lenient):
    """POST /v1/responses. What would change the answer and is not done here is refused, never dropped."""

    model: ModelName
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    tools: list[dict[str, Any]] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    scripted_tokens_per_second: float | None = None

    def translated(self) -> DialectBody:
        """The one request type. Raises ValidationError, ValueError."""
        self._refuse_what_is_not_done()
        fields = {
            "model": self.model,
            "messages": self._messages(),
            "max_tokens": self.max_output_tokens or DEFAULT_MAX_TOKENS,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "timeout": TIMEOUT,
            "scripted_tokens_per_second": self.scripted_tokens_per_second,
            "format": self._format(),
            "think": False if (self.reasoning or {}).get("effort") == "none" else None,
        }
        return DialectBody.model_validate({name: value for name, value in fields.items() if value is not None})

    def _refuse_what_is_not_done(self) -> None:
        if self.previous_response_id is not None or self.conversation is not None:
            raise ValueError("previous_response_id and conversation are not kept here; send the whole conversation")
        if self.tools:
            raise ValueError("tools: use /v1/chat/completions, which has them")
        if self.background and self.store is False:
            raise ValueError("background needs store to be true")

    def _format(self) -> str | dict[str, Any] | None:
        """Flat here, where a chat's has the schema one step deeper."""
        form = (self.text or {}).get("format")
        return form_of(form | {"json_schema": form} if isinstance(form, dict) else None)

    def _messages(self) -> list[dict[str, Any]]:
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, {"role": "user", "content": self.input}]
        for item in self.input:
            if item.type != "message":
                raise ValueError(f"input: items of type '{item.type}' are not understood; only messages are")
        return [*system, *(item.translated() for item in self.input)]

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
        }


class ResponsePath(BaseModel):
    """A response's address."""

    id: str


class ResponseQuery(Lenient):
    """How to read a response."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
