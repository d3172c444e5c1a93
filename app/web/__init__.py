"""The web process: Flask, and nothing but Flask. It submits jobs and relays their events; it runs no model."""

from typing import Any

import structlog
from flask import Flask, redirect
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin
from werkzeug.wrappers import Response

from app.kernel import Kernel
from app.settings import Settings, load
from app.web import bodies, chat, errors, health, jobs, model_routes, ollama, openai, pulls, security, ws
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
        validation_error_callback=errors.on_invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.json = bodies.Provider(app)
    app.extensions[KEY] = site
    app.extensions[health.KEY] = Vitals(site)
    security.register(app, kernel.settings)
    errors.register(app)
    for blueprint in (chat.chat, jobs.jobs, pulls.pulls, model_routes.models, health.health):
        app.register_api(blueprint)
    openai.register(app)
    ollama.register(app)
    ws.register(app)
    _serve_docs(app)
    return app


def _serve_docs(app: OpenAPI) -> None:
    """/openapi.json, and /docs with its assets from the plugin's package, so that it works without a network."""
    app.register_blueprint(RegisterPlugin.register(doc_url="../openapi.json"), url_prefix="/docs")

    @app.route("/openapi.json")
    def show_openapi() -> dict[str, Any]:
        return dict(app.api_doc)

    @app.route("/docs")
    def show_docs() -> Response:
        return redirect("/docs/swagger")
