"""A model's folder as it lies on the disk: looked through before a large library is imported to load it."""

from pathlib import Path
from typing import Any, NamedTuple

from inference import checkpoint
from inference.checkpoint import BadCheckpointError, Tensor
from inference.errors import LoadError
from inference.protocol import Spec


class Source(NamedTuple):
    """What a folder says of itself."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    method: str  #: how its weights are quantized already; "": not at all

    @property
    def dtype(self) -> str | None:
        """What the configuration says that the weights are: "bfloat16", "float32", …"""
        return checkpoint.dtype(self.config)


def examine(spec: Spec) -> Source:
    """Look through a model's folder. Raises LoadError for what is not whole."""
    if spec.path is None or not Path(spec.path).is_dir():
        raise LoadError("bad_model", f"The {spec.engine} engine needs a folder with config.json and *.safetensors.")
    folder = Path(spec.path)
    try:
        config = checkpoint.read_json(folder / "config.json")
        tensors = checkpoint.all_tensors(folder, checkpoint.weight_files(folder))
    except BadCheckpointError as error:
        raise LoadError("bad_model", f"The model is not whole: {error}. Pull it again.") from None
    except OSError as error:
        raise LoadError("bad_model", f"The model cannot be read: {error.strerror}. Pull it again.") from None
    if not config or not tensors:
        lacking = "weights (*.safetensors)" if config else "config.json"
        raise LoadError("bad_model", f"The model has no {lacking}. Pull it again.")
    quantized = checkpoint.quantization(config)
    return Source(folder, config, tensors, str(quantized.get("quant_method") or ("unknown" if quantized else "")))
