"""The task that runs a generation."""

from app.jobs import GENERATE_TASK
from tasks import app
from tasks.startup import process


@app.task(name=GENERATE_TASK)
def generate(job_id: str) -> None:
    """Runs a job that this worker may claim. Raises JobFailedError after it recorded a failure."""
    if process.worker is not None:
        process.worker.runner.run(job_id)
