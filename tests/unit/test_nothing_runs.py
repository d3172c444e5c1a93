"""Of what comes from elsewhere nothing is run, unpickled or unpacked: what the source of every process may not hold."""

import ast
from functools import cache
from pathlib import Path

import celeryconfig
from tests.stack import ROOT

SOURCES = [
    ROOT / "celeryconfig.py",
    *(file for name in ("app", "tasks", "inference") for file in (ROOT / name).rglob("*.py")),
]
#: Reading these formats can run code, or write where a file's author likes.
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "tarfile"}
#: Our own wheel on PyPI, of known hash: one named member of it is read.
UNZIPS = {"app/cli/starter.py"}


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Imports and calls, each with its file."""
    return [
        (str(file.relative_to(ROOT)), node)
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
    ]


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def keywords(node: ast.AST) -> dict[str, str]:
    return {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg} if isinstance(node, ast.Call) else {}


def test_nothing_that_unpickles_or_unpacks_is_imported() -> None:
    assert [(file, imported(node)) for file, node in nodes() if imported(node) & FORBIDDEN] == []
    assert {file for file, node in nodes() if "zipfile" in imported(node)} == UNZIPS
    assert [file for file, node in nodes() if called(node).endswith(("extractall", "unpack_archive"))] == []


def test_weights_in_pickles_are_read_as_weights_alone() -> None:
    loads = [(file, keywords(node).get("weights_only")) for file, node in nodes() if called(node) == "torch.load"]
    assert loads
    assert set(loads) == {("inference/pickles.py", "True")}


def test_no_text_becomes_code_or_a_command() -> None:
    assert [file for file, node in nodes() if called(node) in ("eval", "exec", "os.system", "os.popen")] == []
    assert [file for file, node in nodes() if keywords(node).get("shell", "False") != "False"] == []
    trusts = [keywords(node)["trust_remote_code"] for _, node in nodes() if "trust_remote_code" in keywords(node)]
    assert trusts
    assert set(trusts) == {"False"}


def test_celery_speaks_json_alone() -> None:
    assert celeryconfig.accept_content == ["json"]
    assert celeryconfig.task_serializer == "json"
    assert not hasattr(celeryconfig, "result_serializer")
    assert celeryconfig.result_backend is None


def test_every_source_was_looked_at() -> None:
    assert len(SOURCES) > 150
    assert all(Path(file).is_file() for file in SOURCES)
