"""The choice: which engines may load a model, in which order, and in which precision. Nothing here loads anything."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from app.engine_options import ENGINES, of_engine
from app.settings import Settings
from app.stock import Model
from inference import checkpoint
from inference.errors import LoadError
from inference.protocol import Option

#: How many requests each engine runs at once, where WORKER_SLOTS does not say.
SLOTS = {"vllm": 64, "transformers": 8, "llamacpp": 16, "scripted": 64}
#: What each engine cannot do without, as packages.
PACKAGES = {
    "vllm": ("vllm", "torch"),
    "transformers": ("transformers", "torch"),
    "llamacpp": ("xllamacpp",),
    "scripted": (),
}
#: How people know them.
NAMES = {"vllm": "vLLM", "transformers": "transformers", "llamacpp": "llama.cpp", "scripted": "the scripted engine"}


class Candidate(NamedTuple):
    """An engine, and how it is to load the model."""

    engine: str
    slots: int
    quantize: str
    options: dict[str, Option]
    context: int | None = None
    note: str = ""  #: of the model's options, what this engine does not know


class Choice(NamedTuple):
    """The engines to try, in order, and why better ones are not among them."""

    candidates: list[Candidate]
    passed_over: list[str]


def installed(package: str) -> bool:
    """Whether a package is here; it is not imported for that."""
    return find_spec(package) is not None


def choose(row: Model, settings: Settings, has: Callable[[str], bool] = installed) -> Choice:
    """The choice for a model. Raises LoadError where no engine here can take it."""
    if row.path and not Path(row.path).exists():
        raise LoadError("bad_model", f"The files of model '{row.name}' are gone. Pull it again, or import it again.")
    able, passed_over = [], []
    for engine in _wanted(row, settings):
        missing = [package for package in PACKAGES[engine] if not has(package)]
        if missing:
            passed_over.append(f"{NAMES[engine]} is not installed here ({', '.join(missing)} missing)")
        else:
            able.append(engine)
    if not able:
        raise LoadError("backend_missing", f"{'; '.join(passed_over)}. {_remedy(row)}")
    quantize = quantization(row, settings, has)
    return Choice([_candidate(engine, quantize, row, settings) for engine in able], passed_over)


def _wanted(row: Model, settings: Settings) -> tuple[str, ...]:
    engines = ENGINES.get(row.format, ())
    if not engines:
        raise LoadError("unsupported_model", f"No engine takes the format '{row.format}' of model '{row.name}'.")
    if settings.engine == "auto" or row.format == "scripted":
        return engines
    if settings.engine not in engines:
        names = " and ".join(NAMES[engine] for engine in engines)
        raise LoadError(
            "unsupported_model",
            f"ENGINE={settings.engine} leaves {NAMES[settings.engine]} alone, which takes no {row.format}; "
            f"model '{row.name}' needs {names}. Set ENGINE=auto.",
        )
    return (settings.engine,)


def _remedy(row: Model) -> str:
    if row.format == "safetensors":
        return "Run `make up` again, which installs what this machine can have, or take a GGUF form of the model."
    return "Run `make up` again, which installs what this machine can have."


def _candidate(engine: str, quantize: str, row: Model, settings: Settings) -> Candidate:
    options: dict[str, Option] = {}
    if engine == "llamacpp" and settings.gpu_layers >= 0:
        options["gpu_layers"] = settings.gpu_layers
    if engine == "transformers":  # which alone can keep a part of a model for a GPU in main memory
        options |= {
            name: int(limit)
            for name in ("max_gpu_memory", "max_cpu_memory")
            if (limit := getattr(settings, name)) is not None
        }
    asked, unknown = of_engine(engine, row.engine_options or {})
    slots, context = asked.pop("slots", None), asked.pop("context", None)
    note = f"{NAMES[engine]} has no {', '.join(unknown)}" if unknown else ""
    return Candidate(engine, slots or settings.worker_slots or SLOTS[engine], quantize, options | asked, context, note)


def quantization(row: Model, settings: Settings, has: Callable[[str], bool] = installed) -> str:
    """What to do with the weights: no, q4, q8, fp16 or fp32. What is quantized already stays as it is.

    `auto` is 4-bit above MODEL_Q4_THRESHOLD_BYTES, where bitsandbytes can do it.
    """
    if row.format != "safetensors" or _is_quantized(row):
        return "no"
    if row.quantize != "auto":
        return row.quantize
    large = row.size_bytes > settings.model_q4_threshold_bytes
    return "q4" if large and has("bitsandbytes") else "no"


def _is_quantized(row: Model) -> bool:
    """Whether the checkpoint says that its weights are quantized: GPTQ, AWQ, FP8, bitsandbytes."""
    if "quantization" in (row.facts or {}):
        return bool(row.facts["quantization"])
    try:
        return bool(checkpoint.quantization(checkpoint.read_json(Path(row.path) / "config.json")))
    except (OSError, checkpoint.BadCheckpointError):
        return False  # the engine that loads it says what is wrong
