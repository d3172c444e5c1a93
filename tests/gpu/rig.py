"""A stack on one device, and what that device has in use. Without a GPU it can rehearse the checks on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from app import devices
from app.catalog import Catalog
from app.database import Database
from app.devices import Device
from tests.stack import Stack, broker, eventually

#: Set by `python -m tests.gpu --rehearse`: the checks run on the CPU, and prove themselves rather than a GPU.
REHEARSAL = os.environ.get("GPU_CHECK") == "rehearse"
GPUS = devices.gpus()
#: What each engine loads for the checks: the starter model, in the form that it takes.
MODELS = {"vllm": "smollm2-bf16", "transformers": "smollm2-bf16", "llamacpp": "smollm2"}


class Rig:
    """One worker on one device, and a way to look at both."""

    def __init__(self, stack: Stack, engine: str, device: Device) -> None:
        self.stack = stack
        self.engine = engine
        self.device = device
        self.model = MODELS[engine]

    def used(self) -> int:
        """Bytes in use: of the GPU, by anybody; of the CPU, by the worker and all that it started."""
        if self.device.is_gpu:
            reading = devices.read(self.device)
            assert reading is not None, f"{self.device.name} does not answer"
            return reading.total - reading.free
        return sum(_private(process) for process in [self.worker, *self.worker.children(recursive=True)])

    @property
    def worker(self) -> psutil.Process:
        """The worker's process."""
        return psutil.Process(self.stack.processes[self.device.name].pid)

    def load(self, model: str) -> dict[str, Any]:
        """Loads a model; what the worker shows of it."""
        self.stack.http.post(f"/models/{model}/load", json={})
        return eventually(lambda: self.shown(model), seconds=300, what=f"{model} loaded; logs in {self.stack.folder}")

    def unload(self, model: str) -> None:
        """Returns when it is gone."""
        self.stack.http.post(f"/models/{model}/unload", json={})
        eventually(lambda: self.shown(model) is None, seconds=60, what=f"{model} unloaded")

    def shown(self, model: str) -> dict[str, Any] | None:
        """What the worker shows of a model that it holds."""
        (worker,) = self.stack.http.get("/workers").json()["workers"]
        assert worker["failures"] == [], worker["failures"]
        return next((held for held in worker["models"] if held["model"] == model), None)


def _private(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


@contextmanager
def running(folder: Path, engine: str, starters: dict[str, str], device: Device) -> Iterator[Rig]:
    """A stack whose one worker is on the device and uses that engine alone."""
    only = {} if engine == "llamacpp" else {"ENGINE": engine}
    with broker(folder) as url:
        stack = Stack(folder, url, **starters, **only)
        for verb in ("migrate", "starter"):
            stack.run(verb)
        _add(stack, "sixteen", "fp16", starters)
        _add(stack, "four", "q4", starters)
        try:
            stack.start("web", device.name, "keeper", "beat")
            stack.ready()
            yield Rig(stack, engine, device)
        finally:
            stack.close()


def _add(stack: Stack, name: str, quantize: str, starters: dict[str, str]) -> None:
    """The starter's weights once more, to be loaded in this precision."""
    folder = Path(starters["STARTER_BF16"])
    size = sum(file.stat().st_size for file in folder.iterdir())
    database = Database(f"sqlite:///{stack.folder / 'jobs.db'}")
    Catalog(database).add(name, folder, format="safetensors", size_bytes=size, source="import", quantize=quantize)
    database.close()
