import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.process import SCRATCH, Process, members, spawn

DEADLINE = 30.0
ROOT = Path(__file__).resolve().parents[3]
SLEEPER = "import time; time.sleep(1000)"
#: A program with a child of its own, both deaf to a polite request.
FAMILY = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {SLEEPER!r}])
time.sleep(1000)
"""
#: An owner that starts a family and says its process group's number.
OWNER = f"""
import sys
from inference.process import spawn
process = spawn([sys.executable, "-c", {FAMILY!r}])
print(process.pgid, flush=True)
sys.stdin.read()  # ends with the test, however that ends
"""


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.01)


def start_family() -> Process:
    process = spawn([sys.executable, "-c", FAMILY])
    wait_until(lambda: len(members(process.pgid)) == 3)
    return process


def program_of(process: Process) -> int:
    """The guard's child."""
    return int(Path(f"/proc/{process.pgid}/task/{process.pgid}/children").read_text().split()[0])


def test_kill_returns_when_the_whole_family_is_gone() -> None:
    process = start_family()
    assert members(process.pgid)
    process.kill()
    assert members(process.pgid) == []
    assert process.wait(0)


def test_killing_twice_is_no_fault() -> None:
    process = start_family()
    process.kill()
    process.kill()


def test_the_death_of_the_owner_by_sigkill_leaves_nothing() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with owner:
        assert owner.stdout is not None
        pgid = int(owner.stdout.readline())
        wait_until(lambda: len(members(pgid)) == 3)
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: members(pgid) == [])


def test_the_death_of_the_guard_leaves_nothing() -> None:
    process = start_family()
    os.kill(process.pgid, signal.SIGKILL)
    assert process.wait(DEADLINE)
    assert members(process.pgid) == []


def test_the_death_of_the_program_ends_its_family() -> None:
    process = start_family()
    os.kill(program_of(process), signal.SIGKILL)
    assert process.wait(DEADLINE)
    assert members(process.pgid) == []
    assert process.returncode == -signal.SIGKILL


def test_the_kernel_takes_the_program_before_its_owner_when_memory_runs_out() -> None:
    process = start_family()
    wait_until(lambda: Path(f"/proc/{program_of(process)}/oom_score_adj").read_text().strip() == "500")
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "500"
    process.kill()


@pytest.mark.parametrize("status", [0, 3])
def test_the_programs_own_exit_status_is_known(status: int) -> None:
    process = spawn([sys.executable, "-c", f"raise SystemExit({status})"])
    assert process.wait(DEADLINE)
    assert process.returncode == status


def test_a_program_gets_the_pipes_it_was_given_and_no_other() -> None:
    out, given = os.pipe()
    hidden, other = os.pipe()
    os.set_inheritable(hidden, True)  # as a careless library might
    code = f"import os; os.write({given}, ' '.join(sorted(os.listdir('/proc/self/fd'), key=int)).encode())"
    process = spawn([sys.executable, "-c", code], pass_fds=(given,))
    os.close(given)
    with os.fdopen(out) as file:
        seen = {int(fd) for fd in file.read().split()}
    assert process.wait(DEADLINE)
    os.close(hidden)
    os.close(other)
    assert {0, 1, 2, given} <= seen
    assert len(seen) == 5  # the fifth is the listing of the folder itself


def test_a_program_that_is_not_there_ends_at_once() -> None:
    process = spawn(["/does/not/exist"])
    assert process.wait(DEADLINE)
    assert process.returncode is None


def test_temporary_files_go_with_the_process_and_those_of_owners_that_were_killed_with_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        pass
    (tmp_path / f"{SCRATCH}{gone.pid}-left" / "deep").mkdir(parents=True)
    (tmp_path / f"{SCRATCH}{os.getpid()}-ours").mkdir()
    process = spawn([sys.executable, "-c", f"import tempfile; tempfile.mkdtemp(); {SLEEPER}"], scratch=True)
    wait_until(lambda: list(tmp_path.glob("*/*")))
    assert len(list(tmp_path.iterdir())) == 2
    process.kill()
    assert [path.name for path in tmp_path.iterdir()] == [f"{SCRATCH}{os.getpid()}-ours"]
