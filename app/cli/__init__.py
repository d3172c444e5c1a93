"""The `tokenyard` command. Each verb imports what it needs when it runs, so that all of them start at once."""

import os
import sys
from pathlib import Path

import typer

from app.cli import admin, asks, batches, keys, stock, work
from app.errors import TokenyardError

app = typer.Typer(
    help="Language models on your own machines, as a durable queue.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
admin.register(app)
asks.register(app)
stock.register(app)
work.register(app)
app.add_typer(batches.batches, name="batch")
app.add_typer(keys.keys, name="keys", rich_help_panel=admin.OWN)


def main() -> None:
    """The entry point: an error that a user can mend is one line and an exit code, not a traceback."""
    # The Procfile's programs are found beside this Python, wherever the shell looks first.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        app()
    except TokenyardError as error:
        print(f"tokenyard: {error.message}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
