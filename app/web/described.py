"""The API's description: /openapi.json from the handlers' own types, and the page that shows it."""

from typing import Any

from flask import redirect
from flask_openapi3.models.schema import Schema
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin
from werkzeug.wrappers import Response

from app.web.answers import EVENTS

_REFS = "#/components/schemas/{model}"


def register(app: OpenAPI) -> None:
    """/docs has its assets from the plugin's package, so that it works without a network."""
    for event in EVENTS:
        schema = event.model_json_schema(ref_template=_REFS, mode="serialization")
        named = schema.pop("$defs", {}) | {event.__name__: schema}
        app.components_schemas |= {name: Schema(**value) for name, value in named.items()}
    app.register_blueprint(RegisterPlugin.register(doc_url="../openapi.json"), url_prefix="/docs")

    @app.route("/openapi.json")
    def show_openapi() -> dict[str, Any]:
        return dict(app.api_doc)

    @app.route("/docs")
    def show_docs() -> Response:
        return redirect("/docs/swagger")
