"""Models in memory and the workers that hold them, as the API's description shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.web.answers import Answer, Word


class LoadFailure(Answer):
    """A load that failed lately."""

    model: str
    code: str
    message: str
    retry_after: float = Field(validation_alias="seconds", description="Seconds until it is tried again.")


class WorkerFailure(LoadFailure):
    """The same, and where."""

    worker: str | None = Field(description="Told to operators alone.")


class LoadingModel(Answer):
    """A model on its way into a worker's memory."""

    model: str
    backend: Word = Field(description="null while it waits for its turn, or for room.")
    progress: float = Field(validation_alias="fraction")
    since: datetime


class WorkerLoading(LoadingModel):
    """The same, and where."""

    worker: str | None = Field(description="Told to operators alone.")


class Resident(Answer):
    """Where and how a model is loaded."""

    loaded: bool
    backend: str | None
    why: str | None = Field(description="Why an engine other than the first choice has it.")
    quantize: str = Field(description="What its pull asked for.")
    quantization: str | None = Field(description="How its weights lie in memory, or in its files.")
    dtype: str | None
    context: int | None
    load_duration: int
    keep_alive: float | None = Field(description="Seconds without work; below 0: until another needs its place.")
    expires_at: datetime | None
    devices: list[str] = Field(description="Those that it is bound to; none: it goes anywhere.")
    engine_options: dict[str, Any] = Field(
        description="What operators tell its engines; to others {}: it names folders."
    )
    workers: list[str] = Field(description="Told to operators alone; to others [].")
    loading: list[WorkerLoading]
    failures: list[WorkerFailure]


class ModelEntry(Resident):
    """A model on this machine, and where and how it is loaded."""

    model: str
    state: Literal["ready", "missing", "removing"] = Field(description="Whether its files are here.")
    size_bytes: int
    local_path: str | None = Field(description="Told to operators alone.")
    aliases: list[str]


class ModelsAnswer(Answer):
    """Every model on this machine."""

    models: list[ModelEntry]


class HeldModel(Answer):
    """A model in a worker's memory."""

    model: str
    backend: str
    why: Word
    slots: int
    running: int
    context: int | None
    quantization: Word
    dtype: Word
    size_bytes: int = Field(validation_alias="bytes", description="Of its weights and cache in memory.")
    load_duration: int = Field(validation_alias="load_ns")
    keep_alive: float
    expires_at: datetime | None
    leaving: bool = Field(description="It takes no further job and goes when the last has finished.")


class WorkerEntry(Answer):
    """A worker that is alive."""

    node: str
    device: str
    host: str
    pid: int
    cache_limit: int
    memory_total: int | None
    memory_free: int | None
    utilization: float | None
    temperature: float | None = Field(description="Degrees Celsius.")
    models: list[HeldModel]
    loading: list[LoadingModel]
    failures: list[LoadFailure]


class WorkersAnswer(Answer):
    """Every worker that is alive."""

    workers: list[WorkerEntry]


class NodeEntry(Answer):
    """A host with workers or pullers."""

    node: str
    draining_since: datetime | None
    workers: list[str]
    models: int = Field(description="In memory there, or on their way.")
    running: int = Field(description="Jobs, pulls included.")


class NodesAnswer(Answer):
    """Every node, those that were drained and are gone too."""

    nodes: list[NodeEntry]


class DrainAnswer(Answer):
    """Whether a node gets work."""

    node: str
    status: Literal["draining", "resumed", "nothing to do"]


class DeviceEntry(Answer):
    """A worker's device."""

    worker: str
    device: str
    memory_total: int | None
    memory_free: int | None
    utilization: float | None = Field(description="0 to 1.")
    temperature: float | None = Field(description="Degrees Celsius.")


class DevicesAnswer(Answer):
    """The devices of all living workers."""

    devices: list[DeviceEntry]


class OrderAnswer(Answer):
    """Workers were asked; GET /workers and GET /models show what comes of it."""

    status: Literal["loading", "unloading", "reloading", "cancelling", "nothing to do"]
    model: str
    workers: list[str]


class BoundAnswer(Answer):
    """Where a model may be loaded from now on."""

    model: str
    devices: list[str]
    unloading: list[str] = Field(description="The workers that it leaves.")


class KeptAnswer(Answer):
    """How long a model stays without work from now on."""

    model: str
    keep_alive: float | None


class OptionsAnswer(Answer):
    """How its engines run a model from now on."""

    model: str
    engine_options: dict[str, Any]


class ClearedAnswer(Answer):
    """Cooldowns ended."""

    status: Literal["cleared"]
    models: list[str]
