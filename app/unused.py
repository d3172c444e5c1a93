"""What structlog, redis, kombu and tenacity import wherever it is installed, and nothing here uses."""

import sys

NAMES = ("opentelemetry", "rich", "tornado", "yaml")


def hide() -> None:
    """Lets a process import them as if they were not installed: some 8 MB of the web process."""
    sys.modules |= dict.fromkeys(NAMES)  # type: ignore[arg-type]  # None is how Python says that
