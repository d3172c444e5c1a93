"""The verbs that belong to this machine's own stack, whether it runs or not."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from app import settings
from app.cli.words import AsJson

OWN = "This machine's stack"
Model = Annotated[str | None, typer.Argument(help="A model to unload; without one, the detached stack ends.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    verbs: list[Callable[..., None]] = [up, start, stop, status, migrate, starter, backup, doctor]
    for verb in verbs:
        app.command(rich_help_panel=OWN)(verb)
    app.command("import", rich_help_panel=OWN)(import_)
    for verb in (process, broker):  # the Procfile's, not people's
        app.command(hidden=True)(verb)


def up() -> None:
    """Run the whole stack in the foreground."""
    from app.cli.up import run

    raise typer.Exit(run(settings.load()))


def start() -> None:
    """Run the whole stack detached."""
    from app.cli.detached import start

    raise typer.Exit(start(settings.load()))


def stop(model: Model = None, force: Annotated[bool, typer.Option(help="Do not wait for its jobs.")] = False) -> None:
    """End the detached stack; or, with a MODEL, give that model's memory back."""
    if model is not None:
        from app.cli.stock import unload

        return unload(model, force=force)
    from app.cli.detached import stop

    raise typer.Exit(stop(settings.load()))


def status(as_json: AsJson = False) -> None:
    """Show the processes of the stack and their health."""
    from app.cli.detached import status

    raise typer.Exit(status(settings.load(), as_json=as_json))


def process(name: str) -> None:
    """Become one process of the Procfile, where something else supervises them; DEVICE names a worker's device."""
    from app.cli.procfile import become

    become(name)


def broker() -> None:
    """Become the embedded broker (the Procfile's line; `up` starts it)."""
    from app.cli.broker import serve

    serve(settings.load())


def migrate() -> None:
    """Bring the database to this version, after a backup."""
    from app.cli.migrate import migrate

    print(migrate(settings.load()))


def starter() -> None:
    """Make the starter models `smollm2` and `smollm2-bf16` available."""
    from app.cli.starter import BF16, add_bf16, add_starter, can_make_bf16

    ours = settings.load()
    print(add_starter(ours))
    if can_make_bf16(ours):
        print(add_bf16(ours))
    else:
        print(f"{BF16} needs torch and transformers, which are not installed. First: make engines")


def import_(path: Path, name: str = typer.Argument(""), copy: bool = False) -> None:
    """Make a model that lies on this machine available: a folder of safetensors, or a GGUF file."""
    from app.catalog import Catalog
    from app.database import Database
    from app.imports import import_model

    ours = settings.load()
    with closing(Database(ours.database_url)) as database:
        catalog = Catalog(database, node=ours.store_node)
        own = import_model(ours, catalog, path.expanduser().absolute(), name or None, copy=copy)
    print(f"The model {own} is ready.")


def backup(
    target: Annotated[
        Path | None, typer.Argument(help="A file to write; without one, a dated one in DATA_DIR.")
    ] = None,
) -> None:
    """Copy the database while it is in use, and say how to restore it."""
    from app.cli.backup import run

    print(run(settings.load(), target))


def doctor(as_json: AsJson = False) -> None:
    """Look at all that a stack needs here, and say what to do about what is wrong. 1 when something is broken."""
    from app.cli.doctor import run

    raise typer.Exit(run(as_json=as_json))
