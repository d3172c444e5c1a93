"""The `tokenyard` command. Each verb imports what it needs when it runs, so that all of them start at once."""

import os
import sys
from pathlib import Path

import typer

from app import settings
from app.errors import TokenyardError

app = typer.Typer(help="Language models on your own machines, as a durable queue.", no_args_is_help=True)


@app.command()
def up() -> None:
    """Run the whole stack in the foreground."""
    from app.cli.up import run

    raise typer.Exit(run(settings.load()))


@app.command()
def start() -> None:
    """Run the whole stack detached."""
    from app.cli.detached import start

    raise typer.Exit(start(settings.load()))


@app.command()
def stop() -> None:
    """End the detached stack."""
    from app.cli.detached import stop

    raise typer.Exit(stop(settings.load()))


@app.command()
def status() -> None:
    """Show the processes of the stack and their health."""
    from app.cli.detached import status

    raise typer.Exit(status(settings.load()))


@app.command()
def logs() -> None:
    """Follow the logs of every process."""
    from app.cli.detached import logs

    logs(settings.load())


@app.command()
def process(name: str) -> None:
    """Become one process of the Procfile, where something else supervises them; DEVICE names a worker's device."""
    from app.cli.procfile import become

    become(name)


@app.command()
def broker() -> None:
    """Become the embedded broker (the Procfile's line; `up` starts it)."""
    from app.cli.broker import serve

    serve(settings.load())


@app.command()
def migrate() -> None:
    """Bring the database to this version, after a backup."""
    from app.cli.migrate import migrate

    print(migrate(settings.load()))


@app.command()
def starter() -> None:
    """Make the starter models `smollm2` and `smollm2-bf16` available."""
    from app.cli.starter import BF16, add_bf16, add_starter, can_make_bf16

    ours = settings.load()
    print(add_starter(ours))
    if can_make_bf16(ours):
        print(add_bf16(ours))
    else:
        print(f"{BF16} needs torch and transformers, which are not installed. First: make engines")


@app.command("import")
def import_(path: Path, name: str = typer.Argument(""), copy: bool = False) -> None:
    """Make a model that lies on this machine available: a folder of safetensors, or a GGUF file."""
    from app.cli.importing import run

    print(run(settings.load(), path, name or None, copy=copy))


def main() -> None:
    """The entry point: an error that a user can mend is one line, not a traceback."""
    # The Procfile's programs are found beside this Python, wherever the shell looks first.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        app()
    except TokenyardError as error:
        sys.exit(f"tokenyard: {error.message}")
