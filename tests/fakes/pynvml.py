"""Stands in for nvidia-ml-py: the part of NVML that we use, over GPUs that FAKE_GPUS describes as JSON.

A folder with this file first on PYTHONPATH gives a real process these GPUs. Each is {"uuid", "name", "total", "free",
"utilization", "temperature"}; without "total" it has no memory of its own, and one with "lost" does not answer.
"""

import json
import os
from types import SimpleNamespace
from typing import Any

NVML_TEMPERATURE_GPU = 0
GPUS: list[dict[str, Any]] = json.loads(os.environ.get("FAKE_GPUS", "[]"))


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


def nvmlInit() -> None:
    if not GPUS:
        raise NVMLError_LibraryNotFound


def nvmlDeviceGetCount() -> int:
    return len(GPUS)


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    return _answering(GPUS[index])


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:
    for gpu in GPUS:
        if gpu["uuid"] == uuid:
            return _answering(gpu)
    raise NVMLError_NotFound


def _answering(gpu: dict[str, Any]) -> dict[str, Any]:
    if gpu.get("lost"):
        raise NVMLError_GpuIsLost
    return gpu


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    return handle["name"]


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    return handle["uuid"]


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any]) -> Any:
    return SimpleNamespace(total=_told(handle, "total"), free=handle["free"])


def nvmlDeviceGetUtilizationRates(handle: dict[str, Any]) -> Any:
    return SimpleNamespace(gpu=_told(handle, "utilization"))


def nvmlDeviceGetTemperature(handle: dict[str, Any], sensor: int) -> int:
    return _told(handle, "temperature")


def _told(gpu: dict[str, Any], key: str) -> Any:
    if key not in gpu:
        raise NVMLError_NotSupported
    return gpu[key]
