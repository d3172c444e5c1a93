"""Who may ask what: the one place that turns a request into an identity, and holds it against the route's declaration.

A route that declares nothing is for users and operators. `needs` says otherwise, on a route or on a whole blueprint.
"""

import functools
import hmac
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar

from flask import Flask, Response, current_app, g, has_request_context, request

from app.apikeys import Identity, Proof, Role
from app.errors import KeyEndedError, NotAllowedError, TooManyRequestsError, UnavailableError
from app.kernel import Kernel
from app.keyring import Keyring
from app.logins import csrf
from app.rates import Rate
from app.stock import Model
from app.web.door import SAFE

T = TypeVar("T")

COOKIE = "tokenyard_session"
CSRF_HEADER = "X-CSRF-Token"
_KEY = "tokenyard_gate"
#: What proxies write: a request with one of these came from elsewhere, though it arrives from this machine.
_FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
_NO_KEY = "Send the API key as 'Authorization: Bearer <key>'."
_PROXIED = (
    "This came through a proxy, and without a key only this machine is served. Make one on the server, and send it: "
    "tokenyard keys create NAME --role operator"
)


class Access(Enum):
    """Who may use a route."""

    OPEN = frozenset[Role]()  #: everybody, without a key
    ANY = frozenset(Role)  #: whoever has a key
    USERS = frozenset({Role.USER, Role.OPERATOR})  #: what is not declared
    OPERATORS = frozenset({Role.OPERATOR})
    MONITORS = frozenset({Role.MONITOR, Role.OPERATOR})


def needs(access: Access) -> Callable[[T], T]:
    """Declares who may use a blueprint, or a handler (below its route)."""

    def declare(thing: T) -> T:
        thing.access = access  # type: ignore[attr-defined]  # both take attributes
        return thing

    return declare


def identity() -> Identity:
    """Whoever sent the request at hand. Raises NotAllowedError on a socket that has not said yet."""
    if not has_request_context():
        return Identity()
    found: Identity | None = g.get("identity")
    if found is None:
        raise NotAllowedError("unauthorized", _NO_KEY)
    return found


def quota(who: Identity) -> int:
    """The bytes that the files of whoever asks may take together."""
    files: int = current_app.extensions[_KEY].files_quota
    return files if who.files_quota is None else who.files_quota


def for_operators(value: T) -> T | None:
    """The same, where an operator asks."""
    return identity().told(value)


def permitted(model: Model) -> Model:
    """The same, where whoever asks may use it. Raises NotAllowedError."""
    identity().check_model(model.name)
    return model


def usable(models: Iterable[Model]) -> list[Model]:
    """Those that whoever asks may use."""
    who = identity()
    return [model for model in models if who.may_use(model.name)]


