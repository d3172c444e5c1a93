"""One model: what is known of it, and how it goes. And what would be worth having here."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import psutil
import structlog
from flask import Response, jsonify
from pydantic import Field

from app import imports
from app.catalog import SCRIPTED
from app.disk import delete_files, is_here
from app.errors import Failure, InvalidRequestError, NotDeletedError, NotFoundError
from app.examine import facts_of
from app.fit import verdict
from app.jobs import State
from app.kernel import Kernel
from app.logs import later
from app.registry import Card
from app.stock import Model
from app.suggested import Suggestion, suggestions
from app.web.access import Access, for_operators, identity, needs, permitted, usable
from app.web.answers import blueprint
from app.web.current import here
from app.web.fleet_answers import ModelsAnswer
from app.web.job_answers import PullAnswer
from app.web.offload import offload
from app.web.residence import fleet, residence
from app.web.schemas import ModelName, NamePath, PullBody, Quantize, Strict
from app.web.stock_answers import ModelAnswer, RemovedAnswer, ScanAnswer, ScanAskedAnswer, SuggestedAnswer
from app.web.submit import submit_pull
from app.web.views import iso

log = structlog.get_logger(__name__)

stock = blueprint("library", "models", "What this machine can run.")

_OF_FILES = ("architecture", "family", "task", "parameters", "context", "dtype", "quantization", "template", "licence")


class ScanQuery(Strict):
    """How to look."""

    unhide: bool = Field(False, description="Also lists again what was removed from the list while its files stayed.")


class ImportBody(Strict):
    """What to import."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
    name: ModelName | None = Field(None, description="Without one, the folder's or the file's own.")
    own: bool = Field(False, alias="copy", description="Copies the files into DATA_DIR first.")
    quantize: Quantize = "auto"


class RemoveQuery(Strict):
    """How sure the caller is."""

    force: bool = Field(False, description="Ends the model's open jobs, and unloads it, first.")


