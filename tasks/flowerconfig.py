"""Flower's configuration (the Procfile's `--conf`): on loopback, behind a password that the first start makes.

With a password, Flower itself refuses what a page of another origin sends, and a name that is pointed at this machine
helps nobody: the browser knows no password under that name.
"""

import tornado.web
from flower.views.monitor import Metrics

from app import secrets
from app.settings import load

_settings = load()

# Names that Flower reads out of this file.
address = "127.0.0.1"
port = _settings.flower_port or 5555
basic_auth = [f"tokenyard:{secrets.made(_settings.secrets_dir / 'flower')}"]

# The one page that Flower leaves open. It names workers, and /metrics of the API tells more.
Metrics.get = tornado.web.authenticated(Metrics.get)
