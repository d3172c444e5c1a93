"""Aliases: further names for models, usable wherever a model is named."""

from typing import Any

from flask import Response, jsonify

from app.aliases import Named
from app.errors import ModelNotFoundError
from app.kernel import Kernel
from app.web.access import Access, identity, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.schemas import ModelName, NamePath, Strict
from app.web.stock_answers import AliasAnswer, AliasesAnswer, AliasRemovedAnswer

aliases = blueprint("aliases", "models", "What this machine can run.")


class AliasBody(Strict):
    """What an alias is to stand for."""

    model: ModelName


@aliases.get("/aliases", summary="List aliases", responses={200: AliasesAnswer})
def list_aliases() -> Response:
    """Those that people gave, and those that a scan found; GET /models/suggested has the shipped ones."""
    who = identity()
    return jsonify({"aliases": [_show(alias) for alias in here().kernel.aliases.all() if who.may_use(alias.model)]})


@aliases.get("/aliases/<path:name>", summary="Show an alias", responses={200: AliasAnswer})
def show_alias(path: NamePath) -> Response:
    """The model that it stands for."""
    alias = here().kernel.aliases.get(path.name)
    identity().check_model(alias.model)
    return jsonify(_show(alias))


@aliases.put("/aliases/<path:name>", summary="Name a model", responses={200: AliasAnswer})
@needs(Access.OPERATORS)
def put_alias(path: NamePath, body: AliasBody) -> Response:
    """From now on the name stands for the model; one that is still to pull is named in full. Jobs in the queue keep
    theirs."""
    kernel = here().kernel
    meant = kernel.catalog.resolve(body.model)
    if "/" not in meant and meant != path.name:  # else it may be a repository of the hub; and nothing is its own alias
        _find(kernel, body.model)
    return jsonify(_show(kernel.aliases.put(path.name, body.model)))


def _find(kernel: Kernel, name: str) -> None:
    try:
        kernel.catalog.find(name)
    except ModelNotFoundError as error:
        error.message += " To name one before it is pulled, write its whole name on the hub: owner/name."
        raise


@aliases.delete("/aliases/<path:name>", summary="Forget an alias", responses={200: AliasRemovedAnswer})
@needs(Access.OPERATORS)
def remove_alias(path: NamePath) -> Response:
    """The model stays."""
    here().kernel.aliases.remove(path.name)
    return jsonify({"status": "removed", "alias": path.name})


def _show(alias: Named) -> dict[str, Any]:
    return {"alias": alias.name, "model": alias.model, "downloaded": alias.here}
