import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from inference.catalog import FACTORIES
from inference.errors import EngineDiedError, LoadError
from inference.process import members
from inference.protocol import Spec
from inference.remote import Ender, RemoteEngine
from tests.contract.listener import Listener, make_request
from tests.unit.inference.test_process import DEADLINE, ROOT, wait_until

OWNER = """
import sys
from inference.protocol import Spec
from inference.remote import Ender, RemoteEngine
engine = RemoteEngine.load(Spec("scripted", None, 4), 30)
print(engine.process.pgid, flush=True)
sys.stdin.read()  # ends with the test, however that ends
"""


def load_scripted(slots: int = 4) -> RemoteEngine:
    return RemoteEngine.load(Spec("scripted", None, slots), timeout=30)


def test_the_engine_lives_in_another_process_which_close_ends() -> None:
    engine = load_scripted()
    pgid = engine.process.pgid
    assert engine.info.pid in members(pgid)
    engine.close()
    assert members(pgid) == []


def test_the_reader_and_later_submits_learn_of_the_engines_death() -> None:
    with Listener(load_scripted()) as listener:
        engine = listener.engine
        assert isinstance(engine, RemoteEngine)
        engine.submit(make_request("a", max_tokens=10**6, tokens_per_second=20.0))
        listener.wait_first("a")
        os.kill(engine.info.pid, signal.SIGKILL)
        listener.wait(lambda: listener.ended)
        assert isinstance(listener.died, EngineDiedError)
        assert "SIGKILL" in listener.died.message
        assert members(engine.process.pgid) == []
        with pytest.raises(EngineDiedError):
            engine.submit(make_request("b"))
        engine.abort("a")


def test_the_death_of_the_guard_is_the_death_of_the_engine() -> None:
    with Listener(load_scripted()) as listener:
        engine = listener.engine
        assert isinstance(engine, RemoteEngine)
        os.kill(engine.process.pgid, signal.SIGKILL)
        listener.wait(lambda: listener.ended)
        assert listener.died is not None
        assert members(engine.process.pgid) == []


def test_an_owner_killed_by_sigkill_leaves_no_engine() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as owner:
        assert owner.stdout is not None
        pgid = int(owner.stdout.readline())
        assert len(members(pgid)) == 2
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: members(pgid) == [])


def test_a_reader_that_reads_nothing_does_not_keep_a_cancel_from_being_read() -> None:
    engine = load_scripted(slots=1)
    try:
        engine.submit(make_request("flood", max_tokens=10**9))
        steps = engine.steps()
        assert next(steps)[0].id == "flood"
        wait_until(lambda: unread(engine) > 60_000)  # of a pipe's 65,536 bytes: the engine's writer is stuck
        engine.abort("flood")
        engine.submit(make_request("next", max_tokens=2))
        end = time.monotonic() + DEADLINE
        seen = next(chunk.id for step in steps for chunk in step if chunk.id == "next" or time.monotonic() > end)
        assert seen == "next"
        steps.close()
    finally:
        engine.close()


def test_a_hundred_streams_pass_the_pipe_whole_and_share_messages() -> None:
    with Listener(load_scripted(slots=100)) as listener:
        ids = [f"r{n}" for n in range(100)]
        for request_id in ids:
            listener.engine.submit(make_request(request_id, max_tokens=400, tokens_per_second=4000.0))
        listener.wait(lambda: len(listener.chunks) == 40_000)
        assert {listener.text(request_id) for request_id in ids} == {" ".join(f"t{n}" for n in range(400))}
        assert listener.steps < 40_000 / 2


def test_an_engine_that_closes_unread_leaves_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    load_scripted().close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_unknown_engine_is_a_load_error_that_names_those_there_are() -> None:
    with pytest.raises(LoadError, match="scripted") as caught:
        RemoteEngine.load(Spec("gpt", None, 1), timeout=30)
    assert caught.value.code == "unknown_engine"
    assert set(FACTORIES) >= {"scripted", "llamacpp"}


def test_a_load_that_takes_too_long_is_ended(starter_gguf: Path) -> None:
    with pytest.raises(LoadError) as caught:
        RemoteEngine.load(Spec("llamacpp", str(starter_gguf), 1), timeout=0.01)
    assert caught.value.code == "load_timeout"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_load_can_be_cancelled_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str) -> None:
    (tmp_path / "xllamacpp.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ender, threads = Ender(), []
    if when == "before":
        ender.end()

    def cancel(fraction: float) -> None:
        threads.append(threading.Thread(target=ender.end))
        threads[-1].start()

    with pytest.raises(LoadError) as caught:
        RemoteEngine.load(Spec("llamacpp", str(make_header(tmp_path)), 1), 60, cancel, ender)
    assert caught.value.code == ender.reason == "load_cancelled"
    for thread in threads:
        thread.join()
    ender.end()  # of a load that is over there is nothing to end


def test_a_child_that_dies_while_it_loads_says_what_to_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a backend that aborts on a bad model: here, an xllamacpp whose import does."""
    (tmp_path / "xllamacpp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"SIGABRT.*Check") as caught:
        RemoteEngine.load(Spec("llamacpp", str(make_header(tmp_path)), 1), timeout=30)
    assert caught.value.code == "bad_model"


def test_a_backend_that_is_not_installed_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('none')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"\(none\).*make up") as caught:
        RemoteEngine.load(Spec("llamacpp", str(make_header(tmp_path)), 1), timeout=30)
    assert caught.value.code == "backend_missing"


def test_progress_is_told_to_whoever_asked() -> None:
    told: list[float] = []
    RemoteEngine.load(Spec("scripted", None, 1), timeout=30, on_progress=told.append).close()
    assert told == [0.0, 1.0]


def unread(engine: RemoteEngine) -> int:
    """Bytes that wait in the pipe."""
    return int.from_bytes(fcntl.ioctl(engine._file.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def make_header(folder: Path) -> Path:
    """A GGUF file of no tensors and no values."""
    path = folder / "empty.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    return path


def test_an_engine_starts_offline_with_an_operators_own_words_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    engine = load_scripted()
    assert environment_of(engine)["HF_HUB_OFFLINE"] == "1"
    assert environment_of(engine)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert environment_of(engine)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in environment_of(engine)  # ours would outdo it
    engine.close()
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    engine = load_scripted()
    assert environment_of(engine)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
    engine.close()


def environment_of(engine: RemoteEngine) -> dict[str, str]:
    raw = Path(f"/proc/{engine.info.pid}/environ").read_text()
    return dict(line.split("=", 1) for line in raw.split("\0") if line)
