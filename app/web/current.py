"""What one web process serves with, and how a handler reaches it."""

import time
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from app.kernel import Kernel
from app.web.hub import Hub

KEY = "tokenyard"


@dataclass(frozen=True, slots=True)
class Site:
    """The kernel, the hub, and when the process started (by time.monotonic())."""

    kernel: Kernel
    hub: Hub
    started: float = field(default_factory=time.monotonic)


def here() -> Site:
    """The site of the request at hand."""
    return cast(Site, current_app.extensions[KEY])
