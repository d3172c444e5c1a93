"""Where CUDA and the CPU differ for a worker: what it sees of the machine, and how it keeps others off its device."""

import fcntl
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from app.devices import Device
from app.errors import TokenyardError
from app.settings import Settings

#: The locks of GPUs: one folder for all users and all stacks of a machine, whatever TMPDIR says.
MACHINE = Path("/tmp/tokenyard-devices")  # noqa: S108 - it has to be a place that everybody finds


class DeviceTakenError(TokenyardError):
    """Another process holds what this one was to hold."""

    code = "device_taken"


def pin(device: Device) -> None:
    """Narrows what this process and its engines see to one device. Call it before anything touches CUDA.

    By UUID: an index means another GPU when the order or the set of visible ones changes. A CPU worker sees no GPU.
    """
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid


def hold_device(device: Device, settings: Settings) -> ExitStack:
    """Keeps a device to this process until it ends, however it ends. Raises DeviceTakenError.

    A GPU is kept machine-wide, by its UUID; a CPU device within its data folder, as several stacks share the CPU.
    """
    with ExitStack() as held:
        if not device.is_gpu:
            held.enter_context(hold_name(device.name, settings))
        for uuid in device.uuids:
            held.enter_context(_hold_gpu(uuid, device, settings))
        return held.pop_all()


def _hold_gpu(uuid: str, device: Device, settings: Settings) -> IO[str]:
    with suppress(FileExistsError):
        MACHINE.mkdir()
        MACHINE.chmod(0o1777)  # other users come too; whatever the umask says
    if MACHINE.is_symlink():
        raise DeviceTakenError(f"{MACHINE} is a symbolic link, which nobody should have made. Remove it.")
    return _lock(MACHINE / f"{uuid}.lock", f"{device.name} ({device.title}, {uuid})", settings)


def hold_name(name: str, settings: Settings) -> IO[str]:
    """Keeps a name to one process of this stack, until it ends. Raises DeviceTakenError."""
    settings.lock_dir.mkdir(parents=True, exist_ok=True)
    return _lock(settings.lock_dir / f"device-{name}.lock", name, settings)


def _lock(path: Path, what: str, settings: Settings) -> IO[str]:
    """The kernel frees the lock with its holder; no child inherits it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            raise _taken(what, _holder(file)) from None
    file.truncate(0)
    json.dump({"pid": os.getpid(), "data_dir": str(settings.data_dir)}, file)
    file.flush()
    return file


def _open(path: Path) -> IO[str]:
    # Not O_CREAT at once: in a sticky folder the kernel refuses that for another user's file.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        number = os.open(path, flags | os.O_CREAT, 0o666)
        with suppress(PermissionError):  # it was made by another user in between
            os.fchmod(number, 0o666)
    return os.fdopen(number, "r+")


def _holder(file: IO[str]) -> dict[str, Any]:
    try:
        said = json.loads(file.read())
    except ValueError:  # it took the lock this instant, and has not written yet
        return {}
    return said if isinstance(said, dict) else {}


def _taken(what: str, holder: dict[str, Any]) -> DeviceTakenError:
    pid, folder = holder.get("pid"), holder.get("data_dir")
    if pid is None:
        return DeviceTakenError(f"{what} is held by a process that starts just now. Try again in a moment.")
    return DeviceTakenError(
        f"{what} is held by process {pid} of the stack on {folder}. `make stop DATA_DIR={folder}` ends that stack, "
        f"`kill {pid}` that process; or set DEVICES to devices that are free."
    )
