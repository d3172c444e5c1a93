"""Control commands: what operators and placement ask of a worker. They never wait behind generations."""

import functools
from collections.abc import Callable
from typing import Any

from celery.worker import control

from tasks.startup import cancel, process
from tasks.worker import Worker

Reply = dict[str, str]

_celery_revoke = control.Panel.data["revoke"]


def _order(doing: str, *further: tuple[str, type]) -> Callable[[Callable[..., None]], Callable[..., Reply]]:
    """A command about a model, which a worker answers with what it is `doing`. `further`: arguments in a shell."""

    def register(carry_out: Callable[..., None]) -> Callable[..., Reply]:
        args = [("model", str), *further]

        @functools.wraps(carry_out)
        def command(_state: Any, model: str, **how: Any) -> Reply:
            if process.worker is None:
                return {"error": "this node holds no models"}
            carry_out(process.worker, model, **how)
            return {"ok": f"{doing} {model}"}

        control.control_command(args=args, signature=" ".join(f"<{name}>" for name, _ in args))(command)
        return command

    return register


@_order("loading")
def load(worker: Worker, model: str, gentle: bool = False, keep_alive: float | None = None) -> None:
    """Begins to load a model here."""
    worker.loader.load(model, gentle=gentle, keep_alive=keep_alive)


@_order("unloading")
def unload(worker: Worker, model: str, force: bool = False) -> None:
    """Ends a model here, or its load."""
    worker.unload(model, force=force)


@_order("reloading")
def reload(worker: Worker, model: str) -> None:
    """Loads a model anew here."""
    worker.loader.reload(model)


@_order("keeping", ("seconds", float))
def keep(worker: Worker, model: str, seconds: float, pinned: bool = False) -> None:
    """Says how long a model stays here without work; below 0: until another one needs its place."""
    worker.keep(model, seconds, pinned=pinned)


@_order("renewing")
def renew(worker: Worker, model: str) -> None:
    """Loads a model anew here where its files are no longer those that it was loaded from."""
    worker.renew(model)


@_order("not loading")
def cancel_load(worker: Worker, model: str) -> None:
    """Ends the load of a model here."""
    worker.cancel_load(model)


@control.control_command(name="revoke", args=[("task_id", str)], signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:  # noqa: ARG001
    """Cancels jobs, queued or running. The threads pool cannot terminate a task; their owner ends them."""
    for job_id in [task_id] if isinstance(task_id, str) else list(task_id or ()):
        cancel(job_id)
    return _celery_revoke(state, task_id, terminate=False, **kwargs)
