"""The engines there are, by name. An engine's module, and the library under it, is imported when it is loaded."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from inference.errors import LoadError
from inference.protocol import Engine, OnProgress, Spec

Factory = Callable[[Spec, OnProgress], Engine]

#: Each name's factory: what builds the engine in this process, or raises LoadError.
FACTORIES: dict[str, str] = {
    "scripted": "inference.scripted:ScriptedEngine",
    "llamacpp": "inference.llamacpp:LlamaCppEngine",
    "transformers": "inference.transformersengine:TransformersEngine",
    "vllm": "inference.vllmengine:VllmEngine",
}


def build(spec: Spec, on_progress: OnProgress) -> Engine:
    """Load an engine in this process. Raises LoadError."""
    if spec.engine not in FACTORIES:
        raise LoadError("unknown_engine", f"No engine is named '{spec.engine}'. There are: {', '.join(FACTORIES)}.")
    on_progress(0.0)  # before the import, which takes most of a small model's load
    module, _, name = FACTORIES[spec.engine].partition(":")
    try:
        factory = cast(Factory, getattr(import_module(module), name))
    except ImportError as error:
        raise LoadError(
            "backend_missing",
            f"The {spec.engine} engine needs a package that is not installed here ({error}). Run "
            "`make up` again, which installs what this machine can have.",
        ) from None
    return factory(spec, on_progress)
