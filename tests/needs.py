"""Which engines a test needs: where their packages cannot be had, it is left out, and the run says so."""

import ast
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """A mark for tests, classes and parameters: `@needs("vllm")`, `pytest.param(…, marks=needs("transformers"))`."""
    reason = _missing(packages)
    return pytest.mark.skipif(bool(reason), reason=reason)


def require(*packages: str) -> None:
    """The same inside of a fixture: skips the tests that use it."""
    if reason := _missing(packages):
        pytest.skip(reason)


def _missing(packages: Sequence[str]) -> str:
    missing = [package for package in packages if find_spec(package) is None]
    return f"not installed here: {', '.join(missing)}; make engines has them, or says why not" if missing else ""


#: What engines bring; everything else is always installed.
ENGINES = ("torch", "transformers", "tokenizers", "safetensors", "vllm", "bitsandbytes", "gguf", "numpy")


def unreadable(folder: Path) -> list[str]:
    """The test files that import, at their top, an engine's package which is not here."""
    missing = {package for package in ENGINES if find_spec(package) is None}
    return [str(path) for path in sorted(folder.rglob("test_*.py")) if missing and missing & _imported(path)]


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names
