"""The owner's side of an engine that lives in a child process."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from inference.errors import EngineDiedError, LoadError
from inference.process import Process, spawn
from inference.protocol import Chunk, Failure, Info, OnProgress, Request, Spec
from inference.wire import Abort, Close, Command, Progress, Reader, Submit, Writer, greeting_decoder, step_decoder

#: How long a closed engine may tidy up (shared memory, mostly) before it is killed, in seconds.
GRACE = 2.0


class Ender:
    """Ends a load from any thread, before or while its child runs. The first reason stands."""

    def __init__(self) -> None:
        self.reason: str | None = None  #: the code of the LoadError that comes of it
        self._process: Process | None = None
        self._lock = threading.Lock()

    def end(self, reason: str = "load_cancelled") -> None:
        """End the load. Returns when nothing of the child is left."""
        with self._lock:
            self.reason = self.reason or reason
            process = self._process
        if process is not None:
            process.kill()

    def watch(self, process: Process) -> None:
        """The child that is to be ended; at once, where somebody asked before there was one."""
        with self._lock:
            self._process = process
            asked = self.reason is not None
        if asked:
            process.kill()

    def forget(self) -> None:
        """The load is over: a later `end` does nothing to the engine."""
        with self._lock:
            self._process = None


class RemoteEngine:
    """An engine in a process group of its own: its death is an error here, and its memory comes back on close."""

    def __init__(self, info: Info, process: Process, commands: Writer, file: BinaryIO) -> None:
        self.info = info
        self.process = process
        self._commands = commands
        self._file = file
        self._lock = threading.Lock()
        self._closed = False
        self._read = False
        self._why = ""  #: what the engine said of its end

    @classmethod
    def load(
        cls, spec: Spec, timeout: float, on_progress: OnProgress | None = None, ender: Ender | None = None
    ) -> Self:
        """Start a child and have it load a model, in at most `timeout` seconds, unless `ender` ends it.

        Raises LoadError; then nothing of the child is left.
        """
        ender = ender or Ender()
        process, commands, file = _start()
        expiry = threading.Timer(timeout, ender.end, ("load_timeout",))
        expiry.daemon = True
        try:
            ender.watch(process)
            expiry.start()
            info = _greet(spec, commands, file, on_progress)
            if ender.reason is not None or info is None:
                process.kill()
                raise _stillborn(spec, process.returncode, ender.reason, timeout)
            if isinstance(info, Failure):
                raise LoadError(info.code, info.message)
        except BaseException:
            process.kill()
            commands.close()
            file.close()
            raise
        finally:
            expiry.cancel()
            ender.forget()
        return cls(info, process, commands, file)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineDiedError when the engine is gone."""
        self._send(Submit(request))

    def abort(self, request_id: str) -> None:
        """End a request. With a dead engine there is nothing to end, and that is no fault."""
        try:
            self._send(Abort(request_id))
        except EngineDiedError:
            return

    def steps(self) -> Iterator[list[Chunk]]:
        """Each engine step's chunks. Raises EngineDiedError when the child dies; whatever it left is gone then."""
        self._read = True
        reader = Reader(self._file, step_decoder)
        with self._file:
            while (step := reader.read()) is not None:
                if step and not step[0].id and step[0].error:
                    self._why = step[0].error.message
                else:
                    yield step
        if not self._closed:
            self.process.kill()
            raise self._death()

    def close(self) -> None:
        """End the process group. Returns when every process of it, and so its memory, is gone."""
        self._closed = True
        farewell = threading.Thread(target=self._say_goodbye, name="goodbye", daemon=True)
        farewell.start()  # on a thread, as a child that hangs may not read it
        self.process.wait(GRACE)
        self.process.kill()
        farewell.join()
        with self._lock:
            self._commands.close()
        if not self._read:
            self._file.close()

    def _send(self, command: Command) -> None:
        with self._lock:
            if self._closed:
                raise EngineDiedError("The engine is closed.")
            try:
                self._commands.write(command)
            except BrokenPipeError:
                raise self._death() from None

    def _say_goodbye(self) -> None:
        with self._lock, suppress(OSError):
            self._commands.write(Close())

    def _death(self) -> EngineDiedError:
        return EngineDiedError(
            f"The {self.info.engine} engine (pid {self.info.pid}) ended{_how(self.process.returncode)}. "
            + (self._why or "Its last words are in the worker's log.")
        )


