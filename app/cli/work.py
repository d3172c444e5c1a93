"""The verbs about jobs: jobs, logs, cancel, queues."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import settings
from app.cli.words import AsJson, ago, connect, dump, err, out, span, table

if TYPE_CHECKING:
    from app.cli.client import Client

JOBS = "Jobs"
OVER = frozenset({"succeeded", "failed", "cancelled", "timed_out"})


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    for verb in (jobs, logs, cancel, queues, nodes, drain):
        app.command(rich_help_panel=JOBS)(verb)


def jobs(
    job: Annotated[str | None, typer.Argument(help="One job, whole.")] = None,
    status: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed, cancelled, timed_out.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of one model.")] = None,
    kind: Annotated[str | None, typer.Option(help="generate, pull or embed.")] = None,
    group: Annotated[str | None, typer.Option(help="Of one group, or batch.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
    before: Annotated[str | None, typer.Option(help="The page behind this job.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first, or show one."""
    client = connect()
    if job is not None:
        shown = client.get(f"/jobs/{job}")
        return dump(shown) if as_json else _show_job(shown)
    chosen = {"status": status, "model": model, "kind": kind, "group": group, "before": before}
    page = client.get("/jobs", limit=limit, **chosen)
    if as_json:
        return dump(page)
    rows = [
        (j["id"], j.get("kind", "pull"), j["model"], j["status"], ago(j["created_at"]), _gist(j)) for j in page["jobs"]
    ]
    out.print(table("ID", "KIND", "MODEL", "STATUS", "CREATED", "", rows=rows))
    if page["next"]:
        err.print(f"More: --before {page['next']}")


def _gist(job: dict[str, Any]) -> str:
    error = job.get("error")
    if error:
        return str(error if isinstance(error, str) else error["code"])
    if "progress" in job:
        return f"{100 * job['progress']:.0f} %"
    return f"{job['eval_count']} tokens" if job.get("eval_count") else ""


def _show_job(job: dict[str, Any]) -> None:
    for key, value in job.items():
        if key not in ("request", "text", "choices", "traceback") and value not in (None, "", []):
            told = value["message"] if isinstance(value, dict) and "message" in value else value
            out.print(f"{key.replace('_', ' '):<22} {told}")
    if job.get("text"):
        out.print(f"\n{job['text']}")


def logs(
    job: Annotated[str | None, typer.Argument(help="Without one: the logs of the stack's processes.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job has ended.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only what comes behind this event.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print a job's answer, with -f as it comes; without a JOB, follow the logs of every process."""
    if job is None:
        from app.cli.detached import logs

        return logs(settings.load())
    client = connect()
    found = client.get(f"/jobs/{job}")
    if found["status"] not in OVER and not follow:
        dump(found) if as_json else err.print(f"The job is {found['status']}. Follow it: tokenyard logs -f {job}")
    elif as_json:
        _dump_events(client, job, after)
    else:
        _print_job(client, found, after)


def _dump_events(client: "Client", job: str, after: int) -> None:
    for event in client.follow(job, after):
        dump({"seq": event.seq, **event.data} if event.seq else event.data)


def _print_job(client: "Client", job: dict[str, Any], after: int) -> None:
    from app.cli.following import print_answer, show_bar

    if "downloaded_bytes" in job:
        ended = show_bar(client, job["id"])
        err.print(f"{ended['model']}: {ended['status']}")
    else:
        print_answer(client, job["id"], after=after)


def cancel(jobs: list[str], as_json: AsJson = False) -> None:
    """End jobs. What is over stays as it is."""
    client = connect()
    for job in jobs:
        told = client.delete(f"/jobs/{job}")
        dump(told) if as_json else out.print(f"{told['id']}: {_ending(told['status'])}")


def _ending(status: str) -> str:
    return "was asked to end" if status == "running" else status


def queues(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show it anew every second.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits and what runs, by model and priority."""
    client = connect()
    if not watch:
        told = client.get("/queues")
        return dump(told) if as_json else out.print(_queues(told))
    if as_json:
        while True:
            dump(client.get("/queues"))
            time.sleep(1)
    from rich.live import Live

    with Live(_queues(client.get("/queues")), console=out, auto_refresh=False, screen=out.is_terminal) as live:
        while True:
            time.sleep(1)
            live.update(_queues(client.get("/queues")), refresh=True)


def _queues(told: dict[str, Any]) -> str:
    rows = [
        (q["model"], q["priority"], q["queued"], q["running"], span(q["oldest_wait_seconds"]), q["why"])
        for q in told["queues"]
    ]
    return table("MODEL", "PRIORITY", "QUEUED", "RUNNING", "LONGEST WAIT", "WHY", rows=rows)


def nodes(as_json: AsJson = False) -> None:
    """List the hosts of the stack: their workers, what they hold and run, and which are drained."""
    found = connect().get("/nodes")["nodes"]
    if as_json:
        return dump(found)
    rows = [
        (
            node["node"],
            ", ".join(node["workers"]),
            str(node["models"]),
            str(node["running"]),
            ago(node["draining_since"]) if node["draining_since"] else "",
        )
        for node in found
    ]
    out.print(table("NODE", "WORKERS", "MODELS", "RUNNING", "DRAINED", rows=rows))


def drain(
    node: str,
    force: Annotated[bool, typer.Option(help="Running jobs go on elsewhere instead of finishing there.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Give the node work again.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until it is empty.")] = False,
    as_json: AsJson = False,
) -> None:
    """Empty a node, so that it can be stopped: nothing new goes there, and its models leave. Waits for that."""
    client = connect()
    told = client.delete(f"/nodes/{node}/drain") if undo else client.post(f"/nodes/{node}/drain", {"force": force})
    while not (undo or detach) and not _is_empty(client, node):
        time.sleep(1)
    if as_json:
        return dump(told)
    empty = f"{node} is empty: its processes can be stopped. `tokenyard drain {node} --undo` gives it work again."
    out.print(f"{node}: {told['status']}" if undo or detach else empty)


def _is_empty(client: "Client", node: str) -> bool:
    found = [entry for entry in client.get("/nodes")["nodes"] if entry["node"] == node]
    return all(entry["models"] == entry["running"] == 0 for entry in found)
