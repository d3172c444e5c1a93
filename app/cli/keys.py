"""`tokenyard keys`: API keys, in the database itself, so that the first one can be made before anything runs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import settings
from app.cli.words import AsJson, dump, err, out, table

if TYPE_CHECKING:
    from app.apikeys import ApiKeys
    from app.models import ApiKey

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@contextmanager
def _keys() -> Iterator["ApiKeys"]:
    from app.apikeys import ApiKeys
    from app.cli.migrate import migrate
    from app.clock import Clock
    from app.database import Database

    ours = settings.load()
    migrate(ours)
    with closing(Database(ours.database_url)) as database:
        yield ApiKeys(database, Clock())


@keys.command()
def create(
    name: str,
    role: Annotated[str, typer.Option(help="user, operator or monitor.")] = "user",
    expires: Annotated[str | None, typer.Option(help="How long it works: 12h, 90d.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Further ones get 429.")] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Jobs at once; the others wait in the queue.")] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="Jobs that wait; further ones get 429.")] = None,
    files_quota: Annotated[
        str | None, typer.Option(help="What its uploaded files may take together, such as 2GB; else FILES_QUOTA.")
    ] = None,
    top_priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="The most urgent one of its jobs; else 5, and 0 for an operator.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use, by any of its names; give it again for more.")
    ] = None,
    again: Annotated[bool, typer.Option(help="A further key for the tenant of this name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key for NAME and print it, this once. What it makes belongs to NAME."""
    from app.apikeys import Role
    from app.durations import seconds_of
    from app.errors import InvalidRequestError

    try:
        chosen, seconds = Role(role), None if expires is None else seconds_of(expires)
    except ValueError as error:
        raise InvalidRequestError(f"--role is {', '.join(Role)}; --expires such as 12h, 90d ({error}).") from None
    if seconds is not None and seconds <= 0:
        raise InvalidRequestError("--expires is how long the key works: 12h, 90d.")
    may: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "max_running": max_running,
        "max_queued": max_queued,
        "files_quota": None if files_quota is None else _bytes(files_quota),
        "top_priority": top_priority,
        "models": model or [],
    }
    with _keys() as table_of_keys:
        key = table_of_keys.create(name, chosen, again=again, expires_in=seconds, **may)
    if as_json:
        return dump({"name": name, "role": chosen.value, "key": key})
    out.print(key)
    err.print("It is shown this once. Send it as: Authorization: Bearer …")


def _bytes(said: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from app.errors import InvalidRequestError

    try:
        return int(TypeAdapter(ByteSize).validate_python(said))
    except ValidationError:
        raise InvalidRequestError("--files-quota is a number of bytes, such as 500MB or 2GB.") from None


@keys.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every key that was made; none of them can be shown again."""
    import time

    with _keys() as table_of_keys:
        rows = [_show(row, time.time()) for row in table_of_keys.all()]
    if as_json:
        return dump({"keys": rows})
    columns = ("id", "name", "role", "state", "created_at", "expires_at", "may")
    out.print(table(*(column.upper() for column in columns), rows=(tuple(row[c] for c in columns) for row in rows)))


def _show(row: "ApiKey", now: float) -> dict[str, Any]:
    from app.apikeys import holds

    limits = {
        "requests per minute": row.requests_per_minute,
        "running": row.max_running,
        "queued": row.max_queued,
        "bytes of files": row.files_quota,
        "priority": row.top_priority or None,
        "models": ", ".join(row.models) or None,
    }
    state = "works" if holds(row, now) else "revoked" if row.revoked_at is not None else "expired"
    may = "; ".join(f"{what}: {value}" for what, value in limits.items() if value is not None)
    shown = {"id": row.id, "name": row.name, "role": row.role, "state": state, "may": may or "all"}
    return shown | {"created_at": _day(row.created_at), "expires_at": _day(row.expires_at)}


def _day(seconds: float | None) -> str | None:
    import time

    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@keys.command()
def revoke(key: Annotated[str, typer.Argument(help="A key's id, or a name: then all keys of that name.")]) -> None:
    """End a key. It works nowhere any more within two seconds; its jobs stay, and run on."""
    with _keys() as table_of_keys:
        count = table_of_keys.revoke(key)
    out.print(f"Revoked {count} {'key' if count == 1 else 'keys'}.")
