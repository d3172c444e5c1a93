"""Answers as the API's description shows them.

Nothing is built from these at run time: views.py makes plain dictionaries, and the tests hold each answer that they get
against /openapi.json, in both directions: a field that is missing there, or here, fails them.
"""

from datetime import datetime
from typing import Any, Literal

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.jobs import Kind, State

DoneReason = Literal["stop", "length"]


class Answer(BaseModel):
    """An object whose fields are all known."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What went wrong. `code` is stable; `message` says what to do."""

    code: str
    message: str
    param: str | None = Field(description="The field that is to blame, where it is one.")
    request_id: str


class ErrorAnswer(Answer):
    """Any error."""

    error: ErrorDetail
    detail: str = Field(description="The message once more, where older clients look for it.")


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
    logprobs: list[TokenLogprob] = []


class Delta(Answer):
    """The next piece of an answer."""

    content: str = ""


class ChatDelta(Answer):
    """A streamed piece; its event's `id` is its number."""

    delta: Delta
    done: Literal[False]
    index: int = Field(0, description="Which of several answers; not shown of the first.")
    done_reason: DoneReason = Field("stop", description="Shown where one of several answers ends.")
    logprobs: list[TokenLogprob] = []


class ChatEnd(Counts):
    """The last event of an answer."""

    delta: Delta
    done: Literal[True]
    done_reason: DoneReason


class ChatError(Answer):
    """The last event of an answer that failed."""

    error: ErrorDetail
    done: Literal[True]


class Standing(BaseModel):
    """An event named `progress`: where a queued job, or a pull, stands. It has no number."""

    model_config = ConfigDict(extra="allow")

    status: State


class ChatEvent(RootModel[ChatDelta | ChatEnd | ChatError]):
    """The data of one event of POST /chat."""


class JobEvent(RootModel[ChatDelta | ChatEnd | ChatError | Standing]):
    """The data of one event of a job."""


#: What streams are made of, to be told among the components of the description.
EVENTS: list[type[BaseModel]] = []


def stream_of(model: type[BaseModel], mimetype: str = "text/event-stream") -> dict[str, Any]:
    """The content of a stream of events. OpenAPI 3.1 has no word for what one event holds; 3.2 calls it itemSchema."""
    EVENTS.append(model)
    event = {"$ref": f"#/components/schemas/{model.__name__}"}
    text = {"type": "string", "description": "One event after the other; an SSE comment is a heartbeat."}
    return {mimetype: {"schema": text, "x-itemSchema": event}}


class ChatAnswer(Counts):
    """A whole answer, or with `stream` its events."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(ChatEvent)})  # type: ignore[typeddict-unknown-key]

    model: str
    created_at: datetime
    message: AssistantMessage
    done: Literal[True]
    done_reason: DoneReason
    job_id: str
    logprobs: list[TokenLogprob] = []
    choices: list[Choice] = Field([], description="Where several answers were asked for: all of them.")


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str


class Listed(Counts):
    """A job that answers a chat, as one of many."""

    id: str
    kind: Kind
    model: str
    status: State
    tenant: str = Field(description="Whose it is: the name of a key; empty is the first operator's.")
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    done_reason: DoneReason | Literal[""]
    attempt: int
    losses: int = Field(description="How many workers died under it.")
    worker: str | None
    error: JobError | None


class Generation(Listed):
    """A job that answers a chat, whole."""

    request: dict[str, Any]
    text: str
    traceback: str | None = None
    choices: list[Choice] = []
    position: int = Field(1, description="Its place in the queue, while it waits; 10000 stands for all beyond.")
    estimated_wait_seconds: float | None = Field(
        None, description="Until its turn, by how long the latest answers took; null where nothing tells."
    )


class PullJob(Answer):
    """A job that downloads a model."""

    id: str
    model: str
    quantize: str
    init: bool
    status: State
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    traceback: str | None
    local_path: str | None
    size_bytes: int | None
    downloaded_bytes: int
    progress: float
    total_bytes: int | None
    preferred_quantized: bool
    revision: str | None = Field(description="The commit that is pulled, once the hub told it.")
    bytes_per_second: float | None
    eta_seconds: float | None
    files_done: int
    files_total: int | None
    error_code: str | None
    tenant: str = Field(description="Whose it is: the name of a key; empty is the first operator's.")
    priority: int
    attempt: int
    losses: int = Field(description="How many times its process died under it.")


class JobAnswer(RootModel[Generation | PullJob]):
    """A job of either kind."""


class JobsAnswer(Answer):
    """A page of jobs, newest first."""

    jobs: list[Listed | PullJob]
    next: str | None = Field(description="The `before` of the page behind this one.")


class GroupAccepted(Answer):
    """Many jobs that were accepted together."""

    group: str
    count: int
    ids: list[str] = Field(description="In the order of their lines.")


class AcceptedAnswer(RootModel[Generation | PullJob | GroupAccepted]):
    """A job, or many."""


class GroupAnswer(Answer):
    """How a group's jobs stand."""

    group: str
    total: int
    completed: int
    failed: int = Field(description="Those that ended in any other way.")
    open: int


