"""What is known of a model from its own files, and what is said of a path that holds none."""

import msgspec

#: More than any model has, or any chat template is long.
MOST_FILES = 5000
MOST_TEMPLATE = 1 << 20


class FactsError(Exception):
    """The path holds no model that can be used; `message` names the file and the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class File(msgspec.Struct, frozen=True):
    """A file of a model, its name within the model's folder, its size in bytes."""

    name: str
    size_bytes: int


class Facts(msgspec.Struct, frozen=True):
    """What the files tell; None where they don't. Sizes are bytes, contexts tokens."""

    format: str  #: "gguf" or "safetensors"
    architecture: str | None  #: "LlamaForCausalLM" in a configuration, "llama" in a GGUF file
    family: str | None  #: "llama"
    task: str | None  #: "generate", "embed"; None: neither
    parameters: int | None
    context: int | None
    dtype: str | None  #: of most weights: "bfloat16", "float16", "Q4_K_M", …
    quantization: str | None  #: "gptq", "awq", "fp8", …, or a GGUF file's type; None: as they were trained
    template: str | None  #: the chat template, in Jinja
    licence: str | None
    kv_bytes: int | None  #: of cache for one token, in 16 bits
    weights_bytes: int
    size_bytes: int  #: of all files
    files: list[File]
