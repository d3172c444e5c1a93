"""Jobs, their groups and their queues, as the API's description shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.jobs import Kind, State
from app.web.answers import Answer
from app.web.chat_answers import ChatDelta, ChatEnd, ChatError, Choice, Counts, DoneReason


class Standing(BaseModel):
    """An event named `progress`: where a queued job, or a pull, stands. It has no number."""

    model_config = ConfigDict(extra="allow")

    status: State


class JobEvent(RootModel[ChatDelta | ChatEnd | ChatError | Standing]):
    """The data of one event of a job."""


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
    worker: str | None = Field(description="Told to operators alone.")
    error: JobError | None


class Generation(Listed):
    """A job that answers a chat, whole."""

    request: dict[str, Any]
    text: str
    traceback: str | None = None
    choices: list[Choice] = Field([])
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


class GroupStanding(GroupAnswer):
    """The same, as its followers are told."""

    done: bool


class GroupEvent(RootModel[GroupStanding | ChatError]):
    """The data of one event of a group."""


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
