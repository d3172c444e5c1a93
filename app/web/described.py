"""The API's description: /openapi.json from the handlers' own types, and the page that shows it."""

import secrets
from typing import Any

from flask import Response, g, redirect
from flask_openapi3.models.schema import Schema
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin
from flask_openapi3_swagger.templates import swagger_html_string
from werkzeug.wrappers import Response as AnyResponse

from app.web.answers import EVENTS

POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REFS = "#/components/schemas/{model}"


def register(app: OpenAPI) -> None:
    """/docs has its assets from the plugin's package, so that it works without a network."""
    for event in EVENTS:
        schema = event.model_json_schema(ref_template=_REFS, mode="serialization")
        named = schema.pop("$defs", {}) | {event.__name__: schema}
        app.components_schemas |= {name: Schema(**value) for name, value in named.items()}
    app.config["SWAGGER_HTML_STRING"] = swagger_html_string.replace("<script>", '<script nonce="{{ g.nonce }}">')
    pages = RegisterPlugin.register(doc_url="../openapi.json")
    pages.before_request(_prepare)
    pages.after_request(_guard)
    app.register_blueprint(pages, url_prefix="/docs")

    @app.route("/openapi.json")
    def show_openapi() -> dict[str, Any]:
        return dict(app.api_doc)

    @app.route("/docs")
    def show_docs() -> AnyResponse:
        return redirect("/docs/swagger")


def _prepare() -> None:
    g.nonce = secrets.token_urlsafe(16)


def _guard(response: Response) -> Response:
    """The plugin's page has one script of its own within it, and its library writes styles."""
    if "nonce" in g:  # else it was refused before
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=g.nonce)
    return response