class GroupEntry(GroupAnswer):
    """A group in a list."""

    tenant: str = Field(description="Whose it is; empty: the first operator's.")
    created_at: datetime = Field(description="When its first job came.")


class GroupsAnswer(Answer):
    """Groups, the one with the newest job first."""

    groups: list[GroupEntry]


class GroupEvent(GroupAnswer):
    """The same, as its followers are told."""

    done: bool


class QueueLane(Answer):
    """The open generations of one model at one priority."""

    model: str
    priority: int
    queued: int
    released: int = Field(description="Those of the queued ones that the broker has.")
    running: int
    oldest_wait_seconds: float | None
    why: str | None = Field(description="Why the queued ones wait.")


class QueuesAnswer(Answer):
    """The whole queue."""

    at: float = Field(description="Seconds since the epoch.")
    finished: int = Field(description="Jobs that have ended and are still kept.")
    oldest_wait_seconds: float | None
    flower_url: str | None
    queues: list[QueueLane]


class JobHtml(Answer):
    """A finished answer as HTML without scripts, for `format=html`."""

    id: str
    html: str


class ShownAnswer(RootModel[Generation | PullJob | JobHtml]):
    """A job, or its answer as HTML."""


class PullAnswer(Answer):
    """A download was accepted."""

    status: Literal["accepted"]
    job_id: str


class LoadFailure(Answer):
    """A load that failed lately."""

    model: str
    code: str
    message: str
    retry_after: float = Field(description="Seconds until it is tried again.")


class WorkerFailure(LoadFailure):
    """The same, and where."""

    worker: str


class LoadingModel(Answer):
    """A model on its way into a worker's memory."""

    model: str
    backend: str | None = Field(description="null while it waits for its turn, or for room.")
    progress: float
    since: datetime


class WorkerLoading(LoadingModel):
    """The same, and where."""

    worker: str


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
    engine_options: dict[str, Any] = Field(description="What operators tell its engines.")
    workers: list[str]
    loading: list[WorkerLoading]
    failures: list[WorkerFailure]


class ModelEntry(Resident):
    """A model on this machine, and where and how it is loaded."""

    model: str
    state: Literal["ready", "missing", "removing"] = Field(description="Whether its files are here.")
    size_bytes: int
    local_path: str
    aliases: list[str]


class ModelsAnswer(Answer):
    """Every model on this machine."""

    models: list[ModelEntry]


class HeldModel(Answer):
    """A model in a worker's memory."""

    model: str
    backend: str
    why: str | None
    slots: int
    running: int
    context: int | None
    quantization: str | None
    dtype: str | None
    size_bytes: int = Field(description="Of its weights and cache in memory.")
    load_duration: int
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


class QueueDepth(Answer):
    """The open jobs of a model."""

    queued: int
    running: int


class HealthAnswer(Answer):
    """How the site is."""

    status: Literal["healthy", "degraded"]
    reasons: list[str]
    unready: list[str] = Field(description="Those of the reasons for which GET /health/ready says 503.")
    unavailable: list[str] = Field(description="Codes of what does not answer.")
    uptime_seconds: float
    models_cached: int
    cache_limit: int
    downloads_active: int
    downloads_queued: int
    torch_version: str
    cuda_available: bool
    gpu_status: str
    gpu_memory_allocated_mb: float
    gpu_memory_reserved_mb: float
    workers: list[WorkerEntry]
    queues: dict[str, QueueDepth]


class StatusAnswer(HealthAnswer):
    """How the site is, and who watches."""

    followers: int
    version: str


class LiveAnswer(Answer):
    """The process answers."""

    status: Literal["alive"]


class ReadyAnswer(Answer):
    """Whether jobs can run."""

    status: Literal["ready", "not ready"]
    reasons: list[str]


class DiagAnswer(Answer):
    """What a report of a fault should carry."""

    python: str
    platform: str
    packages: dict[str, str]
    settings: dict[str, Any]
    health: HealthAnswer


def described(name: str, tag: str, description: str, error: type[BaseModel]) -> APIBlueprint:
    """A noun of a dialect. Every route may answer an error: flask-openapi3 wants 400 by its own name."""
    errors: dict[str | int, Any] = {400: error, "4XX": error, "5XX": error}
    tags = [Tag(name=tag, description=description)]
    return APIBlueprint(name, __name__, abp_tags=tags, abp_responses=errors, abp_security=[{"api_key": []}])


def blueprint(name: str, tag: str, description: str) -> APIBlueprint:
    """A noun of the native API."""
    return described(name, tag, description, ErrorAnswer)
