"""Flower's configuration (the Procfile's `--conf`), and who may press its buttons.

With API_KEY set, Flower asks for it: user `tokenyard`, the key as password. Without one it is open to this machine, as
the API is. Flower then keeps its buttons shut, or opens them to the pages of every site; neither will do, so the rules
of our own API stand in: no page of another origin may press one, under whatever name it reaches this machine.
"""

import ipaddress
from urllib.parse import urlsplit

import tornado.web
from flower.views import BaseHandler

from app.settings import load

_settings = load()

# Names that Flower reads out of this file.
address = "127.0.0.1"
port = _settings.flower_port or 5555
basic_auth = [f"tokenyard:{_settings.api_key.get_secret_value()}"] if _settings.api_key else []


def _is_here(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_origin(handler: tornado.web.RequestHandler) -> None:
    """Raises HTTPError. Tornado asks before each request that may change something."""
    headers, host = handler.request.headers, handler.request.host
    origin = headers.get("Origin")
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != host):
        raise tornado.web.HTTPError(403, "A page of another origin may not do this.")
    if not _is_here(urlsplit(f"//{host}").hostname):
        raise tornado.web.HTTPError(403, "Flower is reached as 127.0.0.1 or localhost alone.")


def _harmless_headers(handler: tornado.web.RequestHandler) -> None:
    handler.set_header("X-Content-Type-Options", "nosniff")


if not basic_auth:
    BaseHandler.unauthenticated_api = True
    BaseHandler.check_xsrf_cookie = _check_origin
    BaseHandler.set_default_headers = _harmless_headers
