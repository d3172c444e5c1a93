"""The devices that workers are pinned to: NVIDIA's GPUs as NVML tells of them, else the CPU.

NVML asks the driver and opens no CUDA context, so that looking takes nothing of a GPU and pins no process to it. What
a device is called (`gpu.0`, `cpu.0`) is also the base queue of its worker; a GPU's number is its place on the PCI bus.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import pynvml
import structlog

from app.errors import BadSettingsError

log = structlog.get_logger(__name__)

_NAME = re.compile(r"(cpu|gpu)\.(\d{1,3})")
#: Between the names of GPUs that one worker owns together.
AND = "+"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, several that one worker owns (`gpu.0+gpu.1`), or the CPU, as which several workers may pose."""

    name: str
    #: The maker's words, for people.
    title: str = "CPU"
    #: NVML's, the same in every process and after every reboot, with commas between; empty for the CPU.
    uuid: str = ""

    @property
    def uuids(self) -> list[str]:
        """One for each GPU."""
        return self.uuid.split(",") if self.uuid else []

    @property
    def is_gpu(self) -> bool:
        """Whether CUDA serves it."""
        return bool(self.uuid)


@dataclass(frozen=True, slots=True)
class Reading:
    """A device at this moment: bytes, parts of 1, degrees Celsius. None: the device does not tell."""

    total: int
    free: int
    utilization: float | None = None
    temperature: float | None = None


def gpus() -> tuple[Device, ...]:
    """The GPUs that the driver shows; none on a machine without one, or without a working driver."""
    if not _has_nvml():
        return ()
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
        except pynvml.NVMLError as error:
            # A GPU that fell off the bus. The others keep their numbers.
            log.warning("gpu_unusable", device=f"gpu.{index}", reason=str(error))
        else:
            found.append(Device(f"gpu.{index}", name, uuid))
    return tuple(found)


def find(name: str) -> Device:
    """The device of that name. Raises BadSettingsError."""
    parts = [_find(part) for part in name.split(AND)]
    if len(parts) == 1:
        return parts[0]
    if not all(part.is_gpu for part in parts) or len(set(parts)) < len(parts):
        raise BadSettingsError(f"'{name}' is no device: only different GPUs can be one worker's together.")
    return Device(name, f"{len(parts)} x {parts[0].title}", ",".join(part.uuid for part in parts))


def _find(name: str) -> Device:
    kind = _NAME.fullmatch(name)
    if kind is None:
        raise BadSettingsError(f"'{name}' is no device. Devices are called gpu.0, gpu.1 … and, without a GPU, cpu.0.")
    if kind[1] == "cpu":
        return Device(name)
    here = gpus()
    for device in here:
        if device.name == name:
            return device
    names = ", ".join(device.name for device in here) or "no GPU (does `nvidia-smi` list one?)"
    raise BadSettingsError(f"There is no {name} on this machine; it has {names}. Correct DEVICES, or leave it unset.")


def plan(names: Sequence[str], visible: str | None = None) -> list[Device]:
    """The devices that get a worker: those that were named, else every GPU, else one CPU. Raises BadSettingsError.

    `visible` is CUDA_VISIBLE_DEVICES as we found it: a batch system's way to say which GPUs are ours.
    """
    single = [part for name in names for part in name.split(AND)]
    if len(set(single)) < len(single):
        raise BadSettingsError(f"DEVICES={','.join(names)} names a device twice; each has one worker.")
    ours = [gpu for gpu in gpus() if visible is None or _is_among(gpu, visible)]
    return [find(name) for name in names] or ours or [Device("cpu.0")]


def _is_among(gpu: Device, visible: str) -> bool:
    words = [word.strip() for word in visible.split(",")]
    return any(f"gpu.{word}" == gpu.name or (word.startswith("GPU-") and gpu.uuid.startswith(word)) for word in words)


def read(device: Device) -> Reading | None:
    """What a device has just now; None where it does not answer."""
    if not device.is_gpu:
        memory = psutil.virtual_memory()
        return Reading(memory.total, memory.available)
    try:
        return _together([_read(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in device.uuids])
    except pynvml.NVMLError as error:
        log.warning("gpu_silent", device=device.name, reason=str(error))
        return None


def _together(readings: list[Reading]) -> Reading:
    """Of GPUs that share a model equally: the fullest and the hottest one decides."""
    if len(readings) == 1:
        return readings[0]
    used = [reading.utilization for reading in readings if reading.utilization is not None]
    heat = [reading.temperature for reading in readings if reading.temperature is not None]
    total, free = (len(readings) * min(getattr(reading, name) for reading in readings) for name in ("total", "free"))
    return Reading(total, free, max(used, default=None), max(heat, default=None))


def _read(handle: object) -> Reading:
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    except pynvml.NVMLError_NotSupported:
        # A GPU that shares the machine's memory (Grace Blackwell, Jetson) has none of its own to tell.
        total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    busy = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    heat = _told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    return Reading(int(total), int(free), busy, heat)


def _told(ask: Callable[[], float]) -> float | None:
    try:
        return float(ask())
    except pynvml.NVMLError_NotSupported:
        return None


@functools.cache
def _has_nvml() -> bool:
    """Opens NVML for the rest of this process's life."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False
    except pynvml.NVMLError as error:
        log.warning("nvidia_driver_unusable", reason=str(error), remedy="see nvidia-smi; after an update, reboot")
        return False
    return True