def _start() -> tuple[Process, Writer, BinaryIO]:
    command_out, command_in = os.pipe()
    step_out, step_in = os.pipe()
    argv = [sys.executable, "-m", "inference.host", str(command_out), str(step_in)]
    try:
        process = spawn(argv, pass_fds=(command_out, step_in), env=_environment(), scratch=True)
    except BaseException:
        os.close(command_in)
        os.close(step_out)
        raise
    finally:
        os.close(command_out)
        os.close(step_in)
    return process, Writer(command_in), os.fdopen(step_out, "rb")


#: What an engine's process starts with, unless the operator says otherwise.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle OpenMP threads sleep, and leave the cores to others
    "GOMP_SPINCOUNT": "1000",  # but not between two operations of a pass: waking takes longer than most of these
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # a GPU's memory does not go to waste in pieces
    "HF_HUB_OFFLINE": "1",  # a model is all here when it is loaded: nothing is asked of a hub, no kernel fetched
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "true",  # twice as many series of vLLM's own, for nothing
    "VLLM_LOGGING_LEVEL": "ERROR",
    # One process computes for a model: what it opens for others of its kind stays on this machine.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


#: What an engine, which reads files of strangers, does not need to know.
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECRETS = ("API_KEY", "API_KEY_FILE", "TOKENYARD_API_KEY", "REDIS_URL", "DATABASE_URL", "HF_ENDPOINT", *TOKENS)


def _environment() -> dict[str, str]:
    """Ours and `ENVIRONMENT`, and this very package importable wherever the owner was started."""
    root = str(Path(__file__).resolve().parent.parent)
    given = {name: value for name, value in os.environ.items() if name not in SECRETS}
    if "PYTORCH_CUDA_ALLOC_CONF" in given:  # the older name of PYTORCH_ALLOC_CONF, which ours would outdo
        given.setdefault("PYTORCH_ALLOC_CONF", given["PYTORCH_CUDA_ALLOC_CONF"])
    ours = dict(ENVIRONMENT)
    if "OMP_WAIT_POLICY" in given:  # which a number of spins would outdo
        del ours["GOMP_SPINCOUNT"]
    path = given.get("PYTHONPATH")
    return {**ours, **given, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


def _greet(spec: Spec, commands: Writer, file: BinaryIO, on_progress: OnProgress | None) -> Info | Failure | None:
    """Say what to load and wait for the outcome; None when the child died over it."""
    try:
        commands.write(spec)
    except BrokenPipeError:
        return None
    reader = Reader(file, greeting_decoder)
    while isinstance(said := reader.read(), Progress):
        if on_progress is not None:
            on_progress(said.fraction)
    return said


def _stillborn(spec: Spec, returncode: int | None, reason: str | None, timeout: float) -> LoadError:
    if reason == "load_cancelled":
        return LoadError(reason, f"The load of {spec.path} was cancelled.")
    if reason is not None:
        return LoadError(
            "load_timeout",
            f"Loading {spec.path} took longer than {timeout:g} s. Raise MODEL_LOAD_TIMEOUT, or take a smaller model.",
        )
    if returncode == -signal.SIGKILL:
        return LoadError(
            "out_of_memory",
            f"The process that loaded {spec.path} was killed, most often for want of memory. "
            "Evict another model, or take a smaller one, or a smaller context.",
        )
    return LoadError(
        "bad_model",
        f"The {spec.engine} engine crashed while it loaded {spec.path}{_how(returncode)}. Check that the file is whole "
        "(pull it again) and that this version of the engine supports the model; its log has the last words.",
    )


def _how(returncode: int | None) -> str:
    if returncode is None:
        return ""
    if returncode < 0:
        return f" by signal {-returncode} ({signal.Signals(-returncode).name})"
    return f" with exit status {returncode}"
