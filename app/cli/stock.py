"""The verbs about models: pull, list, ps, show, rm, load, alias."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.words import AsJson, connect, dump, err, out, size, span, table, until

if TYPE_CHECKING:
    from app.cli.client import Client

MODELS = "Models"
Worker = Annotated[str | None, typer.Option(help="A worker's node, or its device (`gpu.1`).")]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    for verb, name in ((pull, "pull"), (list_, "list"), (ps, "ps"), (show_, "show"), (rm, "rm"), (load, "load")):
        app.command(name, rich_help_panel=MODELS)(verb)
    app.command(rich_help_panel=MODELS)(alias)


def pull(
    model: str,
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.")] = None,
    quantize: Annotated[str | None, typer.Option(help="auto, q4, q8, fp16, fp32 or no.")] = None,
    load: Annotated[bool, typer.Option("--load", help="Load it once it is here.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave it running.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a model. Ctrl-C leaves the download running; `tokenyard cancel JOB` ends it."""
    client = connect()
    body = {"model": model, "revision": revision, "quantize": quantize, "init": load or None}
    body = {key: value for key, value in body.items() if value is not None}
    if detach:
        accepted = client.post("/pull", body)
        return dump(accepted) if as_json else out.print(accepted["job_id"])
    job = fetch(client, body)
    if as_json:
        dump(job)


def fetch(client: "Client", body: dict[str, Any]) -> dict[str, Any]:
    """Pulls and shows how far it is; the job at its end. Raises CommandError."""
    from app.cli.following import show_bar

    job_id = client.post("/pull", body)["job_id"]
    try:
        job = show_bar(client, job_id)
    except KeyboardInterrupt:
        err.print(f"It goes on as job {job_id}. Follow it: tokenyard logs -f {job_id}")
        raise
    err.print(f"{job['model']} is here ({size(job['size_bytes'])}).")
    return job


def list_(
    fits: Annotated[bool, typer.Option("--fits", help="Models worth having that fit this machine instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the models that are here, or with --fits those that could be."""
    client = connect()
    if fits:
        return _list_fitting(client, as_json)
    models = client.get("/models")["models"]
    if as_json:
        return dump(models)
    rows = [
        (m["model"], size(m["size_bytes"]), m["quantization"] or m["dtype"] or "-", m["context"] or "-", _where(m))
        for m in models
    ]
    out.print(table("NAME", "SIZE", "WEIGHTS", "CONTEXT", "STATE", rows=rows))


def _where(model: dict[str, Any]) -> str:
    if model["loaded"]:
        where = ", ".join(worker.partition("@")[0] for worker in model["workers"])  # told to operators alone
        return f"loaded{where and ' on '}{where} ({model['backend']})"
    if model["loading"]:
        return f"loading, {100 * model['loading'][0]['progress']:.0f} %"
    if model["failures"]:
        return f"could not be loaded: {model['failures'][0]['code']}"
    return "on disk" if model["state"] == "ready" else str(model["state"])


def _list_fitting(client: "Client", as_json: bool) -> None:
    forms = [
        {"name": entry["name"], "format": form, **entry[form], "downloaded": bool(entry["downloaded"])}
        for entry in client.get("/models/suggested")["models"]
        for form in ("gguf", "safetensors")
        if entry[form]["fits"]
    ]
    if as_json:
        return dump(forms)
    rows = [(f["name"], f["format"], size(f["size_bytes"]), size(f["needs_bytes"]), f["model"]) for f in forms]
    out.print(table("NAME", "FORMAT", "SIZE", "NEEDS", "PULLS", rows=rows))


def ps(as_json: AsJson = False) -> None:
    """List the models in memory."""
    workers = connect().get("/workers")["workers"]
    if as_json:
        return dump(workers)
    rows = [
        (m["model"], w["device"], m["backend"], size(m["size_bytes"]), f"{m['running']}/{m['slots']}", _leaves(m))
        for w in workers
        for m in w["models"]
    ]
    rows += [(m["model"], w["device"], m["backend"], "-", "-", "loading") for w in workers for m in w["loading"]]
    out.print(table("NAME", "DEVICE", "ENGINE", "MEMORY", "RUNNING", "LEAVES", rows=rows))


def _leaves(model: dict[str, Any]) -> str:
    if model["leaving"]:
        return "after its last job"
    if model["expires_at"]:
        return until(model["expires_at"])
    return "when room is needed" if model["keep_alive"] < 0 else f"after {span(model['keep_alive'])} without work"


def show_(model: str, as_json: AsJson = False) -> None:
    """Show what is known of a model."""
    found = connect().get(f"/models/{model}")
    if as_json:
        return dump(found)
    names = ("size_bytes", "needs_bytes", "memory_bytes", "kv_bytes_per_token")
    hidden = {"template", "files"}
    for key, value in found.items():
        if key not in hidden and value not in (None, [], ""):
            told = size(value) if key in names else ", ".join(value) if isinstance(value, list) else value
            out.print(f"{key.replace('_', ' '):<20} {told}")


def rm(
    models: list[str],
    force: Annotated[bool, typer.Option(help="End its open jobs and unload it first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove models. Files that another tool fetched stay."""
    client = connect()
    for model in models:
        gone = client.delete(f"/models/{model}", force=force)
        kept = "" if gone["files_deleted"] else "; its files are another tool's and stay"
        dump(gone) if as_json else out.print(f"Removed {gone['model']}{kept}.")


def load(
    model: str,
    worker: Worker = None,
    keep_alive: Annotated[str | None, typer.Option(help='How long it stays without work: seconds, "5m"; -1.')] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model into memory; `tokenyard ps` shows how far it is."""
    body = {"worker": worker, "keep_alive": keep_alive}
    _order(f"/models/{model}/load", {key: value for key, value in body.items() if value is not None}, as_json)


def unload(model: str, *, force: bool) -> None:
    """Gives a model's memory back. Raises CommandError."""
    _order(f"/models/{model}/unload", {"force": force}, as_json=False)


def _order(path: str, body: dict[str, Any], as_json: bool) -> None:
    told = connect().post(path, body)
    where = f" on {', '.join(told['workers'])}" if told["workers"] else ""
    dump(told) if as_json else out.print(f"{told['model']}: {told['status']}{where}")


def alias(
    name: Annotated[str | None, typer.Argument(help="Without one: list them.")] = None,
    model: Annotated[str | None, typer.Argument(help="What the name is to stand for.")] = None,
    remove: Annotated[bool, typer.Option("--rm", help="Forget the name.")] = False,
    as_json: AsJson = False,
) -> None:
    """List names of models, give one, show one, or forget one."""
    client = connect()
    if name is None:
        aliases = client.get("/aliases")["aliases"]
        if as_json:
            return dump(aliases)
        return out.print(table("NAME", "MODEL", rows=[(entry["alias"], entry["model"]) for entry in aliases]))
    if remove:
        told = client.delete(f"/aliases/{name}")
        return dump(told) if as_json else out.print(f"Forgot {name}.")
    entry = client.put(f"/aliases/{name}", {"model": model}) if model else client.get(f"/aliases/{name}")
    dump(entry) if as_json else out.print(f"{entry['alias']} is {entry['model']}")
