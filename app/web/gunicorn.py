"""Gunicorn's configuration: one event loop a process, ten thousand connections each."""

import ctypes
import gc
import json
import os
import resource
import shutil
import sys
from contextlib import suppress
from typing import Any

from app import unused
from app.errors import TokenyardError
from app.settings import load

unused.hide()

#: glibc's numbers for how many heaps threads share, and for the bytes from which on memory is taken outside of them, to
#: be given back at once. Each thread would else have a heap of its own, and keep in it what its largest body took:
#: 190 MB of 350 after twelve minutes of bad input. And the limit would rise with the first such body, and the one heap
#: have holes of 67 MB.
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
with suppress(AttributeError):  # another C library
    _mallopt = ctypes.CDLL(None).mallopt
    _mallopt(M_ARENA_MAX, 1)
    _mallopt(M_MMAP_THRESHOLD, 128 * 1024)

_settings = load()
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

bind = f"{_host}:{_settings.port}"
worker_class = "gevent"
workers = _settings.web_processes
worker_connections = 10_000
# The application is built after the patches and after the fork: its threads and connections are the worker's own.
preload_app = False
# Streams that are still open resume elsewhere, from their last event.
graceful_timeout = 10
timeout = 60
keepalive = 75
# Of a proxy that is trusted the scheme is taken, and nothing that moves the path.
forwarded_allow_ips = _settings.forwarded_allow_ips
forwarder_headers = ""
accesslog = None
control_socket_disable = True


# What the web processes count of requests lies in files that each of them reads all of: whichever answers /metrics,
# it tells the same. The client library takes the folder from the environment when it is imported, after the fork.
_counts = _settings.lock_dir / "metrics"
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_counts)


def on_starting(server: Any) -> None:
    """Begins the counts anew, unless the server would be open to others."""
    del server
    from app.apikeys import require_key

    try:
        require_key(_settings)
    except TokenyardError as error:
        sys.exit(f"tokenyard: {error.message}")
    shutil.rmtree(_counts, ignore_errors=True)
    _counts.mkdir(parents=True)


def child_exit(server: Any, worker: Any) -> None:
    """What a process that ended had open is not open any more; what it counted stays."""
    del server
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def post_worker_init(worker: Any) -> None:
    """Logs as all processes do; and what never becomes a request is refused in JSON too.

    The collector of garbage leaves alone what is loaded by now: a look at it would stop every stream for 0.3 s.
    """
    del worker
    from gunicorn import util

    from app.logs import configure
    from app.web import arrival
    from app.web.locks import mend

    configure(_settings)
    mend()
    arrival.hold()
    util.write_error = _refuse
    gc.collect()
    gc.freeze()


def _refuse(sock: Any, status: int, reason: str, message: str) -> None:
    """The answer to bytes that are no HTTP, or beyond gunicorn's limits of lines and headers. All are the client's."""
    status, reason = (400, "Bad Request") if status == 501 else (status, reason)
    said = f"{reason}. {message}"[:300]
    error = {"code": "invalid_request" if status < 500 else "internal", "message": said, "param": None}
    body = json.dumps({"error": error | {"request_id": None}, "detail": said})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


# A follower is a descriptor; the usual soft limit of 1024 would end the service long before the machine does.
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
