"""Structured logs: readable on a terminal, JSON where a machine reads them. Standard logging joins in."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from app.errors import UnavailableError
from app.settings import Settings

log = structlog.get_logger(__name__)

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(settings: Settings) -> None:
    """Sends every log line of this process to stderr, in one form."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    # A line a task would be Flower's business; ours say what ended and how.
    for chatty in ("celery.worker.strategy", "celery.app.trace", "celery.beat", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def later(event: str, **about: object) -> Iterator[None]:
    """A step that somebody makes up for where a part does not answer: only the log tells."""
    try:
        yield
    except UnavailableError as error:
        log.warning(event, reason=error.message, **about)
