"""`tokenyard up`: from nothing to a streamed answer, and back to nothing on Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import psutil
from rich.console import Console

from app import devices, secrets
from app.apikeys import require_key
from app.cli import place, procfile
from app.cli.later import complete
from app.cli.migrate import migrate
from app.cli.sample import show_sample, wait_ready
from app.cli.starter import StarterError, add_starter
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
#: How long the processes may take until jobs can run, in seconds.
READY = 90.0
_EXITED = re.compile(r"exited: (\S+) \((.*)\)")
_FAILED = re.compile(r"(?:backoff|spawnerr|gave up|FATAL).*?: (\S+)")

console = Console(highlight=False, soft_wrap=True)


def run(settings: Settings) -> int:
    """Runs the stack until a signal. Raises TokenyardError where it cannot begin."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with place.hold(settings):
        leftovers = place.kill_members(settings)
        if leftovers:
            console.print(f"Ended {leftovers} processes that an earlier stack had left.")
        place.check_port(settings)
        console.print(migrate(settings))
        require_key(settings)
        try:
            console.print(add_starter(settings))
        except StarterError as error:
            console.print(f"[yellow]{error.message}[/]")
        return _supervise(settings, stopping)


def _supervise(settings: Settings, stopping: threading.Event) -> int:
    processes, env = _plan(settings)
    run_dir, logs = settings.lock_dir, settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    conf = run_dir / "supervisord.conf"
    conf.write_text(procfile.configure(processes, root=ROOT, run=run_dir, logs=logs))
    supervisor = subprocess.Popen(
        [str(Path(sys.executable).parent / "supervisord"), "--configuration", str(conf)],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we end the rest in order
    )
    assert supervisor.stdout is not None  # noqa: S101 - it is a pipe
    threading.Thread(target=_translate, args=(supervisor.stdout, stopping), daemon=True).start()
    place.write_card(settings, _card(settings, env))
    try:
        code = _serve(settings, env, stopping, supervisor)
    finally:
        console.print("Stopping …")
        _end(supervisor, settings)
        (run_dir / "stack.json").unlink(missing_ok=True)
    console.print("Stopped.")
    return code


def _plan(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """The processes of this stack, and their environment. Raises BadSettingsError."""
    found = devices.plan(settings.devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
    console.print(f"Devices: {', '.join(f'{device.name} ({device.title})' for device in found)}")
    processes = procfile.read([device.name for device in found])
    env = {**os.environ, place.MARK: str(settings.data_dir), "DATA_DIR": str(settings.data_dir)}
    env["NODE"] = settings.node  # the Procfile reads no .env
    # Where setproctitle is installed (vLLM brings it), Celery and gunicorn would write their titles over our mark.
    env["SPT_NOENV"] = "1"
    if "redis_url" in settings.model_fields_set:
        del processes["broker"]
    else:
        port = settings.broker_port or place.pick_port(settings.port + 10_000)
        secrets.made(settings.secrets_dir / "broker")  # before anybody wants to read it
        env |= {"BROKER_PORT": str(port)}
    if settings.flower:
        port = settings.flower_port or place.pick_port(settings.port + 20_000)
        env |= {"FLOWER_PORT": str(port), "FLOWER_URL": f"http://127.0.0.1:{port}"}
    else:
        del processes["flower"]
    return processes, env


def _card(settings: Settings, env: dict[str, str]) -> dict[str, object]:
    started = psutil.Process().create_time()
    return {
        "pid": os.getpid(),
        "started": started,
        "address": settings.own_address,
        "flower": env.get("FLOWER_URL"),
    }


def _serve(
    settings: Settings, env: dict[str, str], stopping: threading.Event, supervisor: "subprocess.Popen[str]"
) -> int:
    address = settings.own_address
    reason = wait_ready(address, settings, stopping, READY)
    if stopping.is_set():
        return 0
    if reason:
        console.print(f"[red]Not ready after {READY:.0f} s: {reason}[/] Last lines of the logs:")
        console.print(_tails(settings.data_dir / "logs"), markup=False)
        return 1
    console.print(f"\n[bold green]Tokenyard is ready: {address}[/]  (API: {address}/docs)")
    if env.get("FLOWER_URL"):
        console.print(f"Queues, in Flower: {env['FLOWER_URL']} ({place.flower_login(settings)})")
    show_sample(console, address, settings)
    console.print("Ctrl-C ends everything; `make logs` shows what the processes say.\n")
    threading.Thread(target=complete, args=(console, settings, env, stopping), daemon=True).start()
    while not stopping.is_set() and supervisor.poll() is None:
        stopping.wait(1.0)
    if supervisor.poll() is not None and not stopping.is_set():
        console.print("[red]The supervisor died, so the stack ends.[/] Start it again: make up")
        return 1
    return 0


def _translate(lines: IO[str], stopping: threading.Event) -> None:
    """Says in plain words what supervisord reports of processes that die."""
    for line in lines:
        if stopping.is_set():
            continue
        if found := _EXITED.search(line):
            how = found[2].replace("; not expected", "").replace("; expected", "")
            console.print(f"[yellow]{found[1]} died ({how}); starting it again.[/]")
        elif found := _FAILED.search(line):
            console.print(f"[red]{found[1]} does not start; trying again. See `make logs`.[/]")


def _end(supervisor: "subprocess.Popen[str]", settings: Settings) -> None:
    """Ends every process: asks first, then forces what is left."""
    if supervisor.poll() is None:
        supervisor.terminate()
    try:
        supervisor.wait(procfile.PATIENCE * 2)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    place.kill_members(settings)


def _tails(logs: Path, lines: int = 8) -> str:
    newest = [
        path
        for path in logs.glob("*.log")
        if path.name != "supervisor.log" and time.time() - path.stat().st_mtime < READY
    ]
    return "\n".join(
        f"{path.stem}: {line}" for path in newest for line in path.read_text(errors="replace").splitlines()[-lines:]
    )