class Gate:
    """The doorkeeper of one site."""

    def __init__(self, kernel: Kernel) -> None:
        self._logins = kernel.logins
        self._rates = kernel.rates
        self.files_quota = kernel.settings.files_quota
        self._ring = Keyring(kernel.api_keys.known, kernel.settings, kernel.clock)

    def admit(self) -> None:
        """Lets the request at hand in. Raises NotAllowedError, UnavailableError."""
        access = _access()
        if access is Access.OPEN or request.method == "OPTIONS":
            return
        proof = self._shown()
        found = self._ring.identify(proof)
        if found is None and proof is None and _is_socket():
            return  # it has a moment to say who it is
        who = self._take(found, proof, access)
        if request.method == "POST" and access is not Access.ANY:
            self.spend(who)

    def spend(self, who: Identity) -> None:
        """Counts a request that asks for something. Raises TooManyRequestsError."""
        if who.requests_per_minute is None:
            return
        try:
            g.rate = self._rates.spend(who.tenant, who.requests_per_minute)
        except TooManyRequestsError as error:
            g.rate = Rate(error.limit, 0, error.retry_after or 1)
            raise

    def shows(self) -> bool:
        """Whether an open route is asked by somebody who is known."""
        return self._ring.identify(self._shown(checked=False)) is not None

    def take_key(self, key: str) -> Identity:
        """Lets in whoever's key came in the request itself. Raises NotAllowedError, UnavailableError."""
        proof, access = Proof.of(key), _access()
        g.pop("session", None)  # the cookie that a socket came with stands for somebody else from now on
        return self._take(self._ring.identify(proof), proof, Access.ANY if access is Access.OPEN else access)

    def renew(self) -> None:
        """Asks again, on a connection that stays. Raises NotAllowedError, UnavailableError."""
        proof: Proof | None = g.get("proof")
        if "session" in g:
            with suppress(UnavailableError):  # the key still has to hold
                proof = self._logins.find(g.session)
        found = self._ring.identify(proof)
        if found is None and g.pop("identity", None) is not None:
            raise KeyEndedError
        self._take(found, proof, Access.USERS)

    def watch(self) -> Callable[[], bool]:
        """For an answer that takes its time: what tells, from anywhere, whether its request would still be let in."""
        proof, word = g.get("proof"), g.get("session")

        def still() -> bool:
            with suppress(UnavailableError):  # the key still has to hold
                if word is not None and self._logins.find(word) is None:
                    return False
            return self._ring.still(proof)

        return still

    def _take(self, found: Identity | None, proof: Proof | None, access: Access) -> Identity:
        if found is not None and not found.keyed and any(name in request.headers for name in _FORWARDED):
            raise NotAllowedError("unauthorized", _PROXIED)
        if found is None:
            g.pop("identity", None)
            raise NotAllowedError("unauthorized", _NO_KEY if proof is None else "This API key is not known here.")
        if found.role not in access.value:
            raise NotAllowedError(
                "forbidden", f"This needs a key of the role {_or(access.value)}; yours is one of {found.role}."
            )
        g.identity, g.proof = found, proof
        return found

    def _shown(self, *, checked: bool = True) -> Proof | None:
        """The key of the header, or else the one behind the cookie. Raises NotAllowedError."""
        given = request.headers.get("Authorization")
        if given is not None:
            scheme, _, key = given.partition(" ")
            return Proof.of(key.strip() if scheme.lower() == "bearer" else "")
        word = request.cookies.get(COOKIE) if g.get("own", True) else None
        proof = self._logins.find(word) if word else None
        if word and proof is not None:
            g.session = word
            if checked and request.method not in SAFE and not _is_equal(request.headers.get(CSRF_HEADER), csrf(word)):
                raise NotAllowedError(
                    "bad_csrf", f"Send what GET /me tells as `csrf` in the header {CSRF_HEADER}, or an API key."
                )
        return proof


def gate() -> Gate:
    """The site's."""
    found: Gate = current_app.extensions[_KEY]
    return found


def register(app: Flask, kernel: Kernel) -> None:
    """Puts the doorkeeper at every route."""
    app.extensions[_KEY] = Gate(kernel)
    app.before_request(app.extensions[_KEY].admit)
    app.after_request(_tell_rate)


def _tell_rate(response: Response) -> Response:
    """OpenAI's names: https://platform.openai.com/docs/guides/rate-limits."""
    rate: Rate | None = g.get("rate")
    if rate is not None:
        told = {"limit": rate.limit, "remaining": rate.remaining, "reset": f"{rate.reset}s"}
        response.headers.update({f"x-ratelimit-{name}-requests": str(value) for name, value in told.items()})
    return response


def _access() -> Access:
    """What the route at hand declares. What leads nowhere is told to whoever has a key."""
    endpoint = request.endpoint
    return Access.ANY if endpoint is None or request.routing_exception is not None else _declared(endpoint)


@functools.cache  # of some hundred endpoints, which are the same for every application of a process
def _declared(endpoint: str) -> Access:
    view: Any = current_app.view_functions[endpoint]
    blueprint: Any = current_app.blueprints.get(endpoint.rpartition(".")[0])
    declared: Access = getattr(view, "access", None) or getattr(blueprint, "access", None) or Access.USERS
    return declared


def _is_socket() -> bool:
    return request.path == "/ws" and request.headers.get("Upgrade", "").lower() == "websocket"


def _is_equal(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _or(roles: Iterable[Role]) -> str:
    return " or ".join(sorted(roles))
