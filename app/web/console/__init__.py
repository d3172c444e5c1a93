"""The console: a page that speaks the public API alone, so that it is also the example for authors of frontends."""

from pathlib import Path

from flask import Blueprint, Flask, Response, send_from_directory

STATIC = Path(__file__).parent / "static"
#: Nothing but our own files runs or is asked; what a model says can neither load nor send anything.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

console = Blueprint("console", __name__, url_prefix="/console")


@console.get("/<name>")
def serve_asset(name: str) -> Response:
    """A script or a style."""
    return guarded(send_from_directory(STATIC, name, max_age=0))


def page() -> Response:
    """The one page."""
    return guarded(send_from_directory(STATIC, "index.html", max_age=0))


def guarded(response: Response) -> Response:
    """With what a browser is to hold against it."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    # Without any referrer, browsers send the login's form from an origin that they call null.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def register(app: Flask) -> None:
    """Serves /console; the front door leads browsers to the page."""
    app.register_blueprint(console)
