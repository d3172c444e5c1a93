"""Control commands: what operators and placement ask of a worker. They never wait behind generations."""

from typing import Any

from celery.worker import control

from tasks.startup import cancel, process

_celery_revoke = control.Panel.data["revoke"]


@control.control_command(args=[("model", str)], signature="<model>")
def load(_state: Any, model: str) -> dict[str, str]:
    """Begins to load a model here."""
    if process.worker is None:
        return {"error": "this node holds no models"}
    process.worker.garage.load(model)
    return {"ok": f"loading {model}"}


@control.control_command(name="revoke", args=[("task_id", str)], signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:  # noqa: ARG001
    """Cancels jobs, queued or running. The threads pool cannot terminate a task; their owner ends them."""
    for job_id in [task_id] if isinstance(task_id, str) else list(task_id or ()):
        cancel(job_id)
    return _celery_revoke(state, task_id, terminate=False, **kwargs)
