"""Who may import whom: the table in docs/architecture.md, held over the syntax trees."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = {"app", "tasks", "inference", "migrations", "celeryconfig"}
HEAVY = {"torch", "transformers", "vllm", "xllamacpp"}
#: Folder: what its files may never import.
NEVER = {
    "inference": OURS - {"inference"} | {"flask", "celery", "redis", "sqlalchemy"},
    "app": {"flask", "app.web", "tasks", "inference", "migrations"} | HEAVY,
    "app/web": {"tasks", "inference", "celery", "kombu", "redis", "sqlalchemy", "migrations"} | HEAVY,
    "tasks": {"flask", "app.web", "migrations"} | HEAVY,
}
#: What no web process loads when it starts: an import of one of these costs each of them megabytes.
UNLOADED = HEAVY | {
    *("tasks", "inference", "migrations", "typer", "rich", "pygments", "opentelemetry", "yaml", "attr", "httpx"),
    *("huggingface_hub", "tokenizers", "gguf", "numpy", "markdown_it", "nh3", "alembic", "pytest"),
}
#: What no worker, puller, keeper or beat loads.
UNLOADED_BY_CELERY = HEAVY | {"flower", "tornado", "click_repl", "prompt_toolkit", "opentelemetry", "rich", "flask"}
#: Modules that one has loaded; measured 1,151.
MOST_MODULES = 1_200
START = """
import runpy, sys
runpy.run_path("app/web/gunicorn.py")["on_starting"](None)
import gunicorn.workers.ggevent
from app.web import create_app
create_app()
print(*(name for name, module in sys.modules.items() if module))
"""
CELERY = """
import sys, tasks.__main__
from tasks import app
app.loader.import_default_modules()
print(*(name for name, module in sys.modules.items() if module))
"""


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files(folder: str) -> list[Path]:
    """The folder's own; app/web has rules of its own, and the command line belongs to no process."""
    found = (ROOT / folder).rglob("*.py")
    return [path for path in found if folder != "app" or path.relative_to(ROOT / "app").parts[0] not in {"web", "cli"}]


@pytest.mark.parametrize("folder", NEVER)
def test_a_package_imports_nothing_that_it_must_not(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(folder)
        for name in sorted(imported(path))
        if any(name == bad or name.startswith(f"{bad}.") for bad in NEVER[folder])
    ]
    assert files(folder)
    assert wrong == []


def test_only_the_settings_read_the_environment() -> None:
    # What starts a child hands on the whole environment; that reads no setting out of it.
    hand_on = {
        "app/settings.py",
        "inference/remote.py",
        "inference/process.py",
        "inference/guard.py",
        "inference/download/facts.py",
        "tasks/child.py",
    }
    writers = {
        "inference/vllmload.py",
        "tasks/devices.py",
        "app/web/gunicorn.py",
    }  # for this process alone: they read nothing
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("app", "tasks", "inference")
        for path in (ROOT / folder).rglob("*.py")
        if path.relative_to(ROOT).parts[:2] != ("app", "cli") and "os.environ" in path.read_text()
    }
    assert readers - hand_on - writers == set()


def test_a_web_process_loads_little(tmp_path: Path) -> None:
    env = {**os.environ, "DATA_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0", "ROLE": "web"}
    told = subprocess.run([sys.executable, "-c", START], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    names = told.stdout.split()
    assert {name.partition(".")[0] for name in names} & UNLOADED == set()
    assert len(names) <= MOST_MODULES


def test_a_celery_process_loads_no_other_commands(tmp_path: Path) -> None:
    env = {**os.environ, "DATA_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0", "ROLE": "worker"}
    told = subprocess.run([sys.executable, "-c", CELERY], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    names = {name.partition(".")[0] for name in told.stdout.split()}
    assert "celery" in names
    assert names & UNLOADED_BY_CELERY == set()


def test_a_celery_process_wants_a_role_that_is_one(tmp_path: Path) -> None:
    env = {**os.environ, "DATA_DIR": str(tmp_path), "ROLE": "web"}
    said = subprocess.run([sys.executable, "-m", "tasks"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr == "ROLE says which process this is to be: worker, puller, keeper or beat.\n"
