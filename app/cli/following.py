"""Following a job to its end on a terminal: an answer as it comes, or a pull's bar."""

import sys
from typing import Any, NoReturn

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.status import Status

from app.cli.client import FAILED, LATER, Client, CommandError
from app.cli.words import err

#: Codes of ends that trying again may mend.
_PASSING = frozenset({"queue_full", "expired", "worker_lost"})


def print_answer(
    client: Client, job_id: str, *, after: int = 0, quiet: bool = False, said: list[str] | None = None
) -> dict[str, Any]:
    """Prints an answer as it comes, from behind event `after`; returns its last event. Raises CommandError."""
    with Status("Waiting …", console=err) as waiting:
        for event in client.follow(job_id, after):
            data = event.data
            if "delta" not in data and "error" not in data:
                waiting.update(_standing(data))
                continue
            waiting.stop()
            if "error" in data:
                _fail(data["error"])
            text = data["delta"].get("content", "") if not data.get("index") else ""
            if said is not None:
                said.append(text)
            if not quiet:
                print(text, end="", flush=True)
            if data["done"]:
                break
    if not quiet:
        print(flush=True)
    return dict(data)


def _standing(data: dict[str, Any]) -> str:
    """Where a job that has not begun stands."""
    if data.get("loading"):
        return f"Loading {data.get('model', 'the model')} … {100 * data.get('progress', 0):.0f} %"
    return f"Waiting, place {data['position']} in the queue …" if data.get("position") else "Waiting …"


def show_bar(client: Client, job_id: str) -> dict[str, Any]:
    """Shows a pull to its end; returns its job. Raises CommandError where it fails."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Waiting …", total=None)
        for event in client.follow(job_id):
            if "downloaded_bytes" in event.data:
                files = f"{event.data['files_done']}/{event.data['files_total'] or '?'} files"
                done, total = event.data["downloaded_bytes"], event.data["total_bytes"]
                bar.update(task, description=files, completed=done, total=total)
            elif "error" in event.data:
                bar.stop()
                _fail(event.data["error"])
    job: dict[str, Any] = client.get(f"/jobs/{job_id}")
    return job


def _fail(error: dict[str, Any]) -> NoReturn:
    code = str(error.get("code", ""))
    raise CommandError(str(error["message"]), exit_code=LATER if code in _PASSING else FAILED, reason=code)
