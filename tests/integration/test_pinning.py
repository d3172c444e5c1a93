"""A real worker on a GPU that a fake NVML shows: what its engine sees, and who else may have it."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.stack import ROOT, Stack, broker, eventually


@pytest.fixture
def gpus() -> list[str]:
    """Two UUIDs that nobody else on this machine has."""
    return [f"GPU-{uuid.uuid4()}" for _ in range(2)]


@pytest.fixture
def stacks(tmp_path: Path, gpus: list[str]) -> Iterator[tuple[Stack, Stack]]:
    """Two stacks, each of which would put a worker on the second GPU."""
    shown = [{"uuid": gpu, "name": "NVIDIA Fake", "total": 8 * 2**30, "free": 2**30, "temperature": 61} for gpu in gpus]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with broker(tmp_path) as url:
        pair = tuple(
            Stack(
                folder,
                f"{url[:-1]}{number}",
                DEVICE="gpu.1",
                PRELOAD_MODELS="scripted",
                FAKE_GPUS=json.dumps(shown),
                PYTHONPATH=str(ROOT / "tests" / "fakes"),
            )
            for number, folder in enumerate(folders)
        )
        for stack in pair:
            stack.run("migrate")
        try:
            yield pair  # type: ignore[misc]  # a pair it is
        finally:
            for stack in pair:
                stack.close()


def engine_of(stack: Stack) -> psutil.Process | None:
    family = psutil.Process(stack.processes["worker"].pid).children(recursive=True)
    return next((process for process in family if "inference.host" in process.cmdline()), None)


def test_a_worker_sees_its_own_gpu_alone_and_keeps_others_off_it(stacks: tuple[Stack, Stack], gpus: list[str]) -> None:
    first, second = stacks
    first.start("worker")
    engine = eventually(lambda: engine_of(first), what=f"an engine; logs in {first.folder}")
    seen = engine.environ()
    assert seen["CUDA_VISIBLE_DEVICES"] == gpus[1]
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"

    eventually(lambda: "memory_nearly_full" in (first.folder / "worker.log").read_text(), what="a warning")

    second.start("worker")
    assert second.processes["worker"].wait(30) == 1
    said = (second.folder / "worker.log").read_text()
    assert f"process {first.processes['worker'].pid} of the stack on {first.folder}" in said
    assert "Traceback" not in said

    first.kill("worker")
    second.start("worker")
    eventually(lambda: engine_of(second), what=f"an engine; logs in {second.folder}")
