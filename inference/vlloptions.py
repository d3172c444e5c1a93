"""What an operator may tell vLLM of one model, in vLLM's words. The table of names and types is app.engine_options'."""

import json
from pathlib import Path
from typing import Any

from inference.checkpoint import read_json
from inference.errors import LoadError
from inference.protocol import Spec

#: Ours, and vLLM's, for what is handed on as it is.
_AS_IT_IS = {
    "prefix_caching": "enable_prefix_caching",
    "chunked_prefill": "enable_chunked_prefill",
    "max_batched_tokens": "max_num_batched_tokens",
    "kv_cache_dtype": "kv_cache_dtype",
    "tensor_parallel": "tensor_parallel_size",
}
#: Bytes of one number of the cache, where that is not the model's own.
KV_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
#: The ranks that vLLM has kernels for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def arguments(spec: Spec, devices: int) -> dict[str, Any]:
    """What vLLM is given beside what it always is. `devices`: how many GPUs it may use; 0: the CPU.

    Raises LoadError.
    """
    options = spec.options
    given: dict[str, Any] = {
        theirs: options[ours] for ours, theirs in _AS_IT_IS.items() if options.get(ours) is not None
    }
    if devices > 1:
        given.setdefault("tensor_parallel_size", devices)
    if (wanted := int(given.get("tensor_parallel_size", 1))) > max(1, devices):
        raise refused(f"tensor_parallel is {wanted}, and this worker has {devices or 'no'} GPUs. DEVICES=gpu.0+gpu.1 "
                      "gives a worker several")  # fmt: skip
    if options.get("speculative_tokens"):
        given["speculative_config"] = _speculative(options)
    if adapters := adapters_of(spec):
        rank = max(_rank(name, folder) for name, folder in adapters.items())
        given |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": rank}
    return given


def _speculative(options: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"num_speculative_tokens": options["speculative_tokens"]}
    if model := options.get("speculative_model"):
        return config | {"method": "draft_model", "model": model}
    return config | {"method": "ngram", "prompt_lookup_max": options.get("speculative_lookup") or 4}


def adapters_of(spec: Spec) -> dict[str, Path]:
    """The folders of a model's LoRA adapters, by their names."""
    given = json.loads(str(spec.options.get("lora_adapters") or "{}"))
    return {name: Path(folder) for name, folder in sorted(given.items())}


def _rank(name: str, folder: Path) -> int:
    """The least of vLLM's ranks that holds an adapter's. Raises LoadError for what is none."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise refused(f"adapter '{name}' has no adapter_model.safetensors on this machine")
    rank = read_json(folder / "adapter_config.json").get("r")
    fitting = next((fit for fit in RANKS if isinstance(rank, int) and 0 < rank <= fit), None)
    if fitting is None:
        raise refused(f"adapter '{name}' has the rank {rank!r} in its adapter_config.json, and vLLM has none above 512")
    return fitting


def refused(why: str) -> LoadError:
    """An option of the operator's that cannot be had here."""
    return LoadError("bad_engine_options", f"{why}. Change the model's engine_options.")
