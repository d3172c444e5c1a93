"""Workers: what each one is and holds; and what operators ask of them about a model."""

from typing import Annotated, Any

from flask import Response, jsonify
from pydantic import Field

from app import engine_options, placement
from app.imports import locate
from app.web.access import Access, identity, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.fleet_answers import BoundAnswer, ClearedAnswer, KeptAnswer, OptionsAnswer, OrderAnswer, WorkersAnswer
from app.web.residence import worker
from app.web.schemas import KeepAlive, ModelName, NamePath, OptionalBody, Strict

workers = needs(Access.OPERATORS)(blueprint("workers", "workers", "What runs where."))

Accepted = tuple[Response, int]


Worker = Annotated[str, Field(min_length=1, max_length=200, description="A worker's node, or its device.")]


class LoadBody(OptionalBody):
    """A model to load."""

    worker: Worker | None = None
    keep_alive: KeepAlive | None = Field(None, description='Seconds without work, or "5m"; -1 is for ever.')


class UnloadBody(OptionalBody):
    """A model to unload."""

    worker: Worker | None = None
    force: bool = Field(False, description="Running jobs go back to the queue instead of finishing first.")


class DevicesBody(Strict):
    """Where a model may be loaded."""

    devices: Annotated[list[Worker], Field(max_length=64)]


class KeepAliveBody(Strict):
    """How long a model stays without work."""

    keep_alive: KeepAlive | None


class EngineOptionsBody(Strict):
    """How its engines run a model."""

    engine_options: dict[str, Any] = Field(description="By name; docs/models.md has the table. {} is the usual.")


class ClearBody(OptionalBody):
    """Whose cooldown to end."""

    model: ModelName | None = None


@workers.get("/workers", summary="List workers", responses={200: WorkersAnswer})
def list_workers() -> Response:
    """Every living worker: its device, what it holds and loads, and what it could not load lately."""
    kernel = here().kernel
    kernel.registry.forget()
    failures = kernel.loads.failures()
    return jsonify({"workers": [worker(card, failures) for card in kernel.registry.workers()]})


@workers.post("/models/<path:name>/load", summary="Load a model", responses={202: OrderAnswer})
def load_model(path: NamePath, body: LoadBody) -> Accepted:
    """Asks a worker to load the model, or tells who has it. `GET /models` shows how far it is."""
    kernel = here().kernel
    model = kernel.catalog.get(path.name).name
    nodes = kernel.orders.order(model, worker=body.worker, keep_alive=body.keep_alive)
    return _accepted(model, "loading", nodes)


@workers.delete("/models/<path:name>/load", summary="Cancel the load of a model", responses={202: OrderAnswer})
def cancel_load(path: NamePath) -> Accepted:
    """Ends the load; what waits for the model fails with `load_cancelled`."""
    kernel = here().kernel
    model = kernel.catalog.get(path.name).name
    return _accepted(model, "cancelling", kernel.orders.cancel(model))


@workers.post("/models/<path:name>/unload", summary="Unload a model", responses={202: OrderAnswer})
def unload_model(path: NamePath, body: UnloadBody) -> Accepted:
    """Gives its memory back once the jobs that run have finished; with `force` they go back to the queue.

    Jobs in the queue bring it back.
    """
    kernel = here().kernel
    model = kernel.catalog.get(path.name).name
    return _accepted(model, "unloading", kernel.orders.unload(model, worker=body.worker, force=body.force))


@workers.post("/models/<path:name>/reload", summary="Reload a model", responses={202: OrderAnswer})
def reload_model(path: NamePath) -> Accepted:
    """Loads it anew wherever it is, after the jobs that run; ends its cooldown."""
    kernel = here().kernel
    model = kernel.catalog.get(path.name).name
    return _accepted(model, "reloading", kernel.orders.reload(model))


@workers.put("/models/<path:name>/devices", summary="Bind a model to devices", responses={200: BoundAnswer})
def bind_model(path: NamePath, body: DevicesBody) -> Response:
    """From now on it is loaded on these devices alone; an empty list lets it go anywhere."""
    kernel = here().kernel
    model = kernel.catalog.configure(path.name, devices=body.devices).name
    moved = kernel.orders.move(model, body.devices)
    return jsonify({"model": model, "devices": body.devices, "unloading": moved})


@workers.put(
    "/models/<path:name>/keep_alive", summary="Say how long a model stays without work", responses={200: KeptAnswer}
)
def keep_model(path: NamePath, body: KeepAliveBody) -> Response:
    """Seconds, or a text such as "5m"; -1 pins it, 0 unloads it after each answer, null is the setting's."""
    kernel = here().kernel
    model = kernel.catalog.configure(path.name, keep_alive=body.keep_alive).name
    effective = kernel.settings.keep_alive if body.keep_alive is None else body.keep_alive
    kernel.orders.keep(model, effective, pinned=body.keep_alive is not None)
    return jsonify({"model": model, "keep_alive": body.keep_alive})


@workers.put(
    "/models/<path:name>/engine_options", summary="Say how engines run a model", responses={200: OptionsAnswer}
)
def set_engine_options(path: NamePath, body: EngineOptionsBody) -> Response:
    """Replaces all of them. Whoever holds the model loads it anew, after the jobs that run."""
    kernel = here().kernel
    model = kernel.catalog.get(path.name)
    options = engine_options.check(model.format, body.engine_options)
    engine_options.refuse_here(options, placement.allowed(kernel.registry.workers(), model.devices))
    for folder in options.get("lora_adapters", {}).values():
        locate(kernel.settings, folder, keyed=identity().keyed)
    if "speculative_model" in options:
        options["speculative_model"] = kernel.catalog.get(options["speculative_model"]).name
    kernel.catalog.configure(model.name, engine_options=options)
    kernel.loads.arrived(model.name)
    return jsonify({"model": model.name, "engine_options": options})


@workers.post("/debug/clear-cooldown", summary="End cooldowns", responses={200: ClearedAnswer})
def clear_cooldown(body: ClearBody) -> Response:
    """Lets a model that could not be loaded be tried again, or all of them."""
    return jsonify({"status": "cleared", "models": here().kernel.loads.forgive(body.model)})


def _accepted(model: str, status: str, nodes: list[str]) -> Accepted:
    return jsonify({"status": status if nodes else "nothing to do", "model": model, "workers": nodes}), 202