@stock.get("/models", summary="List models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """Every model on this machine that the key may use, and which workers hold it."""
    kernel = here().kernel
    cards, failures = fleet(kernel)
    aliases, models = kernel.aliases.of_models(), usable(kernel.catalog.models())
    return jsonify({"models": [_row(model, aliases) | residence(model, cards, failures) for model in models]})


def _row(model: Model, aliases: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "model": model.name,
        "state": model.state,
        "size_bytes": model.size_bytes,
        "local_path": for_operators(model.path),
        "aliases": aliases.get(model.name, []),
    }


@stock.post("/pull", summary="Download a model", responses={202: PullAnswer})
@needs(Access.OPERATORS)
def create_pull(body: PullBody) -> tuple[Response, int]:
    """Accepts the download; `GET /jobs/{job_id}` shows its progress."""
    return jsonify({"status": "accepted", "job_id": submit_pull(here().kernel, body).id}), 202


@stock.get("/models/suggested", summary="Suggest models", responses={200: SuggestedAnswer})
def suggest_models() -> Response:
    """Current models under their short names: which fit this machine, and which are here already."""
    kernel = here().kernel
    memory = _memory(fleet(kernel)[0])
    here_now = {model.name for model in usable(kernel.catalog.models())}
    return jsonify({"models": [_suggestion(entry, memory, here_now) for entry in suggestions()]})


@stock.post("/models/scan", summary="Look for models", responses={202: ScanAskedAnswer})
@needs(Access.OPERATORS)
def start_scan(query: ScanQuery) -> tuple[Response, int]:
    """Has the keeper look at the disk: what is gone, and what other tools have put there. GET tells its end."""
    here().kernel.scans.ask(unhide=query.unhide)
    return jsonify({"status": "accepted"}), 202


@stock.get("/models/scan", summary="Show the last look for models", responses={200: ScanAnswer})
@needs(Access.OPERATORS)
def show_scan() -> Response:
    """What it found, and what it left out and why."""
    report = here().kernel.scans.last()
    if report is None:
        raise NotFoundError("No scan has been made yet: POST /models/scan begins one.")
    shown: dict[str, Any] = msgspec.to_builtins(report)
    return jsonify(shown | {"started_at": iso(report.started_at), "finished_at": iso(report.finished_at)})


@stock.post("/models/import", summary="Import a model", responses={201: ModelAnswer})
@needs(Access.OPERATORS)
def import_model(body: ImportBody) -> tuple[Response, int]:
    """Lists a folder or a GGUF file that lies on this machine, where it is; with `copy` as a copy of our own."""
    kernel = here().kernel
    path = imports.locate(kernel.settings, body.path, keyed=identity().keyed)
    name = imports.name_for(path, body.name)
    imports.refuse_taken(kernel.catalog, name, path)
    facts = facts_of(path)
    imports.check_files(kernel.settings, path, facts, keyed=identity().keyed)
    if body.own:
        path = offload(imports.copied, kernel.settings, name, path, facts)
    return _show(kernel, imports.register(kernel.catalog, name, path, facts, quantize=body.quantize)), 201


@stock.get("/models/<path:name>", summary="Show a model", responses={200: ModelAnswer})
def show_model(path: NamePath) -> Response:
    """What its own files say of it, and whether it fits this machine."""
    kernel = here().kernel
    return _show(kernel, permitted(kernel.catalog.find(path.name)))


@stock.delete("/models/<path:name>", summary="Remove a model", responses={200: RemovedAnswer})
@needs(Access.OPERATORS)
def remove_model(path: NamePath, query: RemoveQuery) -> Response:
    """Forgets a model that no open job needs. Deletes what Tokenyard fetched or made of it, and nothing else."""
    model, deleted = remove(here().kernel, path.name, force=query.force)
    return jsonify({"status": "removed", "model": model, "files_deleted": deleted})


def remove(kernel: Kernel, name: str, *, force: bool = False) -> tuple[str, Any]:
    """Removes a model; returns its own name, and what was deleted.

    Raises ModelNotFoundError, ModelInUseError, InvalidRequestError, NotDeletedError.
    """
    model = kernel.catalog.find(name)
    if model.format == SCRIPTED:
        raise InvalidRequestError(f"Model '{model.name}' is built in; there is nothing to remove.", param="model")
    kernel.catalog.begin_removal(model.name, force=force)
    if force:
        _end_jobs(kernel, model.name)
    _unload(kernel, model.name, force=force)
    # From here on a crash loses nothing: the keeper goes on with what it finds half removed.
    try:
        deleted = offload(delete_files, model, kernel.catalog.rows(), kernel.settings)
    except OSError as error:
        raise NotDeletedError(model.name, error.strerror or "the disk refuses") from error
    kernel.catalog.end_removal(model.name, hide=offload(is_here, model))
    return model.name, deleted


def _show(kernel: Kernel, model: Model) -> Response:
    cards, failures = fleet(kernel)
    facts = model.facts
    shown = _row(model, kernel.aliases.of_models()) | residence(model, cards, failures)
    shown |= {
        "format": model.format,
        **{key: facts.get(key) for key in _OF_FILES},
        "files": facts.get("files", []),
        "kv_bytes_per_token": facts.get("kv_bytes"),
        "source": model.source,
        "repository": model.repo,
        "revision": model.revision,
        "created_at": iso(model.created_at),
        **verdict(model.size_bytes, _memory(cards), can_shrink=_can_shrink(model)),
    }
    return jsonify(shown)


def _end_jobs(kernel: Kernel, name: str) -> None:
    failure = Failure("model_removed", f"Model '{name}' was removed.")
    kernel.dispatcher.fail_waiting(name, failure)
    for status in (State.QUEUED, State.RUNNING):  # the queued ones that are left are pulls
        for detail in kernel.store.page(model=name, status=status, limit=1000):
            kernel.dispatcher.end(detail.job.id, State.CANCELLED)


def _unload(kernel: Kernel, name: str, *, force: bool) -> None:
    with later("not_unloaded", model=name):  # its memory comes back when another model needs the place
        kernel.orders.unload(name, force=force)


def _memory(cards: Sequence[Card]) -> int:
    """The most that one model may take, in bytes: what the largest device has, or this machine where nobody tells."""
    return max((card.memory_total for card in cards), default=0) or int(psutil.virtual_memory().total)


def _can_shrink(model: Model) -> bool:
    return model.format == "safetensors" and not model.facts.get("quantization")


def _suggestion(entry: Suggestion, memory: int, here_now: set[str]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "also": list(entry.also),
        "parameters": entry.parameters,
        # Under the hub's name, or under the one that Ollama gave it.
        "downloaded": [name for name in (*entry.targets, entry.name, *entry.also) if name in here_now],
        "gguf": {"model": entry.gguf, "size_bytes": entry.gguf_bytes, **verdict(entry.gguf_bytes, memory)},
        "safetensors": {
            "model": entry.safetensors,
            "size_bytes": entry.safetensors_bytes,
            **verdict(entry.safetensors_bytes, memory, can_shrink=True),
        },
    }
