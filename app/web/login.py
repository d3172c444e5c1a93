"""The console's login: a key for a cookie. docs/security.md has the contract."""

from pathlib import Path
from typing import Any

from flask import Response, g, jsonify, redirect, request, send_from_directory
from pydantic import BaseModel, Field
from werkzeug.wrappers import Response as AnyResponse

from app.apikeys import Identity
from app.errors import NotAllowedError
from app.logins import LASTS, csrf
from app.web import console
from app.web.access import COOKIE, Access, gate, identity, needs, quota
from app.web.answers import Answer, blueprint
from app.web.bodies import FORM
from app.web.current import here
from app.web.errors import translating

login = blueprint("login", "keys", "Who asks.")
OPEN: list[dict[str, list[str]]] = [{}]
_HTML: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}
_WRONG = {**_HTML, "application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
_FOLDER = Path(__file__).parent / "console" / "login"
_PAGE = (_FOLDER / "login.html").read_text()
_REFUSAL = '<p class="bad" role="alert">This key is not known here.</p>'


class LoginBody(BaseModel):
    """A key to log in with."""

    key: str = Field(min_length=1, max_length=1000)


class LimitsAnswer(Answer):
    """What a key may use; null is as much as there is, and no models are all."""

    requests_per_minute: int | None
    max_running: int | None
    max_queued: int | None
    files_quota: int
    top_priority: int
    models: list[str]


class LoginAnswer(Answer):
    """Who has logged in."""

    name: str
    role: str
    csrf: str


class MeAnswer(Answer):
    """Who asks."""

    name: str
    role: str
    csrf: str | None
    limits: LimitsAnswer


class LogoutAnswer(Answer):
    """The session is over."""

    status: str


@login.get("/login", summary="The login page", security=OPEN, responses={200: {"content": _HTML}})
@needs(Access.OPEN)
def show_login() -> Response:
    """It works without a script."""
    return _page()


@login.get("/login/login.css", doc_ui=False)
@needs(Access.OPEN)
def serve_login_style() -> Response:
    """The page's one asset."""
    return console.guarded(send_from_directory(_FOLDER, "login.css", max_age=0))


@login.post(
    "/login",
    summary="Log in",
    security=OPEN,
    responses={200: LoginAnswer, 303: {"content": _HTML}, 401: {"content": _WRONG}},
)
@needs(Access.OPEN)
def log_in() -> AnyResponse:
    """With `{"key"}` as JSON, or `key` of a form. The cookie is for browsers; programs send their key."""
    plain = request.mimetype == FORM
    with translating():
        body = LoginBody.model_validate(request.form.to_dict() if plain else request.get_json())
    try:
        who = gate().take_key(body.key.strip())
    except NotAllowedError:
        if not plain:
            raise
        return _page(_REFUSAL, 401)
    gate().spend(who)  # each session is kept for hours
    word = here().kernel.logins.begin(g.proof)
    answer = redirect("/", 303) if plain else jsonify({"name": who.tenant, "role": who.role, "csrf": csrf(word)})
    answer.set_cookie(COOKIE, word, max_age=LASTS, httponly=True, samesite="Strict", secure=request.is_secure)
    return answer


@login.post("/logout", summary="Log out", responses={200: LogoutAnswer})
@needs(Access.ANY)
def log_out() -> Response:
    """Ends the session of the cookie."""
    if "session" in g:
        here().kernel.logins.end(g.session)
    answer = jsonify({"status": "logged out"})
    answer.delete_cookie(COOKIE, httponly=True, samesite="Strict")
    return answer


@login.get("/me", summary="Who asks", responses={200: MeAnswer})
@needs(Access.ANY)
def show_me() -> Response:
    """The key's name, role and limits; `csrf` is what a page with the cookie sends with unsafe methods."""
    who = identity()
    word = g.get("session")
    return jsonify({"name": who.tenant, "role": who.role, "csrf": csrf(word) if word else None, "limits": _limits(who)})


def _limits(who: Identity) -> dict[str, object]:
    told = {name: getattr(who, name) for name in LimitsAnswer.model_fields}
    return told | {"models": list(who.models), "files_quota": quota(who)}


def _page(said: str = "", status: int = 200) -> Response:
    return console.guarded(Response(_PAGE.replace("<!-- said -->", said), status, mimetype="text/html"))
