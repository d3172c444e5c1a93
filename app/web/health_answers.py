"""How the site is, as the API's description shows it."""

from typing import Any, Literal

from pydantic import Field

from app.web.answers import Answer
from app.web.fleet_answers import WorkerEntry


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
    workers: list[WorkerEntry] = Field(description="Told to operators alone; to others empty, as `queues` is.")
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
