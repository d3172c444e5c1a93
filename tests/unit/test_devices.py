"""Devices: what NVML tells, who gets a worker, and how a worker keeps its device to itself."""

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml as real
import pytest

from app import devices
from app.devices import Device, Reading
from app.errors import BadSettingsError
from app.settings import Settings
from tasks import devices as pinning
from tests.fakes import pynvml as fake
from tests.stack import ROOT

A = {"uuid": "GPU-aaaa", "name": "NVIDIA A", "total": 80, "free": 60, "utilization": 25, "temperature": 41}
B = {"uuid": "GPU-bbbb", "name": "NVIDIA B", "free": 5}
LOST = {"uuid": "GPU-cccc", "name": "NVIDIA C", "lost": True}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A machine with two GPUs, and a lost one between them."""
    monkeypatch.setattr(devices, "pynvml", fake)
    monkeypatch.setattr(fake, "GPUS", [A, LOST, B])
    devices._has_nvml.cache_clear()
    yield fake
    devices._has_nvml.cache_clear()


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(data_dir=folder, _env_file=None, **values)


def test_the_fake_has_the_real_ones_interface() -> None:
    for name, value in vars(fake).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(getattr(real, name), real.NVMLError)
        elif name.startswith("nvml"):
            assert len(inspect.signature(value).parameters) == len(
                [p for p in inspect.signature(getattr(real, name)).parameters.values() if p.default is p.empty]
            )


def test_gpus_keep_their_numbers_when_one_is_lost(nvml: Any) -> None:
    assert devices.gpus() == (Device("gpu.0", "NVIDIA A", "GPU-aaaa"), Device("gpu.2", "NVIDIA B", "GPU-bbbb"))


def test_several_gpus_can_be_one_workers(nvml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "MACHINE", tmp_path / "locks")
    monkeypatch.setattr(fake, "GPUS", [A, A | {"uuid": "GPU-dddd", "free": 20, "utilization": 90}])
    both = devices.find("gpu.0+gpu.1")

    assert (both.uuid, both.title) == ("GPU-aaaa,GPU-dddd", "2 x NVIDIA A")
    assert devices.read(both) == Reading(160, 40, 0.9, 41.0)
    assert devices.plan(["gpu.0+gpu.1"]) == [both]
    with pinning.hold_device(both, settings(tmp_path)), pytest.raises(pinning.DeviceTakenError, match="GPU-dddd"):
        pinning.hold_device(devices.find("gpu.1"), settings(tmp_path))
    pinning.hold_device(devices.find("gpu.1"), settings(tmp_path)).close()
    for wrong, why in (
        ("gpu.0+gpu.0", "different GPUs"),
        ("gpu.0+cpu.0", "different GPUs"),
        ("gpu.0+gpu.7", "no gpu.7"),
    ):
        with pytest.raises(BadSettingsError, match=why):
            devices.find(wrong)
    with pytest.raises(BadSettingsError, match="twice"):
        devices.plan(["gpu.0+gpu.1", "gpu.1"])


def test_a_reading_tells_what_the_device_tells(nvml: Any) -> None:
    assert devices.read(devices.find("gpu.0")) == Reading(80, 60, 0.25, 41.0)
    shared = devices.read(devices.find("gpu.2"))
    assert shared is not None
    assert shared.total > 2**20  # the machine's own
    assert (shared.utilization, shared.temperature) == (None, None)


def test_a_gpu_that_gets_lost_reads_as_none(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = devices.find("gpu.0")
    monkeypatch.setattr(fake, "GPUS", [{**A, "lost": True}])
    assert devices.read(gpu) is None


@pytest.mark.parametrize(
    ("names", "visible", "planned"),
    [
        ((), None, ["gpu.0", "gpu.2"]),
        (("gpu.2",), None, ["gpu.2"]),
        (("cpu.0", "cpu.1"), None, ["cpu.0", "cpu.1"]),
        ((), "2", ["gpu.2"]),
        ((), "GPU-aa", ["gpu.0"]),
        ((), "", ["cpu.0"]),
        (("gpu.0",), "2", ["gpu.0"]),
    ],
)
def test_which_devices_get_a_worker(nvml: Any, names: tuple[str, ...], visible: str | None, planned: list[str]) -> None:
    assert [device.name for device in devices.plan(names, visible)] == planned


def test_without_a_gpu_the_cpu_gets_one(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "GPUS", [])
    assert devices.plan(()) == [Device("cpu.0")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("gpu.7",), "it has gpu.0, gpu.2"),
        (("gpu.1",), "There is no gpu.1"),
        (("tpu.0",), "gpu.0, gpu.1"),
        (("cpu.0; rm -rf /",), "is no device"),
        (("gpu.0", "gpu.0"), "twice"),
    ],
)
def test_devices_that_cannot_be_had_are_refused(nvml: Any, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadSettingsError, match=said):
        devices.plan(names)


def test_pinning_shows_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "another's")

    pinning.pin(Device("gpu.0", "NVIDIA A", "GPU-aaaa"))
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == ("GPU-aaaa", "PCI_BUS_ID")

    pinning.pin(Device("cpu.0"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_gpu_has_one_holder_a_machine_and_a_cpu_device_one_a_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "MACHINE", tmp_path / "machine")
    one, two = settings(tmp_path / "one"), settings(tmp_path / "two")
    gpu, cpu = Device("gpu.0", "NVIDIA A", "GPU-aaaa"), Device("cpu.0")

    with pinning.hold_device(gpu, one), pinning.hold_device(cpu, one), pinning.hold_device(cpu, two):
        with pytest.raises(pinning.DeviceTakenError) as taken:
            pinning.hold_device(gpu, two)
        with pytest.raises(pinning.DeviceTakenError):
            pinning.hold_device(cpu, one)
    said = taken.value.message
    assert f"process {os.getpid()} of the stack on {tmp_path / 'one'}" in said
    assert "make stop" in said

    pinning.hold_device(gpu, two).close()


HOLDER = """
import subprocess, sys
from pathlib import Path
from app.devices import Device
from app.settings import Settings
from tasks import devices
devices.MACHINE = Path(sys.argv[1]) / "machine"
held = devices.hold_device(Device("gpu.0", "A", "GPU-aaaa"), Settings(data_dir=Path(sys.argv[1]), _env_file=None))
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_the_kernel_frees_a_device_with_its_holder_though_children_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "MACHINE", tmp_path / "machine")
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    gpu, mine = Device("gpu.0", "A", "GPU-aaaa"), settings(tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(pinning.DeviceTakenError, match=f"process {holder.pid}"):
                pinning.hold_device(gpu, mine)
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # still there, and holds nothing
            pinning.hold_device(gpu, mine).close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_that_was_just_taken_names_nobody_and_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "MACHINE", tmp_path)
    gpu = Device("gpu.0", "A", "GPU-aaaa")
    with pinning.hold_device(gpu, settings(tmp_path)):
        (tmp_path / "GPU-aaaa.lock").write_text("")
        with pytest.raises(pinning.DeviceTakenError, match="Try again"):
            pinning.hold_device(gpu, settings(tmp_path))
        (tmp_path / "GPU-aaaa.lock").write_text(json.dumps([1]))
        with pytest.raises(pinning.DeviceTakenError, match="Try again"):
            pinning.hold_device(gpu, settings(tmp_path))
