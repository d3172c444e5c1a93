"""Loading a folder of safetensors by transformers: by which class, in which precision, and why it cannot be.

Offline, and never with code that came with the model.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from inference import transformersmemory
from inference.errors import LoadError, first_line
from inference.protocol import OnProgress, Spec
from inference.source import Source, examine
from inference.transformerslinear import widen
from inference.transformersmemory import QUANTIZED, Room

log = structlog.get_logger()

#: Models that also speak: the part of each that thinks, text in and text out.
THINKERS = {
    "Qwen2_5OmniModel": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen2_5OmniForConditionalGeneration": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
#: Of a GPU that cannot hold all weights, the part that they take; caches get the rest.
FILLED = 0.8
#: Of a load, the part that is over when the weights begin to come, and when they have come.
BEGUN, COME = 0.1, 0.9


class Loaded(NamedTuple):
    """A model on its device."""

    model: Any
    device: str
    quantization: str  #: how the weights lie in memory; "": as they are

    @property
    def on_device(self) -> int:
        """Bytes of the weights that the device itself holds."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.nbytes for tensor in tensors if str(tensor.device) == self.device)


def load_model(spec: Spec, on_progress: OnProgress) -> Loaded:
    """Load a model. Raises LoadError; then nothing of it is left in memory."""
    _quiet()
    source = examine(spec)
    _check_packages(spec, source)
    config, kind = _architecture(source)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    needed = transformersmemory.needed(source, spec.quantize, device)
    room = transformersmemory.room(spec, device)
    if needed > room.device + room.overflow:
        raise transformersmemory.too_large(needed, room, spec.quantize)
    precision = {"dtype": "auto"} if source.method else _precision(spec.quantize)
    on_progress(BEGUN)
    try:
        model = _from_pretrained(kind, source.folder, config, precision | _place(needed, room, device), on_progress)
    except LoadError:
        raise
    except Exception as error:  # noqa: BLE001 - every architecture and quantizer raises what it likes
        if is_out_of_memory(error):
            raise transformersmemory.too_large(needed, room, spec.quantize) from None
        raise _reason(error, source) from None
    if device == "cpu":
        widen(model)
    if device == "cpu" and (spec.quantize in QUANTIZED or source.method):
        _let_go_of_the_files(model)
    on_progress(COME)
    return Loaded(model, device, _name(spec.quantize, source, model))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. On the CPU, torch has no class of its own for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _quiet() -> None:
    """A line for each weight that is not loaded, and for each cast, helps nobody."""
    import logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _check_packages(spec: Spec, source: Source) -> None:
    if spec.quantize in QUANTIZED and not source.method and find_spec("bitsandbytes") is None:
        raise LoadError(
            "backend_missing",
            f"Loading a model as {spec.quantize} needs bitsandbytes: pip install bitsandbytes. "
            'Or load it as it is ("quantize": "no").',
        )


def _architecture(source: Source) -> tuple[Any, Any]:
    """The configuration and class of the part that answers in text. Raises LoadError."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(source.folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 - each configuration checks itself in its own way
        log.warning("transformers.bad_config", reason=repr(error))
        model_type = source.config.get("model_type")
        if model_type in transformers.CONFIG_MAPPING:
            raise LoadError("bad_model", f"config.json makes no sense ({first_line(error)}). Pull it again.") from None
        raise _unsupported(f"its type '{model_type}' is not known") from None
    named = next(iter(config.architectures or ()), None)
    kind: Any = _class(named) if named else transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None or not kind.can_generate() or config.is_encoder_decoder:
        raise _unsupported(f"its architecture '{named}' is not one that answers with text")
    return getattr(config, "thinker_config", config), kind


def _class(name: str) -> Any:
    """A model class of transformers by its name; None when there is none, or it cannot be imported here."""
    try:
        kind = getattr(transformers, THINKERS.get(name, name), None)
    except ImportError:
        return None
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None


def _unsupported(why: str) -> LoadError:
    return LoadError(
        "unsupported_model",
        f"transformers {transformers.__version__} cannot take this model: {why}. Take a GGUF form of it, which "
        "llama.cpp may know, or a newer transformers.",
    )


def _precision(quantize: str) -> dict[str, Any]:
    match quantize:
        case "q4":
            nf4 = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            return {"dtype": torch.bfloat16, "quantization_config": nf4}
        case "q8":
            int8 = transformers.BitsAndBytesConfig(load_in_8bit=True)
            return {"dtype": torch.bfloat16, "quantization_config": int8}
        case "fp16":
            return {"dtype": torch.float16}
        case "fp32":
            return {"dtype": torch.float32}
    return {"dtype": "auto"}


def _place(needed: int, room: Room, device: str) -> dict[str, Any]:
    """Where the weights go: all onto the device; what does not fit into main memory, where that is allowed."""
    if needed <= room.device:
        return {"device_map": {"": device}}
    return {"device_map": "auto", "max_memory": {0: int(room.device * FILLED), "cpu": room.overflow}}


def _from_pretrained(kind: Any, folder: Path, config: Any, how: dict[str, Any], on_progress: OnProgress) -> Any:
    earlier = transformers_logging.set_tqdm_hook(lambda _factory, args, _kwargs: _Told(on_progress, args[0]))
    try:
        model, outcome = kind.from_pretrained(
            str(folder), config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **how
        )
    finally:
        transformers_logging.set_tqdm_hook(earlier)
    if missing := sorted(outcome["missing_keys"]):
        raise LoadError(
            "bad_model", f"The model lacks {len(missing)} of its weights, {missing[0]} among them. Pull it again."
        )
    return model.eval()


class _Told:
    """Stands for the progress bar over the weights, and says each further hundredth."""

    def __init__(self, on_progress: OnProgress, weights: Iterable[Any]) -> None:
        self._on_progress = on_progress
        self._weights = weights

    def __iter__(self) -> Iterator[Any]:
        items = list(self._weights)
        said = 0
        for number, item in enumerate(items, 1):
            yield item
            if (percent := number * 100 // len(items)) > said:
                said = percent
                self._on_progress(BEGUN + (COME - BEGUN) * percent / 100)


def _let_go_of_the_files(model: Any) -> None:
    """Copy what was not quantized: a single tensor that still lies in a mapped file keeps all of its pages resident."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.dtype.is_floating_point:
                tensor.data = tensor.data.clone()


def _reason(error: Exception, source: Source) -> LoadError:
    log.warning("transformers.load_failed", reason=repr(error), exc_info=error)
    line = first_line(error)
    if source.method and isinstance(error, ImportError | RuntimeError | ValueError):
        return _unsupported(f"its weights are quantized ({source.method}), and this machine cannot take them ({line})")
    if isinstance(error, ImportError):
        return _unsupported(f"it needs a package that is not installed ({line})")
    if isinstance(error, SafetensorError | OSError):
        return LoadError("bad_model", "The model's weights cannot be read: they are damaged. Pull it again.")
    return LoadError(
        "bad_model",
        f"transformers cannot load the model ({line}). Its files may not belong together: pull it again.",
    )


def _name(quantize: str, source: Source, model: Any) -> str:
    """How the weights lie in memory now. What no kernel here can compute with was turned back into plain weights."""
    if not source.method:
        return {"q4": "nf4", "q8": "int8"}.get(quantize, "")
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None or getattr(quantizer.quantization_config, "dequantize", False):
        return ""
    return source.method
