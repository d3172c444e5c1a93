"""Vectors of texts, by llama.cpp."""

import base64
import secrets
import struct
import threading
from pathlib import Path
from typing import Any

import xllamacpp

from inference.errors import RefusedError
from inference.gguf import read_values
from inference.llamaserver import common_params
from inference.protocol import Failure, Spec

#: Tokens of the longest text that is turned into a vector.
MOST_TOKENS = 2048


class Vectors:
    """The model once more, with a small context of its own; loaded when the first text comes.

    Weights that are mapped into memory are shared with the first one. It stays on the CPU: nobody has planned for it
    on a GPU.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._server: Any = None

    def of(self, text: str) -> tuple[str, int]:
        """The vector, as base64 of float32, and how many tokens were read. Raises RefusedError."""
        with self._lock:
            if self._server is None:
                self._server = _load(self._spec)
        said = self._server.handle_embeddings({"input": [text]})
        if "error" in said:
            reason = said["error"].get("message")
            raise RefusedError(
                Failure.INVALID_REQUEST,
                f"llama.cpp makes no vector of this: {reason}. A text may have {MOST_TOKENS} tokens.",
            )
        vector = said["data"][0]["embedding"]
        packed = struct.pack(f"<{len(vector)}f", *vector)
        return base64.b64encode(packed).decode(), int(said["usage"]["prompt_tokens"])


def _load(spec: Spec) -> Any:
    """It pools as the model says, else by the mean."""
    params = common_params(spec, secrets.token_hex(16))
    params.embedding = True
    params.n_ctx = params.n_batch = params.n_ubatch = MOST_TOKENS
    params.n_parallel = min(4, spec.slots)
    params.n_gpu_layers = 0
    values = read_values(Path(str(spec.path)))
    if f"{values.get('general.architecture')}.pooling_type" not in values:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)
