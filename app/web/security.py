"""Who may ask: the API key."""

import hmac

from flask import Flask, request

from app.errors import NotAllowedError
from app.settings import Settings

#: Answered without an API key: what a balancer and a client's probe ask, and the API's description, which is public
#: anyway: a browser can open it, and its page then asks for the key.
OPEN = frozenset({"/", "/health/live", "/health/ready", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/docs/", "/console/")


class Guard:
    """The rules of one site."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None

    def check(self) -> None:
        """Raises NotAllowedError."""
        if self._key is None or _is_open(request.path) or request.method == "OPTIONS":
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise NotAllowedError("unauthorized", "Send the API key as 'Authorization: Bearer <key>'.")


def register(app: Flask, settings: Settings) -> None:
    """Guards every request of the application."""
    app.before_request(Guard(settings).check)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)
