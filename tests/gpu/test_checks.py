"""What only a machine with a GPU can show: `make gpu-check` runs this and prints a report.

Each check notes its figures with `record_property`; they are in the report.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import bootstrap
from app import devices
from app.devices import Device
from tests.gpu.rig import GPUS, REHEARSAL, Rig, running
from tests.needs import needs
from tests.stack import BIN, ROOT, eventually

pytestmark = [
    pytest.mark.skipif(
        not GPUS and not REHEARSAL, reason="no NVIDIA GPU here; on a machine that has one: make gpu-check"
    ),
    needs("torch", "transformers"),
]

Note = Callable[[str, object], None]
QUESTION = "What is the capital of France? Answer briefly."
#: What a driver and other programs may take or give back meanwhile, in bytes.
NOISE = 64 * 2**20


@pytest.fixture(scope="module")
def device() -> Device:
    """The first GPU; in a rehearsal the CPU."""
    return GPUS[0] if GPUS else Device("cpu.0")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("vllm", marks=needs("vllm")),
        pytest.param("transformers", marks=needs("transformers")),
        "llamacpp",
    ],
)
def rig(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    starters: dict[str, str],
    device: Device,
) -> Iterator[Rig]:
    """A stack that uses one engine alone."""
    with running(tmp_path_factory.mktemp(request.param), request.param, starters, device) as rig:
        yield rig


@pytest.mark.skipif(not GPUS, reason="a rehearsal has no driver to look at")
def test_driver_and_builds_fit_each_other(record_property: Note) -> None:
    hardware, why = bootstrap.find_hardware()
    asked = "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torch, cuda, available = json.loads(done.stdout.splitlines()[-1])
    record_property("torch", torch)
    record_property("CUDA", cuda)
    assert (hardware, why) == ("gpu", "")
    assert available, f"torch {torch} sees no GPU. A build for the CPU? Then: make clean; make gpu-check"


def test_the_answer_is_right(rig: Rig, record_property: Note) -> None:
    began = time.monotonic()
    shown = rig.load(rig.model)
    record_property("loaded in", f"{time.monotonic() - began:.0f} s")
    record_property("context", shown["context"])
    record_property("dtype", shown["dtype"])
    body = {"model": rig.model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    answer = rig.stack.http.post("/chat", json=body).json()

    assert shown["backend"] == rig.engine
    assert "Paris" in answer["message"]["content"]


def test_an_engine_sees_its_own_device_alone(rig: Rig, record_property: Note) -> None:
    others = {gpu.name: _in_use(gpu) for gpu in GPUS if gpu != rig.device}
    rig.unload(rig.model)
    rig.load(rig.model)
    engines = [process for process in rig.worker.children(recursive=True) if _is_engine(process)]
    seen = {process.environ().get("CUDA_VISIBLE_DEVICES") for process in engines}

    record_property("sees", rig.device.uuid or "no GPU")
    assert seen == {rig.device.uuid}
    for gpu in GPUS:
        if gpu.name in others:
            assert abs(_in_use(gpu) - others[gpu.name]) <= NOISE, f"{gpu.name} was touched (or others use it just now)"


def test_its_memory_comes_back(rig: Rig, record_property: Note) -> None:
    rig.unload(rig.model)
    empty, rounds = rig.used(), []
    for _ in range(3):
        rig.load(rig.model)
        loaded = rig.used()
        rig.unload(rig.model)
        # A driver frees a moment after the process is gone.
        eventually(lambda: rig.used() <= 1.05 * empty + NOISE, seconds=20, what="the memory back")
        rounds.append((loaded - empty, rig.used() - empty))

    record_property("MB loaded", [taken // 2**20 for taken, _ in rounds])
    record_property("MB left", [left // 2**20 for _, left in rounds])
    # llama.cpp's wheel has no CUDA, and then leaves a GPU alone.
    if rig.engine != "llamacpp" or not rig.device.is_gpu:
        assert min(taken for taken, _ in rounds) > NOISE


def test_a_second_worker_on_the_device_is_refused(rig: Rig, tmp_path: Path, record_property: Note) -> None:
    # GPUs are kept machine-wide, CPU devices within their data folder.
    elsewhere = {"DATA_DIR": str(tmp_path)} if rig.device.is_gpu else {}
    env = rig.stack.env | elsewhere | {"DEVICE": rig.device.name}
    command = [str(BIN / "tokenyard"), "process", "worker"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr

    assert done.returncode == 1
    assert f"held by process {rig.worker.pid} of the stack on {rig.stack.folder}" in said


@needs("bitsandbytes")
def test_four_bits_take_less_than_half(rig: Rig, starters: dict[str, str], record_property: Note) -> None:
    if rig.engine != "transformers":
        pytest.skip("asked of transformers, whose engine tells the bytes of its weights")
    rig.unload(rig.model)
    sizes = {}
    for model in ("sixteen", "four"):
        before = rig.used()
        shown = rig.load(model)
        sizes[model] = shown["size_bytes"]
        record_property(f"{model}: MB of weights and cache", shown["size_bytes"] // 2**20)
        record_property(f"{model}: MB of the device", (rig.used() - before) // 2**20)
        record_property(f"{model}: quantization", shown["quantization"])
        body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
        assert rig.stack.http.post("/chat", json=body).json()["eval_count"] > 0
        rig.unload(model)
    weights = (Path(starters["STARTER_BF16"]) / "model.safetensors").stat().st_size
    cache = sizes["sixteen"] - weights  # the same in both
    assert cache >= 0
    assert sizes["four"] - cache < weights / 2


@pytest.mark.skipif(len(GPUS) < 2, reason="needs two GPUs")
@needs("vllm")
def test_two_models_run_on_two_gpus_at_once(tmp_path: Path, starters: dict[str, str], record_property: Note) -> None:
    first, second = GPUS[:2]
    with running(tmp_path, "vllm", starters, first) as rig:
        rig.stack.start(second.name)
        http = rig.stack.http
        eventually(lambda: len(http.get("/workers").json()["workers"]) == 2, seconds=60, what="both workers")
        for model, gpu in ((rig.model, first), ("sixteen", second)):
            http.put(f"/models/{model}/devices", json={"devices": [gpu.name]})
        long = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2000, "ignore_eos": True}
        jobs = [http.post("/jobs", json={"model": model, **long}).json()["id"] for model in (rig.model, "sixteen")]

        def both_run() -> bool:
            return all(rig.stack.job(job)["status"] == "running" for job in jobs)

        eventually(both_run, seconds=300, what="both run at once")
        ran_on = {rig.stack.job(job)["worker"].split("@")[0] for job in jobs}
        record_property("ran on", sorted(ran_on))
        for job in jobs:
            http.delete(f"/jobs/{job}")
        assert ran_on == {first.name, second.name}


def _in_use(gpu: Device) -> int:
    reading = devices.read(gpu)
    assert reading is not None, f"{gpu.name} does not answer"
    return reading.total - reading.free


def _is_engine(process: psutil.Process) -> Any:
    return "inference.host" in process.cmdline()
