"""The task that runs a pull."""

from app.jobs import PULL_TASK
from tasks import app
from tasks.pull import run_pull
from tasks.startup import process


@app.task(name=PULL_TASK)
def pull(job_id: str) -> None:
    """Downloads a model. Raises JobFailedError after it recorded a failure."""
    office = process.office
    if office is not None:
        run_pull(office.kernel, office.life, office.node, job_id, office.ended)
