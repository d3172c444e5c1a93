"""The guard: makes sure that an engine never outlives the process that owns it.

Run as a script: `python -I -S guard.py LIFE PROGRAM ARG…`. It leads a session of its own and starts PROGRAM in it.
LIFE is its end of a socket whose other end only the owner holds: when that closes (the owner died, by SIGKILL too), or
when PROGRAM ends, the whole process group goes, grandchildren included, and the guard with it. Before that, PROGRAM's
exit status goes over LIFE. PR_SET_PDEATHSIG would not do: it follows a thread, and reaches no grandchild.

It imports nothing but built-in modules, so that it starts in about 10 ms and holds little memory.
"""

import _thread
import os
import sys
from signal import SIGKILL, SIGPIPE

#: Half of all memory, as the kernel counts it, on top of what the program really holds.
OOM_SCORE = "500"


def _end_with_owner(life: int) -> None:
    # Nothing is ever sent to us: this returns when the owner's end is closed.
    os.read(life, 1)
    os.killpg(0, SIGKILL)


def _offer_first(pid: int) -> None:
    """Where memory runs out, the kernel shall take what holds it, and not the worker that serves others beside."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
    except OSError:
        return  # it has ended, or a sandbox forbids it


def main() -> None:
    """Start the program, wait for its end or the owner's, and end the group."""
    life = int(sys.argv[1])
    os.set_inheritable(life, False)
    child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, setsigdef=[SIGPIPE])
    _offer_first(child)
    _thread.start_new_thread(_end_with_owner, (life,))
    try:
        _, status = os.waitpid(child, 0)
        os.write(life, b"%d" % os.waitstatus_to_exitcode(status))
    finally:
        os.killpg(0, SIGKILL)


if __name__ == "__main__":
    main()
