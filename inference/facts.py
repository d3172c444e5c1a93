"""The facts of a model, from its own files. As a child: `python -m inference.facts PATH`.

PATH is a folder of safetensors, or a GGUF file: the first of its parts, and of any name, as Ollama's have no ending. On
stdout comes one JSON object, `Facts`, or {"error": code, "message": reason} with exit status 1. Codes: not_a_model
(something else), bad_model (damaged, or not whole), unreadable. The files come from strangers, so the child bounds its
own memory and time before it reads them; nothing of them is ever run.
"""

import signal
import sys
from pathlib import Path

import msgspec

from inference.about import Facts, FactsError, File
from inference.aboutfolder import of_folder
from inference.aboutgguf import of_gguf
from inference.checkpoint import BadCheckpointError
from inference.confine import confine
from inference.gguf import BadGgufError, is_gguf

__all__ = ["Facts", "FactsError", "File", "read"]

#: What the child may take: address space in bytes, and seconds of CPU and of the clock.
MEMORY = 2 << 30
CPU_SECONDS = 30
CLOCK_SECONDS = 60


def read(path: Path) -> Facts:
    """The facts of the model at a path. Raises FactsError."""
    try:
        if path.is_dir():
            return of_folder(path)
        if path.is_file() and (path.suffix == ".gguf" or is_gguf(path)):
            return of_gguf(path)
    except (BadGgufError, BadCheckpointError, MemoryError, OverflowError) as error:
        raise FactsError(
            "bad_model", f"'{path.name}' is no whole model: {error or 'it is too large to read'}."
        ) from None
    except OSError as error:
        raise FactsError("unreadable", f"'{path.name}' cannot be read: {error.strerror}.") from None
    if not path.exists():
        raise FactsError("unreadable", f"There is nothing at '{path.name}'.")
    raise FactsError("not_a_model", f"'{path.name}' is neither a GGUF file nor a folder.")


def main() -> int:
    """Prints the facts of the one argument. The exit status is 0, or 1 for what is no model."""
    confine(MEMORY, CPU_SECONDS)
    signal.alarm(CLOCK_SECONDS)
    if len(sys.argv) != 2:
        return _say({"error": "unreadable", "message": "usage: python -m inference.facts PATH"}, 2)
    try:
        return _say(read(Path(sys.argv[1])), 0)
    except FactsError as error:
        code, message = error.code, error.message
    except Exception as error:  # noqa: BLE001 - a model that is odd enough to break this is a bad one
        code, message = "bad_model", f"'{Path(sys.argv[1]).name}' is no whole model: {type(error).__name__}."
    return _say({"error": code, "message": message.encode(errors="replace").decode()}, 1)


def _say(value: object, status: int) -> int:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
