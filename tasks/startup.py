"""What each Celery process builds at its start, by its role, and gives back at its end."""

import gc
import threading
from typing import Any

import structlog
from celery.signals import celeryd_after_setup, setup_logging, task_revoked, worker_ready, worker_shutdown
from celery.signals import worker_shutting_down as shutting_down

from app import logs, settings
from app.errors import JobNotFoundError, TokenyardError
from app.jobs import State, pull_queue
from app.kernel import Kernel
from tasks import app
from tasks.office import Office
from tasks.sweep import Keeper
from tasks.worker import Worker

log = structlog.get_logger(__name__)


# A second SIGTERM may interrupt the handler of the first one, which holds this: with Celery's own plain lock, for ever.
shutting_down.lock = threading.RLock()


class Process:
    """This process's parts; there is one of each role, built when Celery knows its own name."""

    kernel: Kernel
    stopping = False
    worker: Worker | None = None
    office: Office | None = None
    keeper: Keeper | None = None


process = Process()


@setup_logging.connect
def _logging(**_: Any) -> None:
    logs.configure(settings.load())


@celeryd_after_setup.connect
def _build(sender: str, instance: Any, **_: Any) -> None:
    process.kernel = Kernel(settings.load(), app)
    role = process.kernel.settings.role
    try:
        if role == "worker":
            process.worker = Worker(process.kernel, sender, app)
        elif role == "puller":
            process.office = Office(process.kernel, sender)
            if process.kernel.settings.own_store:
                instance.app.amqp.queues.select_add(pull_queue(process.kernel.settings.node))
        elif role == "keeper":
            process.keeper = Keeper(process.kernel)
    except TokenyardError as error:
        log.error("cannot_start", code=error.code, reason=error.message)
        raise SystemExit(1) from error


@worker_ready.connect
def _start(**_: Any) -> None:
    for part in (process.worker, process.office, process.keeper):
        if part is not None:
            part.start()
    gc.collect()
    gc.freeze()  # what is loaded by now stays: looking at it again and again would stop every stream meanwhile


@shutting_down.connect
def _stop(**_: Any) -> None:
    if process.stopping:  # by an earlier signal, within whose handler this one may be: it would wait for its locks
        return
    process.stopping = True
    for part in (process.worker, process.office, process.keeper):
        if part is not None:
            part.stop()


@worker_shutdown.connect
def _close(**_: Any) -> None:
    _stop()  # Celery may end without a signal; and one that comes from here on changes nothing
    for part in (process.worker, process.office):
        if part is not None:
            part.close()


@task_revoked.connect
def _revoked(request: Any, **_: Any) -> None:
    cancel(request.id)


def cancel(job_id: str) -> None:
    """Cancels the job behind a task that was revoked, in Flower for example."""
    try:
        process.kernel.dispatcher.end(job_id, State.CANCELLED)
    except JobNotFoundError:
        log.info("revoked_unknown", task=job_id)
