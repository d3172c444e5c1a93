"""What operators may tell an engine of one model: one typed table an engine, beside what every engine knows.

Stored with the model. A model may be tried on several engines; each gets those of its options that it knows.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import InvalidRequestError
from app.registry import Card

#: The engines for each format, the best one first.
ENGINES = {"safetensors": ("vllm", "transformers"), "gguf": ("llamacpp",), "scripted": ("scripted",)}
#: What cannot be had without a GPU, and so was tried by nobody who has none.
ON_GPU = ("tensor_parallel",)

AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Folder = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]


class Options(BaseModel):
    """What every engine knows."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    context: Annotated[int, Field(ge=256, le=16_777_216)] | None = None
    slots: Annotated[int, Field(ge=1, le=1024)] | None = None


class VllmOptions(Options):
    """vLLM's."""

    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    max_batched_tokens: Annotated[int, Field(ge=64, le=1_048_576)] | None = None
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] | None = None
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] | None = None
    speculative_tokens: Annotated[int, Field(ge=1, le=32)] | None = None
    speculative_lookup: Annotated[int, Field(ge=1, le=32)] | None = None
    speculative_model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    lora_adapters: Annotated[dict[AdapterName, Folder], Field(max_length=32)] | None = None

    @model_validator(mode="after")
    def _speculates(self) -> "VllmOptions":
        if (self.speculative_lookup or self.speculative_model) and not self.speculative_tokens:
            raise ValueError("speculative_tokens says how many tokens to guess at a time, and is missing")
        return self


class LlamaCppOptions(Options):
    """Those of llama.cpp."""

    gpu_layers: Annotated[int, Field(ge=0, le=10_000)] | None = None
    prefix_caching: bool | None = None
    kv_cache_dtype: Literal["f16", "q8_0", "q4_0"] | None = None


TABLE: dict[str, type[Options]] = {
    "vllm": VllmOptions,
    "transformers": Options,
    "llamacpp": LlamaCppOptions,
    "scripted": Options,
}


def check(format: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a model of this format, without those that are null. Raises InvalidRequestError."""
    engines = ENGINES.get(format, ())
    known = {name for engine in engines for name in TABLE[engine].model_fields}
    for name in given:
        if name not in known:
            raise InvalidRequestError(
                f"No engine of a {format} model has the option '{name}'. There are: {', '.join(sorted(known))}.",
                param=name,
            )
    try:
        for engine in engines:
            TABLE[engine](**_of(engine, given))
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(str(part) for part in fault["loc"]) or None
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{param or 'engine_options'}: {message}.", param=param) from None
    return {name: value for name, value in given.items() if value is not None}


def refuse_here(options: dict[str, Any], cards: Sequence[Card]) -> None:
    """Raises InvalidRequestError for what none of these workers has the device for. No worker: nobody knows yet."""
    most = max((card.device.count("gpu.") for card in cards), default=None)
    for name in ON_GPU:
        if most is not None and options.get(name, 1) > max(1, most):
            raise InvalidRequestError(
                f"{name} is {options[name]}, and no worker that may load this model has so many GPUs (the most is "
                f"{most}). DEVICES=gpu.0+gpu.1 gives one worker several.",
                param=name,
            )


def of_engine(engine: str, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What an engine is given of a model's options, as its Spec has them; and the names that it does not know."""
    own = _of(engine, options)
    flat = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in own.items()}
    return flat, sorted(options.keys() - own.keys())


def _of(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in TABLE[engine].model_fields}
