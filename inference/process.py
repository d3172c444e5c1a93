"""Processes that end with their owner, and whose whole family can be ended.

For engines, and for any other child that may hold much or have children of its own (a download). See `guard`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GUARD = str(Path(__file__).with_name("guard.py"))
#: What the name of a process's temporary folder begins with; its owner's process id follows.
SCRATCH = "tokenyard-"
#: How often a group that was killed is looked at, in seconds.
POLL = 0.01
#: How long to wait for a killed group: freeing tens of gigabytes takes the kernel seconds.
KILL_TIMEOUT = 60.0


def spawn(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    scratch: bool = False,
) -> "Process":
    """Start a program under a guard, in a session and process group of its own.

    `argv[0]` is a path. `pass_fds` keep their numbers in the child; the caller closes its own copies. The child's
    output goes to this process's stderr, and its input is empty. Descriptors of ours do not leak into it, nor does
    the life line leak into other children (it is close-on-exec), so only this process holds it. With `scratch`, its
    temporary files lie in a folder that goes with it: a library that is killed leaves sockets and more behind.
    """
    folder = _make_scratch() if scratch else None
    if folder is not None:
        env = {**(os.environ if env is None else env), "TMPDIR": str(folder)}
    ours, theirs = socket.socketpair()
    with theirs:
        leader = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, str(theirs.fileno()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=2,  # the descriptor itself: sys.stdout and sys.stderr may be somebody's logger
            start_new_session=True,
            pass_fds=(theirs.fileno(), *pass_fds),
            env=env,
        )
    return Process(leader, ours, folder)


def _make_scratch() -> Path:
    """A folder named after this process. Those of owners that are gone, by SIGKILL, go too."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        owner = left.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))


class Process:
    """A guarded process group. `pgid` is also the guard's process id."""

    def __init__(self, leader: "subprocess.Popen[bytes]", life: socket.socket, scratch: Path | None = None) -> None:
        self.pgid = leader.pid
        self.returncode: int | None = None  #: the program's; minus a signal's number; None: nobody could tell
        self._leader = leader
        self._life = life
        self._scratch = scratch
        self._lock = threading.Lock()
        self._gone = threading.Event()
        threading.Thread(target=self._attend, name=f"attend-{self.pgid}", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every member is gone; False when that took longer than `timeout` seconds."""
        return self._gone.wait(timeout)

    def kill(self, timeout: float = KILL_TIMEOUT) -> None:
        """SIGKILL every member and wait until all are gone, and their memory with them.

        Raises TimeoutError when one is stuck in the kernel for `timeout` seconds.
        """
        self._signal()
        if not self.wait(timeout):
            raise TimeoutError(
                f"Process group {self.pgid} is still there {timeout:g} s after SIGKILL: it hangs in the kernel, "
                f"most often in a driver. Look at `ps -o pid,stat,wchan,cmd -g {self.pgid}`."
            )

    def _signal(self) -> None:
        with self._lock:
            if not self._gone.is_set():
                os.killpg(self.pgid, signal.SIGKILL)

    def _attend(self) -> None:
        """See the guard's end, however it came, and end what it left.

        The guard stays unreaped until the group is empty: so long, nobody else can get its number, and a killpg
        cannot hit a stranger.
        """
        os.waitid(os.P_PID, self.pgid, os.WEXITED | os.WNOWAIT)
        self._signal()
        while members(self.pgid):
            time.sleep(POLL)
        with self._lock:
            self._leader.wait()
            self.returncode = self._status()
            self._life.close()
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
            self._gone.set()

    def _status(self) -> int | None:
        try:
            said = self._life.recv(16)
        except ConnectionError:
            return None
        return int(said) if said else None


def members(pgid: int) -> list[int]:
    """The process ids in a group that still hold memory.

    Zombies hold none and do not count (in a container, nobody may ever reap them), unless threads of theirs are still
    on their way out.
    """
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_member(int(name), pgid)]


def _is_member(pid: int, pgid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # proc(5): after the name in parentheses come state, ppid, pgrp, …, and num_threads as the 18th.
    fields = stat.rpartition(")")[2].split()
    state, group, threads = fields[0], int(fields[2]), int(fields[17])
    return group == pgid and not (state in "ZX" and threads <= 1)
