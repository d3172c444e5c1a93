"""Health, for balancers and for people; and the front door."""

import platform
from importlib import metadata
from typing import Any, cast

from flask import Response, current_app, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app import secrets
from app.apikeys import Role
from app.web import console
from app.web.access import Access, gate, identity, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.errors import RETRY_AFTER
from app.web.health_answers import DiagAnswer, HealthAnswer, LiveAnswer, ReadyAnswer, StatusAnswer
from app.web.vitals import Vitals

KEY = "tokenyard_vitals"
PACKAGES = ("tokenyard", "celery", "redis", "sqlalchemy", "flask", "gunicorn", "gevent")

health = blueprint("health", "health", "How the machine is.")
#: The key is not needed.
OPEN: list[dict[str, list[Any]]] = [{}]
#: What the front door answers: text to a client, the console to a browser.
DOOR: dict[str | int, Any] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}}},
    302: {"content": {"text/html": {"schema": {"type": "string"}}}},
}


@health.get("/", summary="The front door", security=OPEN, responses=DOOR)
@needs(Access.OPEN)
def greet() -> AnyResponse:
    """A browser gets the console, or is led to the login; a client reads that a server of its kind runs."""
    if request.accept_mimetypes.best_match(["text/plain", "text/html"]) == "text/html":
        return console.page() if gate().shows() else redirect("/login")
    return Response("Ollama is running", mimetype="text/plain")


@health.get("/health", summary="How the site is", responses={200: HealthAnswer, 503: HealthAnswer})
def show_health() -> Response:
    """`degraded` while anything is missing; 503 without the broker or the database. Operators are told of workers and
    queues too."""
    facts = _vitals().facts()
    mine: dict[str, Any] = {} if identity().role is Role.OPERATOR else {"workers": [], "queues": {}}
    return _answer(facts | mine, ok=not facts["unavailable"])


@health.get("/health/live", summary="Is the process alive?", security=OPEN, responses={200: LiveAnswer})
@needs(Access.OPEN)
def show_live() -> Response:
    """Asks nothing of anybody."""
    return jsonify({"status": "alive"})


@health.get("/health/ready", summary="Can it answer?", responses={200: ReadyAnswer, 503: ReadyAnswer})
def show_ready() -> Response:
    """200 while jobs can be accepted, run and made up for: broker, database, disk, a worker, and the sweep are well."""
    facts = _vitals().facts()
    body = {"status": "not ready" if facts["unready"] else "ready", "reasons": facts["unready"]}
    return _answer(body, ok=not facts["unready"])


@health.get("/status", summary="Workers and queues", responses={200: StatusAnswer})
@needs(Access.OPERATORS)
def show_status() -> Response:
    """What runs where, and what waits."""
    return jsonify(_vitals().facts() | {"followers": here().hub.followers(), "version": version("tokenyard")})


@health.get("/diag", summary="Versions and settings", responses={200: DiagAnswer})
@needs(Access.OPERATORS)
def show_diag() -> Response:
    """What a report of a fault should carry. It holds no secret."""
    settings = here().kernel.settings.model_dump(mode="json", exclude={"api_key", "hf_token"})
    return jsonify(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: version(name) for name in PACKAGES},
            "settings": {
                name: secrets.without(value) if isinstance(value, str) else value for name, value in settings.items()
            },
            "health": _vitals().facts(),
        }
    )


def _vitals() -> Vitals:
    return cast(Vitals, current_app.extensions[KEY])


def _answer(body: dict[str, Any], *, ok: bool) -> Response:
    response = jsonify(body)
    if not ok:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
