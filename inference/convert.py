"""A GGUF model as a safetensors folder: `python -m inference.convert GGUF FOLDER`.

A process of its own, as it takes several times the model's size in memory, and gives it back by ending.
"""

import os
import shutil
import sys
from pathlib import Path


def gguf_to_safetensors(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer in bfloat16. The folder is there whole, or not at all; one that is there stays."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _write(gguf, partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster, and made the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, file = str(gguf.parent), gguf.name
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, quantization_config=plain, dtype=torch.bfloat16, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file, local_files_only=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    gguf_to_safetensors(Path(sys.argv[1]), Path(sys.argv[2]))
