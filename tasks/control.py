"""Control commands: what operators and placement ask of a worker. They never wait behind generations."""

from typing import Any

from celery.worker import control

from tasks.startup import cancel, process

NO_WORKER = {"error": "this node holds no models"}

_celery_revoke = control.Panel.data["revoke"]


Reply = dict[str, str]


@control.control_command(args=[("model", str)], signature="<model>")
def load(_state: Any, model: str, gentle: bool = False, keep_alive: float | None = None) -> Reply:
    """Begins to load a model here."""
    if process.worker is None:
        return NO_WORKER
    process.worker.load(model, gentle=gentle, keep_alive=keep_alive)
    return {"ok": f"loading {model}"}


@control.control_command(args=[("model", str)], signature="<model>")
def unload(_state: Any, model: str, force: bool = False) -> Reply:
    """Ends a model here, or its load."""
    if process.worker is None:
        return NO_WORKER
    process.worker.unload(model, force=force)
    return {"ok": f"unloading {model}"}


@control.control_command(args=[("model", str)], signature="<model>")
def reload(_state: Any, model: str) -> Reply:
    """Loads a model anew here."""
    if process.worker is None:
        return NO_WORKER
    process.worker.loader.reload(model)
    return {"ok": f"reloading {model}"}


@control.control_command(args=[("model", str), ("seconds", float)], signature="<model> <seconds>")
def keep(_state: Any, model: str, seconds: float, pinned: bool = False) -> Reply:
    """Says how long a model stays here without work; below 0: until another one needs its place."""
    if process.worker is None:
        return NO_WORKER
    process.worker.keep(model, seconds, pinned=pinned)
    return {"ok": f"keeping {model}"}


@control.control_command(args=[("model", str)], signature="<model>")
def renew(_state: Any, model: str) -> Reply:
    """Loads a model anew here where its files are no longer those that it was loaded from."""
    if process.worker is None:
        return NO_WORKER
    process.worker.renew(model)
    return {"ok": f"renewing {model}"}


@control.control_command(args=[("model", str)], signature="<model>")
def cancel_load(_state: Any, model: str) -> Reply:
    """Ends the load of a model here."""
    if process.worker is None:
        return NO_WORKER
    process.worker.cancel_load(model)
    return {"ok": f"not loading {model}"}


@control.control_command(name="revoke", args=[("task_id", str)], signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:  # noqa: ARG001
    """Cancels jobs, queued or running. The threads pool cannot terminate a task; their owner ends them."""
    for job_id in [task_id] if isinstance(task_id, str) else list(task_id or ()):
        cancel(job_id)
    return _celery_revoke(state, task_id, terminate=False, **kwargs)
