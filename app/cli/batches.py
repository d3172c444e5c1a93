"""`tokenyard batch`: a file of requests, over the API's OpenAI dialect."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.words import AsJson, connect, dump, err, out, table

if TYPE_CHECKING:
    from app.cli.client import Client

batches = typer.Typer(help="Run files of requests (JSONL, as OpenAI's batches have them).", no_args_is_help=True)
OVER = frozenset({"completed", "failed", "expired", "cancelled"})


@batches.command()
def submit(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    window: Annotated[str, typer.Option(help="How long it may take: 30m, 24h, 7d.")] = "24h",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload FILE and run each of its lines: {"custom_id", "method": "POST", "url", "body"}."""
    client = connect()
    endpoint = _endpoint(file)
    with file.open("rb") as source:
        uploaded = client.upload("/v1/files", file.name, source, purpose="batch")
    body = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": window}
    _show(_wait(client, client.post("/v1/batches", body), wait), as_json)


def _endpoint(file: Path) -> str:
    """The route that the first line names: all lines have the same. Raises CommandError."""
    from app.cli.client import CommandError

    with file.open("rb") as source:
        line = next((line for line in source if line.strip()), b"")
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError):
        raise CommandError(
            f'{file}: the first line is no request. Each is {{"custom_id", "method": "POST", '
            '"url": "/v1/chat/completions", "body": {…}}.'
        ) from None


@batches.command()
def status(
    batch: str,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until it ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a batch stands. 1 when it failed."""
    client = connect()
    _show(_wait(client, client.get(f"/v1/batches/{batch}"), wait), as_json)


@batches.command("list")
def list_(as_json: AsJson = False) -> None:
    """List batches, newest first."""
    page = connect().get("/v1/batches", limit=100)["data"]
    if as_json:
        return dump(page)
    out.print(table("ID", "STATUS", "LINES", "DONE", "FAILED", rows=[_row(batch) for batch in page]))


@batches.command()
def cancel(batch: str, as_json: AsJson = False) -> None:
    """End a batch. Lines that have ended keep their results."""
    _show(connect().post(f"/v1/batches/{batch}/cancel"), as_json)


@batches.command()
def results(
    batch: str,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; without one, stdout.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="The lines that failed instead.")] = False,
) -> None:
    """Print a batch's results, a JSON object a line."""
    from app.cli.client import LATER, CommandError

    client = connect()
    found = client.get(f"/v1/batches/{batch}")
    if found["status"] not in OVER:
        raise CommandError(
            f"The batch is {found['status']}. Wait for it: tokenyard batch status -w {batch}", exit_code=LATER
        )
    file = found["error_file_id" if errors else "output_file_id"]
    if file is None:
        return err.print("No line failed." if errors else "No line succeeded.")
    if output is None:
        for block in client.download(f"/v1/files/{file}/content"):
            typer.echo(block, nl=False)
        return None
    partial = output.with_name(f"{output.name}.partial")
    with partial.open("wb") as target:
        target.writelines(client.download(f"/v1/files/{file}/content"))
    partial.replace(output)
    return err.print(f"Wrote {output}.")


def _wait(client: "Client", batch: dict[str, Any], wait: bool) -> dict[str, Any]:
    while wait and batch["status"] not in OVER:
        time.sleep(1)
        batch = client.get(f"/v1/batches/{batch['id']}")
    return batch


def _show(batch: dict[str, Any], as_json: bool) -> None:
    if as_json:
        dump(batch)
    else:
        counts = batch["request_counts"]
        how = f"{counts['completed']} of {counts['total']} done, {counts['failed']} failed"
        out.print(f"{batch['id']}: {batch['status']}, {how}")
        for fault in (batch["errors"] or {"data": []})["data"][:10]:
            err.print(f"  line {fault['line']}: {fault['message']}")
    if batch["status"] == "failed":
        raise typer.Exit(1)


def _row(batch: dict[str, Any]) -> tuple[Any, ...]:
    counts = batch["request_counts"]
    return batch["id"], batch["status"], counts["total"], counts["completed"], counts["failed"]
