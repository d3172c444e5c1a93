"""The tasks that Celery runs, by the names of app.jobs. Each hands on to the part of its process that does the work."""

from app.jobs import GENERATE_TASK, PRUNE_TASK, PULL_TASK, SCAN_TASK, SWEEP_TASK
from tasks import app
from tasks.startup import process
from tasks.sweep import sweep


@app.task(name=GENERATE_TASK)
def generate(job_id: str) -> None:
    """Runs a job that this worker may claim. Raises JobFailedError after it recorded a failure."""
    if process.worker is not None:
        process.worker.runner.run(job_id)


@app.task(name=PULL_TASK)
def pull(job_id: str) -> None:
    """Downloads a model. Raises JobFailedError after it recorded a failure."""
    if process.office is not None:
        process.office.desk.take(job_id)


@app.task(name=SWEEP_TASK)
def sweep_task() -> None:
    """One sweep; the beat sends one every few seconds. One that waited too long has a successor in the queue."""
    sweep(process.kernel)


@app.task(name=PRUNE_TASK)
def prune_task() -> None:
    """Forgets what is over its time."""
    process.kernel.retention.prune()


@app.task(name=SCAN_TASK)
def scan(unhide: bool = False) -> None:
    """Begins a scan; GET /models/scan tells its end."""
    if process.keeper is not None:
        process.keeper.scanner.start(unhide=unhide)
