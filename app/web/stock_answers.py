"""Answers about one model and its names, and about sessions, as the API's description shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.web.answers import Answer
from app.web.fleet_answers import Resident


class FitAnswer(Answer):
    """Whether a model fits the largest device here; an estimate from the size of its files."""

    fits: bool
    needs_bytes: int
    memory_bytes: int
    fits_in_4_bits: bool = Field(False, description="Shown where the weights can be quantized while they are loaded.")


class ModelFile(Answer):
    """A file of a model."""

    name: str
    size_bytes: int


class ModelAnswer(FitAnswer, Resident):
    """A model, as its own files and its row tell; null is what they do not tell."""

    model: str
    aliases: list[str]
    state: Literal["ready", "missing", "removing"]
    format: str
    architecture: str | None
    family: str | None
    task: Literal["generate", "embed"] | None
    parameters: int | None
    template: str | None
    licence: str | None
    size_bytes: int
    files: list[ModelFile]
    kv_bytes_per_token: int | None
    source: str
    repository: str | None
    revision: str | None
    local_path: str | None = Field(description="Told to operators alone.")
    created_at: datetime


class RemovedAnswer(Answer):
    """A model was forgotten."""

    status: Literal["removed"]
    model: str
    files_deleted: bool


class TokenizedAnswer(Answer):
    """A text's tokens."""

    count: int
    max_model_len: int | None
    tokens: list[int]


class DetokenizedAnswer(Answer):
    """The text of tokens."""

    prompt: str


class ScanAskedAnswer(Answer):
    """The keeper will look."""

    status: Literal["accepted"]


class SkippedPath(Answer):
    """What looked like a model and is not listed."""

    path: str
    reason: str


class ScanAnswer(Answer):
    """A look at the disk: names of models that it listed, missed and forgot, and what it left out."""

    state: Literal["running", "done", "failed"]
    started_at: datetime
    finished_at: datetime | None
    found: list[str]
    missing: list[str]
    removed: list[str]
    skipped: list[SkippedPath]


class SuggestedForm(FitAnswer):
    """One form of a suggested model."""

    model: str
    size_bytes: int


class Suggested(Answer):
    """A model that is worth having."""

    name: str
    also: list[str]
    parameters: int
    downloaded: list[str] = Field(description="What of it is here already, by its own name.")
    gguf: SuggestedForm
    safetensors: SuggestedForm


class SuggestedAnswer(Answer):
    """Current models under their short names."""

    models: list[Suggested]


class AliasAnswer(Answer):
    """A further name of a model."""

    alias: str
    model: str
    downloaded: bool


class AliasesAnswer(Answer):
    """Every alias."""

    aliases: list[AliasAnswer]


class AliasRemovedAnswer(Answer):
    """An alias was forgotten."""

    status: Literal["removed"]
    alias: str


class SessionMessage(Answer):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class SessionAnswer(Answer):
    """A conversation."""

    session_id: str
    messages: list[SessionMessage]
    created_at: datetime
    expires_at: datetime


class SessionRemovedAnswer(Answer):
    """A conversation was forgotten."""

    status: Literal["removed"]
    session_id: str
