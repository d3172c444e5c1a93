"""Which architectures the engines that are installed here know: asked before gigabytes move.

The lists are read out of the installed packages without importing them: transformers' takes 2.6 s and torch to import,
vLLM's 8 s; reading takes 0.06 s. What a list does not look like any more is no reason to refuse: the engine will tell.
"""

import ast
import mmap
import re
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from inference import checkpoint
from inference.download.errors import DownloadError
from inference.gguf import BadGgufError, read_architecture

#: CPython 3.11 counts the depth of all threads' trees as one, and then refuses them (SystemError).
_parsing = threading.Lock()
#: Where each package keeps what it can generate text with, and the names of those tables.
TRANSFORMERS = (
    "models/auto/modeling_auto.py",
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
)
VLLM = (
    "model_executor/models/registry.py",
    ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS"),
)


def check_config(path: Path) -> None:
    """Raises DownloadError where no engine here knows what a config.json names. Code that it names is never run."""
    try:
        config = checkpoint.read_json(path)
    except checkpoint.BadCheckpointError as error:
        raise DownloadError("bad_model", f"The repository's configuration is of no use: {error}.") from None
    kind, names = config.get("model_type"), config.get("architectures")
    kinds = {kind} if isinstance(kind, str) else set()
    classes = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    if not kinds and not classes:
        return  # it names none, so nothing can be said
    tables = {"transformers": (kinds, *TRANSFORMERS), "vllm": (classes, *VLLM)}
    here = {package: table for package, table in tables.items() if find_spec(package) is not None}
    if not here:
        raise DownloadError(
            "backend_missing",
            "The model is safetensors, which needs vLLM or transformers, and neither is installed here. Install the "
            "requirements for this machine (make up does), or pull a GGUF form of the model.",
        )
    for package, (wanted, file, variables) in here.items():
        known = _table(package, file, variables)
        if not known or wanted & known:
            return
    raise _unknown(", ".join(sorted(classes) or sorted(kinds)), ", ".join(here), own_code="auto_map" in config)


def check_gguf(path: Path) -> None:
    """Raises DownloadError where llama.cpp does not know what the head of a GGUF file names, or it is no such file."""
    try:
        name = read_architecture(path)
    except BadGgufError as error:
        raise DownloadError("bad_model", f"'{path.name}' is no GGUF file that can be used: {error}.") from None
    libraries = [path for folder in _folders("xllamacpp") for path in sorted(folder.glob("*.so"))]
    if not libraries:
        raise DownloadError(
            "backend_missing",
            "The model is GGUF, which needs llama.cpp (xllamacpp), and that is not installed here. Install the "
            "requirements for this machine (make up does), or pull a safetensors form of the model.",
        )
    if name is not None and not any(_holds(library, name) for library in libraries):
        raise _unknown(name, "llama.cpp", own_code=False)


def _unknown(name: str, engines: str, *, own_code: bool) -> DownloadError:
    code = " The repository brings code of its own for it, which is never run." if own_code else ""
    return DownloadError(
        "unsupported_model",
        f"No engine of this installation ({engines}) knows the architecture {name}.{code} "
        "A newer version may; GET /models/suggested lists models that run here.",
    )


def _table(package: str, file: str, variables: tuple[str, ...]) -> set[str]:
    """The keys of some of a module's tables, from its source; empty where they are not to be found."""
    for folder in _folders(package):
        path = folder / file
        if path.is_file():
            with _parsing:
                tree = ast.parse(path.read_bytes())
            return {key for node in tree.body for key in _keys(node, variables)}
    return set()


def _keys(node: ast.stmt, variables: tuple[str, ...]) -> Iterator[str]:
    """Of `NAME = {"key": …}` and of `NAME = OrderedDict([("key", …), …])`."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = getattr(node, "value", None)
    if value is None or not any(isinstance(target, ast.Name) and target.id in variables for target in targets):
        return
    for part in ast.walk(value):
        keys = part.keys if isinstance(part, ast.Dict) else part.elts[:1] if isinstance(part, ast.Tuple) else []
        yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _holds(library: Path, name: str) -> bool:
    """Whether a string of llama.cpp's library is this name: its table of architectures has each as one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(name.encode() + b"\0") >= 0


def _folders(package: str) -> list[Path]:
    spec = find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
