"""The task that runs a pull."""

from app.jobs import PULL_TASK
from tasks import app
from tasks.startup import process


@app.task(name=PULL_TASK)
def pull(job_id: str) -> None:
    """Downloads a model. Raises JobFailedError after it recorded a failure."""
    if process.office is not None:
        process.office.desk.take(job_id)
