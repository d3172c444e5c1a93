"""The web process: Flask, and nothing but Flask. It submits jobs and relays their events; it runs no model."""

import structlog
from flask import Flask
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from app.kernel import Kernel
from app.settings import Settings, load
from app.web import (
    access,
    aliases,
    answers,
    bodies,
    chat,
    console,
    described,
    door,
    errors,
    groups,
    health,
    jobs,
    login,
    metrics,
    nodes,
    observed,
    ollama,
    openai,
    queues,
    sessions,
    stock,
    tokens,
    workers,
    ws,
)
from app.web.current import KEY, Site
from app.web.hub import Hub
from app.web.offload import open_offloaded
from app.web.vitals import Vitals

log = structlog.get_logger(__name__)

VERSION = "0.1.0"


def create_app(settings: Settings | None = None, kernel: Kernel | None = None) -> Flask:
    """The application. Nothing is asked of the broker or the database until a request comes."""
    kernel = kernel or open_offloaded(settings or load())
    site = Site(kernel, Hub(kernel.bus))
    app = OpenAPI(
        __name__,
        info=Info(title="Tokenyard", version=VERSION, description="Serves language models on your own machines."),
        security_schemes={"api_key": {"type": "http", "scheme": "bearer"}},
        validation_error_status=400,
        validation_error_model=answers.ErrorAnswer,
        validation_error_callback=errors.on_invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.extensions[KEY] = site
    app.extensions[health.KEY] = Vitals(site)
    observed.register(app, audit=kernel.settings.audit_log)
    door.register(app, kernel.settings)
    access.register(app, kernel)
    bodies.register(app, kernel.settings)
    errors.register(app)
    models = (stock.stock, aliases.aliases, tokens.tokens)
    nouns = (sessions.sessions, workers.workers, nodes.nodes, queues.queues, metrics.metrics, login.login)
    for blueprint in (chat.chat, jobs.jobs, groups.groups, *models, *nouns, health.health):
        app.register_api(blueprint)
    openai.register(app)
    ollama.register(app)
    ws.register(app)
    console.register(app)
    described.register(app)
    return app
