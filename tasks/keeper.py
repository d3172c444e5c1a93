"""The keeper's tasks. The beat sends them; each that waited too long has a successor in the queue."""

from app.jobs import PRUNE_TASK, SWEEP_TASK
from tasks import app
from tasks.startup import process
from tasks.sweep import sweep


@app.task(name=SWEEP_TASK)
def sweep_task() -> None:
    """One sweep; the beat sends one every few seconds."""
    sweep(process.kernel)


@app.task(name=PRUNE_TASK)
def prune_task() -> None:
    """Forgets what is over its time."""
    process.kernel.retention.prune()
