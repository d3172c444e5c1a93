"""`tokenyard doctor`: what a stack needs of this machine, looked at one by one, each with what to do about it."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Literal, NamedTuple

import httpx

from app import devices
from app.cli import place
from app.cli.sample import headers
from app.cli.words import dump, out, size
from app.errors import TokenyardError
from app.settings import Settings, load

#: Free disk below which a pull will soon fail, and below which the database will.
LITTLE_DISK, NO_DISK = 10e9, 1e9
#: Connections that one web process may hold, each with its descriptor.
DESCRIPTORS = 4096
#: What the CUDA build of requirements.txt needs.
DRIVER = 580

State = Literal["ok", "note", "bad"]


class Finding(NamedTuple):
    """What one look found."""

    what: str
    state: State
    found: str
    todo: str = ""


def run(*, as_json: bool) -> int:
    """Prints every finding; 1 when something is broken."""
    findings = examine()
    broken = any(finding.state == "bad" for finding in findings)
    if as_json:
        dump([finding._asdict() for finding in findings])
        return int(broken)
    for finding in findings:
        out.print(
            f"{finding.state:<5}{finding.what:<11}{finding.found}", style="bold" if finding.state == "bad" else ""
        )
        if finding.todo:
            out.print(f"{'':<16}→ {finding.todo}")
    out.print("\nSomething is broken: see “bad” above." if broken else "\nNothing is broken.")
    return int(broken)


def examine() -> list[Finding]:
    """All findings; a fault in the settings is one of them, and ends the looking."""
    findings = list(_python())
    try:
        settings = load()
    except TokenyardError as error:
        return [*findings, Finding("settings", "bad", error.message, "Correct the environment, or .env.")]
    looks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _disk,
        _database,
        _broker,
        _gpu,
        _engines,
        _limits,
        _stack,
    )
    for look in looks:
        try:
            findings += look(settings)
        except (TokenyardError, OSError) as error:
            findings.append(Finding(look.__name__.strip("_"), "bad", str(error), "Mend that, and look again."))
    return findings


def _python() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    inside = sys.prefix != sys.base_prefix
    yield Finding("python", "ok", f"{version}, {'in' if inside else 'without'} a virtual environment")


def _disk(settings: Settings) -> Iterator[Finding]:
    for what, folder in (("data", settings.data_dir), ("models", settings.hub_cache)):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            yield Finding(what, "bad", f"{there} cannot be written", "Give it to this user, or set another DATA_DIR.")
            continue
        free = shutil.disk_usage(there).free
        state: State = "bad" if free < NO_DISK else "note" if free < LITTLE_DISK else "ok"
        todo = (
            "" if state == "ok" else "Free some: `tokenyard list` shows what models take, `tokenyard rm` removes one."
        )
        yield Finding(what, state, f"{folder}, {size(free)} free", todo)


def _database(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli.migrate import versions
    from app.database import SAFE_WAL, Database, sqlite_module

    if settings.database_url.startswith("sqlite"):
        module = sqlite_module()
        if module.sqlite_version_info < SAFE_WAL:
            todo = "It works, with a slower journal. `pip install pysqlite3` brings a newer one."
            yield Finding("sqlite", "note", f"{module.sqlite_version} is older than 3.51.3", todo)
        database = Database(settings.database_url)
        there = database.engine.url.database
        if there is None or not os.path.exists(there):
            yield Finding("database", "ok", "none yet; `tokenyard up` makes it")
            return
    else:
        database = Database(settings.database_url)
    try:
        current, head = versions(settings, database)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        todo = f"Restore a backup from {settings.data_dir / 'backups'} (docs/operations.md), or correct DATABASE_URL."
        yield Finding("database", "bad", reason, todo)
        return
    finally:
        database.close()
    if current == head:
        yield Finding("database", "ok", f"at version {head}")
    else:
        yield Finding("database", "bad", f"at version {current}, and this Tokenyard wants {head}", "tokenyard migrate")


def _broker(settings: Settings) -> Iterator[Finding]:
    if "redis_url" not in settings.model_fields_set:
        from app.cli.broker import find

        yield Finding("broker", "ok", f"embedded: {find()}")
        return
    import redis

    client = redis.Redis.from_url(settings.redis_url, socket_timeout=3, socket_connect_timeout=3)
    try:
        info = client.info("server")
    except redis.RedisError as error:
        todo = "Start it, or correct REDIS_URL; unset, the stack brings a broker of its own."
        yield Finding("broker", "bad", f"REDIS_URL does not answer ({error})", todo)
    else:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
        if policy == "noeviction":
            yield Finding("broker", "ok", f"REDIS_URL answers, version {info['redis_version']}")
        else:
            todo = "Set `maxmemory-policy noeviction`: an evicted stream is a lost answer for who follows it."
            yield Finding("broker", "note", f"REDIS_URL answers, and may evict ({policy})", todo)
    finally:
        client.close()


def _gpu(settings: Settings) -> Iterator[Finding]:
    found, planned = devices.gpus(), devices.plan(settings.devices)
    if not found:
        if shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl"):
            todo = "See what `nvidia-smi` says; after an update of the driver, reboot."
            yield Finding("gpu", "bad", "there is an NVIDIA driver, and it shows no GPU", todo)
        else:
            yield Finding("gpu", "ok", "none; models run on the CPU")
        return
    import pynvml

    driver = pynvml.nvmlSystemGetDriverVersion()
    old = int(driver.partition(".")[0]) < DRIVER
    todo = f"The CUDA build needs driver {DRIVER} or newer. Update it; until then: make up HARDWARE=cpu" if old else ""
    yield Finding("driver", "bad" if old else "ok", driver, todo)
    for device in planned:
        reading = devices.read(device)
        told = f"{size(reading.free)} of {size(reading.total)} free" if reading else "it does not answer"
        yield Finding(device.name, "ok" if reading else "bad", f"{device.title}, {told}")
    yield from _torch()


def _torch() -> Iterator[Finding]:
    """Asked of a process of its own: torch takes seconds and memory, and its fault must not be ours."""
    if find_spec("torch") is None:
        return
    code = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    words = done.stdout.split()
    if done.returncode or len(words) != 3:
        reason = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
        yield Finding("torch", "bad", reason, "Install it anew: make clean engines")
    elif words[2] != "True":
        yield Finding("torch", "bad", f"{words[0]} does not see the GPU", "Install the CUDA build: make clean engines")
    else:
        yield Finding("torch", "ok", f"{words[0]}, CUDA {words[1]}")


def _engines(settings: Settings) -> Iterator[Finding]:
    names = {"llamacpp": "xllamacpp", "vllm": "vllm", "transformers": "transformers"}
    there = [name for name, package in names.items() if find_spec(package) is not None]
    lacking = [name for name in names if name not in there]
    if settings.engine != "auto" and settings.engine in lacking:
        yield Finding("engines", "bad", f"ENGINE={settings.engine} is not installed", "make engines, or ENGINE=auto")
        return
    told = f"{', '.join(there) or 'none'}{'; not installed: ' + ', '.join(lacking) if lacking else ''}"
    state: State = "bad" if not there else "note" if lacking else "ok"
    yield Finding("engines", state, told, "make engines" if lacking else "")


def _limits(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        todo = f"ulimit -n {min(hard, 65_536) if hard > 0 else 65_536}, before `tokenyard up`"
        yield Finding("limits", "note", f"{soft} open files allowed, so some {soft // 2} streams", todo)
    if not settings.is_loopback:
        yield Finding("network", "note", f"HOST={settings.host}: others can reach this", "Put TLS in front of it.")


def _stack(settings: Settings) -> Iterator[Finding]:
    card = place.read_card(settings)
    if card is None:
        left = place.members(settings)
        if left:
            pids = ", ".join(str(process.pid) for process in left[:8])
            yield Finding("leftovers", "bad", f"{len(left)} processes of a stack that ended: {pids}", "tokenyard stop")
        if not place.is_free(settings.port, settings.host):
            todo = f"Stop what listens there, or: make up PORT={settings.port + 1}"
            yield Finding("port", "bad", f"{settings.port} is in use", todo)
        else:
            yield Finding("port", "ok", f"{settings.port} is free")
        yield Finding("stack", "ok", "none runs here", "tokenyard start")
        return
    try:
        answer = httpx.get(f"{card['address']}/health", headers=headers(settings), timeout=10, trust_env=False).json()
    except (httpx.TransportError, ValueError) as error:
        found = f"{card['address']} does not answer ({type(error).__name__})"
        yield Finding("stack", "bad", found, "tokenyard logs tells why; tokenyard stop, tokenyard start begin anew.")
        return
    reasons = answer.get("reasons") or (
        [] if answer.get("status") == "healthy" else [str(answer.get("detail", answer))]
    )
    state: State = "bad" if reasons else "ok"
    yield Finding("stack", state, "; ".join(reasons) or f"{card['address']} is healthy")
