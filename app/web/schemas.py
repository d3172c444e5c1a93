"""Requests as they arrive. Past these models, a request is a job's row."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from app.durations import seconds_of
from app.jobs import DEFAULT_PRIORITY, Kind
from app.web.bodies import encode, is_deeper

MAX_TIMEOUT = 600
MAX_STOPS = 16
MAX_CHOICES = 16
MAX_MESSAGES = 2048
MAX_SEQ = 2**53 - 1
#: Of JSON schemas in requests.
MAX_SCHEMA, MAX_SCHEMA_DEPTH = 64 * 1024, 64


def schema_text(schema: dict[str, Any]) -> str:
    """A JSON schema as text. Raises ValueError for one that is too large."""
    if is_deeper(schema, MAX_SCHEMA_DEPTH):
        raise ValueError(f"a JSON schema is nested {MAX_SCHEMA_DEPTH} deep at most")
    text = encode(schema).decode()
    if len(text) > MAX_SCHEMA:
        raise ValueError(f"a JSON schema has {MAX_SCHEMA // 1024} KiB at most")
    return text


class Strict(BaseModel):
    """A body in which every field is known: a misspelt option is told, never dropped."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] = Field(description="A text, or its parts, which are joined.")

    @field_validator("content", mode="before")
    @classmethod
    def _join(cls, content: object) -> object:
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(_is_text(part) for part in content):
            return "".join(part["text"] for part in content)
        raise ValueError('messages: content must be a string, or a list of parts {"type": "text", "text": "…"}')


def _is_text(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


#: An event's number, within what every JSON reader keeps exact.
Seq = Annotated[int, Field(ge=0, le=MAX_SEQ)]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@-]{1,64}$")]
Priority = Annotated[int, Field(ge=0, le=9, description="0 is the most urgent.")]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


KeepAlive = Annotated[
    float, BeforeValidator(seconds_of), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})
]


#: Ids of tokens, as JSON has them for keys, and what is added to their scores.
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


class SamplingBody(Strict):
    """How the next token is drawn."""

    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000, description="0 is off.")] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Tells each token's probability, and those of so many likelier ones."
    )

    format: Literal["json"] | dict[str, Any] | None = Field(
        None, description='What the answer must be: "json" for an object, or a JSON schema.'
    )
    logit_bias: LogitBias | None = Field(None, description="Added to the scores of tokens: {id: -100 to 100}.")

    @field_validator("format")
    @classmethod
    def _bounded_schema(cls, form: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(form, dict):
            schema_text(form)
        return form

    def sampling(self) -> dict[str, Any]:
        """The fields as an engine takes them; the rare ones only where they say something."""
        fields = self.model_dump(include=set(SamplingBody.model_fields) - {"format", "logit_bias"})
        stop = fields["stop"]
        fields["stop"] = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if self.format is not None:
            fields["schema"] = schema_text({"type": "object"} if self.format == "json" else self.format)
        if self.logit_bias:
            fields["logit_bias"] = [[int(token), bias] for token, bias in self.logit_bias.items()]
        return fields


class GenerateBody(SamplingBody):
    """The one request type: whatever a dialect calls it, a generation is made of this."""

    KIND: ClassVar[Kind] = Kind.GENERATE

    model: ModelName
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES, description="How many answers to give.")] = 1
    stream: bool = False
    timeout: float = Field(
        120,
        description="Seconds, 1 to 600. A detached job's timeout covers its running alone.",
        json_schema_extra={"minimum": 1, "maximum": MAX_TIMEOUT},  # its own message says more than pydantic's
    )
    priority: Priority = DEFAULT_PRIORITY
    detach: bool = Field(False, description="The job goes on waiting when this request is over.")
    keep_alive: KeepAlive | None = Field(
        None, description='How long the model stays without work: seconds, or "5m"; -1 is for ever, 0 unloads it.'
    )
    expires_in: Annotated[float, Field(ge=1, le=30 * 86_400)] = Field(
        86_400, description="Seconds that a detached job may wait in the queue."
    )
    scripted_tokens_per_second: Annotated[float, Field(gt=0, le=1e6)] | None = None
    #: The LoRA adapter that the model's name asked for, as `model@adapter`.
    _adapter: str = ""

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, timeout: float) -> float:
        if not 1 <= timeout <= MAX_TIMEOUT:
            raise ValueError(f"Timeout must be between 1 and {MAX_TIMEOUT} seconds")
        return timeout

    def request(self) -> dict[str, Any]:
        """What the job's row keeps of it."""
        unusual = {"adapter": self._adapter, "scripted_tokens_per_second": self.scripted_tokens_per_second}
        return {
            "sampling": self.sampling(),
            "n": self.n,
            "keep_alive": self.keep_alive,
            **{name: value for name, value in unusual.items() if value},
        }

    def settle(self, model: str, adapter: str) -> None:
        """Puts what the name stands for in its place."""
        self.model, self._adapter = model, adapter


class ChatBody(GenerateBody):
    """A chat to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    session_id: SessionId | None = Field(
        None, description="What the session remembers goes before the messages; they and the answer are appended to it."
    )
    max_history: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Turns that the session keeps; without it, SESSION_TURNS."
    )

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if self.session_id is not None and self.n > 1:
            raise ValueError("n: a session goes on with one answer; leave n out, or session_id")
        if self.max_history is not None and self.session_id is None:
            raise ValueError("max_history: it belongs to a session; name one in session_id")
        return self

    def request(self) -> dict[str, Any]:
        """With the messages, which the model's own template renders."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return {"messages": messages, **super().request()}


class PromptBody(GenerateBody):
    """A text to go on with as it stands, without a template. Only other dialects offer it."""

    prompt: str

    def request(self) -> dict[str, Any]:
        """With the prompt."""
        return {"messages": [], "prompt": self.prompt, **super().request()}


class OptionalBody(Strict):
    """A body that may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, body: object) -> object:
        return {} if body is None else body


#: How an engine should load the weights.
Quantize = Literal["auto", "q4", "q8", "fp16", "fp32", "no"]


class PullBody(Strict):
    """A model to download."""

    model: ModelName = Field(description="`name`, `owner/name`, `owner/name:Q4_K_M` of a GGUF repository, or an alias.")
    revision: Revision | None = Field(None, description="A branch, a tag or a commit.")
    quantize: Quantize = "auto"
    init: bool = Field(False, description="Load the model once it is here.")
    priority: Priority = DEFAULT_PRIORITY

    @field_validator("revision")
    @classmethod
    def _plain(cls, revision: str | None) -> str | None:
        if revision is not None and ".." in revision:
            raise ValueError("revision must not hold '..'")
        return revision


class NamePath(BaseModel):
    """The address of what has a name."""

    name: str


class IdPath(BaseModel):
    """The address of what has an id."""

    id: str
